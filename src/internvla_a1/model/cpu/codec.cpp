// The encoder of a small image tokenizer in float32, one call for all of it. One thread.
// Feature maps lie as rows of cells, channels last, inside a border of zeros: a 3 x 3 convolution is then three products a row of cells,
// each over the channels of three neighbours, which lie one after another.
#include "vectors.h"

namespace {
enum Kind : long { CONV, DOWN, POINT, NORM, ATTEND };  // codec.py

struct Step {  // codec.py: Step. What becomes of map `from` in map `to`, which has `side` x `side` cells of `out` channels
    long kind, from, to, in, out, side, flag;  // flag: CONV, POINT: the result is added; NORM: SiLU follows
    const float *weight, *bias;                // CONV, DOWN: (out, 3, 3, in), POINT: (out, in), ATTEND: (3 in, in), all packed; NORM: gains
    const float *weight2, *bias2;              // ATTEND: the projection behind
};

struct Map {
    float *at;
    long side, channels;

    long line() const { return (side + 2) * channels; }
    float *cell(long y, long x) const { return at + (y + 1) * line() + (x + 1) * channels; }

    void clear_border() const {
        memset(cell(-1, -1), 0, sizeof(float) * line());
        memset(cell(side, -1), 0, sizeof(float) * line());
        for (long y = 0; y < side; ++y) {
            memset(cell(y, -1), 0, sizeof(float) * channels);
            memset(cell(y, side), 0, sizeof(float) * channels);
        }
    }
};

constexpr long PATCH = 4;  // pixels of a cell after both levels of wavelets

struct Encoder {  // codec.py: Encoder
    long steps, maps, map_floats, side, latent;  // side: cells of the first map
    const Step *step;
    float gain;  // of a level of wavelets
};

// Some channels of a row of cells: their bias, or what they were and the bias.
void begin_row(const Map &y, long row, long first, long end, const float *bias, bool add) {
    for (long i = 0; i < y.side; ++i)
        for (long v = first; v < end; v += WIDTH) {
            Vector &sum = at(y.cell(row, i) + v);
            sum = add ? sum + at(bias + v) : at(bias + v);
        }
}

// 3 x 3, with a border of zeros all round; DOWN: every other cell, and none of the border on the left and on top.
void convolve(const Step &s, const Map &x, const Map &y) {
    const long stride = s.kind == DOWN ? 2 : 1, first = s.kind == DOWN ? 0 : -1, taps = 3 * s.in;
    for (long j = 0; j < s.out; j += BLOCK)
        for (long row = 0; row < s.side; ++row) {
            float *to = y.cell(row, 0) + j;
            begin_row(y, row, j, j + BLOCK, s.bias, s.flag);
            for (long line = 0; line < 3; ++line)
                product({x.cell(stride * row + first + line, first), stride * s.in, 1}, plain(s.weight + (3 * j + line * BLOCK) * taps, BLOCK),
                        s.side, BLOCK, taps, to, s.out, true);
        }
}

void project(const Step &s, const Map &x, const Map &y) {
    for (long row = 0; row < s.side; ++row) {
        begin_row(y, row, 0, s.out, s.bias, s.flag);
        product({x.cell(row, 0), s.in, 1}, packed(s.weight, s.in), s.side, s.out, s.in, y.cell(row, 0), s.out, true);
    }
}

// Of every channel the mean over all cells of (x - from) to the power of 1 or 2; row by row, as one long sum in float32 is not exact enough.
void means_down(const Map &x, const float *from, int power, float *mean) {
    for (long v = 0; v < x.channels; v += WIDTH) {
        Vector sum = {};
        for (long row = 0; row < x.side; ++row) {
            Vector of_row = {};
            for (long i = 0; i < x.side; ++i) {
                const Vector value = at(x.cell(row, i) + v) - at(from + v);
                of_row += power == 2 ? value * value : value;
            }
            sum += of_row;
        }
        at(mean + v) = sum / float(x.side * x.side);
    }
}

// Every channel's value becomes the mean of its group.
void mean_of_groups(float *values, long channels, long size) {
    for (long g = 0; g < channels; g += size) {
        float sum = 0;
        for (long c = g; c < g + size; ++c) sum += values[c];
        for (long c = g; c < g + size; ++c) values[c] = sum / size;
    }
}

// GroupNorm of 32 groups. The mean is found twice, the second time of what is left: where a picture is all one colour, variances are close
// to zero, and what is left of a mean would not be small beside them.
void normalise(const Step &s, const Map &x, const Map &y, float *work) {
    constexpr float EPS = 1e-6f;
    const long size = s.in / 32;
    float *mean = work, *rest = mean + s.in, *scale = rest + s.in;
    memset(rest, 0, sizeof(float) * s.in);
    means_down(x, rest, 1, mean);
    mean_of_groups(mean, s.in, size);
    means_down(x, mean, 1, rest);
    mean_of_groups(rest, s.in, size);
    for (long c = 0; c < s.in; ++c) mean[c] += rest[c];
    means_down(x, mean, 2, scale);
    mean_of_groups(scale, s.in, size);
    for (long c = 0; c < s.in; ++c) scale[c] = s.weight[c] / sqrtf(scale[c] + EPS);
    for (long row = 0; row < s.side; ++row)
        for (long i = 0; i < s.side; ++i)
            for (long v = 0; v < s.in; v += WIDTH) {
                const Vector value = (at(x.cell(row, i) + v) - at(mean + v)) * at(scale + v) + at(s.bias + v);
                at(y.cell(row, i) + v) = s.flag ? value * sigmoid(value) : value;
            }
}

// One head over all cells, added to y.
void attend(const Step &s, const Map &x, const Map &y, float *work) {
    const long cells = s.side * s.side, c = s.in;
    float *rows = work, *qkv = rows + cells * c, *turned = qkv + cells * 3 * c, *scores = turned + cells * c;
    for (long i = 0; i < cells; ++i) memcpy(rows + i * c, x.cell(i / s.side, i % s.side), sizeof(float) * c);
    product({rows, c, 1}, packed(s.weight, c), cells, 3 * c, c, qkv, 3 * c);
    for (long i = 0; i < cells; ++i)
        for (long v = 0; v < 3 * c; v += WIDTH) at(qkv + i * 3 * c + v) += at(s.bias + v);
    const float scale = 1.f / sqrtf(c);
    for (long i = 0; i < cells; ++i)
        for (long k = 0; k < c; ++k) turned[(i / BLOCK * c + k) * BLOCK + i % BLOCK] = qkv[i * 3 * c + k] * scale;
    product({qkv + c, 3 * c, 1}, packed(turned, c), cells, cells, c, scores, cells);
    softmax_down(scores, cells, cells);
    product({scores, 1, cells}, plain(qkv + 2 * c, 3 * c), cells, c, cells, rows, c);
    for (long row = 0; row < s.side; ++row) {
        begin_row(y, row, 0, c, s.bias2, true);
        product({rows + row * s.side * c, c, 1}, packed(s.weight2, c), s.side, c, c, y.cell(row, 0), c, true);
    }
}

// One level of cosmos.haar: the square's values from the left to the right, then downwards -> LL, LH, HL, HH.
void haar(float a, float b, float c, float d, float gain, float out[4]) {
    const float low = a + b, high = a - b, low_below = c + d, high_below = c - d;  // as there, sums in the same order: rounding is the same
    out[0] = (low + low_below) * gain, out[1] = (low - low_below) * gain;
    out[2] = (high + high_below) * gain, out[3] = (high - high_below) * gain;
}

// (3, 4 side, 4 side) pixels -> cells of 48 values: band of the second level, band of the first, colour.
void split(const Encoder &e, const float *image, const Map &y) {
    const long width = e.side * PATCH;
    for (long color = 0; color < 3; ++color)
        for (long row = 0; row < e.side; ++row)
            for (long i = 0; i < e.side; ++i) {
                const float *patch = image + (color * width + row * PATCH) * width + i * PATCH;
                float first[4][4], second[4];  // square, band
                for (long square = 0; square < 4; ++square) {
                    const float *p = patch + square / 2 * 2 * width + square % 2 * 2;
                    haar(p[0], p[1], p[width], p[width + 1], e.gain, first[square]);
                }
                for (long band = 0; band < 4; ++band) {
                    haar(first[0][band], first[1][band], first[2][band], first[3][band], e.gain, second);
                    for (long k = 0; k < 4; ++k) y.cell(row, i)[12 * k + 3 * band + color] = second[k];
                }
            }
}
}  // namespace

extern "C" {
long codec_block() { return BLOCK; }

// images (count, 3, 4 side, 4 side) -> latents (count, latent, cells, cells). memory: `maps` maps of map_floats and as much again.
void codec_encode(const Encoder *e, const float *images, long count, float *latents, float *memory) {
    const long pixels = 3 * PATCH * PATCH * e->side * e->side;
    float *work = memory + e->maps * e->map_floats;
    for (long n = 0; n < count; ++n) {
        const Map first{memory, e->side, 3 * PATCH * PATCH};
        first.clear_border();
        split(*e, images + n * pixels, first);
        for (long i = 0; i < e->steps; ++i) {
            const Step &s = e->step[i];
            const Map x{memory + s.from * e->map_floats, s.kind == DOWN ? 2 * s.side : s.side, s.in};
            const Map y{memory + s.to * e->map_floats, s.side, s.out};
            y.clear_border();
            if (s.kind == CONV || s.kind == DOWN) convolve(s, x, y);
            if (s.kind == POINT) project(s, x, y);
            if (s.kind == NORM) normalise(s, x, y, work);
            if (s.kind == ATTEND) attend(s, x, y, work);
        }
        const Step &s = e->step[e->steps - 1];
        const Map found{memory + s.to * e->map_floats, s.side, s.out};
        for (long channel = 0; channel < e->latent; ++channel)
            for (long row = 0; row < s.side; ++row)
                for (long i = 0; i < s.side; ++i) *latents++ = found.cell(row, i)[channel];
    }
}
}
