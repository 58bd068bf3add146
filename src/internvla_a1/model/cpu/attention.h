// Attention without a mask over keys and values kept for the tiles: keys as rows (key, d), values transposed (d, key), both in bfloat16
// terms. Scores come out as (key, query), so the softmax runs down the rows and its weights are packed for the second product as they are.
#pragma once
#include "linear.h"

struct Memory {  // keys and values of one layer
    uint16_t *keys, *values;  // [term][head][capacity][d], [term][head][d][capacity]
    long capacity;            // a multiple of 32; what lies beyond the valid tokens is finite
    int heads, d;
    long term() const { return heads * capacity * d; }
};

struct Heads {  // (rows, head, d) float32 somewhere in a wider row
    const float *at;
    long stride;  // floats from row to row
};

// Take k and v of `count` tokens into the memory from `start` on.
inline void remember(const Team &team, const Memory &memory, const Heads &k, const Heads &v, long start, long count, int terms) {
    const int d = memory.d;
    const long groups = (count + SIDE - 1) / SIDE, units = memory.heads * groups;
    for (long unit = team.begin(units); unit < team.end(units); ++unit) {
        const long head = unit / groups, first = unit % groups * SIDE;
        const int rows = std::min<long>(SIDE, count - first);
        for (int r = 0; r < rows; ++r)
            for (int i = 0; i < d; i += 32) {
                const float *from = k.at + (first + r) * k.stride + head * d + i;
                __m512i parts[MAX_TERMS];
                split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16), terms, parts);
                for (int t = 0; t < terms; ++t)
                    _mm512_storeu_si512(memory.keys + t * memory.term() + (head * memory.capacity + start + first + r) * d + i, parts[t]);
            }
        const __mmask16 valid = (1u << rows) - 1;
        for (int i = 0; i < d; i += SIDE) {
            __m512i block[SIDE];
            for (int r = 0; r < SIDE; ++r)
                block[r] = r < rows ? _mm512_castps_si512(_mm512_loadu_ps(v.at + (first + r) * v.stride + head * d + i)) : _mm512_setzero_si512();
            transpose16(block);
            for (int r = 0; r < SIDE; ++r) {
                __m512 rest = _mm512_castsi512_ps(block[r]);
                for (int t = 0; t < terms; ++t) {
                    const __m256bh part = _mm512_cvtneps_pbh(rest);
                    uint16_t *to = memory.values + t * memory.term() + (head * d + i + r) * memory.capacity + start + first;
                    _mm256_mask_storeu_epi16(to, valid, (__m256i)part);
                    rest = _mm512_sub_ps(rest, widen(part));
                }
            }
        }
    }
}

struct Workspace {  // of one thread: packed queries, scores, packed weights
    char *query = nullptr, *weights = nullptr;
    float *scores = nullptr;
    long length = 0;

    void reserve(long keys, int d) {
        if (keys <= length) return;
        free(query), free(weights), free(scores);
        query = (char *)aligned_alloc(64, 2L * 32 * d * 2 * MAX_TERMS);
        scores = (float *)aligned_alloc(64, keys * 32 * 4);
        weights = (char *)aligned_alloc(64, keys * 32 * 2 * MAX_TERMS);
        length = keys;
    }
};

// The largest of every column of (keys, 32), 16 columns a side.
inline void largest_down(const float *scores, long length, __m512 top[2]) {
    __m512 chains[4] = {_mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY)};
    const float *end = scores + length * 32;
    for (; scores + 64 <= end; scores += 64)
        for (int i = 0; i < 4; ++i) chains[i] = _mm512_max_ps(chains[i], _mm512_load_ps(scores + i * 16));
    for (int i = 0; scores < end && i < 2; ++i) chains[i] = _mm512_max_ps(chains[i], _mm512_load_ps(scores + i * 16));
    for (int i = 0; i < 2; ++i) top[i] = _mm512_max_ps(chains[i], chains[i + 2]);
}

// scores (keys, 32) -> packed weights exp(score - largest) and 1 / their sum for each of the 32 queries.
template <bool SINGLE_TERM>
inline void softmax_down(const float *scores, long length, char *weights, int terms, __m512 inverse[2]) {
    const long padded = up32(length), step_bytes = 2 * TILE_BYTES, side_bytes = padded / 32 * TILE_BYTES;
    const __m512 factor = _mm512_set1_ps(1.44269504088896341f);
    __m512 top[2], sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    largest_down(scores, length, top);
    const __m512 base[2] = {_mm512_mul_ps(top[0], factor), _mm512_mul_ps(top[1], factor)};
    const auto weight = [&](long key, int side) {
        const __m512 score = _mm512_load_ps(scores + key * 32 + side * 16);
        return SINGLE_TERM ? power_of_two16(_mm512_fmsub_ps(score, factor, base[side])) : exp16(_mm512_sub_ps(score, top[side]));
    };
    for (long key = 0; key < padded; key += 2)
        for (int side = 0; side < 2; ++side) {
            const __m512 even = key < length ? weight(key, side) : _mm512_setzero_ps();
            const __m512 odd = key + 1 < length ? weight(key + 1, side) : _mm512_setzero_ps();
            sum[side] = _mm512_add_ps(sum[side], _mm512_add_ps(even, odd));
            pack_pair(even, odd, weights + key / 32 * TILE_BYTES + key % 32 * 32 + side * side_bytes, SINGLE_TERM ? 1 : terms,
                      padded / 32 * step_bytes);
        }
    for (int side = 0; side < 2; ++side) inverse[side] = _mm512_div_ps(_mm512_set1_ps(1.f), sum[side]);
}

// 32 queries (null rows are none) of one key head -> rows of `out`.
inline void attend_block(const Memory &memory, long head, long length, const float *const rows[32], float *const out[32], int terms,
                         Workspace &work) {
    const int d = memory.d, steps = d / 32;
    const long padded = up32(length), key_steps = padded / 32, query_term = 2L * steps * TILE_BYTES;
    alignas(64) float found[2][2][SIDE * SIDE];
    for (int side = 0; side < 2; ++side)
        for (int step = 0; step < steps; ++step)
            pack_tile(rows + side * SIDE, step * 32, 1.f / sqrtf(d), work.query + (side * steps + step) * TILE_BYTES, terms, query_term);
    const Right queries{work.query, steps * TILE_BYTES, TILE_BYTES, query_term};
    const uint16_t *keys = memory.keys + head * memory.capacity * d;
    for (long key = 0; key < padded; key += 32) {
        const char *at = (const char *)(keys + key * d);
        float *to = work.scores + key * 32, *below = to + SIDE * 32;
        multiply<false, 2, 2>({{at, at + SIDE * d * 2}, d * 2, memory.term() * 2}, queries, steps, terms, terms,
                              {{{to, to + SIDE}, {below, below + SIDE}}, 32}, Nothing());
    }
    __m512 inverse[2];
    if (terms == 1) softmax_down<true>(work.scores, length, work.weights, terms, inverse);
    else softmax_down<false>(work.scores, length, work.weights, terms, inverse);
    const Right weights{work.weights, key_steps * TILE_BYTES, TILE_BYTES, key_steps * 2 * TILE_BYTES};
    const uint16_t *values = memory.values + head * d * memory.capacity;
    for (int i = 0; i < d; i += 32) {
        const char *at = (const char *)(values + i * memory.capacity);
        const long row = memory.capacity * 2;
        multiply<false, 2, 2>({{at, at + SIDE * row}, row, memory.term() * 2}, weights, key_steps, terms, terms,
                              {{{found[0][0], found[0][1]}, {found[1][0], found[1][1]}}}, Nothing());
        for (int side = 0; side < 2; ++side)
            for (int half = 0; half < 2; ++half) {
                __m512i block[SIDE];
                for (int r = 0; r < SIDE; ++r)
                    block[r] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(found[half][side] + r * SIDE), inverse[side]));
                transpose16(block);
                for (int r = 0; r < SIDE; ++r)
                    if (out[side * SIDE + r]) _mm512_storeu_si512(out[side * SIDE + r] + i + half * SIDE, block[r]);
            }
    }
}

// q (rows, heads, d) over the first `length` keys -> out (rows, heads * d). Query heads that share a key head are stacked.
inline void attend(const Team &team, const Memory &memory, const Heads &q, long rows, int query_heads, long length, float *out,
                   long out_stride, int terms, Workspace *works) {
    const long group = query_heads / memory.heads, stacked = group * rows, blocks = (stacked + 31) / 32, units = memory.heads * blocks;
    Workspace &work = works[team.id];
    work.reserve(up32(length), memory.d);
    for (long unit = team.begin(units); unit < team.end(units); ++unit) {
        const long head = unit / blocks, first = unit % blocks * 32;
        const float *from[32];
        float *to[32];
        for (long r = 0; r < 32; ++r) {
            const long at = first + r, query = head * group + at / rows, row = at % rows;
            from[r] = at < stacked ? q.at + row * q.stride + query * memory.d : nullptr;
            to[r] = at < stacked ? out + row * out_stride + query * memory.d : nullptr;
        }
        attend_block(memory, head, length, from, to, terms, work);
    }
}
