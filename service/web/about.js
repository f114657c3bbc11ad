// About: the model's properties, its metrics, and images over its first latent dimensions.

import { request, showMessage } from "./api.js";
import { addExports, curl } from "./exports.js";
import { resize, withBitmap } from "./picture.js";

const GRID_STEPS = 13;
const METRICS = {
  neg_elbo: "Negative ELBO, nats *",
  bits_per_dim: "Negative ELBO, bits/dim",
  reconstruction_loss: "Reconstruction loss, nats *",
  kl_divergence: "KL divergence, nats",
  neg_importance_weighted_bound: "Bound on −log p(x), nats *",
  bound_images: "Images of that bound",
  squared_error: "Squared error per pixel",
  neighbour_accuracy: "Accuracy of the nearest neighbours' labels",
  active_units: "Active latent dimensions",
  images: "Images",
};

/** Build the view; returns the function to call when it is shown. */
export function about(model, spread) {
  const [channels, height, width] = model.image_shape;
  document.querySelector("#model-name").textContent = model.name;
  const properties = {
    Architecture: model.architecture,
    Likelihood: model.likelihood,
    Image: `${width}×${height}, ${channels === 3 ? "colour" : "grey"}`,
    "Latent dimensions": model.latent_shape.join("×"),
    Parameters: model.parameters.toLocaleString("en"),
    "Trained on": model.training.dataset,
    Epochs: model.training.epochs_finished,
    "Checkpoint, SHA-256": model.sha256,
  };
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    const row = document.createElement("div");
    row.append(makeElement("dt", name), makeElement("dd", value));
    document.querySelector("#properties").append(row);
  }
  listMetrics(model.figures, model.likelihood === "bernoulli");
  if (!model.latent_dim) {
    document.querySelector("#manifold-figure").hidden = true;
    return () => {};
  }

  const dimensions = model.latent_dim > 1 ? [0, 1] : [0];
  const reach = spread ? 2.5 * Math.max(...dimensions.map((at) => spread.deviation[at])) : 3;
  const high = Math.round(reach * 100) / 100;
  const body = { at: new Array(model.latent_dim).fill(0), dimensions, low: -high, high, steps: GRID_STEPS };
  const manifold = document.querySelector("#manifold");
  const names = dimensions.map((at) => `z${at + 1}`).join(" and ");
  document.querySelector("#manifold-caption").textContent =
    `Images for ${names} from −${high} to ${high}, the other dimensions at 0`;
  let isDrawn = false;
  const draw = async () => {
    const options = { method: "POST", type: "application/json", accept: "image/png", body: JSON.stringify(body) };
    await withBitmap(await request("traverse", options), (bitmap) => {
      resize(manifold, bitmap.width, bitmap.height).drawImage(bitmap, 0, 0);
    });
    isDrawn = true;
  };
  addExports(
    "about",
    () => curl("traverse", { json: body, output: "manifold.png" }),
    () => new Promise((resolve) => manifold.toBlob(resolve)),
  );
  return () => {
    if (!isDrawn) draw().catch((error) => showMessage(error.message));
  };
}

/** `isStarred`: whether the note on grey pixels as probabilities applies. */
function listMetrics(metrics, isStarred) {
  const table = document.querySelector("#metrics");
  const heads = ["Metric", "Test set", "Training set"].map((text) => makeElement("th", text));
  for (const head of heads) head.scope = "col";
  const rows = Object.entries(METRICS)
    .filter(([name]) => `test_${name}` in metrics)
    .map(([name, title]) => {
      const head = makeElement("th", isStarred ? title : title.replace(" *", ""));
      head.scope = "row";
      return makeRow([head, ...["test", "train"].map((part) => makeElement("td", format(metrics[`${part}_${name}`])))]);
    });
  table.hidden = !rows.length;
  document.querySelector("#metrics-note").hidden = !rows.length || !isStarred;
  table.append(makeRow(heads), ...rows);
}

const format = (value) =>
  value === undefined ? "–" : value.toLocaleString("en", { maximumSignificantDigits: Number.isInteger(value) ? 12 : 4 });

function makeRow(cells) {
  const row = document.createElement("tr");
  row.append(...cells);
  return row;
}

function makeElement(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}
