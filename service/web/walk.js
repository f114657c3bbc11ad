// A slider per latent dimension and the image decoded from them. One request is in flight at a time; of the
// positions that the hand passes meanwhile only the newest is asked for next.

const image = document.querySelector("#image");
const sliders = document.querySelector("#sliders");
const message = document.querySelector("#message");
let busy = false;
let moved = false;

function addSlider(dimension) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  const input = document.createElement("input");
  const output = document.createElement("output");
  name.textContent = `z${dimension + 1}`;
  Object.assign(input, { type: "range", min: -3, max: 3, step: 0.01, value: 0 });
  output.value = "0.00";
  input.addEventListener("input", () => {
    output.value = input.valueAsNumber.toFixed(2);
    draw();
  });
  label.append(name, input, output);
  sliders.append(label);
}

async function draw() {
  moved = true;
  if (busy) return;
  busy = true;
  while (moved) {
    moved = false;
    await decode([...sliders.querySelectorAll("input")].map((input) => input.valueAsNumber));
  }
  busy = false;
}

async function decode(z) {
  try {
    const headers = { "content-type": "application/json", accept: "image/png" };
    const response = await fetch("decode", { method: "POST", headers, body: JSON.stringify({ z }) });
    if (!response.ok) throw new Error((await response.json()).detail);
    const previous = image.src;
    image.src = URL.createObjectURL(await response.blob());
    await image.decode();
    URL.revokeObjectURL(previous);
    message.textContent = "";
  } catch (error) {
    message.textContent = error.message;
  }
}

try {
  const response = await fetch("model");
  const model = await response.json();
  if (!response.ok) throw new Error(model.detail);
  for (let dimension = 0; dimension < model.latent_dim; dimension += 1) addSlider(dimension);
  draw();
} catch (error) {
  message.textContent = error.message;
}
