// tiles.h: multiply on the tile registers of AMX.
#pragma once

constexpr int OFFSET = 0;  // int8 products are of signed numbers
constexpr int TAIL = 0;

inline void configure_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) config.bytes[tile] = 64, config.rows[tile] = SIDE;
    asm volatile("" ::: "memory");  // all of it is in memory before it is loaded
    _tile_loadconfig(&config);
}

inline void release_tiles() { _tile_release(); }

template <bool INT8, int NT, int MT, class Meanwhile>
inline void multiply(const Left &a, const Right &b, int steps, int left_terms, int terms, const Sums &sums, Meanwhile &&meanwhile) {
#define PRODUCT(c, x, y)                 \
    do {                                 \
        if (INT8) _tile_dpbssd(c, x, y); \
        else _tile_dpbf16ps(c, x, y);    \
    } while (0)
    asm volatile("" ::: "memory");  // what was packed is in memory before a tile is loaded
    if (sums.begun) {
        _tile_loadd(0, sums.tile[0][0], sums.stride * 4);
        if (MT > 1) _tile_loadd(1, sums.tile[0][1], sums.stride * 4);
        if (NT > 1) _tile_loadd(2, sums.tile[1][0], sums.stride * 4);
        if (NT > 1 && MT > 1) _tile_loadd(3, sums.tile[1][1], sums.stride * 4);
    } else {
        _tile_zero(0);
        if (MT > 1) _tile_zero(1);
        if (NT > 1) _tile_zero(2);
        if (NT > 1 && MT > 1) _tile_zero(3);
    }
    for (long step = 0; step < steps; ++step) {
        for (int i = 0; i < left_terms; ++i) {
            _tile_loadd(4, a.rows[0] + i * a.term_stride + step * 64, a.stride);
            if (NT > 1) _tile_loadd(5, a.rows[1] + i * a.term_stride + step * 64, a.stride);
            for (int j = 0; i + j < terms; ++j) {
                const char *packed = b.tile + j * b.term_stride + step * b.step;
                _tile_loadd(6, packed, 64);
                if (MT > 1) _tile_loadd(7, packed + b.tile_stride, 64);
                PRODUCT(0, 4, 6);
                if (MT > 1) PRODUCT(1, 4, 7);
                if (NT > 1) PRODUCT(2, 5, 6);
                if (NT > 1 && MT > 1) PRODUCT(3, 5, 7);
            }
        }
        meanwhile.step();
    }
#undef PRODUCT
    meanwhile.rest();
    _tile_stored(0, sums.tile[0][0], sums.stride * 4);
    if (MT > 1) _tile_stored(1, sums.tile[0][1], sums.stride * 4);
    if (NT > 1) _tile_stored(2, sums.tile[1][0], sums.stride * 4);
    if (NT > 1 && MT > 1) _tile_stored(3, sums.tile[1][1], sums.stride * 4);
}

inline void offsets_of(const char *, long, long, int, int *) {}

template <bool INT8>
inline void tail_sums(const char *, const Left &, const Right &, int, int, int, const int *, __m512 *) {}
