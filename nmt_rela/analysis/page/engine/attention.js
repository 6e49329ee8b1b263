// Multi-head attention: W_o · norm(concat_heads(z)), z = w v, w = weight function(q kᵀ / √head_dim).

/** Keys and values of one attention, one slot per position (and, in a search, per hypothesis). */
class KeyValues {
  constructor(width) {
    Object.assign(this, {width, length: 0, keys: new Float32Array(64 * width), values: new Float32Array(64 * width)});
  }

  append(keys, values) {
    const end = this.length * this.width + keys.length;
    if (end > this.keys.length) {
      for (const name of ["keys", "values"]) {
        const larger = new Float32Array(2 * end);
        larger.set(this[name]);
        this[name] = larger;
      }
    }
    this.keys.set(keys, this.length * this.width);
    this.values.set(values, this.length * this.width);
    this.length = end / this.width;
  }
}

class MultiHeadAttention {
  /** `parameters` are those below one name: qkv_proj, or q_proj and kv_proj; out_proj; output_norm. */
  constructor(parameters, variant, numHeads) {
    Object.assign(this, {parameters, variant, numHeads, weightFunction: WEIGHT_FUNCTIONS[variant]});
    this.width = parameters["out_proj.weight"].columns;
    this.headDim = this.width / numHeads;
  }

  /** The columns of a fused projection: q, k, v of self-attention, k and v of cross-attention. */
  project(x, name) {
    const {[`${name}.weight`]: weight, [`${name}.bias`]: bias} = this.parameters, joint = linear(x, weight, bias);
    const n = x.length / weight.columns, parts = weight.rows / this.width;
    return Array.from({length: parts}, (_, part) => {
      const found = new Float32Array(n * this.width);
      for (let i = 0; i < n; i++) {
        const start = i * weight.rows + part * this.width;
        found.set(joint.subarray(start, start + this.width), i * this.width);
      }
      return found;
    });
  }

  /**
   * The output [n, width] for n queries. Query i sees the slots `visible(i)` of the cache.
   * `off[head]` switches a head off: its z is 0. `record(query, head, slots, weights)` receives every row of weights.
   */
  attend(query, {keys, values}, visible, off, record) {
    const {width, headDim, numHeads} = this, n = query.length / width, z = new Float32Array(n * width);
    const scale = 1 / Math.sqrt(headDim);
    for (let i = 0; i < n; i++) {
      const slots = visible(i), weights = new Float64Array(slots.length);
      for (let head = 0; head < numHeads; head++) {
        const from = head * headDim, q = i * width + from;
        for (let j = 0; j < slots.length; j++) {
          const k = slots[j] * width + from;
          let sum = 0;
          for (let c = 0; c < headDim; c++) sum += query[q + c] * keys[k + c];
          weights[j] = sum * scale;
        }
        this.weightFunction(weights);
        if (record) record(i, head, slots, weights);
        if (off?.[head]) continue;
        for (let j = 0; j < slots.length; j++) {
          const w = weights[j], v = slots[j] * width + from;
          if (w !== 0) for (let c = 0; c < headDim; c++) z[q + c] += w * values[v + c];
        }
      }
    }
    const {"output_norm.weight": gain, "output_norm.gate": gate} = this.parameters;
    if (gain) gatedRmsNorm(z, gain, gate);
    return linear(z, this.parameters["out_proj.weight"], this.parameters["out_proj.bias"]);
  }
}
