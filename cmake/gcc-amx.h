#ifndef LIL_GCC_AMX_H
#define LIL_GCC_AMX_H

// gcc-amx.h: two of GCC's AMX intrinsics, saying of memory what the instructions do with it, where GCC's own say less.
// Included before each C++ source of ggml's CPU backend that GCC compiles (gcc-amx.cmake).

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

// ldtilecfg reads 64 bytes. To GCC it reads 8, and what is written behind them is left out.
struct __attribute__((may_alias)) lil_amx_config {
    unsigned char bytes[64];
};

static inline void lil_amx_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const struct lil_amx_config *) config));
}

#define _tile_loadconfig(config) lil_amx_loadconfig(config)

// tileloadd reads rows of a tile. To GCC it reads nothing, so that a tile may be written after it was loaded.
#undef _tile_loadd
#define _tile_loadd(tile, base, stride)                           \
    __asm__ volatile("tileloadd (%0,%1,1), %%" LIL_AMX_NAME(tile) \
        : : "r"((const void *) (base)), "r"((long) (stride)) : "memory")
#define LIL_AMX_NAME(tile)  LIL_AMX_NAME_(tile)
#define LIL_AMX_NAME_(tile) "tmm" #tile

#endif

#endif // LIL_GCC_AMX_H
