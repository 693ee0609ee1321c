#pragma once

// What the tests of the CUDA ops share. The kernels' own sources, compiled as C++, run in lock step on the CPU
// (emu-cuda.h), against references in F64 or, where an op chooses, against its definition in lil-ops.h computed the
// naive way. Random inputs with many ties, sizes at and around the borders of tiles, outputs poisoned.
//
// It tests the kernels' logic. It cannot test what only a GPU has: its memory model, its rounding, its speed.

#include "ops-common.h"

#include "emu-cuda.h"

#include "../../src/ops/cuda/lil-cuda.h"

// a tensor in memory of its own, poisoned; rows and what is above them lie apart where `gap` says so
struct tensor : lil_cuda_tensor {
    std::vector<uint4> mem;

    tensor(ggml_type type_, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1, size_t gap = 0) {
        type = type_;

        ne[0] = ne0;
        ne[1] = ne1;
        ne[2] = ne2;
        ne[3] = ne3;

        nb[0] = ggml_type_size(type);
        nb[1] = ggml_row_size(type, ne0) + gap;
        nb[2] = nb[1] * ne1 + gap;
        nb[3] = nb[2] * ne2;

        mem.resize((nb[3] * ne3 + 15) / 16 + 1);
        data = mem.data();

        for (size_t i = 0; i < mem.size() * 4; ++i) {
            ((int32_t *) data)[i] = POISON;
        }
    }

    tensor(const tensor &)             = delete;
    tensor & operator=(const tensor &) = delete;

    char * row(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const {
        return (char *) data + i3 * nb[3] + i2 * nb[2] + i1 * nb[1];
    }

    float *   f32(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const { return (float *) row(i1, i2, i3); }
    int32_t * i32(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const { return (int32_t *) row(i1, i2, i3); }

    // F32, random
    void fill(float scale) {
        for (int64_t i3 = 0; i3 < ne[3]; ++i3) {
            for (int64_t i2 = 0; i2 < ne[2]; ++i2) {
                for (int64_t i1 = 0; i1 < ne[1]; ++i1) {
                    const auto x = rand_floats(ne[0], scale);
                    memcpy(row(i1, i2, i3), x.data(), x.size() * sizeof(float));
                }
            }
        }
    }

    // whether nothing is written behind the tensor, whose rows have no gaps
    bool is_whole() const { return ((const int32_t *) data)[nb[3] * ne[3] / 4] == POISON; }
};

static inline std::vector<char> get_bytes(const tensor & t) {
    return std::vector<char>((const char *) t.data, (const char *) t.data + t.mem.size() * sizeof(uint4));
}

// F32 without gaps
static inline std::vector<float> get_floats(const tensor & t) {
    return std::vector<float>((const float *) t.data, (const float *) t.data + t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]);
}

// learned sinks of n_head query heads, or none
struct sinks_or_none {
    tensor t;
    bool   any = rng() % 2;

    explicit sinks_or_none(int n_head) : t(GGML_TYPE_F32, n_head) { t.fill(6.0f); }

    operator lil_cuda_tensor() const { return any ? (const lil_cuda_tensor &) t : lil_cuda_tensor{}; }

    double operator[](int i_head) const { return any ? t.f32(0)[i_head] : -INFINITY; }
};

// K or V [n_embd*n_head_kv, n_cells, n_stream]. Each cell has a scale of its own, so that an attention is no mean
struct kv_cache {
    tensor t;

    int n_embd;

    std::vector<float> values; // as attention reads them

    kv_cache(ggml_type type, int n_embd, int n_head_kv, int n_cells, int n_stream) :
        t(type, n_embd * n_head_kv, n_cells, n_stream, 1, rng() % 2 ? 32 : 0), n_embd(n_embd) {
        const int64_t n = t.ne[0];

        for (int s = 0; s < n_stream; ++s) {
            for (int c = 0; c < n_cells; ++c) {
                auto x = rand_floats(n, 0.25f + 2.0f * (float) rng() / (float) rng.max());

                if (type == GGML_TYPE_F32) {
                    memcpy(t.row(c, s), x.data(), n * sizeof(float));

                    for (float & v : x) {
                        v = round_f16(v);
                    }
                } else {
                    ggml_quantize_chunk(type, x.data(), t.row(c, s), 0, 1, n, nullptr);
                    ggml_get_type_traits(type)->to_float(t.row(c, s), x.data(), n);
                }

                values.insert(values.end(), x.begin(), x.end());
            }
        }
    }

    const float * row(int64_t cell, int64_t i_head, int64_t strm) const {
        return values.data() + (strm * t.ne[1] + cell) * t.ne[0] + i_head * n_embd;
    }
};

//
// the select ops
//

// a list says: the cells of these ranks, and nothing is written behind them
static inline void check_list(
        const tensor & list, int64_t i_head, int64_t i_step, const int32_t * all, std::vector<int32_t> ranks) {
    const int32_t * got = list.i32(i_head, i_step);

    std::sort(ranks.begin(), ranks.end());
    CHECK(got[0] == (int32_t) ranks.size());
    for (size_t i = 0; i < ranks.size(); ++i) {
        CHECK(got[1 + i] == all[1 + ranks[i]]);
    }
    for (int64_t i = 1 + (int64_t) ranks.size(); i < list.ne[0]; ++i) {
        CHECK(got[i] == POISON);
    }
}

// sequences, some of which share a stream and then cells
struct sequences {
    int n_steps;
    int n_stream;
    int n_cells;
    int n_max;

    tensor steps;
    tensor cells;

    explicit sequences(int n_max) :
        n_steps(rand_int(1, 3)), n_stream(rng() % 2 ? 1 : n_steps + 1), n_cells(n_max + rand_int(0, 5)), n_max(n_max),
        steps(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps), cells(GGML_TYPE_I32, 1 + n_max, 1, n_steps) {
        for (int s = 0; s < n_steps; ++s) {
            const auto order = rand_order(n_cells);
            memcpy(all(s) + 1, order.data(), n_max * sizeof(int32_t));

            step(s)[LIL_SEL_STREAM] = n_stream == 1 ? 0 : n_stream - 1 - s;
            step(s)[LIL_SEL_TABLE]  = s;
            step(s)[LIL_SEL_SPARSE] = rng() % 4 != 0;
            step(s)[LIL_SEL_NEW]    = 1;
            step(s)[LIL_SEL_PAGES]  = 0;
            step(s)[LIL_SEL_NOW]    = 0;
            set_n(s, rng() % 2 ? n_max : rand_int(1, n_max));
        }
    }

    int32_t * step(int s) { return steps.i32(s); }
    int32_t * all(int s) { return cells.i32(0, s); }
    int       n(int s) { return all(s)[0]; }

    void set_n(int s, int n) {
        step(s)[LIL_SEL_N] = n;
        all(s)[0]          = n;
    }
};

// pages of any sizes, or of 16
static inline void fill_pages(tensor & pages, sequences & seq) {
    for (int s = 0; s < seq.n_steps; ++s) {
        const int n_page = pick({ 0, 1, 16 });

        int n = 0;
        for (int r = 0; r < seq.n(s);) {
            pages.i32(s)[n++] = r;
            r += n_page ? n_page : rand_int(1, 20);
        }
        pages.i32(s)[n] = seq.n(s);

        seq.step(s)[LIL_SEL_PAGES] = n;
    }
}
