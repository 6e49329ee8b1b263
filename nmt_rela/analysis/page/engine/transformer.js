// The encoder-decoder Transformer: its parameters, the embeddings, the encoder, the output layer.

const PAD = 0, UNK = 1, EOS = 2, BOS = 3;

/**
 * The parameters of a packed model (nmt_rela/analysis/live_model.py): float32 first, namely vectors and the scales of
 * matrix rows, then the int8 codes of all matrices.
 */
function unpackParameters(tensors, buffer) {
  const parameters = {}, distinct = tensors.filter(({same_as}) => same_as === undefined);
  let floats = 0, codes = 4 * distinct.reduce((sum, {shape}) => sum + shape[0], 0);
  for (const {name, shape: [rows, columns]} of distinct) {
    const vector = new Float32Array(buffer, 4 * floats, rows);
    floats += rows;
    if (columns === undefined) parameters[name] = vector;
    else {
      parameters[name] = new QuantizedMatrix(rows, columns, new Int8Array(buffer, codes, rows * columns), vector);
      codes += rows * columns;
    }
  }
  for (const {name, same_as} of tensors) if (same_as !== undefined) parameters[name] = parameters[same_as];
  return parameters;
}

/** Position signals of one position: sines, then cosines. As nmt_rela/models/embedding.py. */
function sinusoidalPosition(position, width, layout) {
  const half = Math.floor(width / 2), signal = new Float32Array(width);
  const [sines, steps] = layout === "marian" ? [width - half, width / 2] : [half, Math.max(half - 1, 1)];
  for (let i = 0; i < sines; i++) {
    const angle = position * Math.exp(-i * (Math.log(10000) / steps));
    signal[i] = Math.sin(angle);
    if (i < half) signal[sines + i] = Math.cos(angle);
  }
  return signal;
}

class Transformer {
  /** `config` is the header that live_model.py writes, `buffer` its bytes. */
  constructor(config, buffer) {
    const parameters = unpackParameters(config.tensors, buffer), {attention, encoder_layers, decoder_layers} = config;
    Object.assign(this, {config, parameters, width: config.d_model});
    this.encoder = Array.from({length: encoder_layers}, (_, i) =>
      new EncoderLayer(below(parameters, `encoder.${i}.`), {self_attention: attention.encoder}, config));
    const variants = {self_attention: attention.decoder, cross_attention: attention.cross};
    this.decoder = Array.from({length: decoder_layers}, (_, i) =>
      new DecoderLayer(below(parameters, `decoder.${i}.`), variants, config));
  }

  /** Scaled embedding (+ bias) + position of each token. The first decoder input may be the zero vector. */
  embed(side, tokens, firstPosition) {
    const {width, parameters, config} = this, x = new Float32Array(tokens.length * width);
    const weight = parameters[`${side}_embedding.weight`], bias = parameters[`${side}_embedding.bias`];
    tokens.forEach((token, i) => {
      const position = typeof firstPosition === "number" ? firstPosition + i : firstPosition(i);
      const isZero = side === "target" && position === 0 && config.decoder_start === "zero";
      const embedding = isZero ? new Float32Array(width) : weight.row(token), signal = sinusoidalPosition(position, width, config.positions);
      for (let c = 0; c < width; c++) {
        x[i * width + c] = embedding[c] * config.embedding_scale + (bias && !isZero ? bias[c] : 0) + signal[c];
      }
    });
    return x;
  }

  finalStates(name, x) {
    const norm = below(this.parameters, `${name}.`);
    return norm.weight ? layerNorm(x, {...norm, epsilon: this.config.layer_norm_epsilon}) : x;
  }

  /** The encoder's hidden states [tokens, width]. `off` and `record` as in IncrementalDecoder. */
  encode(tokens, off = NOTHING_OFF, record = null) {
    let x = this.embed("source", tokens, 0);
    const all = tokens.map((_, i) => i);
    this.encoder.forEach((layer, i) => {
      x = layer.forward(x, () => all, off.encoder[i], record && ((...row) => record("encoder", i, ...row)));
    });
    return this.finalStates("encoder_norm", x);
  }

  logits(hidden) {
    return linear(hidden, this.parameters.output_embedding, this.parameters.output_bias);
  }
}

/** Heads that are switched off: off[site][layer][head] is true. */
const NOTHING_OFF = {encoder: [], decoder: [], cross: []};

/** `off` of a list of [site, layer, head]. */
function headsOff(heads) {
  const off = {encoder: [], decoder: [], cross: []};
  for (const [site, layer, head] of heads) (off[site][layer] ??= [])[head] = true;
  return off;
}
