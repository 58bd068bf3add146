// float32 products on vectors of the compiler's, AVX2 or AVX-512: for matrices so small that a call of a library costs as much as they do.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int WIDTH = 16, ROWS = 8;  // of a vector; rows of a block of products that stays in registers
#else
constexpr int WIDTH = 8, ROWS = 4;
#endif
constexpr int BLOCK = 2 * WIDTH;  // columns of a block

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Whole __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

inline Vector &at(float *x) { return *(Vector *)x; }
inline Vector at(const float *x) { return *(const Vector *)x; }
inline Vector all(float x) { return x - Vector{}; }

inline float total(Vector x) {
    float sum = 0;
    for (int i = 0; i < WIDTH; ++i) sum += x[i];
    return sum;
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline Vector exponential(Vector x) {  // to a few units in the last place; 0 far below, and no overflow above
    x = larger(all(-87.f), x);
    x = x > all(88.f) ? all(88.f) : x;  // in this order a NaN stays one
    const Vector magic = all(12582912.f);  // 1.5 * 2^23: what is added to it is rounded to a whole number
    const Vector n = (x * 1.44269504088896341f + magic) - magic;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = p * r + c;
    p = p * r * r + r + 1.f;
    const Whole power = (__builtin_convertvector(n, Whole) + 127) << 23;
    return p * (Vector)power;
}

inline Vector sigmoid(Vector x) { return 1.f / (1.f + exponential(-x)); }

struct Left {  // an element is at[row * row_step + k * step]
    const float *at;
    long row_step, step;
};

struct Right {  // (k, n) in blocks of columns: row k of a block is at[block * block_step + k * row_step]
    const float *at;
    long row_step, block_step;
};

inline Right packed(const float *at, long k) { return {at, BLOCK, k * BLOCK}; }       // blocks one after another, as small.py packs weights
inline Right plain(const float *at, long row_step) { return {at, row_step, BLOCK}; }  // rows as they lie

template <int M>
inline void product_block(const Left &a, const float *b, long b_step, long k, float *c, long c_step, bool add) {
    Vector sum[M][2];
    for (int r = 0; r < M; ++r)
        for (int j = 0; j < 2; ++j) sum[r][j] = add ? at(c + r * c_step + j * WIDTH) : Vector{};
    for (long i = 0; i < k; ++i) {
        const Vector left = at(b + i * b_step), right = at(b + i * b_step + WIDTH);
        for (int r = 0; r < M; ++r) {
            const float value = a.at[r * a.row_step + i * a.step];
            sum[r][0] += value * left;
            sum[r][1] += value * right;
        }
    }
    for (int r = 0; r < M; ++r)
        for (int j = 0; j < 2; ++j) at(c + r * c_step + j * WIDTH) = sum[r][j];
}

// c (m, n) = a (m, k) b (k, n), added to c where `add`; n is a multiple of BLOCK.
inline void product(Left a, const Right &b, long m, long n, long k, float *c, long c_step, bool add = false) {
    for (long j = 0; j < n / BLOCK; ++j) {
        const float *block = b.at + j * b.block_step;
        float *to = c + j * BLOCK;
        long row = 0;
        for (; row + ROWS <= m; row += ROWS)
            product_block<ROWS>({a.at + row * a.row_step, a.row_step, a.step}, block, b.row_step, k, to + row * c_step, c_step, add);
        for (; row + 2 <= m; row += 2)
            product_block<2>({a.at + row * a.row_step, a.row_step, a.step}, block, b.row_step, k, to + row * c_step, c_step, add);
        if (row < m) product_block<1>({a.at + row * a.row_step, a.row_step, a.step}, block, b.row_step, k, to + row * c_step, c_step, add);
    }
}

// (seen, queries) scores -> weights that add up to 1 down every column.
inline void softmax_down(float *scores, long seen, long queries) {
    for (long q = 0; q < queries; q += WIDTH) {
        Vector top = all(-INFINITY), sum = {};
        for (long key = 0; key < seen; ++key) top = larger(at(scores + key * queries + q), top);
        for (long key = 0; key < seen; ++key) {
            const Vector e = exponential(at(scores + key * queries + q) - top);
            at(scores + key * queries + q) = e;
            sum += e;
        }
        const Vector inverse = 1.f / sum;
        for (long key = 0; key < seen; ++key) at(scores + key * queries + q) *= inverse;
    }
}
