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

#define STORE_TILE(tile, to, stride) _tile_stored(tile, to, stride)

// Tiles 0 to 3.
template <bool INT8, int NT, int MT, class Meanwhile>
inline void multiply(const Left &a, const Right &b, int steps, int left_terms, int terms, Meanwhile &&meanwhile) {
#define PRODUCT(c, x, y)                 \
    do {                                 \
        if (INT8) _tile_dpbssd(c, x, y); \
        else _tile_dpbf16ps(c, x, y);    \
    } while (0)
    asm volatile("" ::: "memory");  // what was packed is in memory before a tile is loaded
    _tile_zero(0);
    if (MT > 1) _tile_zero(1);
    if (NT > 1) _tile_zero(2);
    if (NT > 1 && MT > 1) _tile_zero(3);
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
}

// The products of `multiply`: found[n tile][m tile][16 n][16 m], float or int32.
template <int NT, int MT>
inline void store_tiles(float found[2][2][SIDE * SIDE]) {
    _tile_stored(0, found[0][0], 64);
    if (MT > 1) _tile_stored(1, found[0][1], 64);
    if (NT > 1) _tile_stored(2, found[1][0], 64);
    if (NT > 1 && MT > 1) _tile_stored(3, found[1][1], 64);
}

inline void offsets_of(const char *, long, long, int, int *) {}

template <bool INT8>
inline void tail_sums(const char *, const Left &, const Right &, int, int, int, const int *, __m512 *) {}
