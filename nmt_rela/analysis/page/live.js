// Translation in the page: one worker per run, the newest request, and what came back.

/** By run: the worker, the key of what was asked for last, the request's number, and its result so far. */
const live = page.runs.map(() => ({worker: null, asked: "", id: 0, result: null, working: false, message: ""}));
const BEAMS = [1, 2, 4, 8];

function startWorker(run) {
  const url = URL.createObjectURL(new Blob([byId("engine").textContent], {type: "text/javascript"}));
  const worker = new Worker(url), {header, tokenizers} = page.runs[run].live;
  worker.onmessage = ({data}) => receive(run, data);
  worker.onerror = (event) => {
    live[run].worker = null;
    receive(run, {id: 0, part: "error", message: event.message || "the worker does not start"});
  };
  const text = (id) => byId(id).textContent;
  worker.postMessage({id: 0, load: {header, weights: text(`model-${run}`), tokenizers: tokenizers.map(({model, vocabulary}) => ({model: text(model), vocabulary}))}});
  return worker;
}

/** Ask for what the state shows, unless it was asked for already. */
function request(run) {
  const {normalization: [source, target], search} = page.runs[run].live, entry = live[run];
  const wanted = {
    source: normalizeText(state.source, source),
    target: state.target === null ? null : normalizeText(state.target, target),
    choice: state.choice,
    heads: state.off[run] ?? [],
    search: {...search, beamSize: state.beam || search.beamSize},
  };
  const asked = JSON.stringify(wanted);
  if (asked === entry.asked) return;
  entry.asked = asked;
  if (!wanted.source.trim()) {
    Object.assign(entry, {result: null, working: false, message: "Type a source sentence.", id: entry.id + 1});
    entry.worker?.postMessage({id: entry.id});
    return;
  }
  entry.worker ??= startWorker(run);
  entry.id += 1;
  Object.assign(entry, {working: true, message: "translating …", pending: {}});
  entry.worker.postMessage({id: entry.id, ...wanted});
}

function receive(run, {id, part, ...content}) {
  const entry = live[run];
  if (id && id !== entry.id) return; // 0 is the loading of the model
  if (part === "progress") entry.message = `translating … ${content.step} sub-words`;
  else if (part === "hypotheses") entry.pending = {...content, ...JSON.parse(entry.asked)};
  else if (part === "attention") {
    Object.assign(entry, {result: {...entry.pending, ...content, costs: null, isRanked: false}, working: false, message: ""});
    announce(run);
  } else if (part === "costs") Object.assign(entry.result, {costs: content.costs, isRanked: content.done});
  else Object.assign(entry, {working: false, message: `This run cannot translate: ${content.message}`});
  if (part === "costs") drawRanking(run);
  if (part === "costs" || part === "progress") drawWorking();
  else if (part !== "hypotheses") draw();
}

const isRanking = ({working, result}) => !working && result && !result.isRanked;

/** Stop what translates, and the trials of heads. */
function stopWork() {
  for (const entry of live) {
    if (!entry.working && !isRanking(entry)) continue;
    if (entry.working) Object.assign(entry, {working: false, message: "Stopped."});
    if (entry.result) entry.result = {...entry.result, isRanked: true};
    entry.id += 1;
    entry.worker.postMessage({id: entry.id});
  }
  draw();
}

/** The sentence that buildView shows: sub-words of both sides; null while there is none. */
function liveSentence(run) {
  const {result} = live[run];
  if (!result) return null;
  return {source: result.sourcePieces, target: shownHypothesis(result).pieces, isOwn: result.target !== null};
}

const shownHypothesis = ({hypotheses, choice}) => hypotheses[Math.min(choice, hypotheses.length - 1)];

function announce(run) {
  const shown = shownHypothesis(live[run].result);
  byId("status").textContent = `${page.runs[run].name}: ${shown.text}, log-probability ${shown.logProbability.toFixed(2)}`;
}

// ---------------------------------------------------------------- heads that are off
const isOff = (run, site, layer, head) => (state.off[run] ?? []).some(([s, l, h]) => s === site && l === layer && h === head);

/** The heads of one head, of a layer or of a site, as the state selects them in a run. */
function headsOf(run, extent) {
  const {layers, heads} = page.runs[run].sites[state.site], count = (n) => [...Array(n).keys()];
  const inLayers = extent === "site" ? count(layers) : [Math.min(state.layer, layers - 1)];
  const inHeads = extent === "head" && state.head !== "mean" ? [Math.min(state.head, heads - 1)] : count(heads);
  return inLayers.flatMap((layer) => inHeads.map((head) => [state.site, layer, head]));
}

const areOff = (run, extent) => headsOf(run, extent).every((head) => isOff(run, ...head));

/** Switch the selected heads of some runs off, or on again where they are off already. */
function toggleHeads(runs, extent) {
  const off = {...state.off};
  for (const run of runs) {
    const heads = headsOf(run, extent), names = new Set(heads.map(String));
    const others = (off[run] ?? []).filter((head) => !names.has(String(head)));
    off[run] = areOff(run, extent) ? others : [...others, ...heads];
  }
  change({off, choice: 0});
}

const writeOff = () => Object.entries(state.off).flatMap(([run, heads]) => heads.map((head) => [run, ...head].join("."))).join(",");

function readOff(text) {
  const off = {};
  for (const part of new Set(text.split(","))) {
    const [, run, site, layer, head] = part.match(/^(\d+)\.(\w+)\.(\d+)\.(\d+)$/) ?? [], sizes = page.runs[run]?.sites[site];
    if (+layer < sizes?.layers && +head < sizes.heads) (off[run] ??= []).push([site, +layer, +head]);
  }
  return off;
}

// ---------------------------------------------------------------- the form
let typing = 0; // the timer of text that is typed and not yet part of the state

function endTyping() {
  clearTimeout(typing);
  typing = 0;
}

function drawForm() {
  const set = (id, text) => { if (!typing && byId(id).value !== text) byId(id).value = text; };
  set("source", state.source);
  set("target", state.target ?? "");
  byId("beam").value = String(state.beam);
  byId("reference").hidden = state.sentence < 0;
  drawWorking();
}

function drawWorking() {
  const messages = state.runs.filter((run) => live[run].message).map((run) => `${page.runs[run].name}: ${live[run].message}`);
  byId("working").textContent = messages.join(" ");
  byId("stop").disabled = !live.some((entry) => entry.working || isRanking(entry));
}

function startForm() {
  byId("live").hidden = false;
  const own = page.runs[0].live.search.beamSize;
  byId("beam").append(make("option", {value: "0"}, `${own} (of the run)`), ...BEAMS.map((size) => make("option", {value: size}, size === 1 ? "1 (greedy)" : String(size))));
  const typed = (now) => {
    endTyping();
    if (now) live.filter(({working, message}) => message && !working).forEach((entry) => { entry.asked = ""; }); // stopped, or failed
    typing = setTimeout(() => {
      endTyping();
      const source = byId("source").value, example = page.sentences.findIndex((sentence) => sentence.source === source);
      change({sentence: example, source, target: byId("target").value.trim() ? byId("target").value : null, choice: 0});
    }, now ? 0 : 350);
  };
  for (const id of ["source", "target"]) {
    byId(id).addEventListener("input", () => typed(false));
    byId(id).addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault(); // a sentence is one line
      typed(true);
    });
  }
  byId("beam").addEventListener("change", (event) => change({beam: +event.target.value, choice: 0}));
  byId("stop").addEventListener("click", stopWork);
  byId("live").addEventListener("submit", (event) => event.preventDefault());
  byId("reference").addEventListener("click", () => {
    byId("target").value = page.sentences[state.sentence].target;
    typed(true);
  });
  byId("translate").addEventListener("click", () => {
    byId("target").value = "";
    typed(true);
  });
}
