// The API key: asked for when the service requires one, kept in sessionStorage until the tab is closed.

const STORAGE_KEY = "vae-key";
const dialog = document.querySelector("#key-dialog");
const field = document.querySelector("#key");
const problem = document.querySelector("#key-problem");
let pending = null;

export const key = () => sessionStorage.getItem(STORAGE_KEY) ?? "";

/** Resolves when a key other than `refused` is stored. Concurrent calls share one dialog. */
export async function askKey(refused) {
  if (key() !== refused) return;
  pending ??= ask(refused).finally(() => (pending = null));
  await pending;
}

async function ask(refused) {
  do {
    dialog.returnValue = "";
    dialog.showModal();
    problem.textContent = refused && "The service does not accept this key.";
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  } while (dialog.returnValue !== "entered" || !field.value.trim());
  sessionStorage.setItem(STORAGE_KEY, field.value.trim());
  field.value = "";
}
