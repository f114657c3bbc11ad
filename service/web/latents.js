// The latents of the test set: nearest neighbours, percentiles of their distance, principal components.

import { requestJson } from "./api.js";

const NEIGHBOURS = 10;
const REFERENCES = 1000; // test latents that percentiles are computed from: standard error at most 1.6 points
const CHUNK = 100; // references between two pauses that let the page handle events

let latents = null;
let referenceDistances = null;

/** `{mean: [M][D], label: [M]}`, fetched once. */
export function loadLatents() {
  latents ??= requestJson("latents").catch((error) => {
    latents = null;
    throw error;
  });
  return latents;
}

/**
 * The NEIGHBOURS test latents nearest to z, without the one at `excluded`: `indices`, nearest first, and `distance`,
 * that of the last one.
 */
export function nearest(z, mean, excluded = -1) {
  const indices = new Array(NEIGHBOURS).fill(-1);
  const squares = new Array(NEIGHBOURS).fill(Infinity);
  const last = NEIGHBOURS - 1;
  for (let row = 0; row < mean.length; row += 1) {
    const point = mean[row];
    let square = 0;
    for (let d = 0; d < z.length; d += 1) square += (point[d] - z[d]) * (point[d] - z[d]);
    if (square >= squares[last] || row === excluded) continue;
    let place = last;
    while (place && squares[place - 1] > square) {
      squares[place] = squares[place - 1];
      indices[place] = indices[place - 1];
      place -= 1;
    }
    squares[place] = square;
    indices[place] = row;
  }
  const square = squares.findLast((value) => value < Infinity);
  return { indices: indices.filter((row) => row >= 0), distance: Math.sqrt(square) };
}

/** The share of test latents that are further from their tenth nearest neighbour than z is from its own. */
export async function shareMoreIsolated(z, mean) {
  referenceDistances ??= measureReferences(mean);
  const { distance } = nearest(z, mean);
  const references = await referenceDistances;
  return references.filter((reference) => reference > distance).length / references.length;
}

async function measureReferences(mean) {
  const count = Math.min(REFERENCES, mean.length);
  const distances = [];
  for (let at = 0; at < count; at += 1) {
    const row = Math.floor((at * mean.length) / count);
    distances.push(nearest(mean[row], mean, row).distance);
    if (at % CHUNK === CHUNK - 1) await new Promise((resolve) => setTimeout(resolve));
  }
  return distances;
}

/** The first `count` principal components of points [M][D]: centre [D], axes [count][D], their share of variance. */
export function principalComponents(points, count) {
  const dim = points[0].length;
  const centre = Array.from({ length: dim }, (_, d) => points.reduce((sum, point) => sum + point[d], 0) / points.length);
  const covariance = Array.from({ length: dim }, () => new Array(dim).fill(0));
  for (const point of points) {
    for (let i = 0; i < dim; i += 1) {
      for (let j = 0; j < dim; j += 1) {
        covariance[i][j] += ((point[i] - centre[i]) * (point[j] - centre[j])) / points.length;
      }
    }
  }
  const total = covariance.reduce((sum, row, i) => sum + row[i], 0);
  const axes = [];
  let explained = 0;
  while (axes.length < count) {
    const { axis, variance } = dominantEigenvector(covariance);
    for (let i = 0; i < dim; i += 1) for (let j = 0; j < dim; j += 1) covariance[i][j] -= variance * axis[i] * axis[j];
    axes.push(axis);
    explained += variance;
  }
  return { centre, axes, share: explained / total };
}

/** The eigenvector of the largest eigenvalue, by power iteration. */
function dominantEigenvector(matrix) {
  let axis = matrix.map((_, i) => 1 + i / matrix.length);
  let variance = 0;
  for (let iteration = 0; iteration < 500; iteration += 1) {
    const product = matrix.map((row) => row.reduce((sum, value, j) => sum + value * axis[j], 0));
    variance = Math.hypot(...product);
    if (!variance) return { axis: normalize(axis), variance };
    axis = product.map((value) => value / variance);
  }
  return { axis, variance };
}

const normalize = (vector) => vector.map((value) => value / Math.hypot(...vector));
