// The test set's latents: where they lie, and how usual a place is among them.

import { callJson } from "./api.js";

const NEIGHBOURS = 10;
const REFERENCES = 1000; // of the test set whose own remoteness is measured; percentiles need no more
const AT_ONCE = 100; // between two of so many the page is let breathe

let latents = null;
let remotenesses = null;

/** `{mean: [M][D], label: [M]}`, fetched once. */
export function loadLatents() {
  latents ??= callJson("latents").catch((error) => {
    latents = null;
    throw error;
  });
  return latents;
}

/** The nearest test latents of z, as indices, nearest first; `but` leaves one out. */
export function nearest(z, mean, but = -1) {
  const indices = new Array(NEIGHBOURS).fill(-1);
  const squares = new Array(NEIGHBOURS).fill(Infinity);
  const last = NEIGHBOURS - 1;
  for (let row = 0; row < mean.length; row += 1) {
    const point = mean[row];
    let square = 0;
    for (let d = 0; d < z.length; d += 1) square += (point[d] - z[d]) * (point[d] - z[d]);
    if (square >= squares[last] || row === but) continue;
    let place = last;
    while (place && squares[place - 1] > square) {
      squares[place] = squares[place - 1];
      indices[place] = indices[place - 1];
      place -= 1;
    }
    squares[place] = square;
    indices[place] = row;
  }
  return { indices: indices.filter((row) => row >= 0), remoteness: squares.findLast((square) => square < Infinity) };
}

/** The share of the test set that lies more remote than z, by the distance to its tenth nearest neighbour. */
export async function shareMoreRemote(z, mean) {
  remotenesses ??= measure(mean);
  const { remoteness } = nearest(z, mean);
  const all = await remotenesses;
  return all.filter((own) => own > remoteness).length / all.length;
}

async function measure(mean) {
  const count = Math.min(REFERENCES, mean.length);
  const found = [];
  for (let at = 0; at < count; at += 1) {
    const row = Math.floor((at * mean.length) / count);
    found.push(nearest(mean[row], mean, row).remoteness);
    if (at % AT_ONCE === AT_ONCE - 1) await new Promise((resolve) => setTimeout(resolve));
  }
  return found;
}

/** The first `wanted` principal components of points [M][D]: centre [D], axes [wanted][D], their share of variance. */
export function principalComponents(points, wanted) {
  const count = points.length;
  const dim = points[0].length;
  const centre = Array.from({ length: dim }, (_, d) => points.reduce((sum, point) => sum + point[d], 0) / count);
  const matrix = Array.from({ length: dim }, () => new Array(dim).fill(0));
  for (const point of points) {
    for (let i = 0; i < dim; i += 1) {
      for (let j = 0; j < dim; j += 1) matrix[i][j] += ((point[i] - centre[i]) * (point[j] - centre[j])) / count;
    }
  }
  const total = matrix.reduce((sum, row, i) => sum + row[i], 0);
  const axes = [];
  let explained = 0;
  while (axes.length < wanted) {
    const { axis, variance } = dominant(matrix);
    for (let i = 0; i < dim; i += 1) for (let j = 0; j < dim; j += 1) matrix[i][j] -= variance * axis[i] * axis[j];
    axes.push(axis);
    explained += variance;
  }
  return { centre, axes, share: explained / total };
}

/** The eigenvector of the largest eigenvalue, by power iteration. */
function dominant(matrix) {
  let axis = matrix.map((_, i) => 1 + i / matrix.length);
  let variance = 0;
  for (let round = 0; round < 500; round += 1) {
    const image = matrix.map((row) => row.reduce((sum, value, j) => sum + value * axis[j], 0));
    variance = Math.hypot(...image);
    if (!variance) return { axis: unit(axis), variance };
    axis = image.map((value) => value / variance);
  }
  return { axis, variance };
}

const unit = (vector) => vector.map((value) => value / Math.hypot(...vector));
