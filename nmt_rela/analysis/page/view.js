// The view of one run: running text, matrix, map of heads, numbers.

// ---------------------------------------------------------------- one run
function buildView(run, sentence, block, {width, height, alone, side, short}) {
  const data = page.runs[run];
  const site = data.sites[state.site];
  const layer = Math.min(state.layer, site.layers - 1);
  const head = state.head === "mean" ? "mean" : Math.min(state.head, site.heads - 1);
  const axes = axesOf(state.site, sentence), matrix = matrixOf(block, layer, head);
  const visible = (q, k) => state.site !== "decoder" || k <= q;
  const isNull = matrix.sums.map((sum) => sum === 0);
  const peak = (q) => state.shade === "row" ? Math.max(...matrix.rows[q]) : matrix.max;

  const element = make("section", {class: alone ? "view alone" : "view", "data-run": run, "aria-label": data.name});
  if (page.live && isOff(run, state.site, layer, head)) element.classList.add("silenced");
  const measured = Object.entries(site.head_measures).map(([name, rows]) => [name, head === "mean" ? null : rows[layer]?.[head]]);
  const facts = ["sparsity", "null_rate", "entropy"].map((name) => [label(name).toLowerCase(), measured.find(([n]) => n === name)?.[1]]).filter(([, value]) => value != null);
  element.append(make("header", {class: "title"}, make("h2", {title: data.name}, data.name),
    make("p", {}, ...[`${data.attention[state.site]}, layer ${layer}, ${head === "mean" ? "mean of heads" : `head ${head}`}`, ...facts.map(([name, value]) => `${name} ${number(value)}`)].map((fact) => make("span", {}, fact)))));

  // Running text: hovering a token shades the other side.
  const line = (axis, tokens) => {
    const spans = tokens.map((token, i) => make("span", {class: `token${token.special ? " special" : ""}${axis === "query" && isNull[i] ? " null" : ""}`, "data-side": axis, "data-index": i}, token.text));
    const running = make("p", {class: "reading", dir: "auto", "data-side": axis}, make("span", {class: "caption"}, axes.names[axis === "query" ? 0 : 1]));
    spans.forEach((span, i) => running.append(i && tokens[i].begins ? " " : "", span));
    return [running, spans];
  };
  const [queryLine, querySpans] = line("query", axes.queries), [keyLine, keySpans] = line("key", axes.keys);

  // The matrix: weights on a canvas, labels and marks above it in SVG, in one coordinate system.
  const fit = (text, most) => { if (pen.measureText(text).width <= most) return text; let cut = text; while (cut && pen.measureText(cut + "…").width > most) cut = cut.slice(0, -1); return cut + "…"; };
  const most = alone ? 104 : 76, text = (size) => `${size}px ${getComputedStyle(document.body).fontFamily}`;
  pen.font = text(11.5);
  const queryNames = axes.queries.map((t) => fit(t.name, most)), keyNames = axes.keys.map((t) => fit(t.name, most));
  const longest = (names) => Math.ceil(Math.max(...names.map((name) => pen.measureText(name).width)));
  const tallest = height ? Math.min(26, height / matrix.queries) : alone ? Math.max(20, Math.min(34, 520 / matrix.queries)) : 26;
  const room = (aside) => Math.floor(Math.min((width - aside - 2) / matrix.keys, tallest));
  let left = longest(queryNames) + 8, top = longest(keyNames) + 8, cell = room(left);
  const named = cell >= 9 || alone; // cells too small for labels: the running text above has them
  if (named) cell = Math.max(cell, 9);
  else { left = 1; top = 1; cell = Math.max(3, room(1)); }
  const plotWidth = cell * matrix.keys, plotHeight = cell * matrix.queries;
  const canvas = cell > 9 ? cellCanvas() : pixelCanvas(matrix, peak, visible);
  canvas.style = `left:${left}px;top:${top}px;width:${plotWidth}px;height:${plotHeight}px`;
  canvas.setAttribute("aria-hidden", "true");
  const svg = make("svg:svg", {width: left + plotWidth + 2, height: top + plotHeight + 2, role: "img", "aria-label": `Weights, ${matrix.queries} queries by ${matrix.keys} keys`});
  const queryTexts = queryNames.map((name, q) => make("svg:text", {x: left - 6, y: top + (q + 0.5) * cell + 4, "text-anchor": "end", style: `font-size:${Math.min(11.5, cell)}px`, class: `${axes.queries[q].special ? "special" : ""}${isNull[q] ? " null" : ""}`, "data-side": "query", "data-index": q}, name));
  const keyTexts = keyNames.map((name, k) => make("svg:text", {transform: `translate(${left + (k + 0.5) * cell + 4} ${top - 6}) rotate(-90)`, style: `font-size:${Math.min(11.5, cell)}px`, class: axes.keys[k].special ? "special" : "", "data-side": "key", "data-index": k}, name));
  const voids = isNull.flatMap((none, q) => none ? [make("svg:line", {class: "void", x1: left, x2: left + cell * (state.site === "decoder" ? q + 1 : matrix.keys), y1: top + (q + 0.5) * cell, y2: top + (q + 0.5) * cell})] : []);
  const bandQ = make("svg:rect", {class: "band", x: left - 0.5, width: plotWidth + 1, height: cell, visibility: "hidden"});
  const bandK = make("svg:rect", {class: "band", y: top - 0.5, width: cell, height: plotHeight + 1, visibility: "hidden"});
  svg.append(...(named ? [...queryTexts, ...keyTexts] : []), ...voids, bandQ, bandK);
  const holder = make("div", {class: "matrix", style: `width:${left + plotWidth + 2}px`}, canvas, svg);
  const says = make("p", {class: "says"});

  function cellCanvas() {
    const density = Math.min(Math.max(3, window.devicePixelRatio || 1), 8000 / Math.max(plotWidth, plotHeight)); // browsers bound canvases
    const drawn = make("canvas", {width: plotWidth * density, height: plotHeight * density}), context = drawn.getContext("2d");
    context.scale(density, density);
    const zero = style("--zero"), none = style("--null-soft");
    for (let q = 0; q < matrix.queries; q++) {
      const limit = peak(q);
      for (let k = 0; k < matrix.keys; k++) {
        if (!visible(q, k)) continue;
        const w = matrix.rows[q][k];
        context.fillStyle = w > 0 ? shadeOf(w / limit) : isNull[q] ? none : zero;
        context.fillRect(k * cell, q * cell, cell - 1, cell - 1);
      }
    }
    return drawn;
  }

  function show(focus) {
    const {query = null, key = null} = focus ?? {};
    const inRange = (index, count) => index != null && index < count;
    const q = inRange(query, matrix.queries) ? query : null, k = inRange(key, matrix.keys) ? key : null;
    bandQ.setAttribute("visibility", q == null ? "hidden" : "visible");
    bandK.setAttribute("visibility", k == null ? "hidden" : "visible");
    if (q != null) bandQ.setAttribute("y", top + q * cell - 0.5);
    if (k != null) bandK.setAttribute("x", left + k * cell - 0.5);
    const mark = (elements, chosen, fractions) => elements.forEach((element, i) => {
      element.classList.toggle("chosen", i === chosen);
      if (element.tagName === "SPAN") {
        const fraction = fractions ? fractions[i] : 0;
        element.style.background = fraction > 0 ? shadeOf(fraction) : "";
        element.style.color = fraction > 0 ? inkOn(fraction) : "";
      }
    });
    const row = q == null ? null : matrix.rows[q], column = k == null ? null : matrix.rows.map((r) => r[k]);
    const fractions = (values) => { const largest = Math.max(...values); return Array.from(values, (v) => (largest ? v / largest : 0)); };
    mark(querySpans, q, q == null && column ? fractions(column) : null);
    mark(keySpans, k, row ? fractions(row) : null);
    mark(queryTexts, q);
    mark(keyTexts, k);
    says.replaceChildren(...describe(q, k, row, column));
  }

  function describe(q, k, row, column) {
    const quoted = (name) => (/[\p{L}\p{N}]/u.test(name) ? name : `“${name}”`), bold = (name) => make("b", {}, quoted(name));
    const list = (values, tokens) => Array.from(values).map((w, i) => [w, tokens[i].name]).filter(([w]) => w > 0).sort((a, b) => b[0] - a[0]);
    const top4 = (found) => found.slice(0, 4).map(([w, name]) => `${quoted(name)} ${weight(w)}`).join(", ") + (found.length > 4 ? ", …" : "");
    if (q != null) {
      const opening = axes.read ? [`reading ${quoted(axes.read[q].name)}, predicting `, bold(axes.queries[q].name)] : [bold(axes.queries[q].name)];
      if (k != null) return [...opening, " → ", bold(axes.keys[k].name), visible(q, k) ? ` ${weight(row[k])}` : " is in the future (masked)", isNull[q] ? make("span", {class: "null"}, " · null row") : row[k] > 0 ? ` · ${Math.round(100 * row[k] / matrix.sums[q])} % of the row` : ""];
      if (isNull[q]) return [...opening, " ", make("span", {class: "null"}, "attends to nothing: a null row")];
      const found = list(row, axes.keys), seen = state.site === "decoder" ? q + 1 : matrix.keys;
      return [...opening, ` → ${top4(found)} · ${seen - found.length} of ${seen} are 0`];
    }
    if (k != null) { const found = list(column, axes.queries); return [bold(axes.keys[k].name), found.length ? ` receives attention from ${top4(found)}` : " receives no attention"]; }
    const nulls = isNull.filter(Boolean).length;
    return [make("span", {class: "hint"}, `Hover a token. ${nulls ? `${nulls} of ${matrix.queries} rows are null.` : "No row is null."}`)];
  }

  const rampStyle = `background: linear-gradient(90deg, ${style("--scale").split(/\s+/).join(",")})`;
  const legend = make("div", {class: "legend"}, make("span", {}, make("i"), "exactly 0"),
    make("span", {}, ">0", make("i", {class: "ramp", style: rampStyle}), state.shade === "row" ? "row maximum" : number(matrix.max)),
    isNull.some(Boolean) ? make("span", {}, make("i", {class: "void"}), "null row") : "");
  const plot = make("div", {class: "plot"}, holder);
  const parts = [...(page.live ? [buildTranslation(run)] : []), queryLine, keyLine, plot, legend, says];
  const asides = [buildMap(run, block, site, layer, head, side), ...(page.live ? [buildRanking(run)] : []), ...(site.layers && site.head_measures.sparsity ? [buildNumbers(site, layer, short)] : [])];
  element.append(...(alone ? [make("div", {}, ...parts), make("div", {}, ...asides)] : [...parts, ...(height ? [make("div", {class: "asides"}, ...asides)] : asides)]));
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
  return {run, element, show, says, same: JSON.stringify([axes.queries, axes.keys]), queries: matrix.queries, keys: matrix.keys};
}

const tasks = [];

/** Do small pieces of drawing one after the other, and let input come in between. */
function inTurn(task) {
  if (tasks.push(task) === 1) setTimeout(workOff, 0, 12);
}

function workOff(milliseconds = Infinity) {
  for (const until = performance.now() + milliseconds; tasks.length && performance.now() < until; ) tasks.shift()();
  if (tasks.length) setTimeout(workOff, 0, milliseconds);
}

/** Layers by heads: a miniature of every head, or one of its numbers. */
function buildMap(run, block, site, layer, head, width) {
  const heads = [...Array(site.heads).keys(), "mean"], numbers = state.map === "patterns" ? null : state.map === COST ? live[run].result.costs?.[state.site] ?? [] : site.head_measures[state.map];
  const size = Math.max(15, Math.min(46, Math.floor((width - 30) / heads.length) - 3));
  const grid = make("div", {class: "heads", style: `grid-template-columns: 22px repeat(${site.heads}, ${size}px) ${size + 6}px`});
  grid.append(make("span", {class: "rank"}), ...heads.map((h) => make("span", {class: h === "mean" ? "rank mean" : "rank"}, h === "mean" ? (size < 30 ? "x̄" : "mean") : String(h))));
  const peak = numbers ? Math.max(...numbers.flat().map((v) => Math.abs(v ?? 0)), 1e-9) : 1;
  for (let l = 0; l < site.layers; l++) {
    grid.append(make("span", {class: "rank side"}, String(l)));
    for (const h of heads) {
      const value = numbers && h !== "mean" ? numbers[l]?.[h] : null;
      const off = page.live && h !== "mean" && isOff(run, state.site, l, h);
      const name = `layer ${l}, ${h === "mean" ? "mean of heads" : `head ${h}`}${off ? ", switched off" : ""}${numbers ? `: ${label(state.map)} ${number(value)}` : ""}`;
      const button = make("button", {type: "button", tabindex: "-1", title: page.live ? `${name} (with Shift: off or on)` : name, "aria-label": name, "aria-pressed": String(l === layer && h === head), class: h === "mean" ? "mean" : off ? "off" : null, style: `width:${size}px;height:${size}px`, onclick: (event) => { change({layer: l, head: h}); if (page.live && event.shiftKey) toggleHeads([run], "head"); }});
      if (!numbers) inTurn(() => button.isConnected && button.append(miniature(matrixOf(block, l, h))));
      else if (value != null) {
        const fraction = Math.abs(value) / peak;
        button.textContent = size < 30 ? "" : number(value);
        button.style.background = fraction ? shadeOf(fraction) : "";
        if (fraction) button.style.color = inkOn(fraction);
      }
      grid.append(button);
    }
  }
  return make("div", {}, make("h3", {}, numbers ? (state.map === COST ? "What each head is worth here" : `${label(state.map)} of every head, all sentences`) : "Every head, this sentence"), make("div", {class: "scroll"}, grid));
}

const miniature = (matrix) => pixelCanvas(matrix, () => matrix.max, () => true);

/** A canvas with a pixel for each weight, shaded relative to its row's peak; positions that are not visible stay empty. */
function pixelCanvas(matrix, peak, visible) {
  const canvas = make("canvas", {width: matrix.keys, height: matrix.queries});
  const context = canvas.getContext("2d"), image = context.createImageData(matrix.keys, matrix.queries);
  const pixel = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0, pixels = new Uint32Array(image.data.buffer);
  const rgb = (name) => pixel(style(name).match(/[0-9a-f]{2}/gi).map((c) => Number.parseInt(c, 16)));
  const zero = rgb("--zero"), none = rgb("--null-soft"), colours = ramp.map(pixel);
  for (let q = 0, i = 0; q < matrix.queries; q++) {
    const limit = peak(q), absent = matrix.sums[q] === 0 ? none : zero;
    for (let k = 0; k < matrix.keys; k++, i++) {
      const w = matrix.values[i];
      if (visible(q, k)) pixels[i] = w > 0 ? colours[Math.round(255 * Math.min(1, w / limit))] : absent;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function buildNumbers(site, layer, short) {
  const mean = (row) => { const known = row.filter((v) => v != null); return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null; };
  const rates = short ? ["sparsity", "null_rate"] : ["sparsity", "null_rate", "entropy", "mass"];
  const columns = [...rates.map((name) => [name, site.head_measures[name].map(mean)]), ...Object.entries(site.layer_measures)];
  const rows = Array.from({length: site.layers}, (_, l) => make("tr", {"aria-current": String(l === layer), onclick: () => change({layer: l})}, make("td", {}, String(l)), ...columns.map(([, values]) => make("td", {}, number(values[l])))));
  return make("div", {}, make("h3", {}, "By layer, all sentences"), make("div", {class: "scroll"}, make("table", {class: "numbers"}, make("thead", {}, make("tr", {}, make("th", {}, short ? "" : "Layer"), ...columns.map(([name]) => make("th", {title: `${label(name)}: ${TERMS[name] ?? ""}`, "aria-label": label(name)}, (short && SHORT[name]) || label(name))))), make("tbody", {}, ...rows))));
}
