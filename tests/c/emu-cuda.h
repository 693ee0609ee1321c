#pragma once

// CUDA's types and intrinsics, as far as src/ops/cuda uses them, for the CPU: the .cu files compile as C++, and a
// block's threads run in lock step (lockstep.h). Blocks run one after the other, in an order that changes from launch
// to launch. Shared memory is poisoned when a block begins: NaN in every float. Behind its end nobody may read or
// write.
//
// A warp's shuffles are exchanges at a barrier of the warp: all its lanes must take part, as the kernels' full masks
// say. They order no memory (race.h).

#include "lockstep.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)

typedef void * cudaStream_t;

struct dim3 {
    unsigned x, y, z;

    dim3(int64_t x = 1, int64_t y = 1, int64_t z = 1) : x((unsigned) x), y((unsigned) y), z((unsigned) z) {}
};

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct __half {
    ggml_fp16_t bits;
};

//
// the current thread. The fiber's own number is put back after each barrier
//

inline dim3 threadIdx;
inline dim3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;

struct emu_block {
    char *                shared = nullptr; // dynamic shared memory, 16 byte aligned
    std::vector<uint32_t> exchange[2];      // what each thread gives away; the next shuffle has the other one
    std::vector<int>      n_exchange;       // shuffles so far, by thread
    std::vector<float>    mma[2];           // a [8] and b [4] of each thread, likewise
    std::vector<int>      n_mma;
    size_t                n_launches = 0;
};

inline emu_block emu;

#define LIL_SHARED(type, name) type * name = (type *) emu.shared

inline void __syncthreads(const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    const dim3 self = threadIdx;
    lockstep_barrier(file, line);
    threadIdx = self;
}

inline void emu_warp_wait(const char * file, int line) {
    const dim3 self = threadIdx;
    lockstep_sub_barrier(32, file, line);
    threadIdx = self;
}

inline void __syncwarp(unsigned = 0xffffffffu, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    emu_warp_wait(file, line);
    lockstep_order();
}

// the word of the lane `src` of the caller's warp
inline uint32_t emu_exchange(uint32_t word, int src, const char * file, int line) {
    const int i    = (int) threadIdx.x;
    auto &    from = emu.exchange[emu.n_exchange[i]++ & 1];

    from[i] = word;
    emu_warp_wait(file, line);

    return from[i / 32 * 32 + src];
}

template <typename T>
inline T emu_shuffle(T x, int src, const char * file, int line) {
    static_assert(sizeof(T) == 4, "words");

    uint32_t word;
    memcpy(&word, &x, 4);
    word = emu_exchange(word, src, file, line);
    memcpy(&x, &word, 4);
    return x;
}

template <typename T>
inline T __shfl_sync(unsigned, T x, int src, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    return emu_shuffle(x, src & 31, file, line);
}

template <typename T>
inline T __shfl_xor_sync(unsigned, T x, int mask, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    return emu_shuffle(x, (int) ((threadIdx.x & 31) ^ (unsigned) mask), file, line);
}

// lanes below `delta` keep their own
template <typename T>
inline T __shfl_up_sync(unsigned, T x, int delta, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    const int lane = (int) threadIdx.x & 31;
    return emu_shuffle(x, lane < delta ? lane : lane - delta, file, line);
}

// the lanes with the same value
inline unsigned __match_any_sync(unsigned, int x, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    const int i    = (int) threadIdx.x;
    auto &    from = emu.exchange[emu.n_exchange[i]++ & 1];

    from[i] = (uint32_t) x;
    emu_warp_wait(file, line);

    unsigned res = 0;
    for (int j = 0; j < 32; ++j) {
        res |= (unsigned) (from[i / 32 * 32 + j] == (uint32_t) x) << j;
    }
    return res;
}

inline unsigned __ballot_sync(unsigned, bool x, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    const int i    = (int) threadIdx.x;
    auto &    from = emu.exchange[emu.n_exchange[i]++ & 1];

    from[i] = x;
    emu_warp_wait(file, line);

    unsigned res = 0;
    for (int j = 0; j < 32; ++j) {
        res |= from[i / 32 * 32 + j] << j;
    }
    return res;
}

inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}

template <typename T>
inline T atomicAdd(T * p, T x) {
    race_is_atomic = true;
    const T old    = *p;
    *p += x;
    race_is_atomic = false;
    return old;
}

inline unsigned atomicOr(unsigned * p, unsigned x) {
    race_is_atomic     = true;
    const unsigned old = *p;
    *p |= x;
    race_is_atomic = false;
    return old;
}

inline unsigned atomicAnd(unsigned * p, unsigned x) {
    race_is_atomic     = true;
    const unsigned old = *p;
    *p &= x;
    race_is_atomic = false;
    return old;
}

inline float __half2float(__half x) {
    return ggml_fp16_to_fp32(x.bits);
}
inline __half __float2half_rn(float x) {
    return { ggml_fp32_to_fp16(x) };
}
inline __half __ushort_as_half(unsigned short x) {
    return { x };
}
inline unsigned short __half_as_ushort(__half x) {
    return x.bits;
}

// mma.sync.m16n8k16 of F16, sums in F32; who has what: src/ops/cuda/lil-mma.h
inline void emu_mma(float * d, const uint32_t * a, const uint32_t * b, const char * file = __builtin_FILE(),
        int line = __builtin_LINE()) {
    const int i    = (int) threadIdx.x;
    auto &    from = emu.mma[emu.n_mma[i]++ & 1];

    for (int j = 0; j < 12; ++j) {
        const uint32_t word = j < 8 ? a[j / 2] : b[(j - 8) / 2];
        from[i * 12 + j]    = ggml_fp16_to_fp32((ggml_fp16_t) (j % 2 ? word >> 16 : word & 0xffff));
    }
    emu_warp_wait(file, line);

    const float * warp = from.data() + i / 32 * 32 * 12;

    for (int j = 0; j < 4; ++j) {
        const int row = i % 32 / 4; // + 8 for j >= 2
        const int col = i % 4 * 2 + j % 2;

        for (int c = 0; c < 16; ++c) {
            d[j] += warp[(row * 4 + c % 8 / 2) * 12 + (j / 2 + c / 8 * 2) * 2 + c % 2] *
                    warp[(col * 4 + c % 8 / 2) * 12 + 8 + c / 8 * 2 + c % 2];
        }
    }
}

inline float __uint_as_float(uint32_t x) {
    float res;
    memcpy(&res, &x, 4);
    return res;
}

inline int __float_as_int(float x) {
    int res;
    memcpy(&res, &x, 4);
    return res;
}

#define LIL_UNROLL
#define LIL_UNROLL_BY(n)

//
// launches
//

template <typename F>
inline void emu_launch(dim3 grid, dim3 block, size_t smem, const F & body) {
    const int n_threads = (int) block.x;
    const int n_blocks  = (int) (grid.x * grid.y * grid.z);

    if (n_threads % 32 != 0 || n_threads > 1024 || block.y != 1 || block.z != 1 || smem > 48 * 1024 || grid.y > 65535 ||
            grid.z > 65535) {
        fprintf(stderr, "emu_launch: %d x %u x %u threads, %zu bytes, grid %u x %u x %u\n", n_threads, block.y, block.z,
                smem, grid.x, grid.y, grid.z);
        abort();
    }

    gridDim  = grid;
    blockDim = block;

    emu.n_launches++;

    static char * shared_end = []() {
        char * p = (char *) mmap(nullptr, 64 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        GGML_ASSERT(p != MAP_FAILED && mprotect(p + 48 * 1024, 16 * 1024, PROT_NONE) == 0);
        return p + 48 * 1024;
    }();

    race_begin_launch();

    for (int j = 0; j < n_blocks; ++j) {
        const int i = emu.n_launches % 2 ? n_blocks - 1 - j : j;

        blockIdx = dim3(i % (int) grid.x, i / (int) grid.x % (int) grid.y, i / (int) (grid.x * grid.y));

        smem       = (smem + 15) / 16 * 16;
        emu.shared = shared_end - smem;
        memset(emu.shared, 0xff, smem);

        emu.exchange[0].assign(n_threads, 0);
        emu.exchange[1].assign(n_threads, 0);
        emu.n_exchange.assign(n_threads, 0);
        emu.mma[0].assign(n_threads * 12, 0.0f);
        emu.mma[1].assign(n_threads * 12, 0.0f);
        emu.n_mma.assign(n_threads, 0);

        race_begin_group(emu.shared, smem);
        lockstep_run(n_threads, [&](int thread) {
            threadIdx = dim3(thread);
            body();
        });
        race_end_group();
    }
}

#define LIL_LAUNCH(grid, block, smem, stream, kernel, ...) \
    ((void) (stream), emu_launch(grid, block, smem, [&]() { kernel(__VA_ARGS__); }))
