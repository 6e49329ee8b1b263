// A linear layer: x Wᵀ + b in float32, or in 8 bits with a scale for every row of W and of x.

#pragma once

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "vectors.h"

#ifndef __AVX2__
#error "the compiler has no AVX2 here"
#endif

// Memory for weights, in huge pages where Linux has them: every step reads all of it.
template <class T>
struct HugePages {
    using value_type = T;
    T* allocate(size_t count) {
        constexpr size_t PAGE = 1 << 21;
        const bool is_large = count * sizeof(T) >= PAGE / 2;
        const size_t size = is_large ? (count * sizeof(T) + PAGE - 1) / PAGE * PAGE : count * sizeof(T);
        void* memory = is_large ? std::aligned_alloc(PAGE, size) : std::malloc(size);
        if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (is_large) madvise(memory, size, MADV_HUGEPAGE);
#endif
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, size_t) { std::free(memory); }
    bool operator==(const HugePages&) const { return true; }
    bool operator!=(const HugePages&) const { return false; }
};

class Linear {
public:
    // `levels` is 0 for float32; in 8 bits, numbers of x are rounded to so many on either side of 0.
    Linear(const float* weight, const float* bias, int in, int out, int levels)
        : in_(in), out_(out), levels_(levels), groups_(levels ? (in + 3) / 4 : in), panels_((out + PANEL - 1) / PANEL),
          bias_(panels_ * PANEL), scale_(panels_ * PANEL), shift_(panels_ * PANEL) {
        const size_t size = size_t(panels_) * groups_ * PANEL;
        levels ? bytes_.resize(4 * size) : floats_.resize(size);
        if (bias) std::copy(bias, bias + out, bias_.begin());
        for (int n = 0; n < out; n++) {
            const float* row = weight + size_t(n) * in;
            float largest = std::numeric_limits<float>::min(), zero = 0;  // NaN where a weight is not finite
            for (int k = 0; k < in; k++) {
                largest = std::max(largest, std::fabs(row[k]));
                zero += row[k] * 0.0f;
            }
            scale_[n] = largest / 127 / std::max(levels, 1) + zero;
            for (int k = 0; k < in; k++) {
                if (!levels) {
                    floats_[at(n, k)] = row[k];
                    continue;
                }
                const int rounded = zero == 0 ? int(std::nearbyint(row[k] / (largest / 127))) : 0;
                bytes_[at(n, k / 4) * 4 + k % 4] = int8_t(rounded);
                shift_[n] += rounded * (levels + 1);
            }
        }
    }

    // y [rows, out] of x [rows, in]. A row's result does not depend on the other rows.
    void operator()(const float* x, int rows, float* y) const {
        std::vector<uint8_t> bytes(levels_ ? size_t(rows) * groups_ * 4 : 0);
        Floats largest(levels_ ? rows : 0);
        for (int r = 0; r < int(largest.size()); r++)
            largest[r] = quantize(x + size_t(r) * in_, &bytes[size_t(r) * groups_ * 4]);
        for (int first = 0; first < rows; first += ROW_BLOCK)
            for (int panel = 0; panel < panels_; panel++)
                for (int r = first, end = std::min(rows, first + ROW_BLOCK); r < end; r += TILE_ROWS) {
                    float* to = y + size_t(r) * out_ + panel * PANEL;
                    if (levels_)
                        tile<TILE_ROWS>(std::min(TILE_ROWS, end - r), panel, &bytes[size_t(r) * groups_ * 4],
                                        &largest[r], to);
                    else
                        tile<TILE_ROWS>(std::min(TILE_ROWS, end - r), panel, x + size_t(r) * in_, nullptr, to);
                }
    }

private:
    static constexpr int PANEL = 2 * LANES;                  // outputs whose weights are neighbours
    static constexpr int TILE_ROWS = LANES == 16 ? 12 : 6;   // rows whose sums fit the registers
    static constexpr int ROW_BLOCK = 8 * TILE_ROWS;          // rows that stay in the cache while all weights pass

    // Where the weight of output n and input k (in 8 bits: of four inputs) lies: [panel, k, n].
    size_t at(int n, int k) const { return (size_t(n / PANEL) * groups_ + k) * PANEL + n % PANEL; }

    // Rounds a row to whole numbers around levels + 1. Returns its largest number, NaN where one is not finite.
    float quantize(const float* x, uint8_t* bytes) const {
        float largest = 1e-30f, zero = 0;
#pragma omp simd reduction(max : largest) reduction(+ : zero)
        for (int k = 0; k < in_; k++) {
            const float size = std::fabs(x[k]);
            largest = largest < size ? size : largest;
            zero += x[k] * 0.0f;
        }
        const float factor = levels_ / largest;
        for (int k = 0; k < in_; k++) bytes[k] = uint8_t(int32_t(std::nearbyint(x[k] * factor)) + levels_ + 1);
        return largest + zero;
    }

    // One panel of `rows` rows, at most R.
    template <int R, class Input>
    void tile(int rows, int panel, const Input* x, const float* largest, float* y) const {
        if constexpr (R > 1)
            if (rows < R) return tile<R - 1>(rows, panel, x, largest, y);
        std::conditional_t<std::is_same_v<Input, float>, Vector, IntVector> sums[R][2] = {};
        multiply<R>(panel, x, sums);
        const int columns = std::min(PANEL, out_ - panel * PANEL);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++, y += out_)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const int first = half * LANES;
                const Vector result = finish(panel * PANEL + first, sums[r][half], largest + r);
                if (columns == PANEL)
                    *(UnalignedVector*)(y + first) = result;
                else
                    for (int n = first; n < std::min(columns, first + LANES); n++) y[n] = result[n - first];
            }
    }

    template <int R>
    void multiply(int panel, const float* x, Vector (&sums)[R][2]) const {
        const float* w = &floats_[at(panel * PANEL, 0)];
        for (int k = 0; k < groups_; k++, w += PANEL) {
            const Vector left = *(const UnalignedVector*)w, right = *(const UnalignedVector*)(w + LANES);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                sums[r][0] += left * x[size_t(r) * groups_ + k];
                sums[r][1] += right * x[size_t(r) * groups_ + k];
            }
        }
    }

    template <int R>
    void multiply(int panel, const uint8_t* x, IntVector (&sums)[R][2]) const {
        const int8_t* w = &bytes_[at(panel * PANEL, 0) * 4];
        for (int k = 0; k < groups_; k++, w += 4 * PANEL) {
            const IntVector left = *(const UnalignedIntVector*)w, right = *(const UnalignedIntVector*)(w + 4 * LANES);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                int32_t four;
                std::memcpy(&four, x + (size_t(r) * groups_ + k) * 4, 4);
                sums[r][0] = add_products(sums[r][0], four, left);
                sums[r][1] = add_products(sums[r][1], four, right);
            }
        }
    }

    // The outputs from n on. Each is one statement, or the compiler would round the tiles differently.
    Vector finish(int n, Vector sum, const float*) const { return sum + *(const UnalignedVector*)&bias_[n]; }
    Vector finish(int n, IntVector sum, const float* largest) const {
        return __builtin_convertvector(sum - *(const UnalignedIntVector*)&shift_[n], Vector) *
                   *(const UnalignedVector*)&scale_[n] * *largest + *(const UnalignedVector*)&bias_[n];
    }

    // sums[n] + Σ x[j] w[n, j] over the four bytes of x. Without VNNI, pairs are summed in 16 bits: levels must be 63.
    static IntVector add_products(IntVector sums, int32_t x, IntVector w) {
#if defined(__AVX512VNNI__)
        return (IntVector)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(x), (__m512i)w);
#elif defined(__AVX512BW__)
        const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(x), (__m512i)w);
        return sums + (IntVector)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#else
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(x), (__m256i)w);
        return sums + (IntVector)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
    }

    int in_, out_, levels_, groups_, panels_;
    std::vector<float, HugePages<float>> floats_;
    std::vector<int8_t, HugePages<int8_t>> bytes_;
    Floats bias_, scale_;
    std::vector<int32_t> shift_;  // what the offset levels + 1 of x adds to every sum
};
