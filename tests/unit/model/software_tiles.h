// The tile registers of AMX in software, put before kernels.cpp (-include) where a CPU has AVX-512 but no AMX: what the manual says of each
// instruction that the kernels use. Slow; the same sums in the same order of k.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define __AMX_TILE__ 1
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig software_tiles::load_config
#define _tile_release software_tiles::release
#define _tile_loadd software_tiles::load
#define _tile_stored software_tiles::store
#define _tile_zero software_tiles::zero
#define _tile_dpbf16ps software_tiles::products_of_bfloat16
#define _tile_dpbssd software_tiles::products_of_int8
#define syscall(...) 0L  // asked for tile registers, the system hands them out

namespace software_tiles {
struct Registers {
    alignas(64) char row[8][16][64];
    int rows[8] = {}, bytes[8] = {};  // none before they are configured
};

inline Registers &registers() {  // of this thread
    static thread_local Registers all;
    return all;
}

inline void load_config(const void *config) {
    const uint8_t *at = (const uint8_t *)config;
    if (at[0] != 1) __builtin_trap();  // the one palette there is
    for (int tile = 0; tile < 8; ++tile) {
        uint16_t bytes;
        memcpy(&bytes, at + 16 + 2 * tile, 2);
        registers().bytes[tile] = bytes, registers().rows[tile] = at[48 + tile];
        if (bytes > 64 || at[48 + tile] > 16) __builtin_trap();
    }
    memset(registers().row, 0, sizeof registers().row);
}

inline void release() {
    for (int tile = 0; tile < 8; ++tile) registers().rows[tile] = registers().bytes[tile] = 0;
}

inline int rows_of(int tile) {
    if (!registers().rows[tile]) __builtin_trap();  // as the CPU does where nothing was configured
    return registers().rows[tile];
}

inline void zero(int tile) {
    rows_of(tile);
    memset(registers().row[tile], 0, sizeof registers().row[tile]);
}

inline void load(int tile, const void *from, long stride) {
    zero(tile);
    for (int r = 0; r < rows_of(tile); ++r) memcpy(registers().row[tile][r], (const char *)from + r * stride, registers().bytes[tile]);
}

inline void store(int tile, void *to, long stride) {
    for (int r = 0; r < rows_of(tile); ++r) memcpy((char *)to + r * stride, registers().row[tile][r], registers().bytes[tile]);
}

// c[m][n] += sum over k of a[m][k] b[k][n], an element of a and b being two bfloat16 or four int8 numbers.
template <class Product>
inline void products(int c, int a, int b, Product product) {
    Registers &all = registers();
    for (int m = 0; m < rows_of(a); ++m) {
        __m512i sum = _mm512_load_si512(all.row[c][m]);
        for (int k = 0; k < rows_of(b); ++k) {
            int32_t left;
            memcpy(&left, all.row[a][m] + 4 * k, 4);
            sum = product(sum, _mm512_set1_epi32(left), _mm512_load_si512(all.row[b][k]));
        }
        _mm512_store_si512(all.row[c][m], sum);
    }
}

inline void products_of_bfloat16(int c, int a, int b) {
    products(c, a, b, [](__m512i sum, __m512i left, __m512i right) {
        return _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)left, (__m512bh)right));
    });
}

inline void products_of_int8(int c, int a, int b) {  // both signed: (right + 128) left - 128 left, the only kind that VNNI has
    products(c, a, b, [](__m512i sum, __m512i left, __m512i right) {
        const __m512i middle = _mm512_set1_epi8((char)128), unsigned_right = _mm512_xor_si512(right, middle);
        const __m512i shifted = _mm512_dpbusd_epi32(sum, unsigned_right, left);
        return _mm512_sub_epi32(shifted, _mm512_dpbusd_epi32(_mm512_setzero_si512(), middle, left));
    });
}
}  // namespace software_tiles
