// The content of the page: data, weights, colours, tokens.

const page = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);
const SITES = [["encoder", "Encoder"], ["decoder", "Decoder"], ["cross", "Cross"]];
const SHADES = [["head", "Head"], ["row", "Row"]];
const LABELS = {sparsity: "Sparsity", null_rate: "Null rate", entropy: "Entropy", mass: "Mass", diversity: "Diversity"};
const COST = "Cost here";
const SHORT = {sparsity: "Zeros", null_rate: "Null", diversity: "Div.", "AER normal": "AER", "AER shifted": "Shift."};
const label = (name) => LABELS[name] ?? name;
const TERMS = {
  reference: page.live ? "Numbers by layer and the alignment error rates come from a test set with reference translations; all else from the sentence that you see." : "The target is the given reference translation: the model reads it word by word (teacher forcing) and did not write it.",
  layer: "Layers and heads count from 0. A row of the matrix is a query, a column is a key.",
  "null row": "A query whose weights are all 0: the head attends to nothing. Only ReLA has such rows.",
  sparsity: "Fraction of the weights that are exactly 0, among the positions that a query may attend to.",
  null_rate: "Fraction of the queries whose row is null.",
  entropy: "Mean entropy of the rows, in nats, each row divided by its sum: 0 when a row has one weight, larger when it is spread.",
  mass: "Mean sum of a row: 1 for softmax, sparsemax and 1.5-entmax; free for ReLA.",
  diversity: "How different the heads of a layer are (generalized Jensen–Shannon divergence, in nats): 0 when all are equal, at most ln(heads).",
  "AER normal": "Alignment error rate against the gold alignment, lower is better: each target word is linked to the source word of largest weight in the step that predicts it. By layer: its best head.",
  "AER shifted": "The same, with the weights of the next step, which reads the word.",
  "Cost here": "Fall of the log-probability of the shown target when this head alone is switched off: its output is set to 0, before the norm of ReLA.",
  "Loss without": "Rise of the loss, in nats per sub-word, when the head is switched off.",
};

// ---------------------------------------------------------------- weights, decompressed when shown
const unpacked = new Map();

function weightsOf(run, sentence) {
  const name = `weights-${run}-${sentence}`;
  if (!unpacked.has(name)) {
    if (unpacked.size >= 40) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(name, unpack(byId(name).textContent, page.runs[run], page.runs[run].sentences[sentence]));
  }
  return unpacked.get(name);
}

async function unpack(text, run, sentence) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const view = new DataView(buffer), sites = {};
  let offset = 0;
  for (const [site] of SITES) {
    const {layers, heads} = run.sites[site];
    const queries = (site === "encoder" ? sentence.source : sentence.target).length;
    const keys = (site === "decoder" ? sentence.target : sentence.source).length;
    const largest = Array.from({length: layers * heads}, (_, i) => view.getFloat32(offset + 4 * i, true));
    offset += 4 * layers * heads;
    sites[site] = {layers, heads, queries, keys, largest, codes: new Uint8Array(buffer, offset, layers * heads * queries * keys)};
    offset += layers * heads * queries * keys;
  }
  return sites;
}

/** The weights of one head, by row; head "mean" averages over the heads of the layer. */
function matrixOf(block, layer, head) {
  const {queries, keys} = block, size = queries * keys, values = new Float32Array(size);
  const heads = head === "mean" ? [...Array(block.heads).keys()] : [head];
  for (const h of heads) {
    if (block.values) { // of the live page
      for (let i = 0, at = (layer * block.heads + h) * size; i < size; i++, at++) values[i] += block.values[at] / heads.length;
      continue;
    }
    const index = layer * block.heads + h, scale = block.largest[index] / (255 * 255 * heads.length);
    for (let i = 0, at = index * size; i < size; i++, at++) values[i] += scale * block.codes[at] * block.codes[at];
  }
  const rows = Array.from({length: queries}, (_, q) => values.subarray(q * keys, (q + 1) * keys)), sums = new Array(queries).fill(0);
  let max = 0;
  for (let q = 0, i = 0; q < queries; q++) {
    for (let k = 0; k < keys; k++, i++) {
      sums[q] += values[i];
      if (values[i] > max) max = values[i];
    }
  }
  return {values, rows, sums, queries, keys, max};
}

// ---------------------------------------------------------------- colours
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let ramp = [], shades = [];

function readColours() {
  const stops = style("--scale").split(/\s+/).map((hex) => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16)));
  ramp = Array.from({length: 256}, (_, i) => {
    const place = (i / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((c, k) => Math.round(c + (stops[low + 1][k] - c) * (place - low)));
  });
  shades = ramp.map((colour) => `rgb(${colour.join(" ")})`);
}
const shadeOf = (fraction) => shades[Math.round(255 * Math.max(0, Math.min(1, fraction)))];
/** Black or white, whichever reads better on a shade (relative luminance as in WCAG). */
function inkOn(fraction) {
  const [r, g, b] = ramp[Math.round(255 * Math.max(0, Math.min(1, fraction)))].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#0d1114" : "#ffffff";
}

// ---------------------------------------------------------------- tokens
const START = "‹start›", END = "‹end›";
function tokensOf(pieces) {
  return pieces.map((piece, i) => {
    if (piece === "</s>") return {text: END, name: END, begins: true, special: true};
    if (piece === "<s>") return {text: START, name: START, begins: true, special: true};
    const begins = piece.startsWith("▁") || i === 0;
    const text = piece.replace(/^▁/, "") || "▁";
    return {text, name: begins ? text : "·" + text, begins, special: false};
  });
}

function axesOf(site, sentence) {
  const source = tokensOf(sentence.source), target = tokensOf(sentence.target);
  const read = tokensOf(["<s>", ...sentence.target.slice(0, -1)]), what = page.live ? (sentence.isOwn ? "your target" : "the translation") : "the reference";
  if (site === "encoder") return {queries: source, keys: source, names: ["From", "To"], read: null};
  if (site === "decoder") return {queries: target, keys: read, names: [`Predicting ${what}`, `Attending to ${what} so far`], read};
  return {queries: target, keys: source, names: [`Predicting ${what}`, "Attending to the source"], read};
}

// ---------------------------------------------------------------- helpers
function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const number = (value) => value == null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 9.995 ? value.toFixed(1) : value.toFixed(2);
const weight = (value) => value >= 0.01 || value === 0 ? value.toFixed(2) : value.toPrecision(1).replace("e-", "·10^-");
const pen = document.createElement("canvas").getContext("2d");
