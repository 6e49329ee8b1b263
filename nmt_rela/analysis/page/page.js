"use strict";
(() => {
const page = JSON.parse(document.getElementById("page-data").textContent);
const byId = (id) => document.getElementById(id);
const SITES = [["encoder", "Encoder"], ["decoder", "Decoder"], ["cross", "Cross"]];
const SHADES = [["head", "Head"], ["row", "Row"]];
const LABELS = {sparsity: "Sparsity", null_rate: "Null rate", entropy: "Entropy", mass: "Weight mass", diversity: "Diversity"};
const label = (name) => LABELS[name] ?? name;

// ---------------------------------------------------------------- state, kept in the address
const state = {runs: page.runs.map((_, i) => i).slice(0, page.most_runs), sentence: 0, site: "cross", layer: 0, head: 0, shade: "head", map: "patterns", hold: null};

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = (name, most) => Math.max(0, Math.min(most, Number.parseInt(given.get(name), 10) || 0));
  if (given.has("runs")) {
    const wanted = given.get("runs").split(",").map(Number).filter((i) => page.runs[i]);
    if (wanted.length) state.runs = [...new Set(wanted)].slice(0, page.most_runs);
  }
  if (given.has("sentence")) state.sentence = whole("sentence", page.sentences.length - 1);
  if (SITES.some(([site]) => site === given.get("site"))) state.site = given.get("site");
  if (SHADES.some(([shade]) => shade === given.get("shade"))) state.shade = given.get("shade");
  if (given.has("layer")) state.layer = whole("layer", 999);
  if (given.has("head")) state.head = given.get("head") === "mean" ? "mean" : whole("head", 999);
  if (given.has("map")) state.map = given.get("map");
  state.hold = given.has("query") ? {query: whole("query", 9999), key: null} : given.has("key") ? {query: null, key: whole("key", 9999)} : null;
  clamp();
}

function writeAddress() {
  const {runs, sentence, site, layer, head, shade, map, hold} = state;
  const shown = new URLSearchParams({runs: runs.join(","), sentence, site, layer, head, shade, map});
  if (hold?.query != null) shown.set("query", hold.query);
  else if (hold?.key != null) shown.set("key", hold.key);
  history.replaceState(null, "", "#" + shown.toString().replaceAll("%2C", ","));
}

const layersShown = () => Math.max(...state.runs.map((run) => page.runs[run].sites[state.site].layers));
const headsShown = () => Math.max(...state.runs.map((run) => page.runs[run].sites[state.site].heads));
const mapChoices = () => ["patterns", ...new Set(state.runs.flatMap((run) => Object.keys(page.runs[run].sites[state.site].head_measures)))];

function clamp() {
  state.layer = Math.min(state.layer, layersShown() - 1);
  if (state.head !== "mean") state.head = Math.min(state.head, headsShown() - 1);
  if (!mapChoices().includes(state.map)) state.map = "patterns";
}

function change(changes) {
  if ("sentence" in changes || "site" in changes) state.hold = null;
  Object.assign(state, changes);
  clamp();
  draw();
}

// ---------------------------------------------------------------- weights, unpacked when looked at
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

/** One head's weights, row by row; head "mean" averages the layer. */
function matrixOf(block, layer, head) {
  const size = block.queries * block.keys, values = new Float32Array(size);
  const heads = head === "mean" ? [...Array(block.heads).keys()] : [head];
  for (const h of heads) {
    const index = layer * block.heads + h, scale = block.largest[index] / (255 * 255 * heads.length);
    for (let i = 0, at = index * size; i < size; i++, at++) values[i] += scale * block.codes[at] * block.codes[at];
  }
  const rows = Array.from({length: block.queries}, (_, q) => values.subarray(q * block.keys, (q + 1) * block.keys));
  const sums = rows.map((row) => row.reduce((sum, w) => sum + w, 0));
  return {values, rows, sums, queries: block.queries, keys: block.keys, max: values.reduce((a, b) => Math.max(a, b), 0)};
}

// ---------------------------------------------------------------- colours
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let ramp = [];

function readColours() {
  const stops = style("--scale").split(/\s+/).map((hex) => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16)));
  ramp = Array.from({length: 256}, (_, i) => {
    const place = (i / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((c, k) => Math.round(c + (stops[low + 1][k] - c) * (place - low)));
  });
}
const shadeOf = (share) => `rgb(${ramp[Math.round(255 * Math.max(0, Math.min(1, share)))].join(" ")})`;
const inkOn = (share) => (share > 0.55 ? style("--on-dark") : style("--ink"));

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
  const read = tokensOf(["<s>", ...sentence.target.slice(0, -1)]);
  if (site === "encoder") return {queries: source, keys: source, names: ["From", "To"], read: null};
  if (site === "decoder") return {queries: target, keys: read, names: ["Predicting", "Looking back at"], read};
  return {queries: target, keys: source, names: ["Predicting", "Looking at the source"], read};
}

// ---------------------------------------------------------------- small makers
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

// ---------------------------------------------------------------- one run
function buildView(run, block, width, alone) {
  const data = page.runs[run], sentence = data.sentences[state.sentence];
  const site = data.sites[state.site];
  const layer = Math.min(state.layer, site.layers - 1);
  const head = state.head === "mean" ? "mean" : Math.min(state.head, site.heads - 1);
  const axes = axesOf(state.site, sentence), matrix = matrixOf(block, layer, head);
  const visible = (q, k) => state.site !== "decoder" || k <= q;
  const isNull = matrix.sums.map((sum) => sum === 0);
  const peak = (q) => state.shade === "row" ? Math.max(...matrix.rows[q]) : matrix.max;

  const element = make("section", {class: alone ? "view alone" : "view", "data-run": run, "aria-label": data.name});
  const measured = Object.entries(site.head_measures).map(([name, rows]) => [name, head === "mean" ? null : rows[layer]?.[head]]);
  const facts = ["sparsity", "null_rate", "entropy"].map((name) => [label(name).toLowerCase(), measured.find(([n]) => n === name)?.[1]]).filter(([, value]) => value != null);
  element.append(make("header", {class: "title"}, make("h2", {title: data.name}, data.name),
    make("p", {}, [`${data.attention[state.site]}, layer ${layer}, ${head === "mean" ? "mean of heads" : `head ${head}`}`, ...facts.map(([name, value]) => `${name} ${number(value)}`)].join(" · "))));

  // Running text: hover a token, the other side is shaded.
  const line = (side, tokens) => {
    const spans = tokens.map((token, i) => make("span", {class: `token${token.special ? " special" : ""}${side === "query" && isNull[i] ? " null" : ""}`, "data-side": side, "data-index": i}, token.text));
    const text = make("p", {class: "reading", "data-side": side}, make("span", {class: "caption"}, axes.names[side === "query" ? 0 : 1]));
    spans.forEach((span, i) => text.append(i && tokens[i].begins ? " " : "", span));
    return [text, spans];
  };
  const [queryLine, querySpans] = line("query", axes.queries), [keyLine, keySpans] = line("key", axes.keys);

  // The matrix: cells on a canvas, names and marks above it in SVG, one coordinate system.
  pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
  const fit = (text, most) => { if (pen.measureText(text).width <= most) return text; let cut = text; while (cut && pen.measureText(cut + "…").width > most) cut = cut.slice(0, -1); return cut + "…"; };
  const most = width < 340 ? 62 : 104;
  const queryNames = axes.queries.map((t) => fit(t.name, most)), keyNames = axes.keys.map((t) => fit(t.name, most));
  const longest = (names) => Math.ceil(Math.max(...names.map((name) => pen.measureText(name).width)));
  const left = longest(queryNames) + 8, top = longest(keyNames) + 8;
  const cell = Math.max(12, Math.min(26, Math.floor((width - left - 2) / matrix.keys)));
  const plotWidth = cell * matrix.keys, plotHeight = cell * matrix.queries;
  const canvas = make("canvas", {style: `left:${left}px;top:${top}px;width:${plotWidth}px;height:${plotHeight}px`, "aria-hidden": "true"});
  const svg = make("svg:svg", {width: left + plotWidth + 2, height: top + plotHeight + 2, role: "img", "aria-label": `Weights, ${matrix.queries} queries by ${matrix.keys} keys`});
  const queryTexts = queryNames.map((name, q) => make("svg:text", {x: left - 6, y: top + (q + 0.5) * cell + 4, "text-anchor": "end", class: `${axes.queries[q].special ? "special" : ""}${isNull[q] ? " null" : ""}`, "data-side": "query", "data-index": q}, name));
  const keyTexts = keyNames.map((name, k) => make("svg:text", {transform: `translate(${left + (k + 0.5) * cell + 4} ${top - 6}) rotate(-90)`, class: axes.keys[k].special ? "special" : "", "data-side": "key", "data-index": k}, name));
  const voids = isNull.flatMap((none, q) => none ? [make("svg:line", {class: "void", x1: left, x2: left + cell * (state.site === "decoder" ? q + 1 : matrix.keys), y1: top + (q + 0.5) * cell, y2: top + (q + 0.5) * cell})] : []);
  const bandQ = make("svg:rect", {class: "band", x: left - 0.5, width: plotWidth + 1, height: cell, visibility: "hidden"});
  const bandK = make("svg:rect", {class: "band", y: top - 0.5, width: cell, height: plotHeight + 1, visibility: "hidden"});
  svg.append(...queryTexts, ...keyTexts, ...voids, bandQ, bandK);
  const holder = make("div", {class: "matrix", style: `width:${left + plotWidth + 2}px`}, canvas, svg);
  const says = make("p", {class: "says"});

  function paint() {
    const density = Math.max(3, window.devicePixelRatio || 1), gap = cell > 9 ? 1 : 0;
    canvas.width = plotWidth * density;
    canvas.height = plotHeight * density;
    const context = canvas.getContext("2d");
    context.scale(density, density);
    for (let q = 0; q < matrix.queries; q++) {
      const limit = peak(q);
      for (let k = 0; k < matrix.keys; k++) {
        if (!visible(q, k)) continue;
        const w = matrix.rows[q][k];
        context.fillStyle = w > 0 ? shadeOf(w / limit) : style(isNull[q] ? "--null-soft" : "--zero");
        context.fillRect(k * cell, q * cell, cell - gap, cell - gap);
      }
    }
  }

  function show(focus) {
    const {query = null, key = null} = focus ?? {};
    const inRange = (index, count) => index != null && index < count;
    const q = inRange(query, matrix.queries) ? query : null, k = inRange(key, matrix.keys) ? key : null;
    bandQ.setAttribute("visibility", q == null ? "hidden" : "visible");
    bandK.setAttribute("visibility", k == null ? "hidden" : "visible");
    if (q != null) bandQ.setAttribute("y", top + q * cell - 0.5);
    if (k != null) bandK.setAttribute("x", left + k * cell - 0.5);
    const mark = (elements, chosen, shares) => elements.forEach((element, i) => {
      element.classList.toggle("chosen", i === chosen);
      if (element.tagName === "SPAN") {
        const share = shares ? shares[i] : 0;
        element.style.background = share > 0 ? shadeOf(share) : "";
        element.style.color = share > 0 ? inkOn(share) : "";
      }
    });
    const row = q == null ? null : matrix.rows[q], column = k == null ? null : matrix.rows.map((r) => r[k]);
    const shares = (values) => { const largest = Math.max(...values); return Array.from(values, (v) => (largest ? v / largest : 0)); };
    mark(querySpans, q, q == null && column ? shares(column) : null);
    mark(keySpans, k, row ? shares(row) : null);
    mark(queryTexts, q);
    mark(keyTexts, k);
    says.replaceChildren(...describe(q, k, row, column));
  }

  function describe(q, k, row, column) {
    const bold = (text) => make("b", {}, text);
    const list = (values, tokens) => Array.from(values).map((w, i) => [w, tokens[i].name]).filter(([w]) => w > 0).sort((a, b) => b[0] - a[0]);
    const top4 = (found) => found.slice(0, 4).map(([w, name]) => `${name} ${weight(w)}`).join(", ") + (found.length > 4 ? ", …" : "");
    if (q != null) {
      const opening = axes.read ? [`reading ${axes.read[q].name}, predicting `, bold(axes.queries[q].name)] : [bold(axes.queries[q].name)];
      if (k != null) return [...opening, " → ", bold(axes.keys[k].name), visible(q, k) ? ` ${weight(row[k])}` : " lies in the future", isNull[q] ? make("span", {class: "null"}, " · null row") : row[k] > 0 ? ` · ${Math.round(100 * row[k] / matrix.sums[q])} % of the row` : ""];
      if (isNull[q]) return [...opening, " ", make("span", {class: "null"}, "looks at nothing: a null row")];
      const found = list(row, axes.keys), seen = state.site === "decoder" ? q + 1 : matrix.keys;
      return [...opening, ` → ${top4(found)} · ${seen - found.length} of ${seen} are 0`];
    }
    if (k != null) { const found = list(column, axes.queries); return [bold(axes.keys[k].name), found.length ? ` is looked at by ${top4(found)}` : " is looked at by no query"]; }
    const nulls = isNull.filter(Boolean).length;
    return [make("span", {class: "hint"}, `Hover a token. ${nulls ? `${nulls} of ${matrix.queries} rows are null.` : "No row is null."}`)];
  }

  const rampStyle = `background: linear-gradient(90deg, ${style("--scale").split(/\s+/).join(",")})`;
  const legend = make("div", {class: "legend"}, make("span", {}, make("i"), "exactly 0"),
    make("span", {}, ">0", make("i", {class: "ramp", style: rampStyle}), state.shade === "row" ? "row maximum" : number(matrix.max)),
    isNull.some(Boolean) ? make("span", {}, make("i", {class: "void"}), "null row") : "");
  const plot = make("div", {class: "plot"}, holder);
  const side = make("div", {}, buildMap(block, site, layer, head, alone ? 26 * 14 : width), buildNumbers(site, layer));
  element.append(make("div", {}, queryLine, keyLine, plot, says, legend), side);
  paint();
  show(state.hold);

  const cellAt = (event) => {
    const box = svg.getBoundingClientRect(), k = Math.floor((event.clientX - box.left - left) / cell), q = Math.floor((event.clientY - box.top - top) / cell);
    return q >= 0 && q < matrix.queries && k >= 0 && k < matrix.keys ? {query: q, key: k} : null;
  };
  const tokenAt = (event) => { const {side: at, index} = event.target.dataset ?? {}; return at && index != null ? (at === "query" ? {query: +index, key: null} : {query: null, key: +index}) : null; };
  element.addEventListener("pointermove", (event) => { const at = tokenAt(event) ?? (svg.contains(event.target) ? cellAt(event) : null); spread(at ?? state.hold, run); });
  element.addEventListener("pointerleave", () => spread(state.hold, run));
  element.addEventListener("click", (event) => {
    const at = tokenAt(event) ?? (svg.contains(event.target) ? cellAt(event) : null);
    if (at) hold(state.hold && state.hold.query === at.query && state.hold.key === at.key ? null : at);
  });
  return {run, element, show, says, same: JSON.stringify([axes.queries, axes.keys]), queries: matrix.queries, repaint: paint};
}

/** Layers by heads: a small picture of every head, or one of its numbers. */
function buildMap(block, site, layer, head, width) {
  const heads = [...Array(site.heads).keys(), "mean"], numbers = state.map === "patterns" ? null : site.head_measures[state.map];
  const size = Math.max(15, Math.min(46, Math.floor((width - 30) / heads.length) - 3));
  const grid = make("div", {class: "heads", style: `grid-template-columns: 22px repeat(${site.heads}, ${size}px) ${size + 6}px`});
  grid.append(make("span", {class: "rank"}), ...heads.map((h) => make("span", {class: h === "mean" ? "rank mean" : "rank"}, h === "mean" ? (size < 30 ? "x̄" : "mean") : String(h))));
  const peak = numbers ? Math.max(...numbers.flat().map((v) => Math.abs(v ?? 0)), 1e-9) : 1;
  for (let l = 0; l < site.layers; l++) {
    grid.append(make("span", {class: "rank side"}, String(l)));
    for (const h of heads) {
      const value = numbers && h !== "mean" ? numbers[l]?.[h] : null;
      const name = `layer ${l}, ${h === "mean" ? "mean of heads" : `head ${h}`}${numbers ? `: ${label(state.map)} ${number(value)}` : ""}`;
      const button = make("button", {type: "button", tabindex: "-1", title: name, "aria-label": name, "aria-pressed": String(l === layer && h === head), class: h === "mean" ? "mean" : null, style: `width:${size}px;height:${size}px`, onclick: () => change({layer: l, head: h})});
      if (!numbers) button.append(miniature(block, l, h));
      else if (value != null) {
        const share = Math.abs(value) / peak;
        button.textContent = size < 30 ? "" : number(value);
        button.style.background = share ? shadeOf(share) : "";
        button.style.color = inkOn(share);
      }
      grid.append(button);
    }
  }
  return make("div", {}, make("h3", {}, numbers ? `${label(state.map)} of every head, all sentences` : "Every head, this sentence"), make("div", {class: "scroll"}, grid));
}

function miniature(block, layer, head) {
  const matrix = matrixOf(block, layer, head), canvas = make("canvas", {width: matrix.keys, height: matrix.queries});
  const context = canvas.getContext("2d"), image = context.createImageData(matrix.keys, matrix.queries);
  const rgb = (name) => style(name).match(/[0-9a-f]{2}/gi).map((c) => Number.parseInt(c, 16));
  const zero = rgb("--zero"), none = rgb("--null-soft");
  for (let i = 0; i < matrix.values.length; i++) {
    const w = matrix.values[i], colour = w > 0 ? ramp[Math.round(255 * Math.min(1, w / matrix.max))] : matrix.sums[Math.floor(i / matrix.keys)] === 0 ? none : zero;
    image.data.set([...colour, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function buildNumbers(site, layer) {
  const mean = (row) => { const known = row.filter((v) => v != null); return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null; };
  const columns = [...["sparsity", "null_rate", "entropy", "mass"].map((name) => [label(name), site.head_measures[name].map(mean)]), ...Object.entries(site.layer_measures).map(([name, values]) => [label(name), values])];
  const rows = Array.from({length: site.layers}, (_, l) => make("tr", {"aria-current": String(l === layer), onclick: () => change({layer: l})}, make("td", {}, String(l)), ...columns.map(([, values]) => make("td", {}, number(values[l])))));
  return make("div", {}, make("h3", {}, "By layer, all sentences"), make("div", {class: "scroll"}, make("table", {class: "numbers"}, make("thead", {}, make("tr", {}, make("th", {}, "Layer"), ...columns.map(([name]) => make("th", {}, name)))), make("tbody", {}, ...rows))));
}

// ---------------------------------------------------------------- the whole page
let views = [], drawing = 0;

function spread(focus, run) {
  const origin = views.find((view) => view.run === run) ?? views[0];
  for (const view of views) view.show(view === origin || view.same === origin.same ? focus : state.hold);
}

function hold(focus) {
  state.hold = focus;
  spread(focus);
  if (views.length) byId("status").textContent = views.map((view) => `${page.runs[view.run].name}: ${view.says.textContent}`).join(". ");
  writeAddress();
}

function choice(id, options, current, pick) {
  byId(id).replaceChildren(...options.map(([value, text]) => make("button", {type: "button", "aria-pressed": String(value === current), onclick: () => pick(value)}, text)));
}

function drawControls() {
  const counted = (count) => Array.from({length: count}, (_, i) => [i, String(i)]);
  choice("site", SITES, state.site, (site) => change({site}));
  choice("layer", counted(layersShown()), state.layer, (layer) => change({layer}));
  choice("head", [...counted(headsShown()), ["mean", "mean"]], state.head, (head) => change({head}));
  choice("shade", SHADES, state.shade, (shade) => change({shade}));
  byId("map").replaceChildren(...mapChoices().map((name) => make("option", {value: name, ...(name === state.map ? {selected: ""} : {})}, name === "patterns" ? "patterns" : label(name).replace(/^[A-Z](?=[a-z])/, (c) => c.toLowerCase()))));
  for (const box of document.querySelectorAll("#runs input")) {
    box.checked = state.runs.includes(+box.value);
    box.disabled = (box.checked && state.runs.length === 1) || (!box.checked && state.runs.length >= page.most_runs);
  }
  document.querySelectorAll("#sentence-list button").forEach((button) => button.setAttribute("aria-current", String(+button.value === state.sentence)));
}

async function draw() {
  const turn = ++drawing;
  writeAddress();
  drawControls();
  readColours();
  const shown = [...state.runs].sort((a, b) => a - b), alone = shown.length === 1;
  const blocks = await Promise.all(shown.map((run) => (page.runs[run].sentences[state.sentence] ? weightsOf(run, state.sentence) : null)));
  if (turn !== drawing) return;
  const room = byId("views").clientWidth, narrow = room < 560;
  const columns = narrow ? 1 : Math.min(shown.length, Math.max(1, Math.floor(room / 215)));
  const width = alone && !narrow ? room - 29 * 14 : (room - 25.2 * (columns - 1)) / columns;
  byId("views").style.setProperty("--columns", columns);
  views = [];
  const elements = shown.map((run, i) => {
    if (!blocks[i]) return make("section", {class: "view"}, make("header", {class: "title"}, make("h2", {}, page.runs[run].name)), make("p", {class: "absent"}, "This sentence is too long for this run's page."));
    const view = buildView(run, blocks[i][state.site], width, alone);
    views.push(view);
    return view.element;
  });
  byId("views").replaceChildren(...elements);
  document.documentElement.dataset.drawn = String(turn);
}

function step(by) {
  const listed = [...document.querySelectorAll("#sentence-list li:not([hidden]) button")];
  const at = listed.findIndex((button) => +button.value === state.sentence), next = listed[at + by];
  if (next) { change({sentence: +next.value}); next.scrollIntoView({block: "nearest"}); }
}

function stepToken(by) {
  if (!views.length) return;
  const last = views[0].queries - 1, at = state.hold?.query;
  hold({query: at == null ? (by > 0 ? 0 : last) : Math.max(0, Math.min(last, at + by)), key: null});
}

function stepHead(by) {
  const heads = [...Array(headsShown()).keys(), "mean"], at = heads.indexOf(state.head);
  change({head: heads[Math.max(0, Math.min(heads.length - 1, at + by))]});
}

const KEYS = {
  ArrowLeft: () => stepHead(-1), ArrowRight: () => stepHead(1),
  ArrowUp: () => change({layer: Math.max(0, state.layer - 1)}), ArrowDown: () => change({layer: Math.min(layersShown() - 1, state.layer + 1)}),
  1: () => change({site: "encoder"}), 2: () => change({site: "decoder"}), 3: () => change({site: "cross"}),
  j: () => step(1), k: () => step(-1), ",": () => stepToken(-1), ".": () => stepToken(1),
  m: () => change({shade: state.shade === "head" ? "row" : "head"}), Escape: () => hold(null),
};

function start() {
  byId("title").textContent = page.title;
  byId("subtitle").textContent = page.subtitle;
  byId("runs").hidden = page.runs.length === 1;
  byId("runs").append(...page.runs.map((run, i) => make("label", {}, make("input", {type: "checkbox", value: i, onchange: (event) => change({runs: event.target.checked ? [...state.runs, i] : state.runs.filter((r) => r !== i)})}), run.name)));
  byId("sentence-list").append(...page.sentences.map(({source, target}, i) => make("li", {}, make("button", {type: "button", value: i, title: target, onclick: () => change({sentence: i})}, make("span", {class: "number"}, String(i + 1)), make("span", {class: "text"}, source)))));
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    document.querySelectorAll("#sentence-list li").forEach((item, i) => { item.hidden = !`${page.sentences[i].source} ${page.sentences[i].target}`.toLowerCase().includes(wanted); });
  });
  byId("map").addEventListener("change", (event) => change({map: event.target.value}));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select")) return;
    const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) { event.preventDefault(); action(); }
  });
  window.addEventListener("hashchange", () => { readAddress(); draw(); });
  const redraw = () => { readColours(); draw(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const onPaper = matchMedia("print");
  onPaper.addEventListener("change", () => { readColours(); views.forEach((view) => view.repaint()); });
  let waiting = 0;
  window.addEventListener("resize", () => { if (onPaper.matches) return; clearTimeout(waiting); waiting = setTimeout(draw, 120); });
  if (!("DecompressionStream" in window)) { byId("views").append(make("p", {class: "absent"}, "This browser is too old to unpack the weights; any from 2023 on can.")); return; }
  readAddress();
  draw();
}
start();
})();
