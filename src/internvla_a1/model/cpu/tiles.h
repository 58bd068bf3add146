// Products of tiles, on AMX or on AVX-512 vectors. Weights W (n, k) are used as they lie in memory, rows of a checkpoint, as the first
// operand; activations X (m, k) are packed as the second. So a product comes out transposed, 16 outputs n by 16 tokens m a tile, and no
// weight is ever copied.
//
// float32 accuracy from bfloat16 products: x = x1 + x2 + x3 (8 bits each), and x W = x1 W + x2 W + x3 W where W holds bfloat16 values.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

constexpr int SIDE = 16;         // rows of a tile, and 32-bit values of a row
constexpr long TILE_BYTES = 1024;
constexpr int MAX_TERMS = 3;

inline __m512 widen(__m256bh x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16)); }

inline void transpose16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// 32 floats -> `terms` rows of 32 bfloat16 that add up to them.
inline void split(__m512 low, __m512 high, int terms, __m512i out[MAX_TERMS]) {
    for (int term = 0; term < terms; ++term) {
        __m256bh a = _mm512_cvtneps_pbh(low), b = _mm512_cvtneps_pbh(high);
        out[term] = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)a), (__m256i)b, 1);
        low = _mm512_sub_ps(low, widen(a));
        high = _mm512_sub_ps(high, widen(b));
    }
}

// 16 rows of 32 floats (a null row is zero) -> one packed tile a term, `term_stride` bytes apart: [k / 2][row][2], or as rows: [row][32].
inline void pack_tile(const float *const rows[SIDE], long k, float scale, char *to, int terms, long term_stride, bool as_rows = false) {
    __m512i packed[MAX_TERMS][SIDE];
    const __m512 factor = _mm512_set1_ps(scale);
    for (int r = 0; r < SIDE; ++r) {
        __m512i parts[MAX_TERMS] = {};
        if (rows[r])
            split(_mm512_mul_ps(_mm512_loadu_ps(rows[r] + k), factor), _mm512_mul_ps(_mm512_loadu_ps(rows[r] + k + 16), factor), terms, parts);
        for (int term = 0; term < terms; ++term) packed[term][r] = parts[term];
    }
    for (int term = 0; term < terms; ++term) {
        if (!as_rows) transpose16(packed[term]);
        for (int r = 0; r < SIDE; ++r) _mm512_store_si512(to + term * term_stride + r * 64, packed[term][r]);
    }
}

// Two rows of 16 floats, inputs k and k + 1 of 16 tokens -> one row of a packed tile a term, `term_stride` bytes apart.
inline void pack_pair(__m512 even, __m512 odd, char *to, int terms, long term_stride) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                                           17, 1, 16, 0);
    for (int term = 0; term < terms; ++term) {
        _mm512_store_si512(to + term * term_stride, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
        if (term + 1 == terms) break;
        even = _mm512_sub_ps(even, widen(_mm512_cvtneps_pbh(even)));
        odd = _mm512_sub_ps(odd, widen(_mm512_cvtneps_pbh(odd)));
    }
}

struct Left {  // NT tiles of 16 rows, in steps of 64 bytes of k
    const char *rows[2];
    long stride;        // bytes between rows
    long term_stride;   // bytes between terms of the same values
    const int *offset = nullptr;  // (32,) of int8 products: what they begin at, see OFFSET
};

struct Ahead {  // two times 16 rows, fetched while others are worked on: `each` lines a step
    const char *half[2] = {nullptr, nullptr};
    long stride = 0, left = 0;  // lines that are still to come
    int each = 1, row = 0;      // each: a power of two up to 32

    Ahead() = default;
    Ahead(const char *first, const char *second, long stride, long columns, long steps)
        : half{first, second}, stride(stride), left(2 * SIDE * columns) {
        while (each * steps < left) each *= 2;
    }
    template <bool WRITE>
    static void line(const char *at) {  // to the first cache to be written, or to the second one to be read
        if (WRITE) __builtin_prefetch(at, 1, 3);
        else _mm_prefetch(at, _MM_HINT_T1);
    }
    template <bool WRITE = false>
    void fetch() {  // down the rows, as tiles are loaded
        if (!left) return;
        if (each == 2 * SIDE) {
            for (int r = 0; r < SIDE; ++r) line<WRITE>(half[0] + r * stride), line<WRITE>(half[1] + r * stride);
        } else {
            const char *at = half[row / SIDE] + row % SIDE * stride;
            for (int i = 0; i < each; ++i, at += stride) line<WRITE>(at);
        }
        left -= each, row += each;
        if (row == 2 * SIDE) row = 0, half[0] += 64, half[1] += 64;
    }
};

struct Right {  // MT packed tiles
    const char *tile;
    long tile_stride, step, term_stride;  // bytes from tile to tile, from step to step of k, from term to term
};

struct Sums {  // NT x MT tiles of products, [n tile][m tile][16 n][16 m], float or int32
    float *tile[2][2];
    long stride = SIDE;  // values from row to row
    bool begun = false;  // what the tiles hold is added to
};

struct Nothing {  // to be done meanwhile
    void step() {}
    void rest() {}
};

// TAIL: so many last rows, at the most, of a number of tokens that is no multiple of 16 are worked on by themselves (tail_sums) and packed
// as rows.
// multiply<INT8, NT, MT>(left, right, steps, left_terms, terms, sums, meanwhile): sums over k of left x right, of terms i, j with
// i + j < terms. meanwhile.step() is called about once a step of k, meanwhile.rest() before the sums are written.
#ifdef __AMX_TILE__
#include "multiply_amx.h"
#else
#include "multiply_avx512.h"
#endif

// ---- functions of 16 floats, to a few units in the last place ----

inline __m512 exp16(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.3f)), _mm512_set1_ps(88.7f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.f)));
    return _mm512_scalef_ps(p, n);
}

// 2^x to 4e-5, for what is rounded to bfloat16 at once.
inline __m512 power_of_two16(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(9.61812911e-3f);
    for (float c : {5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.f}) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

inline __m512 inverse16(__m512 x) {  // 1 / x for a finite x, cheaper than a division
    const __m512 r = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(x, r, _mm512_set1_ps(2.f)));
}

inline __m512 silu16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.f);
    return _mm512_mul_ps(x, inverse16(_mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), x)))));
}

inline __m512 gelu_tanh16(__m512 x) {  // 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u))
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 u = _mm512_mul_ps(_mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x), _mm512_set1_ps(-2.f * 0.7978845608028654f));
    return _mm512_mul_ps(x, inverse16(_mm512_add_ps(_mm512_set1_ps(1.f), exp16(u))));
}

inline __m512 gelu_erf16(__m512 x) {  // erf as a ratio of polynomials on [-4, 4]
    __m512 z = _mm512_mul_ps(x, _mm512_set1_ps(0.70710678118654752f));
    z = _mm512_min_ps(_mm512_max_ps(z, _mm512_set1_ps(-4.f)), _mm512_set1_ps(4.f));
    const __m512 s = _mm512_mul_ps(z, z);
    __m512 p = _mm512_set1_ps(-2.72614225801306e-10f), q = _mm512_set1_ps(-1.45660718464996e-05f);
    for (float c : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                    -1.60960333262415e-02f})
        p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(c));
    for (float c : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f})
        q = _mm512_fmadd_ps(q, s, _mm512_set1_ps(c));
    const __m512 erf = _mm512_mul_ps(_mm512_mul_ps(z, p), inverse16(q));
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), _mm512_add_ps(_mm512_set1_ps(1.f), erf));
}
