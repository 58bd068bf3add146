// The layers of a small expert in float32, one call for all of them, and the vector-Jacobian product that guidance needs. One thread.
// What is computed is Mixture.phase of mixture.py: without norms of heads and biases of projections, one sample, no mask.
#include "vectors.h"

namespace {
struct Sizes {  // small.py: Sizes
    long layers, hidden, heads, kv_heads, d, mlp, length;  // length: tokens that the cache holds
    float eps;

    long q_width() const { return heads * d; }
    long kv_width() const { return kv_heads * d; }
    long width() const { return q_width() + 2 * kv_width(); }
    long group() const { return heads / kv_heads; }
};

struct Layer {  // small.py: Layer. Weights packed for products from the right, and transposed (`back`) for gradients
    const float *qkv, *qkv_back, *o, *o_back, *gate_up, *gate_up_back, *down, *down_back, *input_norm, *post_norm;
};

struct Call {  // rows of the expert, from `start` in the cache on
    Sizes s;
    long rows, start;
    const float *cos, *sin;  // (rows, d)
    float *keys, *values;    // (layers, kv_heads, length, d)

    long seen() const { return start + rows; }
    long queries() const { return (s.group() * rows + BLOCK - 1) / BLOCK * BLOCK; }
    float *head_keys(long layer, long head) const { return keys + (layer * s.kv_heads + head) * s.length * s.d; }
    float *head_values(long layer, long head) const { return values + (layer * s.kv_heads + head) * s.length * s.d; }
};

struct Kept {  // of one layer, for its gradient
    float *x, *qkv, *weights, *middle, *gate_up;

    Kept(const Call &c, float *at) : x(at) {
        qkv = x + c.rows * c.s.hidden;
        weights = qkv + c.rows * c.s.width();
        middle = weights + c.s.kv_heads * c.seen() * c.queries();
        gate_up = middle + c.rows * c.s.hidden;
    }
    static long floats(const Call &c) {
        return c.rows * (2 * c.s.hidden + c.s.width() + 2 * c.s.mlp) + c.s.kv_heads * c.seen() * c.queries();
    }
};

struct Scratch {
    float *normed, *merged, *wide, *wide2, *turned, *scores, *qkv;

    Scratch(const Call &c, float *at) : normed(at) {
        merged = normed + c.rows * c.s.hidden;
        wide = merged + c.rows * c.s.q_width();
        wide2 = wide + c.rows * c.s.mlp;
        turned = wide2 + 2 * c.rows * c.s.mlp;
        scores = turned + c.queries() * c.s.d;
        qkv = scores + c.seen() * c.queries();
    }
    static long floats(const Call &c) {
        return c.rows * (c.s.hidden + c.s.q_width() + 3 * c.s.mlp + c.s.width()) + c.queries() * (c.s.d + c.seen());
    }
};

float inverse_rms(const float *x, const Sizes &s) {
    Vector square = {};
    for (long i = 0; i < s.hidden; i += WIDTH) square += at(x + i) * at(x + i);
    return 1.f / sqrtf(total(square) / s.hidden + s.eps);
}

void rms_rows(const float *x, const float *weight, long rows, const Sizes &s, float *y) {
    for (long r = 0; r < rows; ++r, x += s.hidden, y += s.hidden) {
        const float inverse = inverse_rms(x, s);
        for (long i = 0; i < s.hidden; i += WIDTH) at(y + i) = at(x + i) * inverse * at(weight + i);
    }
}

// dx += gradient of rms_rows at x for dy, or dx = it.
void rms_rows_back(const float *x, const float *weight, const float *dy, long rows, const Sizes &s, float *dx, bool add) {
    for (long r = 0; r < rows; ++r, x += s.hidden, dy += s.hidden, dx += s.hidden) {
        const float inverse = inverse_rms(x, s);
        Vector along = {};
        for (long i = 0; i < s.hidden; i += WIDTH) along += at(dy + i) * at(weight + i) * at(x + i);
        const float pull = total(along) * inverse * inverse * inverse / s.hidden;
        for (long i = 0; i < s.hidden; i += WIDTH) {
            const Vector v = at(dy + i) * at(weight + i) * inverse - at(x + i) * pull;
            at(dx + i) = add ? at(dx + i) + v : v;
        }
    }
}

// x cos + rotate_half(x) sin for `heads` heads of every row, in place; `back`: its transpose.
void rotate_rows(const Call &c, float *x, long step, long heads, bool back) {
    const long d = c.s.d, half = d / 2;
    for (long r = 0; r < c.rows; ++r)
        for (long h = 0; h < heads; ++h) {
            float *low = x + r * step + h * d, *high = low + half;
            const float *cos = c.cos + r * d, *sin = c.sin + r * d;
            for (long i = 0; i < half; i += WIDTH) {
                const Vector a = at(low + i), b = at(high + i);
                at(low + i) = a * at(cos + i) + (back ? b * at(sin + half + i) : -b * at(sin + i));
                at(high + i) = b * at(cos + half + i) + (back ? -a * at(sin + i) : a * at(sin + half + i));
            }
        }
}

// The heads of one group in (rows, step), transposed to (d, queries) in blocks of columns; queries of a group are stacked, the rest 0.
void turn(const Call &c, const float *from, long step, float scale, float *to) {
    const long d = c.s.d;
    memset(to, 0, sizeof(float) * c.queries() * d);
    for (long g = 0; g < c.s.group(); ++g)
        for (long r = 0; r < c.rows; ++r) {
            const long column = g * c.rows + r;
            float *block = to + column / BLOCK * d * BLOCK + column % BLOCK;
            for (long i = 0; i < d; ++i) block[i * BLOCK] = from[r * step + g * d + i] * scale;
        }
}

// Keys and values of the new rows to the cache.
void remember(const Call &c, long layer, const float *qkv) {
    for (long head = 0; head < c.s.kv_heads; ++head)
        for (long r = 0; r < c.rows; ++r) {
            const float *k = qkv + r * c.s.width() + c.s.q_width() + head * c.s.d;
            const long to = (c.start + r) * c.s.d;
            memcpy(c.head_keys(layer, head) + to, k, sizeof(float) * c.s.d);
            memcpy(c.head_values(layer, head) + to, k + c.s.kv_width(), sizeof(float) * c.s.d);
        }
}

// qkv (rows, width) -> merged (rows, q_width); weights (kv_heads, seen, queries) are kept.
void attend(const Call &c, long layer, const float *qkv, float *weights, float *turned, float *merged) {
    const Sizes &s = c.s;
    const long queries = c.queries();
    for (long head = 0; head < s.kv_heads; ++head) {
        float *found = weights + head * c.seen() * queries;
        turn(c, qkv + head * s.group() * s.d, s.width(), 1.f / sqrtf(s.d), turned);
        product({c.head_keys(layer, head), s.d, 1}, packed(turned, s.d), c.seen(), queries, s.d, found, queries);
        softmax_down(found, c.seen(), queries);
        for (long g = 0; g < s.group(); ++g)
            product({found + g * c.rows, 1, queries}, plain(c.head_values(layer, head), s.d), c.rows, s.d, c.seen(),
                    merged + (head * s.group() + g) * s.d, s.q_width());
    }
}

// dmerged (rows, q_width) -> dqkv (rows, width) of rotated queries and keys, and values.
void attend_back(const Call &c, long layer, const Kept &kept, const float *dmerged, const Scratch &work, float *dqkv) {
    const Sizes &s = c.s;
    const long queries = c.queries(), seen = c.seen();
    const float scale = 1.f / sqrtf(s.d);
    for (long head = 0; head < s.kv_heads; ++head) {
        const float *weights = kept.weights + head * seen * queries;
        const long first = head * s.group() * s.d;
        turn(c, dmerged + first, s.q_width(), 1.f, work.turned);
        product({c.head_values(layer, head), s.d, 1}, packed(work.turned, s.d), seen, queries, s.d, work.scores, queries);
        for (long q = 0; q < queries; q += WIDTH) {
            Vector mean = {};
            for (long key = 0; key < seen; ++key) mean += at(weights + key * queries + q) * at(work.scores + key * queries + q);
            for (long key = 0; key < seen; ++key) {
                Vector &score = at(work.scores + key * queries + q);
                score = at(weights + key * queries + q) * (score - mean) * scale;
            }
        }
        float *dk = dqkv + s.q_width() + head * s.d, *dv = dk + s.kv_width();
        for (long g = 0; g < s.group(); ++g) {
            const long own = c.start * queries + g * c.rows, at_head = first + g * s.d;  // the new keys' scores
            product({work.scores + g * c.rows, 1, queries}, plain(c.head_keys(layer, head), s.d), c.rows, s.d, seen, dqkv + at_head, s.width());
            product({work.scores + own, queries, 1}, plain(kept.qkv + at_head, s.width()), c.rows, s.d, c.rows, dk, s.width(), g > 0);
            product({weights + own, queries, 1}, plain(dmerged + at_head, s.q_width()), c.rows, s.d, c.rows, dv, s.width(), g > 0);
        }
    }
}

void layer_forward(const Call &c, const Layer &l, long layer, const Kept &kept, const Scratch &work, float *x, bool keys_only) {
    const Sizes &s = c.s;
    const long rows = c.rows;
    memcpy(kept.x, x, sizeof(float) * rows * s.hidden);
    rms_rows(x, l.input_norm, rows, s, work.normed);
    product({work.normed, s.hidden, 1}, packed(l.qkv, s.hidden), rows, s.width(), s.hidden, kept.qkv, s.width());
    rotate_rows(c, kept.qkv, s.width(), s.heads + s.kv_heads, false);
    remember(c, layer, kept.qkv);
    if (keys_only) return;
    attend(c, layer, kept.qkv, kept.weights, work.turned, work.merged);
    product({work.merged, s.q_width(), 1}, packed(l.o, s.q_width()), rows, s.hidden, s.q_width(), x, s.hidden, true);
    memcpy(kept.middle, x, sizeof(float) * rows * s.hidden);
    rms_rows(x, l.post_norm, rows, s, work.normed);
    product({work.normed, s.hidden, 1}, packed(l.gate_up, s.hidden), rows, 2 * s.mlp, s.hidden, kept.gate_up, 2 * s.mlp);
    for (long r = 0; r < rows; ++r)
        for (long i = 0; i < s.mlp; i += WIDTH) {
            const Vector gate = at(kept.gate_up + r * 2 * s.mlp + i), up = at(kept.gate_up + r * 2 * s.mlp + s.mlp + i);
            at(work.wide + r * s.mlp + i) = gate * sigmoid(gate) * up;
        }
    product({work.wide, s.mlp, 1}, packed(l.down, s.mlp), rows, s.hidden, s.mlp, x, s.hidden, true);
}

// dx of the layer's output -> dx of its input, in place.
void layer_back(const Call &c, const Layer &l, long layer, const Kept &kept, const Scratch &work, float *dx) {
    const Sizes &s = c.s;
    const long rows = c.rows;
    product({dx, s.hidden, 1}, packed(l.down_back, s.hidden), rows, s.mlp, s.hidden, work.wide, s.mlp);
    for (long r = 0; r < rows; ++r)
        for (long i = 0; i < s.mlp; i += WIDTH) {
            const Vector gate = at(kept.gate_up + r * 2 * s.mlp + i), up = at(kept.gate_up + r * 2 * s.mlp + s.mlp + i);
            const Vector share = sigmoid(gate), d = at(work.wide + r * s.mlp + i);
            at(work.wide2 + r * 2 * s.mlp + i) = d * up * share * (1.f + gate * (1.f - share));
            at(work.wide2 + r * 2 * s.mlp + s.mlp + i) = d * gate * share;
        }
    product({work.wide2, 2 * s.mlp, 1}, packed(l.gate_up_back, 2 * s.mlp), rows, s.hidden, 2 * s.mlp, work.normed, s.hidden);
    rms_rows_back(kept.middle, l.post_norm, work.normed, rows, s, dx, true);
    product({dx, s.hidden, 1}, packed(l.o_back, s.hidden), rows, s.q_width(), s.hidden, work.merged, s.q_width());
    remember(c, layer, kept.qkv);  // the cache may hold those of another call by now
    attend_back(c, layer, kept, work.merged, work, work.qkv);
    rotate_rows(c, work.qkv, s.width(), s.heads + s.kv_heads, true);
    product({work.qkv, s.width(), 1}, packed(l.qkv_back, s.width()), rows, s.hidden, s.width(), work.normed, s.hidden);
    rms_rows_back(kept.x, l.input_norm, work.normed, rows, s, dx, true);
}
}  // namespace

extern "C" {
long small_block() { return BLOCK; }

// Floats that a call needs: `keep` for a gradient to come.
long small_floats(const Call *c, long keep) { return Scratch::floats(*c) + Kept::floats(*c) * (keep ? c->s.layers : 1) + (keep ? c->rows * c->s.hidden : 0); }

// x (rows, hidden) in place through all layers, and the final norm; tail 0 stops after the last keys and values.
void small_phase(const Call *c, const Layer *layers, const float *final_norm, float *x, float *memory, long tail, long keep) {
    const Scratch work(*c, memory);
    float *kept = memory + Scratch::floats(*c);
    for (long i = 0; i < c->s.layers; ++i) {
        const bool keys_only = !tail && i == c->s.layers - 1;
        layer_forward(*c, layers[i], i, Kept(*c, kept), work, x, keys_only);
        if (keys_only) return;
        if (keep) kept += Kept::floats(*c);
    }
    if (keep) memcpy(kept, x, sizeof(float) * c->rows * c->s.hidden);
    rms_rows(x, final_norm, c->rows, c->s, x);
}

// dy of a call of small_phase that kept -> dx, given that keys and values before `start` are still the same.
void small_gradient(const Call *c, const Layer *layers, const float *final_norm, const float *dy, float *dx, float *memory) {
    const Scratch work(*c, memory);
    float *kept = memory + Scratch::floats(*c), *last = kept + c->s.layers * Kept::floats(*c);
    rms_rows_back(last, final_norm, dy, c->rows, c->s, dx, false);
    for (long i = c->s.layers - 1; i >= 0; --i) layer_back(*c, layers[i], i, Kept(*c, kept + i * Kept::floats(*c)), work, dx);
}
}
