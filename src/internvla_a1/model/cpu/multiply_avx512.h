// tiles.h: multiply on AVX-512 vectors, with BF16 and VNNI. A vector holds one output of 16 tokens; a pair of inputs (four of int8) of a
// weight's row is read as it lies and given to all of them.
#pragma once

constexpr int OFFSET = 128;  // int8 activations are packed with this added: the instruction takes them unsigned. Left::offset takes it away
constexpr int TAIL = 4;      // few tokens: their inputs side by side in a vector, so that no lane is left empty
constexpr int ROWS = 8;      // outputs worked on at once: with two tiles of tokens 16 sums in registers
constexpr int CHUNK = 8;     // steps of k in turn: what two tiles of tokens have there stays in the first cache

inline void configure_tiles() {}
inline void release_tiles() {}

template <bool INT8>
inline __m512 product(__m512 sum, __m512i x, __m512i w) {
    if (INT8) return _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), x, w));
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
}

// ROWS outputs of MT tiles of tokens, from step `first` to `last` of k; found0 and found1: rows of sums, which are added to where `begun`,
// and else begin at `start`.
template <bool INT8, int MT, class Meanwhile>
inline void add_products(const char *rows, const Left &a, const Right &b, long first, long last, int left_terms, int terms, float *found0,
                         float *found1, long found_stride, bool begun, const int *start, int turn, int turns, Meanwhile &&meanwhile) {
    __m512 sum[ROWS][MT];
    if (begun) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            sum[r][0] = _mm512_load_ps(found0 + r * found_stride);
            if (MT > 1) sum[r][MT - 1] = _mm512_load_ps(found1 + r * found_stride);
        }
    } else {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
            sum[r][0] = sum[r][MT - 1] = INT8 && start ? _mm512_castsi512_ps(_mm512_set1_epi32(start[r])) : _mm512_setzero_ps();
    }
    const long stride = a.stride;
    for (long step = first; step < last; ++step) {
        for (int i = 0; i < left_terms; ++i) {
            const char *w[3];  // of rows 0, 3 and 6: the others are one and two strides from them
            for (int j = 0; j < 3; ++j) w[j] = rows + i * a.term_stride + step * 64 + 3 * j * stride;
            for (int j = 0; i + j < terms; ++j) {
                const char *x = b.tile + j * b.term_stride + step * b.step;
#pragma GCC unroll 2
                for (int pair = 0; pair < 16; ++pair) {
                    const __m512i x0 = _mm512_load_si512(x + pair * 64);
                    const __m512i x1 = MT > 1 ? _mm512_load_si512(x + b.tile_stride + pair * 64) : x0;
#pragma GCC unroll 8
                    for (int r = 0; r < ROWS; ++r) {
                        int values;
                        memcpy(&values, w[r / 3] + r % 3 * stride + pair * 4, 4);
                        const __m512i all = _mm512_set1_epi32(values);
                        sum[r][0] = product<INT8>(sum[r][0], x0, all);
                        if (MT > 1) sum[r][MT - 1] = product<INT8>(sum[r][MT - 1], x1, all);
                    }
                }
            }
        }
        if (step % turns == turn) meanwhile.step();
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        _mm512_store_ps(found0 + r * found_stride, sum[r][0]);
        if (MT > 1) _mm512_store_ps(found1 + r * found_stride, sum[r][MT - 1]);
    }
}

template <bool INT8, int NT, int MT, class Meanwhile>
inline void multiply(const Left &a, const Right &b, int steps, int left_terms, int terms, const Sums &sums, Meanwhile &&meanwhile) {
    constexpr int TURNS = NT * SIDE / ROWS;
    for (long first = 0; first < steps; first += CHUNK)
        for (int turn = 0; turn < TURNS; ++turn) {
            const int tile = turn * ROWS / SIDE, row = turn * ROWS % SIDE;
            const long at = row * sums.stride;
            add_products<INT8, MT>(a.rows[tile] + row * a.stride, a, b, first, std::min<long>(first + CHUNK, steps), left_terms, terms,
                                   sums.tile[tile][0] + at, MT > 1 ? sums.tile[tile][1] + at : nullptr, sums.stride, first || sums.begun,
                                   a.offset ? a.offset + tile * SIDE + row : nullptr, turn, TURNS, meanwhile);
        }
    meanwhile.rest();
}

// -OFFSET times the sum of each of `count` rows of k int8 weights.
inline void offsets_of(const char *rows, long stride, long k, int count, int *offset) {
    const __m512i ones = _mm512_set1_epi8(1);
    for (int r = 0; r < count; ++r) {
        __m512i sum = _mm512_setzero_si512();
        for (long i = 0; i < k; i += 64) sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(rows + r * stride + i));
        offset[r] = -OFFSET * _mm512_reduce_add_epi32(sum);
    }
}

// 16 outputs (lanes) of each of T tokens that are packed as rows: out[T].
template <bool INT8, int T>
inline void tail_sums_of(const char *rows, const Left &a, const Right &b, int steps, int terms, const int *offset, __m512 *out) {
    constexpr int AT_ONCE = 4;
    __m512i parts[T][SIDE];
    for (int first = 0; first < SIDE; first += AT_ONCE) {
        __m512 sum[AT_ONCE][T];
#pragma GCC unroll 4
        for (int r = 0; r < AT_ONCE; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) sum[r][t] = _mm512_setzero_ps();
        const char *w = rows + first * a.stride;
        for (int term = 0; term < terms; ++term)
            for (long step = 0; step < steps; ++step) {
                const char *x = b.tile + term * b.term_stride + step * b.step;
#pragma GCC unroll 4
                for (int r = 0; r < AT_ONCE; ++r) {
                    const __m512i weights = _mm512_loadu_si512(w + r * a.stride + step * 64);
#pragma GCC unroll 4
                    for (int t = 0; t < T; ++t) sum[r][t] = product<INT8>(sum[r][t], _mm512_load_si512(x + t * 64), weights);
                }
            }
#pragma GCC unroll 4
        for (int r = 0; r < AT_ONCE; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) parts[t][first + r] = _mm512_castps_si512(sum[r][t]);
    }
    for (int t = 0; t < T; ++t) {
        transpose16(parts[t]);
        __m512i all = INT8 && offset ? _mm512_loadu_si512(offset) : _mm512_setzero_si512();
        for (int i = 0; i < SIDE; ++i)
            all = INT8 ? _mm512_add_epi32(all, parts[t][i])
                       : _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(all), _mm512_castsi512_ps(parts[t][i])));
        out[t] = _mm512_castsi512_ps(all);
    }
}

template <bool INT8>
inline void tail_sums(const char *rows, const Left &a, const Right &b, int tokens, int steps, int terms, const int *offset, __m512 *out) {
    switch (tokens) {
        case 1: return tail_sums_of<INT8, 1>(rows, a, b, steps, terms, offset, out);
        case 2: return tail_sums_of<INT8, 2>(rows, a, b, steps, terms, offset, out);
        case 3: return tail_sums_of<INT8, 3>(rows, a, b, steps, terms, offset, out);
        case 4: return tail_sums_of<INT8, 4>(rows, a, b, steps, terms, offset, out);
    }
}
