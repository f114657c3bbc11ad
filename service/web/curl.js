// What a view shows, to be taken home: as a curl command, as a picture.

import { address, say } from "./api.js";
import { key } from "./key.js";
import { save } from "./picture.js";

/** Give the view its two buttons. `command` and `picture` (a promise of a blob) are asked when they are pressed. */
export function takeHome(view, command, picture) {
  const place = document.querySelector(`[data-home=${view}]`);
  place.append(
    button("Copy as curl", async () => copy(await command())),
    button("Save PNG", async () => save(await picture(), `${view}.png`)),
  );
  return place;
}

export function button(text, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", () => Promise.resolve(press()).catch((error) => say(error.message)));
  return made;
}

/** A command that can be pasted into a shell. `json` and `png` (a blob) are bodies. */
export async function curl(path, { json, png, accept, output } = {}) {
  const parts = ["curl"];
  if (key()) parts.push("-H", quote(`Authorization: Bearer ${key()}`));
  if (accept) parts.push("-H", quote(`Accept: ${accept}`));
  if (json) parts.push("-H", quote("Content-Type: application/json"), "-d", quote(JSON.stringify(json)));
  if (png) parts.push("-H", quote("Content-Type: image/png"), "--data-binary", "@-");
  parts.push(quote(address(path)));
  if (output) parts.push("-o", output);
  return png ? `printf %s ${quote(await base64(png))} | base64 -d | ${parts.join(" ")}` : parts.join(" ");
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    showText(text); // no clipboard: the page came by plain HTTP from another machine, or it is not allowed
    return;
  }
  say(key() ? "Copied, with your key in it." : "Copied.");
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
