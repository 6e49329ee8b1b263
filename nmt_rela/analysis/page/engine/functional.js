// The equations of the five attention variants: weight functions, from a row of scores to a row of weights, in place;
// and the norm of ReLA. As nmt_rela/attention/functional.py.

function relu(scores) {
  for (let i = 0; i < scores.length; i++) if (!(scores[i] > 0)) scores[i] = 0;
}

function softmax(scores) {
  let largest = -Infinity, sum = 0;
  for (const s of scores) if (s > largest) largest = s;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - largest);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
}

/** max(0, s − τ) with sum 1: τ from the sorted scores (Martins and Astudillo 2016). */
function sparsemax(scores) {
  let sum = 0, threshold = 0, k = 0;
  for (const s of Float64Array.from(scores).sort().reverse()) {
    sum += s;
    if (1 + ++k * s <= sum) break;
    threshold = (sum - 1) / k;
  }
  for (let i = 0; i < scores.length; i++) scores[i] = Math.max(0, scores[i] - threshold);
}

/** max(0, s/2 − τ)² with sum 1: τ from the sorted scores (Peters, Niculae and Martins 2019). */
function entmax15(scores) {
  const sorted = Float64Array.from(scores).sort().reverse(), largest = sorted[0] / 2;
  let sum = 0, squares = 0, threshold = 0, k = 0;
  for (const s of sorted) {
    const x = s / 2 - largest;
    sum += x;
    squares += x * x;
    k += 1;
    const mean = sum / k, rest = (1 - (squares - k * mean * mean)) / k;
    if (rest < 0 || mean - Math.sqrt(rest) > x) break;
    threshold = mean - Math.sqrt(rest);
  }
  for (let i = 0; i < scores.length; i++) scores[i] = Math.max(0, scores[i] / 2 - largest - threshold) ** 2;
}

const WEIGHT_FUNCTIONS = {softmax, sparsemax, entmax15, "rela-i": relu, "rela-g": relu};

const RMS_EPSILON = 1e-8;

/** σ(a ⊙ z) ⊙ g ⊙ z / √(mean(z²) + ε) of every row, in place; without the factor σ where there is no gate a. */
function gatedRmsNorm(z, gain, gate) {
  const width = gain.length;
  for (let start = 0; start < z.length; start += width) {
    let squares = 0;
    for (let c = 0; c < width; c++) squares += z[start + c] ** 2;
    const scale = 1 / Math.sqrt(squares / width + RMS_EPSILON);
    for (let c = 0; c < width; c++) {
      const value = z[start + c];
      z[start + c] = (gate ? 1 / (1 + Math.exp(-gate[c] * value)) : 1) * value * scale * gain[c];
    }
  }
}
