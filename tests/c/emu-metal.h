#pragma once

// Metal's language on the CPU, as far as src/ops/metal uses it: its types, address spaces, simd-group functions,
// barriers and atomics as C++, the threads of a threadgroup as fibers in lock step. The kernels' source is included as
// it stands:
//
//   #include "emu-metal.h"
//
//   namespace emu_metal {
//   #include "lil.metal"
//   }
//
//   emu_metal::launch(grid, n_threads, n_shmem, [&](const emu_metal::place & p) {
//       emu_metal::kernel_lil_attn<4>(args, dst, q, ..., p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
//   });
//
// Kernels take their threadgroup memory as a parameter, not as a variable. It has exactly the size asked for, is filled
// with 0xFF (NaN) for every threadgroup, and a write behind its end is found. Function constants are variables, to be
// set before a launch. Threadgroups run one after the other, in changing order.
//
// What this cannot show: what a compiler for Metal says to the source, fast math (here every operation is IEEE's),
// memory order between threadgroups, speed.

#include "lockstep.h"

#include "ggml.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wunknown-attributes"
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wattributes"
#endif

namespace emu_metal {

//
// types
//

using std::int32_t;
using std::int64_t;
using std::uint32_t;
using std::uint64_t;

typedef unsigned int   uint;
typedef unsigned short ushort;
typedef unsigned char  uchar;

struct half {
    ggml_fp16_t bits;

    half() = default;
    half(float x) : bits(ggml_fp32_to_fp16(x)) {}

    operator float() const { return ggml_fp16_to_fp32(bits); }
};

template <typename T>
struct alignas(4 * sizeof(T)) vec4 {
    T x, y, z, w;

    vec4() = default;
    vec4(T s) : x(s), y(s), z(s), w(s) {}
    vec4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}

    template <typename U>
    explicit vec4(const vec4<U> & o) : x((T) o.x), y((T) o.y), z((T) o.z), w((T) o.w) {}

    vec4 operator+(const vec4 & o) const { return vec4(x + o.x, y + o.y, z + o.z, w + o.w); }
    vec4 operator*(T s) const { return vec4(x * s, y * s, z * s, w * s); }

    vec4 & operator+=(const vec4 & o) { return *this = *this + o; }
};

typedef vec4<float>  float4;
typedef vec4<half>   half4;
typedef vec4<ushort> ushort4;

struct uint3 {
    uint x, y, z;
};

struct ushort3 {
    ushort x, y, z;
};

template <typename TO, typename FROM>
TO as_type(FROM x) {
    static_assert(sizeof(TO) == sizeof(FROM), "as_type keeps the bits");
    TO res;
    memcpy(&res, &x, sizeof(res));
    return res;
}

// by their names in kernels
inline float exp(float x) {
    return std::exp(x);
}
inline float ceil(float x) {
    return std::ceil(x);
}

namespace precise {
inline float sqrt(float x) {
    return std::sqrt(x);
}
inline float tanh(float x) {
    return std::tanh(x);
}
}

template <typename T>
T max(T a, T b) {
    return a < b ? b : a;
}
template <typename T>
T min(T a, T b) {
    return b < a ? b : a;
}

inline float4 max(float4 a, float4 b) {
    return float4(max(a.x, b.x), max(a.y, b.y), max(a.z, b.z), max(a.w, b.w));
}
inline float4 min(float4 a, float4 b) {
    return float4(min(a.x, b.x), min(a.y, b.y), min(a.z, b.z), min(a.w, b.w));
}

inline float dot(float4 a, float4 b) {
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

//
// barriers and simd-groups
//

enum mem_flags {
    mem_device      = 1,
    mem_threadgroup = 2,
};

#define threadgroup_barrier(flags) ((void) (flags), lockstep_barrier(__FILE__, __LINE__))
#define simdgroup_barrier(flags)   ((void) (flags), lockstep_sub_barrier(32, __FILE__, __LINE__), lockstep_order())

inline mem_flags operator|(mem_flags a, mem_flags b) {
    return (mem_flags) ((int) a | (int) b);
}

inline uint64_t * simd_slots() {
    static thread_local uint64_t slots[1024];
    return slots;
}

// f(what the 32 lanes brought, this lane)
template <typename T, typename F>
T simd_exchange(T x, const char * file, int line, F && f) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "");

    const int i = lockstep_get().current;

    memcpy(&simd_slots()[i], &x, sizeof(T));
    lockstep_sub_barrier(32, file, line);

    T all[32];
    for (int lane = 0; lane < 32; ++lane) {
        memcpy(&all[lane], &simd_slots()[i / 32 * 32 + lane], sizeof(T));
    }
    const T res = f(all, i % 32);
    lockstep_sub_barrier(32, file, -line);

    return res;
}

#define EMU_METAL_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <typename T>
T simd_sum(T x, EMU_METAL_AT) {
    return simd_exchange(x, file, line, [](const T * all, int) {
        T a[32]; // pair by pair, as the hardware does
        std::copy(all, all + 32, a);
        for (int n = 16; n > 0; n /= 2) {
            for (int j = 0; j < n; ++j) {
                a[j] = (T) (a[j] + a[j + n]);
            }
        }
        return a[0];
    });
}

template <typename T>
T simd_max(T x, EMU_METAL_AT) {
    return simd_exchange(x, file, line, [](const T * all, int) { return *std::max_element(all, all + 32); });
}

template <typename T>
T simd_shuffle_xor(T x, ushort mask, EMU_METAL_AT) {
    return simd_exchange(x, file, line, [=](const T * all, int lane) { return all[(lane ^ mask) % 32]; });
}

template <typename T>
T simd_prefix_exclusive_sum(T x, EMU_METAL_AT) {
    return simd_exchange(x, file, line, [](const T * all, int lane) {
        T sum = 0;
        for (int j = 0; j < lane; ++j) {
            sum = (T) (sum + all[j]);
        }
        return sum;
    });
}

//
// atomics, relaxed; a thread gives up its turn only at barriers
//

enum memory_order { memory_order_relaxed };

struct atomic_uint {
    uint value;
};

struct atomically {
    atomically() { race_is_atomic = true; }
    ~atomically() { race_is_atomic = false; }
};

inline void atomic_store_explicit(atomic_uint * p, uint x, memory_order) {
    atomically a;
    p->value = x;
}
inline uint atomic_load_explicit(const atomic_uint * p, memory_order) {
    atomically a;
    return p->value;
}
inline uint atomic_fetch_add_explicit(atomic_uint * p, uint x, memory_order) {
    atomically a;
    const uint res = p->value;
    p->value += x;
    return res;
}

//
// launches
//

// where a thread stands
struct place {
    char * shmem;

    uint3   tgpig; // threadgroup position in grid
    ushort  tiitg; // thread index in threadgroup
    ushort  tiisg; // thread index in simdgroup
    ushort  sgitg; // simdgroup index in threadgroup
    ushort3 ntg;   // threads per threadgroup
};

// whole simd-groups only, as what is missing from the last one is undefined on a GPU
inline void launch(uint3 grid, int n_threads, size_t n_shmem, const std::function<void(const place &)> & body) {
    static const size_t N_GUARD = 256;

    if (n_threads % 32 != 0 || n_threads < 32 || n_threads > 1024 || n_shmem > 32768 || n_shmem % 16 != 0) {
        fprintf(stderr, "emu_metal: %d threads with %zu bytes of threadgroup memory cannot be launched\n", n_threads,
                n_shmem);
        abort();
    }

    static unsigned order   = 0;
    const uint      n_group = grid.x * grid.y * grid.z;
    const uint      first   = n_group ? order++ * 7919u % n_group : 0;

    race_begin_launch();

    std::vector<float4> mem((n_shmem + N_GUARD) / sizeof(float4));

    for (uint j = 0; j < n_group; ++j) {
        const uint i = (first + j) % n_group;

        char * shmem = (char *) mem.data();
        memset(shmem, 0xFF, n_shmem + N_GUARD);

        race_begin_group(shmem, n_shmem);
        lockstep_run(n_threads, [&](int t) {
            const place p = { shmem, { i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y }, (ushort) t,
                (ushort) (t % 32), (ushort) (t / 32), { (ushort) n_threads, 1, 1 } };
            body(p);
        });
        race_end_group();

        for (size_t b = n_shmem; b < n_shmem + N_GUARD; ++b) {
            if ((unsigned char) shmem[b] != 0xFF) {
                fprintf(stderr, "emu_metal: threadgroup memory written at %zu, behind its %zu bytes\n", b, n_shmem);
                abort();
            }
        }
    }
}

}

// from here on Metal's words
#define kernel
#define device
#define constant
#define threadgroup
#define thread
