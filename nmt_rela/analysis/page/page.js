// The state of the page, and how mouse, keyboard and address change it.

// ---------------------------------------------------------------- state, also in the address
const state = {runs: page.runs.map((_, i) => i).slice(0, page.max_runs), sentence: 0, site: "cross", layer: 0, head: 0, shade: "head", map: "patterns", hold: null, source: page.sentences[0]?.source ?? "", target: null, beam: 0, choice: 0, off: {}};

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = (name, most) => Math.max(0, Math.min(most, Number.parseInt(given.get(name), 10) || 0));
  if (given.has("runs")) {
    const wanted = given.get("runs").split(",").map(Number).filter((i) => page.runs[i]);
    if (wanted.length) state.runs = [...new Set(wanted)].slice(0, page.max_runs);
  }
  if (given.has("sentence")) state.sentence = whole("sentence", page.sentences.length - 1);
  if (SITES.some(([site]) => site === given.get("site"))) state.site = given.get("site");
  if (SHADES.some(([shade]) => shade === given.get("shade"))) state.shade = given.get("shade");
  if (given.has("layer")) state.layer = whole("layer", 999);
  if (given.has("head")) state.head = given.get("head") === "mean" ? "mean" : whole("head", 999);
  if (given.has("map")) state.map = given.get("map");
  if (page.live) readLiveAddress(given, whole);
  state.hold = given.has("query") ? {query: whole("query", 9999), key: null} : given.has("key") ? {query: null, key: whole("key", 9999)} : null;
  clamp();
}

/** The source is in the address unless it is that of an example; heads that are off are run.site.layer.head. */
function readLiveAddress(given, whole) {
  const example = given.has("source") ? page.sentences.findIndex(({source}) => source === given.get("source")) : state.sentence;
  state.sentence = example;
  state.source = given.get("source") ?? page.sentences[example]?.source ?? state.source;
  state.target = given.get("target") || null;
  state.choice = whole("choice", 999);
  state.beam = BEAMS.includes(+given.get("beam")) ? +given.get("beam") : 0;
  state.off = readOff(given.get("off") ?? "");
}

function writeAddress() {
  const {runs, sentence, site, layer, head, shade, map, hold} = state;
  const shown = new URLSearchParams({runs: runs.join(","), sentence, site, layer, head, shade, map});
  if (page.live) {
    if (sentence < 0) { shown.delete("sentence"); shown.set("source", state.source); }
    const off = writeOff();
    for (const [name, value] of Object.entries({target: state.target, beam: state.beam, choice: state.choice, off})) if (value) shown.set(name, value);
  }
  if (hold?.query != null) shown.set("query", hold.query);
  else if (hold?.key != null) shown.set("key", hold.key);
  const address = "#" + shown.toString().replaceAll("%2C", ",");
  if (address !== location.hash) history.replaceState(null, "", address); // browsers ignore more than some in a second
}

const layersShown = () => Math.max(...state.runs.map((run) => page.runs[run].sites[state.site].layers));
const headsShown = () => Math.max(...state.runs.map((run) => page.runs[run].sites[state.site].heads));
const mapChoices = () => ["patterns", ...(page.live ? [COST] : []), ...new Set(state.runs.flatMap((run) => Object.keys(page.runs[run].sites[state.site].head_measures)))];

function clamp() {
  state.layer = Math.min(state.layer, layersShown() - 1);
  if (state.head !== "mean") state.head = Math.min(state.head, headsShown() - 1);
  if (!mapChoices().includes(state.map)) state.map = "patterns";
}

function change(changes) {
  if ("sentence" in changes || "site" in changes) state.hold = null;
  if (page.live && "sentence" in changes && !("source" in changes)) {
    endTyping();
    changes = {...changes, source: page.sentences[changes.sentence].source, target: null, choice: 0};
  }
  Object.assign(state, changes);
  clamp();
  draw();
}

// ---------------------------------------------------------------- the whole page
let views = [], drawing = 0, drawn = null;

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

/** A group of buttons, one of them pressed. Tab reaches the pressed one; the focus stays in the group when it is drawn again. */
function choice(id, options, current, pick) {
  const group = byId(id), focused = group.contains(document.activeElement);
  group.replaceChildren(...options.map(([value, text]) => make("button", {type: "button", "aria-pressed": String(value === current), onclick: () => pick(value)}, text)));
  if (focused) group.querySelector("[aria-pressed=true]").focus();
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
    box.disabled = (box.checked && state.runs.length === 1) || (!box.checked && state.runs.length >= page.max_runs);
  }
  document.querySelectorAll("#sentence-list button").forEach((button) => {
    button.setAttribute("aria-current", String(+button.value === state.sentence));
  });
  setListStop();
}

/** One button of the sentence list is a stop of the Tab key: the current one, or the first that the search leaves. */
function setListStop() {
  const listed = [...document.querySelectorAll("#sentence-list li:not([hidden]) button")];
  const stop = listed.find((button) => +button.value === state.sentence) ?? listed[0];
  for (const button of listed) button.tabIndex = button === stop ? 0 : -1;
}

async function draw() {
  const turn = ++drawing;
  writeAddress();
  drawControls();
  readColours();
  const shown = [...state.runs].sort((a, b) => a - b), alone = shown.length === 1;
  if (page.live) {
    shown.forEach(request);
    drawForm();
    drawn = {shown, alone, sentences: shown.map(liveSentence), blocks: shown.map((run) => live[run].result?.sites ?? null)};
  } else {
    const sentences = shown.map((run) => page.runs[run].sentences[state.sentence]);
    const blocks = await Promise.all(shown.map((run, i) => (sentences[i] ? weightsOf(run, state.sentence) : null)));
    if (turn !== drawing) return;
    drawn = {shown, alone, sentences, blocks};
  }
  layOut();
  document.documentElement.dataset.drawn = String(turn);
}

/** Build the views for the available width: that of the window, or of a printed sheet. */
function layOut() {
  if (!drawn) return;
  const {shown, sentences, blocks, alone} = drawn, paper = document.documentElement.classList.contains("paper");
  const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
  const room = paper ? 960 : byId("views").clientWidth, narrow = room < 46 * rem, aside = alone && !narrow;
  const columns = narrow ? 1 : Math.min(shown.length, Math.max(1, Math.floor(room / (paper ? 170 : 200))));
  const width = aside ? room - 29 * rem : (room - 1.8 * rem * (columns - 1)) / columns;
  const sizes = {width, alone, height: paper ? (aside ? 430 : 260) : 0, side: aside ? 26 * rem : width, short: !aside && width < 27 * rem};
  byId("views").className = `${width < 300 ? "narrow" : ""} ${columns === 1 && !aside ? "single" : ""}`;
  byId("views").style.setProperty("--columns", columns);
  const before = views;
  views = [];
  const elements = shown.map((run, i) => {
    if (!blocks[i]) return make("section", {class: "view"}, make("header", {class: "title"}, make("h2", {}, page.runs[run].name)), page.live ? buildTranslation(run) : make("p", {class: "absent"}, "This sentence is too long for the page of this run."));
    // Another run's result, or a progress, leaves a view as it is: to draw long sentences takes time.
    const {result, working} = page.live ? live[run] : {}, {site, layer, head, shade, map, off} = state;
    const drawnFor = [result, map === COST && result?.costs, JSON.stringify([site, layer, head, shade, map, off[run], working, sizes])];
    const kept = page.live && before.find((view) => view.run === run && view.drawnFor.every((value, k) => value === drawnFor[k]));
    const view = kept || {...buildView(run, sentences[i], blocks[i][state.site], sizes), drawnFor};
    if (kept) view.show(state.hold);
    views.push(view);
    return view.element;
  });
  keepingFocus(() => byId("views").replaceChildren(...elements));
}

/** Do something that draws controls anew; the one that has the focus keeps it. */
function keepingFocus(redraw) {
  const {control} = document.activeElement?.dataset ?? {}, open = [...document.querySelectorAll("#views details[open] > summary")].map((e) => e.dataset.control);
  redraw();
  for (const summary of document.querySelectorAll("#views summary")) if (open.includes(summary.dataset.control)) summary.parentElement.open = true;
  if (control) document.querySelector(`[data-control="${control}"]`)?.focus();
}

function step(by) {
  const listed = [...document.querySelectorAll("#sentence-list li:not([hidden]) button")];
  const at = listed.findIndex((button) => +button.value === state.sentence), next = listed[at + by];
  if (!next) return;
  const focused = byId("sentence-list").contains(document.activeElement);
  change({sentence: +next.value});
  next.scrollIntoView({block: "nearest"});
  if (focused) next.focus();
}

/** Hold the next or previous token of an axis: "query" (rows) or "key" (columns). */
function stepToken(axis, by) {
  if (!views.length) return;
  const last = views[0][axis === "query" ? "queries" : "keys"] - 1, at = state.hold?.[axis];
  hold({query: null, key: null, [axis]: at == null ? (by > 0 ? 0 : last) : Math.max(0, Math.min(last, at + by))});
}

function stepHead(by) {
  const heads = [...Array(headsShown()).keys(), "mean"], at = heads.indexOf(state.head);
  change({head: heads[Math.max(0, Math.min(heads.length - 1, at + by))]});
}

const KEYS = {
  ArrowLeft: () => stepHead(-1), ArrowRight: () => stepHead(1),
  ArrowUp: () => change({layer: Math.max(0, state.layer - 1)}), ArrowDown: () => change({layer: Math.min(layersShown() - 1, state.layer + 1)}),
  1: () => change({site: "encoder"}), 2: () => change({site: "decoder"}), 3: () => change({site: "cross"}),
  j: () => step(1), k: () => step(-1), ",": () => stepToken("query", -1), ".": () => stepToken("query", 1), "<": () => stepToken("key", -1), ">": () => stepToken("key", 1),
  ...(page.live ? {x: () => toggleHeads(state.runs, "head"), l: () => toggleHeads(state.runs, "layer"), s: () => toggleHeads(state.runs, "site"), a: () => change({off: {}, choice: 0})} : {}),
  m: () => change({shade: state.shade === "head" ? "row" : "head"}), Escape: () => hold(null),
};

/** Open at the best-aligned head of the first run, where gold alignments are known. */
function startAtBestHead() {
  const measures = page.runs[0].sites.cross.head_measures;
  const found = ["AER normal", "AER shifted"].flatMap((name) => (measures[name] ?? []).flatMap((row, layer) => row.map((rate, head) => ({rate, layer, head}))));
  const best = found.filter(({rate}) => rate != null).sort((a, b) => a.rate - b.rate)[0];
  if (best) Object.assign(state, {layer: best.layer, head: best.head});
}

function start() {
  byId("title").textContent = page.title;
  byId("subtitle").textContent = page.subtitle;
  byId("runs").hidden = page.runs.length === 1;
  byId("runs").append(...page.runs.map((run, i) => make("label", {}, make("input", {type: "checkbox", value: i, onchange: (event) => change({runs: event.target.checked ? [...state.runs, i] : state.runs.filter((r) => r !== i)})}), run.name)));
  byId("sentence-list").append(...page.sentences.map(({source, target}, i) => make("li", {}, make("button", {type: "button", value: i, title: target, onclick: () => change({sentence: i})}, make("span", {class: "number"}, String(i + 1)), make("span", {class: "text"}, source)))));
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    document.querySelectorAll("#sentence-list li").forEach((item, i) => { item.hidden = !`${page.sentences[i].source} ${page.sentences[i].target}`.toLowerCase().includes(wanted); });
    setListStop();
  });
  byId("map").addEventListener("change", (event) => change({map: event.target.value}));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], textarea, select")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const inList = byId("sentence-list").contains(event.target) && {ArrowUp: KEYS.k, ArrowDown: KEYS.j}[key];
    const action = inList || KEYS[key];
    if (action) { event.preventDefault(); action(); }
  });
  window.addEventListener("hashchange", () => { if (page.live) endTyping(); readAddress(); draw(); });
  const again = () => { views = []; readColours(); layOut(); };
  const paper = (on) => { // one sheet: what is too high for it becomes smaller, to half the size
    document.documentElement.classList.toggle("paper", on);
    again();
    workOff();
    document.body.style.zoom = on ? Math.max(0.5, Math.min(1, 640 / byId("views").offsetHeight)) : "";
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
  let waiting = 0;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(layOut, 120); });
  if (page.live) startForm();
  document.querySelectorAll("[data-live]").forEach((element) => { element.hidden = !page.live; });
  const known = new Set([...(page.live ? [COST] : []), ...page.runs.flatMap((run) => Object.values(run.sites).flatMap((site) => [...Object.keys(site.head_measures), ...Object.keys(site.layer_measures)]))]);
  byId("terms").querySelector("dl").append(...Object.entries(TERMS).filter(([name]) => known.has(name) || ["reference", "layer", "null row"].includes(name)).flatMap(([name, text]) => [make("dt", {}, label(name)), make("dd", {}, text)]));
  startAtBestHead();
  if (!("DecompressionStream" in window)) { byId("views").append(make("p", {class: "absent"}, "This browser cannot decompress the weights (no DecompressionStream); use a version from 2023 or later.")); return; }
  readAddress();
  draw();
}
start();
