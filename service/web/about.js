// The model that is served: what it is, what was measured of it, what it draws over its first dimensions.

import { call, say } from "./api.js";
import { curl, takeHome } from "./curl.js";
import { drawFrom, fit } from "./picture.js";

const STEPS = 13;
const FIGURES = {
  neg_elbo: "Negative ELBO, nats *",
  reconstruction_loss: "Reconstruction loss, nats *",
  kl_divergence: "KL divergence, nats",
  neg_importance_weighted_bound: "Bound on −log p(x), nats *",
  bound_images: "Images of that bound",
  squared_error: "Squared error per pixel",
  neighbour_accuracy: "Accuracy of the nearest neighbours' labels",
  active_units: "Active latent dimensions",
  images: "Images",
};

/** Build it; gives what to do when it is shown. */
export function about(model, spread) {
  const [channels, height, width] = model.image_shape;
  document.querySelector("#model-name").textContent = model.name;
  const facts = {
    Architecture: model.architecture,
    Image: `${width}×${height}, ${channels === 3 ? "colour" : "grey"}`,
    "Latent dimensions": model.latent_shape.join("×"),
    Parameters: model.parameters.toLocaleString("en"),
    "Trained on": model.training.dataset,
    Epochs: model.training.epochs_finished,
    "Checkpoint, SHA-256": model.sha256,
  };
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined) continue;
    const row = document.createElement("div");
    row.append(element("dt", name), element("dd", value));
    document.querySelector("#facts").append(row);
  }
  listFigures(model.figures);
  if (!model.latent_dim) {
    document.querySelector("#manifold-figure").hidden = true;
    return () => {};
  }

  const dimensions = model.latent_dim > 1 ? [0, 1] : [0];
  const reach = spread ? 2.5 * Math.max(...dimensions.map((at) => spread.deviation[at])) : 3;
  const high = Math.round(reach * 100) / 100;
  const question = { at: new Array(model.latent_dim).fill(0), dimensions, low: -high, high, steps: STEPS };
  const manifold = document.querySelector("#manifold");
  document.querySelector("#manifold-caption").textContent =
    `What it draws for ${dimensions.map((at) => `z${at + 1}`).join(" and ")} from −${high} to ${high}, the others at 0`;
  let isShown = false;
  const show = async () => {
    const options = { method: "POST", type: "application/json", accept: "image/png", body: JSON.stringify(question) };
    await drawFrom(await call("traverse", options), (bitmap) => {
      fit(manifold, bitmap.width, bitmap.height).drawImage(bitmap, 0, 0);
    });
    isShown = true;
  };
  takeHome(
    "about",
    () => curl("traverse", { json: question, output: "manifold.png" }),
    () => new Promise((resolve) => manifold.toBlob(resolve)),
  );
  return () => {
    if (!isShown) show().catch((error) => say(error.message));
  };
}

function listFigures(figures) {
  const table = document.querySelector("#figures");
  const heads = ["Measured", "Test set", "Training set"].map((text) => element("th", text));
  for (const head of heads) head.scope = "col";
  const rows = Object.entries(FIGURES)
    .filter(([name]) => `test_${name}` in figures)
    .map(([name, title]) => {
      const head = element("th", title);
      head.scope = "row";
      return line([head, ...["test", "train"].map((part) => element("td", shorten(figures[`${part}_${name}`])))]);
    });
  table.hidden = document.querySelector("#figures-note").hidden = !rows.length;
  table.append(line(heads), ...rows);
}

const shorten = (value) =>
  value === undefined ? "–" : value.toLocaleString("en", { maximumSignificantDigits: Number.isInteger(value) ? 12 : 4 });

function line(cells) {
  const row = document.createElement("tr");
  row.append(...cells);
  return row;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
