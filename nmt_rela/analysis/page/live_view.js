// What the live page shows of one run's translation: text, alternatives, heads that are off, heads by their cost.

/** The words of a text, and whether they also stand, in the same order, in another one (longest common subsequence). */
function compareWords(text, other) {
  const a = text.split(" "), b = other.split(" ");
  const length = Array.from({length: a.length + 1}, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  }
  const found = [];
  for (let i = 0, j = 0; i < a.length; i++) {
    while (j < b.length && a[i] !== b[j] && length[i][j + 1] > length[i + 1][j]) j++;
    const isCommon = j < b.length && a[i] === b[j] && length[i][j] === length[i + 1][j + 1] + 1;
    found.push({word: a[i], isCommon});
    if (isCommon) j++;
  }
  return found;
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const logProb = (value) => value.toFixed(2).replace("-", "−");

function buildTranslation(run) {
  const {result, working, message} = live[run];
  const element = make("div", {class: `translation${working || message ? " working" : ""}`});
  if (!result) {
    element.append(make("p", {class: "absent"}, message || "…"));
    return element;
  }
  const {hypotheses, baseline, heads: off} = result, isOwn = result.target !== null, shown = shownHypothesis(result), choice = hypotheses.indexOf(shown);
  const words = compareWords(shown.text, baseline.text);
  element.append(
    make("span", {class: "caption"}, isOwn ? "Your target" : off.length ? "Translation without these heads" : "Translation"),
    make("p", {class: "text", dir: "auto"}, ...words.flatMap(({word, isCommon}, i) => [i ? " " : "", isCommon || isOwn || choice ? word : make("mark", {}, word)])),
    make("p", {class: "facts"}, `log-probability ${logProb(shown.logProbability)}, per sub-word ${logProb(shown.logProbability / shown.tokens.length)}, score ${logProb(shown.score)}`));
  if (off.length) {
    const changed = shown.text === baseline.text ? "The text is the same." : make("span", {dir: "auto"}, `With all heads: ${baseline.text}`);
    element.append(make("p", {class: "facts"}, `${off.length} ${off.length === 1 ? "head is" : "heads are"} off: ${signed(shown.logProbability - baseline.logProbability)} against all heads (${logProb(baseline.logProbability)}). `, changed));
  }
  if (result.unknown) element.append(make("p", {class: "facts"}, "The vocabulary lacks characters of this source; the model reads them as unknown."));
  if (hypotheses.length > 1) {
    const items = hypotheses.map(({text, logProbability}, i) => make("li", {}, make("button", {type: "button", dir: "auto", "aria-pressed": String(i === choice), "data-control": `${run} choice ${i}`, onclick: () => change({choice: i, hold: null})}, `${text || "(empty)"} `, make("span", {class: "caption"}, logProb(logProbability)))));
    element.append(make("details", {open: state.choice ? "" : null}, make("summary", {"data-control": `${run} alternatives`}, `${hypotheses.length} hypotheses of the beam`), make("ol", {class: "alternatives"}, ...items)));
  }
  element.append(buildSwitches(run));
  return element;
}

function buildSwitches(run) {
  const names = {head: state.head === "mean" ? null : `head ${state.head}`, layer: `layer ${state.layer}`, site: `${state.site} attention`};
  const buttons = Object.entries(names).filter(([, name]) => name).map(([extent, name]) =>
    make("button", {type: "button", "aria-pressed": String(areOff(run, extent)), "aria-label": `${name} off`, "data-control": `${run} off ${extent}`, onclick: () => toggleHeads([run], extent)}, name));
  const none = !(state.off[run] ?? []).length;
  const all = make("button", {type: "button", disabled: none ? "" : null, "data-control": `${run} all on`, onclick: () => change({off: {...state.off, [run]: []}, choice: 0})}, "all on");
  return make("div", {class: "switches"}, make("span", {class: "caption"}, "Switch off"), make("span", {class: "choice", role: "group", "aria-label": "Switch off"}, ...buttons), all);
}

/** The heads whose absence costs the shown target most. */
function buildRanking(run) {
  const {result} = live[run], element = make("div", {class: "ranking", "data-ranking": run});
  if (!result) return element;
  element.append(make("h3", {title: "Fall of the target's log-probability when the head alone is switched off"}, "Heads by what they are worth here"));
  const found = Object.entries(result.costs ?? {}).flatMap(([site, layers]) => layers.flatMap((heads, layer) => heads.map((cost, head) => ({site, layer, head, cost}))));
  const ranked = found.filter(({cost}) => cost !== null).sort((a, b) => b.cost - a.cost);
  const largest = Math.max(ranked[0]?.cost ?? 0, 1e-9);
  element.append(make("ol", {}, ...ranked.slice(0, 8).map(({site, layer, head, cost}) =>
    make("li", {}, make("button", {type: "button", "data-control": `${run} rank ${site} ${layer} ${head}`, "aria-label": `${site} layer ${layer} head ${head}, cost ${cost.toFixed(2)}`, onclick: () => change({site, layer, head})},
      make("span", {}, `${site} ${layer}.${head}`), make("i", {style: `width:${Math.max(0, 6 * cost / largest)}rem`}), make("span", {}, signed(-cost)))))));
  element.append(make("p", {class: "caption"}, result.isRanked ? `log-probability lost without the head; ${ranked.length} heads tried` : "trying every head …"));
  return element;
}

/** Replace one run's ranking, and the map of heads where it shows costs. */
function drawRanking(run) {
  const old = document.querySelector(`[data-ranking="${run}"]`);
  if (!old) return;
  if (state.map === COST) layOut();
  else keepingFocus(() => old.replaceWith(buildRanking(run)));
}
