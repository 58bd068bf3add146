// Row by row: the two norms and rotary positions.
#pragma once
#include "linear.h"

// One row of n floats, a multiple of 16: x / rms(x) * weight.
inline void rms_row(const float *x, const float *weight, float eps, long n, float *y) {
    __m512 square = _mm512_setzero_ps();
    for (long i = 0; i < n; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        square = _mm512_fmadd_ps(v, v, square);
    }
    const __m512 inverse = _mm512_set1_ps(1.f / sqrtf(_mm512_reduce_add_ps(square) / n + eps));
    for (long i = 0; i < n; i += 16)
        _mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse), _mm512_loadu_ps(weight + i)));
}

inline void rms_rows(const Team &team, const float *x, const float *weight, float eps, long rows, long n, float *y) {
    for (long r = team.begin(rows); r < team.end(rows); ++r) rms_row(x + r * n, weight, eps, n, y + r * n);
}

inline void layer_norm_rows(const Team &team, const float *x, const float *weight, const float *bias, float eps, long rows, long n, float *y) {
    for (long r = team.begin(rows); r < team.end(rows); ++r) {
        const float *from = x + r * n;
        __m512 sum = _mm512_setzero_ps(), square = sum;
        for (long i = 0; i < n; i += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + i));
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
        for (long i = 0; i < n; i += 16) {
            const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(from + i), mean);
            square = _mm512_fmadd_ps(v, v, square);
        }
        const __m512 inverse = _mm512_set1_ps(1.f / sqrtf(_mm512_reduce_add_ps(square) / n + eps));
        for (long i = 0; i < n; i += 16) {
            const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + i), mean), inverse);
            _mm512_storeu_ps(y + r * n + i, _mm512_fmadd_ps(v, _mm512_loadu_ps(weight + i), _mm512_loadu_ps(bias + i)));
        }
    }
}

// x cos + rotate_half(x) sin in place, d a multiple of 32.
inline void rotate_row(float *x, const float *cos, const float *sin, int d) {
    const int half = d / 2;
    for (int i = 0; i < half; i += 16) {
        const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + half + i);
        const __m512 low = _mm512_fnmadd_ps(b, _mm512_loadu_ps(sin + i), _mm512_mul_ps(a, _mm512_loadu_ps(cos + i)));
        const __m512 high = _mm512_fmadd_ps(a, _mm512_loadu_ps(sin + half + i), _mm512_mul_ps(b, _mm512_loadu_ps(cos + half + i)));
        _mm512_storeu_ps(x + i, low);
        _mm512_storeu_ps(x + half + i, high);
    }
}

// Every head of every row: norm where there is a weight, then rotation. cos, sin: (period, d), used again for every `period` rows.
inline void place_heads(const Team &team, float *x, long stride, long rows, int heads, int d, const float *norm, float eps, const float *cos,
                        const float *sin, long period) {
    const long units = rows * heads;
    for (long unit = team.begin(units); unit < team.end(units); ++unit) {
        const long row = unit / heads;
        float *at = x + row * stride + unit % heads * d;
        if (norm) rms_row(at, norm, eps, d, at);
        if (cos) rotate_row(at, cos + row % period * d, sin + row % period * d, d);
    }
}
