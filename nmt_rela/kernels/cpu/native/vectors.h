// Vectors of the CPU, and functions of rows that the compiler makes of them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef __AVX512F__
constexpr int LANES = 16;  // floats in a vector
#else
constexpr int LANES = 8;
#endif
constexpr float NEVER = -std::numeric_limits<float>::infinity();

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVector __attribute__((vector_size(4 * LANES)));
typedef float UnalignedVector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t UnalignedIntVector __attribute__((vector_size(4 * LANES), aligned(4)));

using Floats = std::vector<float>;

// e^x to two units in the last place, in arithmetic that fits vectors (the polynomial is that of Cephes).
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * r + c;
    const int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return (p * r * r + r + 1.0f) * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float dot(const float* x, const float* y, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

inline float max_of(const float* x, int n) {
    float largest = NEVER;
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < n; i++) largest = largest < x[i] ? x[i] : largest;
    return largest;
}

// Σ e^(x − largest)
inline float sum_of_exponentials(const float* x, int n, float largest) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += exponential(x[i] - largest);
    return sum;
}
