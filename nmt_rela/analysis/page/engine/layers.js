// One layer of the encoder, one of the decoder. As nmt_rela/models/layers.py.

/** norm(x + f(x)) (post), or x + f(norm(x)) (pre). */
function residual(x, norm, isPreNorm, sublayer) {
  return isPreNorm ? add(x, sublayer(layerNorm(x, norm))) : layerNorm(add(x, sublayer(x)), norm);
}

/** The parameters whose names begin with a prefix, by the rest of their names. */
function below(parameters, prefix) {
  const found = Object.entries(parameters).filter(([name]) => name.startsWith(prefix));
  return Object.fromEntries(found.map(([name, value]) => [name.slice(prefix.length), value]));
}

/** The error function within 2e-7 (Abramowitz and Stegun 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

const ACTIVATIONS = {
  relu: (x) => Math.max(0, x),
  swish: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
};

class FeedForward {
  constructor(parameters, activation) {
    Object.assign(this, {parameters, activation: ACTIVATIONS[activation]});
  }

  forward(x) {
    const hidden = linear(x, this.parameters["fc1.weight"], this.parameters["fc1.bias"]);
    return linear(hidden.map(this.activation), this.parameters["fc2.weight"], this.parameters["fc2.bias"]);
  }
}

class Layer {
  /** `variants` are those of "self_attention" and, in a decoder, "cross_attention"; the rest is of the model's config. */
  constructor(parameters, variants, {num_heads, norm_order, layer_norm_epsilon: epsilon, activation}) {
    this.isPreNorm = norm_order === "pre";
    this.norms = {};
    for (const [name, variant] of Object.entries(variants)) {
      this[name] = new MultiHeadAttention(below(parameters, `${name}.`), variant, num_heads);
      this.norms[name] = {...below(parameters, `${name}_residual.layer_norm.`), epsilon};
    }
    this.feedForward = new FeedForward(below(parameters, "feed_forward."), activation);
    this.norms.feed_forward = {...below(parameters, "feed_forward_residual.layer_norm."), epsilon};
  }

  residual(x, name, sublayer) {
    return residual(x, this.norms[name], this.isPreNorm, sublayer);
  }

  /** Self-attention over the cache, to which the keys and values of x are appended first. */
  selfAttend(x, cache, visible, off, record) {
    return this.residual(x, "self_attention", (input) => {
      const [query, keys, values] = this.self_attention.project(input, "qkv_proj");
      cache.append(keys, values);
      return this.self_attention.attend(query, cache, visible, off, record);
    });
  }

  feedForwardResidual(x) {
    return this.residual(x, "feed_forward", (input) => this.feedForward.forward(input));
  }
}

class EncoderLayer extends Layer {
  forward(x, visible, off, record) {
    const cache = new KeyValues(this.self_attention.width);
    return this.feedForwardResidual(this.selfAttend(x, cache, visible, off, record));
  }
}

class DecoderLayer extends Layer {
  /** `cache` has the KeyValues self and cross; `visible`, `off` and `record` are one each for "decoder" and "cross". */
  forward(x, cache, visible, off, record) {
    const attended = this.selfAttend(x, cache.self, visible.decoder, off.decoder, record.decoder);
    const crossed = this.residual(attended, "cross_attention", (input) => {
      const [query] = this.cross_attention.project(input, "q_proj");
      return this.cross_attention.attend(query, cache.cross, visible.cross, off.cross, record.cross);
    });
    return this.feedForwardResidual(crossed);
  }
}
