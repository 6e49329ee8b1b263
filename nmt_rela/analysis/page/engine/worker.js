// The worker of one run: it translates, reads with recorded attention, and ranks heads. Only the newest request is answered.

let loaded = null, newest = 0;
/** Found translations by what was asked for. */
const known = new Map();

class Stopped extends Error {}

const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();
/** Let messages come in. */
const turn = () => new Promise((resolve) => {
  waiting.push(resolve);
  channel.port2.postMessage(null);
});

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

/** `tokenizers` are those of the source and of the target: {model, vocabulary}. */
async function load({header, weights, tokenizers}) {
  const model = new Transformer(header, await inflate(weights));
  const [source, target] = await Promise.all(tokenizers.map(async ({model, vocabulary}) => new SentencePieceTokenizer(new Uint8Array(await inflate(model)), vocabulary)));
  return {model, source, target};
}

self.onmessage = async ({data}) => {
  newest = data.id;
  try {
    if (data.load) await (loaded = load(data.load));
    else if (data.source !== undefined) await answer(data);
  } catch (error) {
    if (!(error instanceof Stopped)) self.postMessage({id: data.id, part: "error", message: String(error)});
  }
};

/**
 * Answer a request in parts: "hypotheses" (of the search, or the given target), "attention" of the chosen one, "costs".
 * `heads` is the list of heads that are off; `search` has the options of beamSearch and maxLengthOffset.
 */
async function answer({id, source, target, choice, heads, search}) {
  const {model, source: sourceTokenizer, target: targetTokenizer} = await loaded;
  const ids = [...sourceTokenizer.encode(source), EOS], off = headsOff(heads);
  let last = performance.now();
  const check = async () => {
    if (performance.now() - last > 15) {
      await turn();
      last = performance.now();
    }
    if (newest !== id) throw new Stopped();
  };
  const post = (part, content, moved = []) => self.postMessage({id, part, ...content}, moved);
  const read = (hidden, tokens, without, record = null) => {
    const logits = new IncrementalDecoder(model, hidden, without).read([BOS, ...tokens.slice(0, -1)], record);
    return logits.map((values, i) => logSoftmax(values)[tokens[i]]);
  };
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  const find = async (without, list) => {
    const asked = JSON.stringify([source, target, list, search]);
    if (known.has(asked)) return known.get(asked);
    await check();
    const hidden = model.encode(ids, without);
    let found;
    if (target !== null) {
      const tokens = [...targetTokenizer.encode(target), EOS], logProbs = read(hidden, tokens, without), total = sum(logProbs);
      found = [{tokens, logProbs, logProbability: total, score: total / lengthPenaltyFactor(tokens.length, search.lengthPenalty), text: target}];
    } else {
      const options = {...search, maxLength: ids.length + search.maxLengthOffset};
      found = await beamSearch(new IncrementalDecoder(model, hidden, without), options, async (step) => {
        await check();
        if (step % 10 === 9) post("progress", {step: step + 1});
      });
      if (!found.length) throw new Error("the model's predictions are not finite numbers");
      for (const hypothesis of found) hypothesis.text = targetTokenizer.decode(hypothesis.tokens);
    }
    if (known.size >= 50) known.delete(known.keys().next().value);
    known.set(asked, found);
    return found;
  };

  const baseline = (await find(NOTHING_OFF, []))[0];
  const hypotheses = heads.length ? await find(off, heads) : await find(NOTHING_OFF, []);
  const pieces = (tokenizer, tokens) => tokens.map((token) => tokenizer.piece(token));
  for (const hypothesis of hypotheses) hypothesis.pieces = pieces(targetTokenizer, hypothesis.tokens);
  post("hypotheses", {hypotheses, baseline, sourcePieces: pieces(sourceTokenizer, ids), unknown: ids.includes(UNK)});

  const {tokens} = hypotheses[Math.min(choice, hypotheses.length - 1)], {num_heads: count} = model.config;
  const lengths = {encoder: [ids.length, ids.length], decoder: [tokens.length, tokens.length], cross: [tokens.length, ids.length]};
  const layers = {encoder: model.encoder.length, decoder: model.decoder.length, cross: model.decoder.length};
  const sites = Object.fromEntries(Object.entries(lengths).map(([site, [queries, keys]]) =>
    [site, {layers: layers[site], heads: count, queries, keys, values: new Float32Array(layers[site] * count * queries * keys)}]));
  await check();
  const record = (site, layer, query, head, slots, row) => {
    const {values, queries, keys} = sites[site];
    values.set(row, ((layer * count + head) * queries + query) * keys);
  };
  const hidden = model.encode(ids, off, record), logProbs = read(hidden, tokens, off, record);
  post("attention", {sites, logProbs}, Object.values(sites).map(({values}) => values.buffer));

  const whole = sum(logProbs), costs = Object.fromEntries(Object.keys(layers).map((site) =>
    [site, Array.from({length: layers[site]}, () => new Array(count).fill(null))]));
  let said = performance.now();
  for (const site of Object.keys(layers)) {
    for (let layer = 0; layer < layers[site]; layer++) {
      for (let head = 0; head < count; head++) {
        await check();
        if (off[site][layer]?.[head]) continue;
        const without = headsOff([...heads, [site, layer, head]]);
        costs[site][layer][head] = whole - sum(read(site === "encoder" ? model.encode(ids, without) : hidden, tokens, without));
        if (performance.now() - said > 300) {
          post("costs", {costs, done: false});
          said = performance.now();
        }
      }
    }
  }
  post("costs", {costs, done: true});
}
