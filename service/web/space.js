// Space: the latents of the test set as a plot, a colour per label, with the sliders' latent among them.

import { loadModule, showMessage } from "./api.js";
import { addExports, curl } from "./exports.js";
import { loadLatents, principalComponents } from "./latents.js";
import { listen, set, state } from "./state.js";

const COLOURS = [
  ...["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f"],
  ...["#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#8f9aa5"],
];

const plot = document.querySelector("#plot");
const legend = document.querySelector("#legend");
const labelSelect = document.querySelector("#label");
const nextButton = document.querySelector("#next");
const description = document.querySelector("#space-description");

/** Build the view; returns the function to call when it is shown. */
export function space(model) {
  let started = null;
  addExports(
    "space",
    () => curl("latents"),
    () => new Promise((resolve) => plot.toBlob(resolve)),
  );
  return () => {
    started ??= start(model.latent_dim).catch((error) => {
      started = null;
      showMessage(error.message);
    });
  };
}

async function start(latentDim) {
  description.textContent = "Loading the latents of the test set.";
  const latents = await loadLatents();
  const groups = groupByLabel(latents.label);
  fillLabelSelect(groups, latents.mean);
  const { Scatter } = await loadModule("scatter.js");
  const { project, names, note } = makeProjection(latents.mean, latentDim);
  const count = latents.mean.length.toLocaleString("en");
  description.textContent = `${count} latents of the test set${note}. A click on a point moves the sliders to it.`;
  const colourGroups = [...groups].map(([label, rows], at) => ({ label, rows, colour: colourAt(at) }));
  const pick = (row) => set({ z: latents.mean[row] });
  const scatter = new Scatter(plot, latents.mean.map(project), names, colourGroups, pick);
  for (const { label, colour } of colourGroups) {
    legend.append(makeLegendButton(label, colour, (isVisible) => scatter.setVisible(label, isVisible)));
  }
  const mark = () => scatter.mark(project(state.z));
  listen(["z"], mark);
  mark();
}

/** Map from label to its rows, sorted by label. */
function groupByLabel(labels) {
  const groups = new Map([...new Set(labels)].sort((a, b) => a - b).map((label) => [label, []]));
  for (const [row, label] of labels.entries()) groups.get(label).push(row);
  return groups;
}

/** The keyboard's alternative to a click on a point. */
function fillLabelSelect(groups, mean) {
  if (labelSelect.length) return; // filled before, when the plot could not be loaded
  labelSelect.append(...[...groups.keys()].map((label) => new Option(label, label)));
  const nextIndex = new Map();
  nextButton.disabled = false;
  nextButton.addEventListener("click", () => {
    const label = Number(labelSelect.value);
    const rows = groups.get(label);
    const at = nextIndex.get(label) ?? 0;
    nextIndex.set(label, (at + 1) % rows.length);
    set({ z: mean[rows[at]] });
  });
}

/** `project`: from a latent to the plot's two or three coordinates; their `names`; a `note` for the description. */
function makeProjection(mean, latentDim) {
  if (latentDim <= 3) {
    const names = latentDim === 1 ? ["z1", ""] : Array.from({ length: latentDim }, (_, at) => `z${at + 1}`);
    return { project: (z) => (latentDim === 1 ? [z[0], 0] : z), names, note: "" };
  }
  const { centre, axes, share } = principalComponents(mean, 3);
  const project = (z) => axes.map((axis) => axis.reduce((sum, value, d) => sum + value * (z[d] - centre[d]), 0));
  const percent = Math.round(share * 100);
  const note = `, along their first three principal components, which explain ${percent} % of their variance`;
  return { project, names: ["PC1", "PC2", "PC3"], note };
}

/** A button that shows and hides the points of a label. */
function makeLegendButton(label, colour, toggle) {
  const button = document.createElement("button");
  const swatch = document.createElement("span");
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  swatch.className = "swatch";
  swatch.style.background = colour;
  button.append(swatch, String(label));
  button.addEventListener("click", () => {
    const isVisible = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(isVisible));
    toggle(isVisible);
  });
  return button;
}

const colourAt = (at) => COLOURS[at] ?? `hsl(${(at * 137.5) % 360} 55% 55%)`;
