// The test set's latents as a plot: a colour per label, the sliders' point among them.

import { loaded, say } from "./api.js";
import { curl, takeHome } from "./curl.js";
import { loadLatents, principalComponents } from "./latents.js";
import { listen, set, state } from "./state.js";

const HUES = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#8f9aa5"];
const SCRIPT = document.querySelector("meta[name=plotly]").content;

const section = document.querySelector("#space");
const plot = document.querySelector("#plot");
const legend = document.querySelector("#legend");
const label = document.querySelector("#label");
const nextButton = document.querySelector("#next");
const about = document.querySelector("#space-about");

/** Build it; gives what to do when it is shown. */
export function space(model) {
  let started = null;
  takeHome(
    "space",
    () => curl("latents"),
    async () => {
      if (!SCRIPT) throw new Error("There is no plot to save.");
      const base64 = await globalThis.Plotly.toImage(plot, { format: "png", scale: 2, imageDataOnly: true });
      return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });
    },
  );
  return () => {
    started ??= start(model.latent_dim).catch((error) => {
      started = null;
      say(error.message);
    });
  };
}

async function start(latentDim) {
  about.textContent = "The test set's latents are being fetched.";
  const latents = await loadLatents();
  const groups = grouped(latents.label);
  offerLabels(groups, latents.mean);
  const count = latents.mean.length.toLocaleString("en");
  if (!SCRIPT) {
    about.textContent =
      `${count} latents of the test set. To see them here: pip install plotly where the service runs, and start it again.`;
    plot.hidden = true;
    return;
  }
  await loaded(() => load(SCRIPT));
  const { project, names, said } = projection(latents.mean, latentDim);
  about.textContent = `${count} latents of the test set${said}. A click on a point takes the sliders there.`;
  await show(latents, groups, project, names);
}

/** Rows by label, the labels in order. */
function grouped(labels) {
  const groups = new Map([...new Set(labels)].sort((a, b) => a - b).map((name) => [name, []]));
  for (const [row, name] of labels.entries()) groups.get(name).push(row);
  return groups;
}

/** By keyboard what a click on a point does. */
function offerLabels(groups, mean) {
  if (label.length) return; // the plot did not come, and is tried again
  label.append(...[...groups.keys()].map((name) => new Option(name, name)));
  const next = new Map();
  nextButton.disabled = false;
  nextButton.addEventListener("click", () => {
    const name = Number(label.value);
    const rows = groups.get(name);
    const at = next.get(name) ?? 0;
    next.set(name, (at + 1) % rows.length);
    set({ z: mean[rows[at]] });
  });
}

/** From a latent to the two or three numbers of the plot. */
function projection(mean, latentDim) {
  if (latentDim <= 3) {
    const names = latentDim === 1 ? ["z1", ""] : Array.from({ length: latentDim }, (_, at) => `z${at + 1}`);
    return { project: (z) => (latentDim === 1 ? [z[0], 0] : z), names, said: "" };
  }
  const { centre, axes, share } = principalComponents(mean, 3);
  const project = (z) => axes.map((axis) => axis.reduce((sum, value, d) => sum + value * (z[d] - centre[d]), 0));
  const percent = Math.round(share * 100);
  const said = `, along their first three principal components, which hold ${percent} % of their variance`;
  return { project, names: ["PC1", "PC2", "PC3"], said };
}

async function show(latents, groups, project, names) {
  const { Plotly } = globalThis;
  const isPlane = names.length === 2;
  const points = latents.mean.map(project);
  const type = isPlane ? "scatter" : "scatter3d";
  const traces = [...groups].map(([name, rows], at) => ({
    type,
    mode: "markers",
    name: String(name),
    ...coordinates(rows.map((row) => points[row])),
    customdata: rows,
    marker: { size: isPlane ? 4 : 2, color: hue(at), opacity: 0.75, line: { width: 0 } },
    hovertemplate: `${name}<extra></extra>`,
  }));
  // The sliders' point would hide in the cloud: lines through it, along the axes, show from outside where it is.
  const reach = names.map((_, axis) => {
    const values = points.map((point) => point[axis]);
    return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  });
  const here = () => {
    const at = project(state.z);
    const lines = names.flatMap((_, axis) => [...reach[axis].map((end) => at.with(axis, end)), at.map(() => null)]);
    return [coordinates(lines), coordinates([at])];
  };
  const own = () => {
    const { text, accent } = colours();
    const marker = { size: isPlane ? 14 : 9, color: accent, opacity: 1, line: { color: text, width: 2 } };
    return { marker, line: { color: text, width: isPlane ? 1 : 3 } };
  };
  const current = here().map((place, at) => ({ type, mode: ["lines", "markers"][at], hoverinfo: "skip", ...place, ...own() }));
  const indices = [traces.length, traces.length + 1];
  await Plotly.newPlot(plot, [...traces, ...current], layout(names), { displayModeBar: false, responsive: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    Plotly.update(plot, { marker: [own().marker], line: [own().line] }, layout(names), indices),
  );
  plot.on("plotly_click", ({ points: [point] }) => {
    if (point.curveNumber < traces.length) set({ z: latents.mean[point.customdata] });
  });
  for (const [at, name] of [...groups.keys()].entries()) {
    legend.append(entry(name, hue(at), (isShown) => Plotly.restyle(plot, { visible: isShown }, [at])));
  }

  let [isDue, isBusy] = [false, false];
  const move = async () => {
    isDue = true;
    if (isBusy || section.hidden) return;
    isBusy = true;
    while (isDue) {
      isDue = false;
      const places = here();
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

/** A legend entry, which hides and shows its label's points. */
function entry(name, colour, toggle) {
  const made = document.createElement("button");
  const swatch = document.createElement("span");
  made.type = "button";
  made.setAttribute("aria-pressed", "true");
  swatch.className = "swatch";
  swatch.style.background = colour;
  made.append(swatch, String(name));
  made.addEventListener("click", () => {
    const isShown = made.getAttribute("aria-pressed") !== "true";
    made.setAttribute("aria-pressed", String(isShown));
    toggle(isShown);
  });
  return made;
}

const hue = (at) => HUES[at] ?? `hsl(${(at * 137.5) % 360} 55% 55%)`;

const colours = () => {
  const style = getComputedStyle(document.documentElement);
  const [text, line, accent, card] = ["--text", "--line", "--accent", "--card"].map((name) => style.getPropertyValue(name));
  return { text, line, accent, card };
};

/** Of the plot, in the page's colours. */
function layout(names) {
  const { text, line, card } = colours();
  const axis = (title) => ({
    title: { text: title },
    gridcolor: line,
    zerolinecolor: line,
    linecolor: line,
    showspikes: false,
    showbackground: false,
  });
  const [x, y, z] = names.map(axis);
  return {
    margin: names.length === 2 ? { l: 40, r: 10, t: 10, b: 40 } : { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: card,
    plot_bgcolor: card,
    font: { color: text, family: "system-ui, sans-serif" },
    showlegend: false,
    hovermode: "closest",
    uirevision: "kept",
    ...(names.length === 2
      ? { xaxis: x, yaxis: { ...y, scaleanchor: "x" }, dragmode: "pan" }
      : { scene: { xaxis: x, yaxis: y, zaxis: z, aspectmode: "cube", camera: { eye: { x: 1.3, y: 1.1, z: 0.7 }, center: { x: 0, y: 0, z: -0.12 } } } }),
  };
}

function load(source) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => {
      script.remove();
      reject(new TypeError("The plot could not be fetched."));
    });
    script.src = source;
    document.head.append(script);
  });
}
