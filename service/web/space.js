// Space: the latents of the test set as a plot, a colour per label, with the sliders' latent among them.

import { retryLoad, showMessage } from "./api.js";
import { addExports, curl } from "./exports.js";
import { loadLatents, principalComponents } from "./latents.js";
import { listen, set, state } from "./state.js";

const COLOURS = [
  ...["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f"],
  ...["#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#8f9aa5"],
];
const PLOTLY_URL = document.querySelector("meta[name=plotly]").content; // "" where plotly is not installed

const section = document.querySelector("#space");
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
    async () => {
      if (!PLOTLY_URL) throw new Error("There is no plot to save.");
      const base64 = await globalThis.Plotly.toImage(plot, { format: "png", scale: 2, imageDataOnly: true });
      return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
    },
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
  const count = latents.mean.length.toLocaleString("en");
  if (!PLOTLY_URL) {
    description.textContent =
      `${count} latents of the test set. To plot them, run "pip install plotly" where the service runs and restart it.`;
    plot.hidden = true;
    return;
  }
  await retryLoad(() => loadScript(PLOTLY_URL));
  const { project, names, note } = makeProjection(latents.mean, latentDim);
  description.textContent = `${count} latents of the test set${note}. A click on a point moves the sliders to it.`;
  await drawPlot(latents, groups, project, names);
}

/** Map from label to its rows, sorted by label. */
function groupByLabel(labels) {
  const groups = new Map([...new Set(labels)].sort((a, b) => a - b).map((label) => [label, []]));
  for (const [row, label] of labels.entries()) groups.get(label).push(row);
  return groups;
}

/** The keyboard's alternative to a click on a point. */
function fillLabelSelect(groups, mean) {
  if (labelSelect.length) return; // filled already: this is a retry after the plot could not be loaded
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

async function drawPlot(latents, groups, project, names) {
  const { Plotly } = globalThis;
  const isFlat = names.length === 2;
  const points = latents.mean.map(project);
  const type = isFlat ? "scatter" : "scatter3d";
  const traces = [...groups].map(([label, rows], at) => ({
    type,
    mode: "markers",
    name: String(label),
    ...coordinates(rows.map((row) => points[row])),
    customdata: rows,
    marker: { size: isFlat ? 4 : 2, color: colourAt(at), opacity: 0.75, line: { width: 0 } },
    hovertemplate: `${label}<extra></extra>`,
  }));
  // Lines along the axes through the sliders' latent show where it is when other points hide it.
  const extents = names.map((_, axis) => {
    const values = points.map((point) => point[axis]);
    return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  });
  const currentPlaces = () => {
    const at = project(state.z);
    const lines = names.flatMap((_, axis) => [...extents[axis].map((end) => at.with(axis, end)), at.map(() => null)]);
    return [coordinates(lines), coordinates([at])];
  };
  const currentStyle = () => {
    const { text, accent } = themeColours();
    const marker = { size: isFlat ? 14 : 9, color: accent, opacity: 1, line: { color: text, width: 2 } };
    return { marker, line: { color: text, width: isFlat ? 1 : 3 } };
  };
  const current = currentPlaces().map((place, at) => ({
    type,
    mode: ["lines", "markers"][at],
    hoverinfo: "skip",
    ...place,
    ...currentStyle(),
  }));
  const indices = [traces.length, traces.length + 1];
  const options = { displayModeBar: false, responsive: true };
  await Plotly.newPlot(plot, [...traces, ...current], makeLayout(names), options);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    const { marker, line } = currentStyle();
    Plotly.update(plot, { marker: [marker], line: [line] }, makeLayout(names), indices);
  });
  plot.on("plotly_click", ({ points: [point] }) => {
    if (point.curveNumber < traces.length) set({ z: latents.mean[point.customdata] });
  });
  for (const [at, label] of [...groups.keys()].entries()) {
    const toggle = (isVisible) => Plotly.restyle(plot, { visible: isVisible }, [at]);
    legend.append(makeLegendButton(label, colourAt(at), toggle));
  }

  let [isDue, isBusy] = [false, false];
  const move = async () => {
    isDue = true;
    if (isBusy || section.hidden) return;
    isBusy = true;
    while (isDue) {
      isDue = false;
      const places = currentPlaces();
      const changes = Object.keys(places[0]).map((axis) => [axis, places.map((place) => place[axis])]);
      await Plotly.restyle(plot, Object.fromEntries(changes), indices);
      await new Promise(requestAnimationFrame);
    }
    isBusy = false;
  };
  listen(["z", "view"], move);
  await move();
}

function coordinates(rows) {
  const [x, y, z] = [0, 1, 2].map((axis) => rows.map((row) => row[axis]));
  return rows[0]?.length === 2 ? { x, y } : { x, y, z };
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

const themeColours = () => {
  const style = getComputedStyle(document.documentElement);
  const names = ["text", "border", "accent", "surface"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
};

/** Plotly's layout in the page's colours. */
function makeLayout(names) {
  const { text, border, surface } = themeColours();
  const axis = (title) => ({
    title: { text: title },
    gridcolor: border,
    zerolinecolor: border,
    linecolor: border,
    showspikes: false,
    showbackground: false,
  });
  const [x, y, z] = names.map(axis);
  const camera = { eye: { x: 1.3, y: 1.1, z: 0.7 }, center: { x: 0, y: 0, z: -0.12 } };
  return {
    margin: names.length === 2 ? { l: 40, r: 10, t: 10, b: 40 } : { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: surface,
    plot_bgcolor: surface,
    font: { color: text, family: "system-ui, sans-serif" },
    showlegend: false,
    hovermode: "closest",
    uirevision: "constant", // keep zoom and camera when the layout is updated
    ...(names.length === 2
      ? { xaxis: x, yaxis: { ...y, scaleanchor: "x" }, dragmode: "pan" }
      : { scene: { xaxis: x, yaxis: y, zaxis: z, aspectmode: "cube", camera } }),
  };
}

function loadScript(source) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => {
      script.remove();
      reject(new TypeError("The plot's script could not be loaded."));
    });
    script.src = source;
    document.head.append(script);
  });
}
