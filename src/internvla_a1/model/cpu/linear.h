// Linear layers over packed activations, shared by a team of threads.
#pragma once
#include <omp.h>

#include "tiles.h"

struct Team {  // this thread's place; `wait` until everybody has come here
    int id = omp_get_thread_num(), size = omp_get_num_threads();
    long begin(long units) const { return units * id / size; }
    long end(long units) const { return units * (id + 1) / size; }
    void wait() const {
#pragma omp barrier
    }
};

enum Precision { SINGLE = 0, BFLOAT16 = 1, INTEGER = 2 };  // activations in three bfloat16 terms, in one, in int8 with a scale a row
inline int terms_of(int precision) { return precision == SINGLE ? 3 : 1; }

enum Shape { PLAIN = 0, GELU_TANH = 1, GELU_ERF = 2, GATED = 3 };  // GATED: silu(W x) * (W2 x)

struct Weight {  // one matrix (n, k) and what becomes of its products
    const char *w, *w2;             // bfloat16 or int8 rows; w2: of a gated layer
    const float *scale, *scale2;    // (n,) of int8 weights
    const float *bias, *gain;       // (n,) or null; gain multiplies what is added
    float *y;                       // (m, stride)
    long stride;
    int n, shape;
    long row;                       // bytes from one row of w to the next
    bool add;                       // to what y holds
    char *packed = nullptr;         // or the products go here, packed for the next layer, where precision is not INTEGER: see Operand
    long pair_bytes = 0, term_bytes = 0;
    float *sums = nullptr;          // of a part of the inputs: tiles of products so far, [n tile][m tile]
    long sums_stride = 0;           // tiles of m
    bool begun = false, last = true;
    float *sums_at(long n, long m) const { return sums + (n / SIDE * sums_stride + m / SIDE) * SIDE * SIDE; }
};

struct Operand {  // packed activations (rows, k): pairs of tiles of 16 rows, [pair][step of k][2]; a scale a row where they are int8
    char *data;
    long pair_bytes, term_bytes;  // from pair to pair, from term to term
    const float *scale;
};

inline long up32(long n) { return (n + 31) / 32 * 32; }

template <class Value>
inline void grow(Value *&at, long &size, long values) {  // what was there is lost
    if (values <= size) return;
    free(at);
    at = (Value *)aligned_alloc(64, (values * sizeof(Value) + 4095) / 4096 * 4096), size = values;
}

struct Panel {  // packed activations, [term] of an Operand, the scale of each row where they are int8, and sums of a part of the inputs
    char *data = nullptr;
    float *scale = nullptr, *sums = nullptr;
    long bytes = 0, rows = 0, sums_size = 0;

    void reserve(long most_rows, long k, int precision, long sums_of) {
        const long all = up32(most_rows);
        grow(data, bytes, all * k * (precision == INTEGER ? 1 : 2 * terms_of(precision)));
        grow(scale, rows, all);
        grow(sums, sums_size, all * sums_of);
    }
};

constexpr long PANEL_BYTES = 1024 * 1024;  // of a panel that stays in the second cache

inline long bytes_a_value(int precision) { return precision == INTEGER ? 1 : 2 * terms_of(precision); }

// How many of k inputs are worked on at once: all, or a part whose products are added up.
inline long inputs_at_once(long rows, long k, int precision, bool divisible) {
    if (!divisible) return k;
    long part = k;
    while (part % 256 == 0 && part > 1024 && rows * part * bytes_a_value(precision) > PANEL_BYTES) part /= 2;
    return part;
}

// How many of the rows are worked on at once: equal parts, as few as fit.
inline long rows_at_once(long rows, long k, int precision) {
    const long most = std::max<long>(64, PANEL_BYTES / (k * bytes_a_value(precision)) / 32 * 32), parts = (rows + most - 1) / most;
    return ((rows + parts - 1) / parts + 31) / 32 * 32;
}

inline int tail_of(long rows) { return rows % SIDE <= TAIL ? rows % SIDE : 0; }

inline void quantise_tile_row(const float *const rows[SIDE], long k, char *to, float *scale, long first, bool as_rows) {
    __m512 inverse[SIDE];
    for (int r = 0; r < SIDE; ++r) {
        __m512 top = _mm512_setzero_ps();
        if (rows[r])
            for (long i = 0; i < k; i += 16) top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(rows[r] + i)));
        const float step = std::max(_mm512_reduce_max_ps(top), 1e-12f) / 127.f;
        scale[first + r] = step;
        inverse[r] = _mm512_set1_ps(1.f / step);
    }
    for (long i = 0; i < k; i += 64) {
        __m512i packed[SIDE];
        for (int r = 0; r < SIDE; ++r) {
            packed[r] = _mm512_setzero_si512();
            if (!rows[r]) continue;
            __m128i part[4];
            for (int j = 0; j < 4; ++j)
                part[j] = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(rows[r] + i + 16 * j), inverse[r])));
            packed[r] = _mm512_inserti32x4(_mm512_castsi128_si512(part[0]), part[1], 1);
            packed[r] = _mm512_inserti32x4(_mm512_inserti32x4(packed[r], part[2], 2), part[3], 3);
        }
        if (OFFSET)
            for (int r = 0; r < SIDE; ++r) packed[r] = _mm512_xor_si512(packed[r], _mm512_set1_epi8((char)OFFSET));
        if (!as_rows) transpose16(packed);
        for (int r = 0; r < SIDE; ++r) _mm512_store_si512(to + i / 64 * 2 * TILE_BYTES + r * 64, packed[r]);
    }
}

// x (rows, stride) -> panel.
inline void pack(const Team &team, const float *x, long stride, long rows, long k, int precision, Panel &panel) {
    const long tiles = (rows + SIDE - 1) / SIDE, pair_bytes = 2 * SIDE * k * (precision == INTEGER ? 1 : 2);
    const long steps = precision == INTEGER ? 1 : k / 32;
    const long units = tiles * steps;
    for (long unit = team.begin(units); unit < team.end(units); ++unit) {
        const long tile = unit / steps, step = unit % steps;
        const float *at[SIDE];
        for (int r = 0; r < SIDE; ++r) at[r] = tile * SIDE + r < rows ? x + (tile * SIDE + r) * stride : nullptr;
        char *to = panel.data + tile / 2 * pair_bytes + tile % 2 * TILE_BYTES;
        const bool as_rows = tail_of(rows) && tile == tiles - 1;
        if (precision == INTEGER)
            quantise_tile_row(at, k, to, panel.scale, tile * SIDE, as_rows);
        else
            pack_tile(at, step * 32, 1.f, to + step * 2 * TILE_BYTES, terms_of(precision), (tiles + 1) / 2 * pair_bytes, as_rows);
    }
}

// Two rows of a tile of products, found[16 n][16 m], to their row of the packed operand of the next layer.
inline void finish_packed(const Weight &w, const float *found, const float *found_up, long n, long m, int r, int terms) {
    __m512 pair[2];
    for (int i = 0; i < 2; ++i) {
        __m512 v = _mm512_load_ps(found + (r + i) * SIDE);
        if (w.bias) v = _mm512_add_ps(v, _mm512_set1_ps(w.bias[n + r + i]));
        if (w.shape == GELU_TANH) v = gelu_tanh16(v);
        if (w.shape == GELU_ERF) v = gelu_erf16(v);
        if (w.shape == GATED) v = _mm512_mul_ps(silu16(v), _mm512_load_ps(found_up + (r + i) * SIDE));
        pair[i] = v;
    }
    pack_pair(pair[0], pair[1], w.packed + m / 32 * w.pair_bytes + (n / 32 * 2 + m / SIDE % 2) * TILE_BYTES + (n % 32 + r) * 32, terms, w.term_bytes);
}

// 16 products of one row, outputs n to n + 15 (lanes), as the outputs they become. up: of a gated layer.
inline __m512 finished(const Weight &w, __m512 v, __m512 up, long n, bool int8, float row_scale) {
    if (int8) {
        const __m512 s = _mm512_set1_ps(row_scale);
        v = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(v)), s), _mm512_loadu_ps(w.scale + n));
        if (w.shape == GATED) up = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(up)), s), _mm512_loadu_ps(w.scale2 + n));
    }
    if (w.bias) v = _mm512_add_ps(v, _mm512_loadu_ps(w.bias + n));
    if (w.shape == GELU_TANH) v = gelu_tanh16(v);
    if (w.shape == GELU_ERF) v = gelu_erf16(v);
    if (w.shape == GATED) v = _mm512_mul_ps(silu16(v), up);
    return v;
}

inline void put_row(const Weight &w, __m512 v, long n, long row) {
    if (w.gain) v = _mm512_mul_ps(v, _mm512_loadu_ps(w.gain + n));
    float *y = w.y + row * w.stride + n;
    if (w.add) v = _mm512_add_ps(v, _mm512_loadu_ps(y));
    _mm512_storeu_ps(y, v);
}

// One tile of products, found[16 n][16 m], to rows of y.
inline void finish_tile(const Weight &w, float *found, float *found_up, long n, long m, long rows, bool int8, const float *row_scale) {
    __m512i gate[SIDE], up[SIDE];
    for (int r = 0; r < SIDE; ++r) gate[r] = _mm512_load_si512(found + r * SIDE);
    transpose16(gate);
    if (found_up) {
        for (int r = 0; r < SIDE; ++r) up[r] = _mm512_load_si512(found_up + r * SIDE);
        transpose16(up);
    }
    for (int r = 0; r < SIDE && m + r < rows; ++r) {
        const __m512 u = found_up ? _mm512_castsi512_ps(up[r]) : _mm512_setzero_ps();
        put_row(w, finished(w, _mm512_castsi512_ps(gate[r]), u, n, int8, int8 ? row_scale[m + r] : 1.f), n, m + r);
    }
}

// The last few rows, which are packed as rows: outputs n of NT tiles, finished at once.
template <bool INT8>
inline void tail_block(const Weight &w, const Left &left, const Right &right, long n, long m, int tokens, int tiles, int steps, int terms,
                       const float *row_scale) {
    const bool gated = w.shape == GATED;
    __m512 sums[2][SIDE];
    for (int i = 0; i < tiles; ++i) {
        tail_sums<INT8>(left.rows[i], left, right, tokens, steps, terms, left.offset ? left.offset + i * SIDE : nullptr, sums[i]);
        for (int t = 0; w.sums && t < tokens; ++t) {
            float *so_far = w.sums_at(n + i * SIDE, m) + t * SIDE;
            if (w.begun) sums[i][t] = _mm512_add_ps(sums[i][t], _mm512_load_ps(so_far));
            if (!w.last) _mm512_store_ps(so_far, sums[i][t]);
        }
    }
    if (!w.last) return;
    for (int i = 0; i < (gated ? 1 : tiles); ++i)
        for (int t = 0; t < tokens; ++t) {
            const long at = n + i * SIDE;
            __m512 v = finished(w, sums[i][t], gated ? sums[1][t] : _mm512_setzero_ps(), at, INT8, INT8 ? row_scale[m + t] : 1.f);
            if (!w.packed) {
                put_row(w, v, at, m + t);
                continue;
            }
            char *to = w.packed + m / 32 * w.pair_bytes + (at / 32 * 2 + m / SIDE % 2) * TILE_BYTES + t * 64 + at % 32 * 2;
            for (int term = 0; term < terms; ++term) {
                const __m256bh part = _mm512_cvtneps_pbh(v);
                _mm256_storeu_si256((__m256i *)(to + term * w.term_bytes), (__m256i)part);
                v = _mm512_sub_ps(v, widen(part));
            }
        }
}

// Products of one block of tiles, which become outputs while the products of the next block are computed: the tiles take turns with the
// vector units otherwise. And what is fetched from memory in that time.
struct Drain {
    alignas(64) float buffers[2][2][2][SIDE * SIDE];
    Sums found;  // to be finished
    const Weight *w = nullptr;
    const float *row_scale = nullptr;
    long n = 0, m = 0, rows = 0;
    int terms = 1, columns = 1, current = 0;    // columns: tiles of n
    int units = 0, done = 0, credit = 0, steps = 1;  // a unit: two rows of a packed tile, or one tile
    bool int8 = false;
    Ahead ahead, target;  // weights; what the products are added to

    void step() {
        ahead.fetch();
        target.fetch<true>();
        for (credit += units; credit >= steps; credit -= steps)
            if (done < units) unit(done++);
    }
    void rest() {
        while (done < units) unit(done++);
        units = 0;
    }
    __attribute__((noinline)) void unit(int index) {
        const int tile = w->packed ? index / (SIDE / 2) : index, i = tile % columns, j = tile / columns;
        float *up = w->shape == GATED ? found.tile[1][j] : nullptr;
        if (w->packed) finish_packed(*w, found.tile[i][j], up, n + i * SIDE, m + j * SIDE, index % (SIDE / 2) * 2, terms);
        else finish_tile(*w, found.tile[i][j], up, n + i * SIDE, m + j * SIDE, rows, int8, row_scale);
    }
};

template <bool INT8, int NT, int MT>
inline void linear_block(const Weight &w, const Left &left, const Right &right, long n, long m, int steps, Drain &drain) {
    drain.steps = steps;
    Sums to;
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) to.tile[i][j] = w.sums ? w.sums_at(n + i * SIDE, m + j * SIDE) : drain.buffers[drain.current][i][j];
    to.begun = w.begun;
    const char *y = (const char *)(w.y + m * w.stride + n);
    drain.target = w.packed || !w.last ? Ahead() : Ahead(y, y + SIDE * w.stride * 4, w.stride * 4, w.shape == GATED ? 1 : 2, steps);
    multiply<INT8, NT, MT>(left, right, steps, 1, drain.terms, to, drain);
    if (!w.last) return;
    drain.current ^= 1;
    drain.found = to, drain.w = &w, drain.n = n, drain.m = m, drain.columns = w.shape == GATED ? 1 : NT;
    drain.units = drain.columns * MT * (w.packed ? SIDE / 2 : 1), drain.done = drain.credit = 0;
}

// y = x W^T for every weight; x: k inputs of `rows` tokens, packed.
template <bool INT8>
inline void linear_blocks(const Team &team, const Weight *weights, int count, long k, long rows, int precision, const Operand &x) {
    const int tail = tail_of(rows);
    const long tiles = (rows + SIDE - 1) / SIDE - (tail ? 1 : 0), pairs = std::max(1L, (tiles + 1) / 2);
    const int steps = k / (INT8 ? 64 : 32);
    Drain drain;
    drain.terms = terms_of(precision), drain.int8 = INT8, drain.rows = rows, drain.row_scale = x.scale;
    long units = 0;
    for (int i = 0; i < count; ++i) units += weights[i].shape == GATED ? weights[i].n / SIDE : (weights[i].n + 31) / 32;
    long unit = team.begin(units), stop = team.end(units);
    for (int i = 0; i < count; ++i) {
        const Weight &w = weights[i];
        const bool gated = w.shape == GATED;
        const long bytes = w.row;
        const int height = gated ? SIDE : 32;
        const long own = (w.n + height - 1) / height;
        for (long block = unit; block < std::min(own, stop); ++block, ++unit) {
            const long n = block * height;
            const bool two = gated || n + SIDE < w.n;
            Left left{{w.w + n * bytes, gated ? w.w2 + n * bytes : w.w + (n + SIDE) * bytes}, bytes, 0};
            int offset[2 * SIDE];
            if (INT8 && OFFSET) {
                for (int i = 0; i < (two ? 2 : 1); ++i) offsets_of(left.rows[i], bytes, k, SIDE, offset + i * SIDE);
                left.offset = offset;
            }
            drain.ahead = Ahead();
            if (n + 2 * height <= w.n)
                drain.ahead = Ahead(left.rows[0] + height * bytes, left.rows[1] + height * bytes, bytes, steps, pairs * steps);
            for (long tile = 0; tile < tiles; tile += 2) {
                const Right right{x.data + tile / 2 * x.pair_bytes, TILE_BYTES, 2 * TILE_BYTES, x.term_bytes};
                const long m = tile * SIDE;
                if (tile + 1 < tiles) {
                    if (two) linear_block<INT8, 2, 2>(w, left, right, n, m, steps, drain);
                    else linear_block<INT8, 1, 2>(w, left, right, n, m, steps, drain);
                } else if (two) linear_block<INT8, 2, 1>(w, left, right, n, m, steps, drain);
                else linear_block<INT8, 1, 1>(w, left, right, n, m, steps, drain);
            }
            if (tail) {
                const Right right{x.data + tiles / 2 * x.pair_bytes + tiles % 2 * TILE_BYTES, TILE_BYTES, 2 * TILE_BYTES, x.term_bytes};
                tail_block<INT8>(w, left, right, n, tiles * SIDE, tail, two ? 2 : 1, steps, drain.terms, x.scale);
            }
        }
        unit -= own, stop -= own;
        if (unit < 0) unit = 0;
        if (stop <= 0) break;
    }
    drain.rest();
}

// One part of the tokens and of the inputs. sums: room for the products of a part of k, `most_rows` of them for every output: threads keep to
// their outputs, so it does not shrink with the last rows, where one may still be at the rows before.
inline void linear_part(const Team &team, const Weight *weights, int count, long first, long rows, long most_rows, long from, long part, long k,
                        int precision, const Operand &x, float *sums) {
    Weight moved[4];
    for (int i = 0; i < count; ++i) {
        Weight &w = moved[i] = weights[i];
        w.y += first * w.stride;
        if (w.packed) w.packed += first / 32 * w.pair_bytes;
        w.w += from * (precision == INTEGER ? 1 : 2);
        if (part == k) continue;
        if (precision == INTEGER) {  // every part has scales of its own
            if (from) w.add = true, w.bias = nullptr;
            continue;
        }
        w.sums = sums, w.sums_stride = up32(most_rows) / SIDE, w.begun = from > 0, w.last = from + part == k;
        sums += w.n * up32(most_rows);
    }
    if (precision == INTEGER) linear_blocks<true>(team, moved, count, part, rows, precision, x);
    else linear_blocks<false>(team, moved, count, part, rows, precision, x);
}

// y = x W^T for every weight (four at most); x (rows, stride) float32. Weights are int8 exactly where precision is INTEGER.
inline void linear(const Team &team, const float *x, long stride, long rows, long k, int precision, const Weight *weights, int count,
                   Panel &panel) {
    bool divisible = true;
    for (int i = 0; i < count; ++i) divisible &= weights[i].shape == PLAIN && !weights[i].packed;
    const long part = inputs_at_once(rows, k, precision, divisible), block = rows_at_once(rows, part, precision);
    const long pair_bytes = 2 * SIDE * part * (precision == INTEGER ? 1 : 2);
    for (long first = 0; first < rows; first += block)
        for (long from = 0; from < k; from += part) {
            const long here = std::min(block, rows - first), pairs = (here + 31) / 32;
            pack(team, x + first * stride + from, stride, here, part, precision, panel);
            team.wait();
            linear_part(team, weights, count, first, here, std::min(block, rows), from, part, k, precision,
                        {panel.data, pair_bytes, pairs * pair_bytes, panel.scale}, panel.sums);
            team.wait();
        }
}

// The same from activations that are packed already, all rows and inputs of them. Not for int8.
inline void linear_packed(const Team &team, const Operand &x, long rows, long k, int precision, const Weight &weight, Panel &panel) {
    const long part = inputs_at_once(rows, k, precision, true), block = rows_at_once(rows, part, precision);
    for (long first = 0; first < rows; first += block)
        for (long from = 0; from < k; from += part) {
            Operand here = x;
            here.data += first / 32 * x.pair_bytes + from / 32 * 2 * TILE_BYTES;
            linear_part(team, &weight, 1, first, std::min(block, rows - first), std::min(block, rows), from, part, k, precision, here, panel.sums);
        }
    team.wait();
}
