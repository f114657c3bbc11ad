// How usual a reconstructed picture is, in words: [verdict, reason].

import { loadLatents, nearest, shareMoreIsolated } from "./latents.js";
import { imageShape } from "./picture.js";

const UNUSUAL_SHARE = 0.1; // of test latents that are at least as isolated
const VERY_UNUSUAL_SHARE = 0.01;
const UNUSUAL_PERCENTILE = 0.9; // of the score; above `level` of /score, 0.99, it is very unusual
const HIGH_LOSS_RATIO = 1.5; // to the loss expected of the model's own image; 5 % of MNIST's test set exceed it

/**
 * By the score's percentile among the validation images, for models that are calibrated. `found` and `scored`: the JSON
 * responses of /reconstruct and /score; `hasLatents`: whether the checkpoint has latents to compare with.
 */
export async function scoreVerdict(found, scored, hasLatents) {
  const percent = scored.percentile * 100;
  const shareText = `the model finds ${percent.toFixed(percent < 99 ? 0 : 1)} % of validation images more usual`;
  const reason = `${shareText}${hasLatents ? labelled(found.mean, await loadLatents()) : ""}.`;
  if (scored.anomalous) return ["Very unusual:", reason];
  return [scored.percentile > UNUSUAL_PERCENTILE ? "Unusual:" : "Usual:", reason];
}

/**
 * `found`: the JSON response of /reconstruct; `hasLatents`: whether the checkpoint has latents to compare with. The loss
 * is judged only if it is a cross-entropy, whose expectation is known: that of a Bernoulli likelihood.
 */
export async function verdict(found, hasLatents, likelihood) {
  const expectedLoss = found.pixels.flat(2).reduce((sum, p) => sum + binaryEntropy(p), 0);
  const ratio = likelihood === "bernoulli" ? found.reconstruction_loss / expectedLoss : 0;
  const lossText = `its reconstruction loss is ${ratio.toFixed(1)} times what the model expects of its own image`;
  if (!hasLatents && !ratio) return ["Reconstructed:", `the loss is ${found.reconstruction_loss.toFixed(1)} nats.`];
  if (!hasLatents) return ratio > HIGH_LOSS_RATIO ? ["Unusual:", `${lossText}.`] : ["Usual,", "judged by its loss alone."];
  const latents = await loadLatents();
  const share = await shareMoreIsolated(found.mean, latents.mean);
  const shareText = `${Math.round(share * 100)} % of the test set are further from their neighbours`;
  const labelText = labelled(found.mean, latents);
  if (share < VERY_UNUSUAL_SHARE) return ["Very unusual:", `${shareText}${labelText}.`];
  if (share < UNUSUAL_SHARE) return ["Unusual:", `${shareText}${labelText}.`];
  if (ratio > HIGH_LOSS_RATIO) return ["Unusual:", `${lossText}, although ${shareText}${labelText}.`];
  return ["Usual:", `${shareText}${labelText}.`];
}

/** For models of diffusers, which have no set of latents to compare with: the reconstruction's error. */
export function errorVerdict(found) {
  const values = imageShape().reduce((count, side) => count * side);
  const error = 255 * Math.sqrt((2 * found.reconstruction_loss) / values); // the loss is half of the squared error
  return ["Reconstructed:", `the root mean square error is ${error.toFixed(0)} of 255.`];
}

/** Expected loss, in nats, of a pixel that is 1 with probability p. */
const binaryEntropy = (p) => (p <= 0 || p >= 1 ? 0 : -p * Math.log(p) - (1 - p) * Math.log(1 - p));

/** The most frequent label of the nearest test images, as the end of a sentence; empty for images without labels. */
function labelled(z, latents) {
  const labels = nearest(z, latents.mean).indices.map((row) => latents.label[row]);
  const [label, votes] = mostFrequent(labels);
  return label < 0 ? "" : `; ${votes} of the ${labels.length} nearest test images are labelled ${label}`;
}

function mostFrequent(labels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
}
