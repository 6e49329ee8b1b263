// Arrays of numbers. A matrix of activations is a Float32Array of rows of equal width; weights are rows of int8 codes.

/** A weight matrix [rows, columns]: weight = scale of the row · code. */
class QuantizedMatrix {
  constructor(rows, columns, codes, scales) {
    Object.assign(this, {rows, columns, codes, scales});
  }

  /** Row r as numbers. */
  row(r) {
    return Float32Array.from(this.codes.subarray(r * this.columns, (r + 1) * this.columns), (code) => code * this.scales[r]);
  }
}

/** x Wᵀ + bias: [n, columns] → [n, rows]. A weight that is read serves four rows of x. */
function linear(x, {rows, columns, codes, scales}, bias = null) {
  const n = x.length / columns, y = new Float32Array(n * rows);
  for (let r = 0; r < rows; r++) {
    const start = r * columns, scale = scales[r], b = bias ? bias[r] : 0;
    let i = 0;
    for (; i + 4 <= n; i += 4) {
      const x0 = i * columns, x1 = x0 + columns, x2 = x1 + columns, x3 = x2 + columns;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (let c = 0; c < columns; c++) {
        const w = codes[start + c];
        s0 += w * x[x0 + c];
        s1 += w * x[x1 + c];
        s2 += w * x[x2 + c];
        s3 += w * x[x3 + c];
      }
      y[i * rows + r] = s0 * scale + b;
      y[(i + 1) * rows + r] = s1 * scale + b;
      y[(i + 2) * rows + r] = s2 * scale + b;
      y[(i + 3) * rows + r] = s3 * scale + b;
    }
    for (; i < n; i++) {
      const x0 = i * columns;
      let s = 0;
      for (let c = 0; c < columns; c++) s += codes[start + c] * x[x0 + c];
      y[i * rows + r] = s * scale + b;
    }
  }
  return y;
}

/** LayerNorm of every row. */
function layerNorm(x, {weight, bias, epsilon}) {
  const width = weight.length, y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let mean = 0, variance = 0;
    for (let c = 0; c < width; c++) mean += x[start + c];
    mean /= width;
    for (let c = 0; c < width; c++) variance += (x[start + c] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / width + epsilon);
    for (let c = 0; c < width; c++) y[start + c] = (x[start + c] - mean) * scale * weight[c] + bias[c];
  }
  return y;
}

const add = (x, y) => x.map((value, i) => value + y[i]);

/** log(softmax(logits)) in float32. */
function logSoftmax(logits) {
  let largest = -Infinity, sum = 0;
  for (const value of logits) if (value > largest) largest = value;
  for (const value of logits) sum += Math.exp(value - largest);
  const shift = largest + Math.log(sum);
  return logits.map((value) => value - shift);
}
