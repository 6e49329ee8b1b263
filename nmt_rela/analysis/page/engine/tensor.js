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

/** x Wᵀ + bias: [n, columns] → [n, rows]. What is read serves two rows of W and four of x. */
function linear(x, {rows, columns, codes, scales}, bias = null) {
  const n = x.length / columns, y = new Float32Array(n * rows);
  const put = (i, r, sum) => { y[i * rows + r] = sum * scales[r] + (bias ? bias[r] : 0); };
  for (let r = 0; r < rows; r += 2) {
    const next = Math.min(r + 1, rows - 1), w0 = r * columns, w1 = next * columns; // an odd last row is computed twice
    let i = 0;
    for (; i + 4 <= n; i += 4) {
      const x0 = i * columns, x1 = x0 + columns, x2 = x1 + columns, x3 = x2 + columns;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      for (let c = 0; c < columns; c++) {
        const v = codes[w0 + c], w = codes[w1 + c], a = x[x0 + c], b = x[x1 + c], d = x[x2 + c], e = x[x3 + c];
        s0 += v * a; s1 += v * b; s2 += v * d; s3 += v * e;
        t0 += w * a; t1 += w * b; t2 += w * d; t3 += w * e;
      }
      put(i, r, s0); put(i + 1, r, s1); put(i + 2, r, s2); put(i + 3, r, s3);
      put(i, next, t0); put(i + 1, next, t1); put(i + 2, next, t2); put(i + 3, next, t3);
    }
    for (; i < n; i++) {
      const x0 = i * columns;
      let s = 0, t = 0;
      for (let c = 0; c < columns; c++) {
        s += codes[w0 + c] * x[x0 + c];
        t += codes[w1 + c] * x[x0 + c];
      }
      put(i, r, s);
      put(i, next, t);
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
