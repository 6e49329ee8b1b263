// Weight functions, attention of one query, and norms: the equations of attention/functional.py.

#pragma once

#include <algorithm>

#include "vectors.h"

enum Variant { SOFTMAX, SPARSEMAX, ENTMAX15, RELA_I, RELA_G };

// From scores to weights, in place.
inline void weigh(Variant variant, float* x, int n) {
    if (variant >= RELA_I) {
        for (int i = 0; i < n; i++) x[i] = x[i] < 0 ? 0.0f : x[i];
        return;
    }
    const float largest = max_of(x, n);
    if (variant == SOFTMAX) {
        const float sum = sum_of_exponentials(x, n, largest);
        for (int i = 0; i < n; i++) x[i] = exponential(x[i] - largest) / sum;
        return;
    }
    // Newton's method for the threshold, from the left: where it ends, no row is above the tolerance.
    const bool squared = variant == ENTMAX15;
    const float slope = squared ? 0.5f : 1.0f, tolerance = (squared ? 8 : 16) * std::numeric_limits<float>::epsilon();
    // std::max keeps its first number where that is NaN
    for (int i = 0; i < n; i++) x[i] = std::max(slope * (x[i] - largest) + 1.0f, 0.0f);
    for (int step = 0; step < 100; step++) {
        float sum = 0, squares = 0, support = 0;
#pragma omp simd reduction(+ : sum, squares, support)
        for (int i = 0; i < n; i++) {
            sum += x[i];
            squares += x[i] * x[i];
            support += x[i] > 0 ? 1.0f : 0.0f;
        }
        const float norm = std::sqrt(squares), excess = (squared ? norm : sum) - 1.0f;
        if (!(excess > tolerance)) break;
        const float lowered = squared ? excess * norm / sum : excess / support;
        for (int i = 0; i < n; i++) x[i] = std::max(x[i] - lowered, 0.0f);
    }
    for (int i = 0; squared && i < n; i++) x[i] *= x[i];
}

// The keys that a query sees: rows of k and v, `stride` numbers apart.
struct Keys {
    const float *k, *v;
    int stride;
    const std::vector<int>& rows;
};

// The heads of one query: z [heads · width]. VECTORS is width / LANES, or 0 for a width that is none of the usual.
template <int VECTORS>
void attend(Variant variant, const float* q, const Keys& keys, int heads, int width, float* scores, float* z) {
    const int n = int(keys.rows.size());
    const float scale = 1.0f / std::sqrt(float(width));
    for (int head = 0; head < heads; head++, q += width, z += width) {
        const float *k = keys.k + head * width, *v = keys.v + head * width;
        for (int j = 0; j < n; j++) {
            const float* key = k + size_t(keys.rows[j]) * keys.stride;
            scores[j] = scale * dot(q, key, VECTORS ? VECTORS * LANES : width);
        }
        weigh(variant, scores, n);
        Vector sums[std::max(VECTORS, 1)] = {};
        if (!VECTORS) std::fill_n(z, width, 0.0f);
        for (int j = 0; j < n; j++) {
            const float* value = v + size_t(keys.rows[j]) * keys.stride;
            if (scores[j] == 0.0f) continue;
            for (int i = 0; i < VECTORS; i++) sums[i] += scores[j] * *(const UnalignedVector*)(value + i * LANES);
            for (int i = 0; !VECTORS && i < width; i++) z[i] += scores[j] * value[i];
        }
        for (int i = 0; i < VECTORS; i++) *(UnalignedVector*)(z + i * LANES) = sums[i];
    }
}

inline void attend(Variant variant, const float* q, const Keys& keys, int heads, int width, Floats& scores, float* z) {
    scores.resize(std::max(scores.size(), keys.rows.size()));
    const auto of_width = width == 2 * LANES ? attend<2> : width == 4 * LANES ? attend<4>
                        : width == 8 * LANES ? attend<8> : attend<0>;
    of_width(variant, q, keys, heads, width, scores.data(), z);
}

// The norm of ReLA, in place; its gain is part of the output projection. An empty gate is none.
inline void gated_rms_norm(float* z, int width, const Floats& gate) {
    const float factor = 1.0f / std::sqrt(dot(z, z, width) / width + 1e-8f);
    if (gate.empty())
        for (int i = 0; i < width; i++) z[i] *= factor;
    else
        for (int i = 0; i < width; i++) z[i] *= factor * sigmoid(gate[i] * z[i]);
}

inline void layer_norm(const float* x, int width, const Floats& gain, const Floats& bias, float epsilon, float* y) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < width; i++) sum += x[i];
    const float mean = sum / width;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(squares / width + epsilon);
    for (int i = 0; i < width; i++) y[i] = (x[i] - mean) * factor * gain[i] + bias[i];
}
