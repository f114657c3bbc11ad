// The key of a service that asks for one: asked for once, kept for the tab.

const STORE = "vae-key";
const dialog = document.querySelector("#key-dialog");
const field = document.querySelector("#key");
const problem = document.querySelector("#key-problem");
let asking = null;

export const key = () => sessionStorage.getItem(STORE) ?? "";

/** Resolves when there is another key than the one that was refused. */
export async function askKey(refused) {
  if (key() !== refused) return;
  asking ??= ask(refused).finally(() => (asking = null));
  await asking;
}

async function ask(refused) {
  do {
    dialog.returnValue = "";
    dialog.showModal();
    problem.textContent = refused && "That key is not one of this service's.";
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  } while (dialog.returnValue !== "entered" || !field.value.trim());
  sessionStorage.setItem(STORE, field.value.trim());
  field.value = "";
}
