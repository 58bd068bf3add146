// Whole stacks of layers on a CPU with AMX or AVX-512, one call a stack. Plain C functions: Python hands over addresses (kernels.py).
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>

#include "attention.h"
#include "norms.h"

namespace {
struct Matrix {
    const char *w;
    const float *scale;
};

struct ExpertLayer {  // kernels.py: Layer
    Matrix q, k, v, o, gate, up, down;
    const float *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *input_norm, *post_norm;
};

struct VisionLayer {  // kernels.py: Block
    Matrix q, k, v, o, fc1, fc2;
    const float *q_bias, *k_bias, *v_bias, *o_bias, *bias1, *bias2, *norm1, *norm1_bias, *norm2, *norm2_bias, *gain1, *gain2;
};

struct Scratch {  // grows to the largest call and stays
    float *normed = nullptr, *qkv = nullptr, *merged = nullptr, *wide = nullptr;
    long normed_size = 0, qkv_size = 0, merged_size = 0, wide_size = 0, threads = 0;
    uint16_t *memory = nullptr;
    long memory_size = 0;
    Panel panel;
    Workspace *works = nullptr;

    void teams(long count) {
        if (count <= threads) return;
        Workspace *more = new Workspace[count];
        for (long i = 0; i < threads; ++i) more[i] = works[i];
        delete[] works;
        works = more, threads = count;
    }
};
Scratch scratch;  // calls come from one inference thread at a time (kernels.py holds a lock)

Weight plain(const Matrix &m, long k, int precision, const float *bias, float *y, long stride, int n) {
    return {m.w, nullptr, m.scale, nullptr, bias, nullptr, y, stride, n, PLAIN, precision == INTEGER ? k : 2 * k, false};
}

void reserve_panel(long rows, long k, long n, int precision, bool divisible) {  // n: outputs, of all weights together
    const long part = inputs_at_once(rows, k, precision, divisible);
    scratch.panel.reserve(std::min(rows, rows_at_once(rows, part, precision)), part, precision, part < k && precision != INTEGER ? n : 0);
}

// Room for the activations between the two layers of an MLP: packed, or float32 where the second layer has to find their scales.
struct Between {
    Operand packed;
    float *wide;
};

Between reserve_between(long rows, long mlp, int precision) {
    Scratch &s = scratch;
    const long pair_bytes = 2 * SIDE * mlp * 2, term_bytes = up32(rows) / 32 * pair_bytes;
    grow(s.wide, s.wide_size, precision == INTEGER ? rows * mlp : terms_of(precision) * term_bytes / 4);
    return {{(char *)s.wide, pair_bytes, term_bytes, nullptr}, s.wide};
}

// first: x (rows, hidden) to mlp values; second: these to its y.
void mlp_layers(const Team &team, const float *x, long rows, long hidden, long mlp, int precision, Weight first, const Weight &second,
                const Between &between) {
    first.y = between.wide, first.stride = mlp;
    if (precision != INTEGER) first.packed = between.packed.data, first.pair_bytes = between.packed.pair_bytes, first.term_bytes = between.packed.term_bytes;
    linear(team, x, hidden, rows, hidden, precision, &first, 1, scratch.panel);
    if (precision == INTEGER) linear(team, between.wide, mlp, rows, mlp, precision, &second, 1, scratch.panel);
    else linear_packed(team, between.packed, rows, mlp, precision, second, scratch.panel);
}
}  // namespace

extern "C" {
// Ask the kernel for tile registers; 0 if they may be used, or are not needed.
long kernels_init() {
#ifndef __AMX_TILE__
    return 0;
#endif
    constexpr int request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data);
}

// One expert over x (rows, hidden), in place, its keys and values going to the memory at `start`: Mixture.phase of mixture.py.
// memory: keys of all layers, then values. tail 0 stops after the last keys and values; 1 also applies the final norm. alone: so many of
// the first rows see nothing of the others (0 or 1).
void expert_phase(const ExpertLayer *layers, int count, const float *final_norm, float eps, float *x, long rows, int hidden, int heads,
                  int kv_heads, int d, int mlp, const float *cos, const float *sin, uint16_t *memory, long capacity, long start, int tail,
                  int alone, int precision, int threads) {
    const int q_width = heads * d, kv_width = kv_heads * d, width = q_width + 2 * kv_width, terms = terms_of(precision);
    Scratch &s = scratch;
    grow(s.normed, s.normed_size, rows * hidden);
    grow(s.qkv, s.qkv_size, rows * width);
    grow(s.merged, s.merged_size, rows * q_width);
    const Between between = reserve_between(rows, mlp, precision);
    s.teams(threads);
    reserve_panel(rows, hidden, mlp, precision, false);
    reserve_panel(rows, hidden, width, precision, true);
    reserve_panel(rows, q_width, hidden, precision, true);
    reserve_panel(rows, mlp, hidden, precision, true);
    float *q = s.qkv, *k = q + q_width, *v = k + kv_width;
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        const Team team;
        for (int i = 0; i < count; ++i) {
            const ExpertLayer &l = layers[i];
            const long term = kv_heads * capacity * d;
            const Memory here{memory + i * terms * term, memory + (count + i) * terms * term, capacity, kv_heads, d};
            const bool last = i == count - 1 && !tail;
            rms_rows(team, x, l.input_norm, eps, rows, hidden, s.normed);
            team.wait();
            const Weight projections[] = {plain(l.k, hidden, precision, l.k_bias, k, width, kv_width),
                                          plain(l.v, hidden, precision, l.v_bias, v, width, kv_width),
                                          plain(l.q, hidden, precision, l.q_bias, q, width, q_width)};
            linear(team, s.normed, hidden, rows, hidden, precision, projections, last ? 2 : 3, s.panel);
            place_heads(team, k, width, rows, kv_heads, d, l.k_norm, eps, cos, sin, rows);
            if (!last) place_heads(team, q, width, rows, heads, d, l.q_norm, eps, cos, sin, rows);
            team.wait();
            remember(team, here, {k, width}, {v, width}, start, rows, terms);
            if (last) break;
            team.wait();
            if (alone) attend(team, here, {q, width}, alone, heads, start + alone, s.merged, q_width, terms, s.works);
            attend(team, here, {q + alone * width, width}, rows - alone, heads, start + rows, s.merged + alone * q_width, q_width, terms, s.works);
            team.wait();
            Weight out = plain(l.o, q_width, precision, nullptr, x, hidden, hidden);
            out.add = true;
            linear(team, s.merged, q_width, rows, q_width, precision, &out, 1, s.panel);
            rms_rows(team, x, l.post_norm, eps, rows, hidden, s.normed);
            team.wait();
            Weight gated = plain(l.gate, hidden, precision, nullptr, nullptr, mlp, mlp);
            gated.w2 = l.up.w, gated.scale2 = l.up.scale, gated.shape = GATED;
            Weight down = plain(l.down, mlp, precision, nullptr, x, hidden, hidden);
            down.add = true;
            mlp_layers(team, s.normed, rows, hidden, mlp, precision, gated, down, between);
        }
        if (tail) rms_rows(team, x, final_norm, eps, rows, hidden, x);
        release_tiles();
    }
}

// The blocks of a vision tower over x (images * rows, hidden), in place. One fused q matrix (3 * hidden outputs) where k has none.
// cos, sin: (rows, hidden / heads) or null. gelu: GELU_TANH or GELU_ERF.
void vision_blocks(const VisionLayer *layers, int count, float eps, float *x, long images, long rows, int hidden, int heads, int mlp,
                   const float *cos, const float *sin, int gelu, int precision, int threads) {
    const int d = hidden / heads, terms = terms_of(precision);
    const long all = images * rows, width = 3L * hidden, capacity = up32(rows), term = heads * capacity * d;
    Scratch &s = scratch;
    grow(s.normed, s.normed_size, all * hidden);
    grow(s.qkv, s.qkv_size, all * width);
    const Between between = reserve_between(all, mlp, precision);
    s.teams(threads);
    if (images * 2 * terms * term > s.memory_size) {
        free(s.memory);
        s.memory_size = images * 2 * terms * term;
        s.memory = (uint16_t *)calloc(s.memory_size, 2);
    }
    reserve_panel(all, hidden, mlp, precision, false);
    reserve_panel(all, hidden, width, precision, true);
    reserve_panel(all, mlp, hidden, precision, true);
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        const Team team;
        for (int i = 0; i < count; ++i) {
            const VisionLayer &l = layers[i];
            layer_norm_rows(team, x, l.norm1, l.norm1_bias, eps, all, hidden, s.normed);
            team.wait();
            const bool fused = !l.k.w;
            const Weight projections[] = {plain(l.q, hidden, precision, l.q_bias, s.qkv, width, fused ? width : hidden),
                                          plain(l.k, hidden, precision, l.k_bias, s.qkv + hidden, width, hidden),
                                          plain(l.v, hidden, precision, l.v_bias, s.qkv + 2 * hidden, width, hidden)};
            linear(team, s.normed, hidden, all, hidden, precision, projections, fused ? 1 : 3, s.panel);
            if (cos) {
                place_heads(team, s.qkv, width, all, 2 * heads, d, nullptr, eps, cos, sin, rows);
                team.wait();
            }
            for (long image = 0; image < images; ++image) {
                uint16_t *at = s.memory + image * 2 * terms * term;
                const float *k = s.qkv + image * rows * width + hidden;
                remember(team, {at, at + terms * term, capacity, heads, d}, {k, width}, {k + hidden, width}, 0, rows, terms);
            }
            team.wait();
            for (long image = 0; image < images; ++image) {
                uint16_t *at = s.memory + image * 2 * terms * term;
                attend(team, {at, at + terms * term, capacity, heads, d}, {s.qkv + image * rows * width, width}, rows, heads, rows,
                       s.normed + image * rows * hidden, hidden, terms, s.works);
            }
            team.wait();
            Weight out = plain(l.o, hidden, precision, l.o_bias, x, hidden, hidden);
            out.add = true, out.gain = l.gain1;
            linear(team, s.normed, hidden, all, hidden, precision, &out, 1, s.panel);
            layer_norm_rows(team, x, l.norm2, l.norm2_bias, eps, all, hidden, s.normed);
            team.wait();
            Weight fc1 = plain(l.fc1, hidden, precision, l.bias1, nullptr, mlp, mlp);
            fc1.shape = gelu;
            Weight fc2 = plain(l.fc2, mlp, precision, l.bias2, x, hidden, hidden);
            fc2.add = true, fc2.gain = l.gain2;
            mlp_layers(team, s.normed, all, hidden, mlp, precision, fc1, fc2, between);
        }
        release_tiles();
    }
}

// y (rows, n) = x (rows, k) W^T + bias, one matrix.
void single_linear(const char *w, const float *scale, const float *bias, const float *x, float *y, long rows, long k, int n, int precision,
                   int threads) {
    reserve_panel(rows, k, n, precision, true);
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        const Team team;
        const Weight weight = plain({w, scale}, k, precision, bias, y, n, n);
        linear(team, x, k, rows, k, precision, &weight, 1, scratch.panel);
        release_tiles();
    }
}
}
