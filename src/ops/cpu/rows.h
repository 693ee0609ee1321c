#pragma once

// Rows of K and V in F32, and the two products that attention makes of them: dot products with the query heads of a
// group (lil_rows_dot) and sums weighted per head (lil_rows_add). The hot loops of the select ops are those two.
//
// Rows go through in tiles of LIL_TILE. A tile is widened once, into a scratch that stays in the first level cache,
// then read for every head. There a row has n_pad channels, a multiple of LIL_VF_N, with zeros behind its own.

#include "lil-simd.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#define LIL_TILE 16

// query heads that lil_rows_dot and lil_rows_add take at once; two accumulators each have to fit into the registers
#if LIL_VF_REGS >= 32
#define LIL_ROWS_HEADS 8
#else
#define LIL_ROWS_HEADS 6
#endif

// how many of n_head they take next: even shares
static inline int64_t lil_rows_n_heads(int64_t n_head) {
    const int64_t n_block = (n_head + LIL_ROWS_HEADS - 1) / LIL_ROWS_HEADS;

    return (n_head + n_block - 1) / n_block;
}

static inline int64_t lil_pad(int64_t n) {
    return (n + LIL_VF_N - 1) / LIL_VF_N * LIL_VF_N;
}

// a thread's scratch, aligned and grown on first use; its content is lost when it grows
struct lil_scratch {
    std::vector<float> buf;

    float * get(int64_t n) {
        constexpr size_t ALIGN = 64;

        if (buf.size() < n + ALIGN / sizeof(float)) {
            buf.resize(n + ALIGN / sizeof(float));
        }

        return (float *) (((uintptr_t) buf.data() + ALIGN - 1) / ALIGN * ALIGN);
    }
};

// n elements of a row in F32
static inline void lil_load_row(ggml_type type, const char * src, float * dst, int64_t n) {
    int64_t i = 0;

    switch (type) {
        case GGML_TYPE_F32: {
            memcpy(dst, src, n * sizeof(float));
        } break;
        case GGML_TYPE_F16: {
            const ggml_fp16_t * x = (const ggml_fp16_t *) src;
            for (; i + LIL_VF_N <= n; i += LIL_VF_N) {
                lil_vf_store(dst + i, lil_vf_load_f16(x + i));
            }
            for (; i < n; ++i) {
                dst[i] = GGML_CPU_FP16_TO_FP32(x[i]);
            }
        } break;
        case GGML_TYPE_BF16: {
            const ggml_bf16_t * x = (const ggml_bf16_t *) src;
            for (; i + LIL_VF_N <= n; i += LIL_VF_N) {
                lil_vf_store(dst + i, lil_vf_load_bf16(x + i));
            }
            for (; i < n; ++i) {
                dst[i] = GGML_BF16_TO_FP32(x[i]);
            }
        } break;
        case GGML_TYPE_Q8_0: // here rather than in to_float, which is compiled without the CPU's instruction set
        {
            const block_q8_0 * x = (const block_q8_0 *) src;
            for (; i < n; i += QK8_0, ++x) {
                const float d = GGML_CPU_FP16_TO_FP32(x->d);
                for (int j = 0; j < QK8_0; ++j) {
                    dst[i + j] = x->qs[j] * d;
                }
            }
        } break;
        case GGML_TYPE_Q4_0: {
            const block_q4_0 * x = (const block_q4_0 *) src;
            for (; i < n; i += QK4_0, ++x) {
                const float d = GGML_CPU_FP16_TO_FP32(x->d);
                for (int j = 0; j < QK4_0 / 2; ++j) {
                    dst[i + j]             = ((x->qs[j] & 0x0F) - 8) * d;
                    dst[i + j + QK4_0 / 2] = ((x->qs[j] >> 4) - 8) * d;
                }
            }
        } break;
        default: {
            ggml_get_type_traits(type)->to_float(src, dst, n);
        } break;
    }
}

// the same as attention reads a K or V row: FlashAttention reads an F32 cache as F16
static inline void lil_widen_row(ggml_type type, const char * src, float * dst, int64_t n) {
    if (type != GGML_TYPE_F32) {
        lil_load_row(type, src, dst, n);
        return;
    }

    const float * x = (const float *) src;

    int64_t i = 0;
    for (; i + LIL_VF_N <= n; i += LIL_VF_N) {
        lil_vf_store(dst + i, lil_vf_round_f16(lil_vf_load(x + i)));
    }
    for (; i < n; ++i) {
        dst[i] = GGML_CPU_FP16_TO_FP32(GGML_CPU_FP32_TO_FP16(x[i]));
    }
}

// zeros behind the n elements of a row of a tile
static inline void lil_pad_row(float * dst, int64_t n) {
    for (int64_t i = n; i < lil_pad(n); ++i) {
        dst[i] = 0.0f;
    }
}

// How a row is read: in F32, as in a tile, or straight from an F16 cache. Vector i of it
struct lil_read_f32 {
    static lil_vf load(const char * row, int64_t i) { return lil_vf_load((const float *) row + i); }
};

struct lil_read_f16 {
    static lil_vf load(const char * row, int64_t i) { return lil_vf_load_f16((const ggml_fp16_t *) row + i); }
};

// up to LIL_TILE rows, and the rows that are to be fetched meanwhile: a few at a time, as the CPU keeps only so many
// fetches under way
struct lil_rows {
    int          n;
    const char * row[LIL_TILE];
    const char * next[LIL_TILE];
    size_t       next_size; // bytes, 0: none
};

// C heads of lil_rows_dot, 4 rows
template <typename READ, int C>
static inline void lil_rows_dot_block(
        const char * const * rows, const float * q, int64_t n_pad, float * x, int64_t x_stride) {
    constexpr int R = 4 * C + 5 <= LIL_VF_REGS ? 4 : 2; // rows at once: accumulators, R vectors of rows, one of a query

    lil_vf2 sum[C][2];

    for (int r0 = 0; r0 < 4; r0 += R) {
        lil_vf acc[C][R];
        for (int c = 0; c < C; ++c) {
            for (int r = 0; r < R; ++r) {
                acc[c][r] = lil_vf_set1(0.0f);
            }
        }

        const char * row[R];
        for (int r = 0; r < R; ++r) {
            row[r] = rows[r0 + r];
        }

        for (int64_t i = 0; i < n_pad; i += LIL_VF_N) {
            lil_vf k[R];
            for (int r = 0; r < R; ++r) {
                k[r] = READ::load(row[r], i);
            }
            for (int c = 0; c < C; ++c) {
                const lil_vf qc = lil_vf_load(q + c * n_pad + i);
                for (int r = 0; r < R; ++r) {
                    acc[c][r] = lil_vf_fma(acc[c][r], k[r], qc);
                }
            }
        }

        for (int c = 0; c < C; ++c) {
            for (int r = 0; r < R; r += 2) {
                sum[c][(r0 + r) / 2] = lil_vf_sum2(acc[c][r], acc[c][r + 1]);
            }
        }
    }

    for (int c = 0; c < C; ++c) {
        lil_vf2_store_sum(x + c * x_stride, sum[c][0], sum[c][1]);
    }
}

// C heads of lil_rows_add, V vectors of channels from channel i0 on
template <typename READ, int C, int V>
static inline void lil_rows_add_block(
        const lil_rows & rows, const float * p, int64_t p_stride, int64_t n_pad, int64_t i0, float * y, bool fetch) {
    lil_vf acc[C][V];
    for (int c = 0; c < C; ++c) {
        for (int v = 0; v < V; ++v) {
            acc[c][v] = lil_vf_load(y + c * n_pad + i0 + v * LIL_VF_N);
        }
    }

    for (int r = 0; r < rows.n; ++r) {
        if (fetch) {
            lil_prefetch(rows.next[r], rows.next_size);
        }

        lil_vf x[V];
        for (int v = 0; v < V; ++v) {
            x[v] = READ::load(rows.row[r], i0 + v * LIL_VF_N);
        }
        for (int c = 0; c < C; ++c) {
            const lil_vf pc = lil_vf_set1(p[c * p_stride + r]);
            for (int v = 0; v < V; ++v) {
                acc[c][v] = lil_vf_fma(acc[c][v], pc, x[v]);
            }
        }
    }

    for (int c = 0; c < C; ++c) {
        for (int v = 0; v < V; ++v) {
            lil_vf_store(y + c * n_pad + i0 + v * LIL_VF_N, acc[c][v]);
        }
    }
}

template <typename READ, int C>
static inline void lil_rows_dot_heads(
        const lil_rows & rows, const float * q, int64_t n_pad, float * x, int64_t x_stride, bool fetch) {
    for (int r = 0; r < rows.n; r += 4) {
        if (fetch) {
            for (int i = r; i < r + 4; ++i) {
                lil_prefetch(rows.next[i], rows.next_size);
            }
        }
        lil_rows_dot_block<READ, C>(rows.row + r, q, n_pad, x + r, x_stride);
    }
}

template <typename READ, int C>
static inline void lil_rows_add_heads(
        const lil_rows & rows, const float * p, int64_t p_stride, int64_t n_pad, float * y, bool fetch) {
    constexpr int V = 4 * C + 5 <= LIL_VF_REGS ? 4 : 2; // vectors at once: accumulators, V vectors of a row, one of p

    int64_t i = 0;
    for (; i + V * LIL_VF_N <= n_pad; i += V * LIL_VF_N) {
        lil_rows_add_block<READ, C, V>(rows, p, p_stride, n_pad, i, y, fetch && i == 0);
    }
    for (; i + 2 * LIL_VF_N <= n_pad; i += 2 * LIL_VF_N) {
        lil_rows_add_block<READ, C, 2>(rows, p, p_stride, n_pad, i, y, fetch && i == 0);
    }
    for (; i < n_pad; i += LIL_VF_N) {
        lil_rows_add_block<READ, C, 1>(rows, p, p_stride, n_pad, i, y, fetch && i == 0);
    }
}

// x[head*x_stride + r] = sum_i rows[r][i]*q[head][i]; rows [n_pad], their number rounded up to 4; q [n_head][n_pad]
template <typename READ>
static inline void lil_rows_dot(
        const lil_rows & rows, const float * q, int64_t n_head, int64_t n_pad, float * x, int64_t x_stride) {
    bool fetch = rows.next_size > 0;

    while (n_head > 0) {
        const int64_t n = lil_rows_n_heads(n_head);

        switch (n) {
            case 1: lil_rows_dot_heads<READ, 1>(rows, q, n_pad, x, x_stride, fetch); break;
            case 2: lil_rows_dot_heads<READ, 2>(rows, q, n_pad, x, x_stride, fetch); break;
            case 3: lil_rows_dot_heads<READ, 3>(rows, q, n_pad, x, x_stride, fetch); break;
            case 4: lil_rows_dot_heads<READ, 4>(rows, q, n_pad, x, x_stride, fetch); break;
            case 5: lil_rows_dot_heads<READ, 5>(rows, q, n_pad, x, x_stride, fetch); break;
            case 6: lil_rows_dot_heads<READ, 6>(rows, q, n_pad, x, x_stride, fetch); break;
#if LIL_ROWS_HEADS > 6
            case 7: lil_rows_dot_heads<READ, 7>(rows, q, n_pad, x, x_stride, fetch); break;
            case 8: lil_rows_dot_heads<READ, 8>(rows, q, n_pad, x, x_stride, fetch); break;
#endif
        }

        fetch = false;
        q += n * n_pad;
        x += n * x_stride;
        n_head -= n;
    }
}

// y[head][i] += sum_r p[head*p_stride + r]*rows[r][i]; y [n_head][n_pad]
template <typename READ>
static inline void lil_rows_add(
        const lil_rows & rows, const float * p, int64_t p_stride, int64_t n_head, int64_t n_pad, float * y) {
    bool fetch = rows.next_size > 0;

    while (n_head > 0) {
        const int64_t n = lil_rows_n_heads(n_head);

        switch (n) {
            case 1: lil_rows_add_heads<READ, 1>(rows, p, p_stride, n_pad, y, fetch); break;
            case 2: lil_rows_add_heads<READ, 2>(rows, p, p_stride, n_pad, y, fetch); break;
            case 3: lil_rows_add_heads<READ, 3>(rows, p, p_stride, n_pad, y, fetch); break;
            case 4: lil_rows_add_heads<READ, 4>(rows, p, p_stride, n_pad, y, fetch); break;
            case 5: lil_rows_add_heads<READ, 5>(rows, p, p_stride, n_pad, y, fetch); break;
            case 6: lil_rows_add_heads<READ, 6>(rows, p, p_stride, n_pad, y, fetch); break;
#if LIL_ROWS_HEADS > 6
            case 7: lil_rows_add_heads<READ, 7>(rows, p, p_stride, n_pad, y, fetch); break;
            case 8: lil_rows_add_heads<READ, 8>(rows, p, p_stride, n_pad, y, fetch); break;
#endif
        }

        fetch = false;
        y += n * n_pad;
        p += n * p_stride;
        n_head -= n;
    }
}
