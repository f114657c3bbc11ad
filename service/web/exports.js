// Export buttons of the views: copy the request as a curl command, save the image.

import { absoluteUrl, showMessage } from "./api.js";
import { key } from "./key.js";
import { save } from "./picture.js";

/** Add "Copy as curl" and "Save PNG" to a view. `command` returns a string, `picture` a blob, or promises of them. */
export function addExports(view, command, picture) {
  const container = document.querySelector(`[data-exports=${view}]`);
  container.append(
    makeButton("Copy as curl", async () => copy(await command())),
    makeButton("Save PNG", async () => save(await picture(), `${view}.png`)),
  );
  return container;
}

export function makeButton(text, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => Promise.resolve(onClick()).catch((error) => showMessage(error.message)));
  return button;
}

/** A command for a POSIX shell. `json` (an object) and `png` (a blob) are request bodies, `output` is a file name. */
export async function curl(path, { json, png, accept, output } = {}) {
  const parts = ["curl"];
  if (key()) parts.push("-H", quote(`Authorization: Bearer ${key()}`));
  if (accept) parts.push("-H", quote(`Accept: ${accept}`));
  if (json) parts.push("-H", quote("Content-Type: application/json"), "-d", quote(JSON.stringify(json)));
  if (png) parts.push("-H", quote("Content-Type: image/png"), "--data-binary", "@-");
  parts.push(quote(absoluteUrl(path)));
  if (output) parts.push("-o", output);
  return png ? `printf %s ${quote(await base64(png))} | base64 -d | ${parts.join(" ")}` : parts.join(" ");
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    showText(text); // browsers offer no clipboard over plain HTTP from another host, or without permission
    return;
  }
  showMessage(key() ? "Copied. The command contains your API key." : "Copied.");
}

function showText(text) {
  const field = document.querySelector("#copy-text");
  field.value = text;
  document.querySelector("#copy-dialog").showModal();
  field.select();
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
