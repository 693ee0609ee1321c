#pragma once

// What the tests of single nodes share, see lil-ops.h: random tensors in memory of their own, sequences, the node
// itself.

#include "ops-common.h"

#include "ggml-backend.h"
#include "lil-ops.h"

#include <list>

static const int LEVELS[] = { 0, 0, 1, 3, 50 }; // how many different values, 0: no ties to speak of
static const int SIZES[]  = { 1, 2, 17, 31, 32, 33, 100, 255, 257, 1000, 3000 };

static inline bool rand_bool() {
    return rng() % 2 == 0;
}

static ggml_backend_buffer_t test_buffer = nullptr; // what the tensors have, where that matters

// the tensors of one test, poisoned, each in memory of its own
struct test_case {
    ggml_context * ctx = ggml_init({ 64 * ggml_tensor_overhead(), nullptr, true });

    std::list<std::vector<char>> data;

    test_case() { CHECK(ctx); }

    ~test_case() { ggml_free(ctx); }

    test_case(const test_case &)             = delete;
    test_case & operator=(const test_case &) = delete;

    ggml_tensor * tensor(ggml_type type, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        ggml_tensor * t = ggml_new_tensor_4d(ctx, type, ne0, ne1, ne2, ne3);

        // aligned as a backend's buffers are, with poison behind the end
        data.emplace_back(ggml_nbytes(t) + 128);
        for (size_t i = 0; i + sizeof(POISON) <= data.back().size(); i += sizeof(POISON)) {
            memcpy(data.back().data() + i, &POISON, sizeof(POISON));
        }
        const uintptr_t at = ((uintptr_t) data.back().data() + 63) / 64 * 64;
        t->data            = (void *) at;
        t->buffer          = test_buffer;
        for (size_t i = 0; i + sizeof(POISON) <= ggml_nbytes(t); i += sizeof(POISON)) {
            memcpy((char *) t->data + i, &POISON, sizeof(POISON));
        }

        return t;
    }

    ggml_tensor * tensor_f32(int levels, float scale, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        ggml_tensor * t = tensor(GGML_TYPE_F32, ne0, ne1, ne2, ne3);

        fill_levels((float *) t->data, ggml_nelements(t), levels, scale);
        return t;
    }

    // Queries within [-4, 4) that F16 holds as they are: a device may read a prompt's as F16
    ggml_tensor * tensor_q(int64_t ne0, int64_t ne1, int64_t ne2) {
        ggml_tensor * t = tensor(GGML_TYPE_F32, ne0, ne1, ne2);

        for (int64_t i = 0; i < ggml_nelements(t); ++i) {
            ((float *) t->data)[i] = (float) rand_int(-256, 255) / 64.0f;
        }
        return t;
    }

    // K or V [n_embd*n_head_kv, n_cells, n_stream]. Each cell has a scale of its own, so that an attention is no mean.
    // exact: of values that every type, and F16 too, holds as they are
    ggml_tensor * tensor_kv(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, bool exact = false) {
        ggml_tensor * t = tensor(type, ne0, ne1, ne2);

        const int most = type == GGML_TYPE_Q4_0 ? 8 : 127;

        std::vector<float> x(ggml_nelements(t));
        for (int64_t r = 0; r < ggml_nrows(t); ++r) {
            const float scale = exact ? ldexpf(1.0f, rand_int(0, 2) - (type == GGML_TYPE_Q4_0 ? 3 : 7))
                                      : 0.25f + 2.0f * (float) rng() / (float) rng.max();

            for (int64_t i = 0; i < ne0; ++i) {
                // the largest of a block tells its scale
                const int m = i % 32 == 0 ? -most : rand_int(1 - most, most - 1);

                x[r * ne0 + i] = scale * (exact ? (float) m : (float) rng() / (float) rng.max() * 2.0f - 1.0f);
            }
        }

        if (type == GGML_TYPE_F32) {
            memcpy(t->data, x.data(), ggml_nbytes(t));
        } else {
            ggml_quantize_chunk(type, x.data(), t->data, 0, ggml_nrows(t), ne0, nullptr);
        }
        return t;
    }

    // the node of an op that writes to t, inplace
    ggml_tensor * inplace(ggml_tensor * t) {
        ggml_tensor * res = ggml_view_tensor(ctx, t);
        res->data         = t->data;
        return res;
    }
};

// 1/sqrt(n), or a power of 2 near it
static inline float get_scale(int n, bool exact = false) {
    const float res = 1.0f / sqrtf((float) n);
    return exact ? exp2f(roundf(log2f(res))) : res;
}

static inline int32_t * row_i32(const ggml_tensor * t, int64_t i1, int64_t i2 = 0) {
    return (int32_t *) ((char *) t->data + i2 * t->nb[2] + i1 * t->nb[1]);
}

static inline std::vector<char> get_bytes(const ggml_tensor * t) {
    return std::vector<char>((const char *) t->data, (const char *) t->data + ggml_nbytes(t));
}

// sequences, and the list of the tokens that each sees
struct sequences {
    int n_steps = rand_int(1, 3);
    int n_max;

    ggml_tensor * steps;
    ggml_tensor * cells;

    sequences(test_case & t, int n_max) : n_max(n_max) {
        steps = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
        cells = t.tensor(GGML_TYPE_I32, 1 + n_max, 1, n_steps);

        for (int s = 0; s < n_steps; ++s) {
            const int n = s == 0 && rand_bool() ? n_max : rand_int(1, n_max);

            row_i32(cells, 0, s)[0] = n;
            for (int i = 0; i < n_max; ++i) {
                row_i32(cells, 0, s)[1 + i] = 7 * i + s;
            }
            row_i32(steps, s)[LIL_SEL_SPARSE] = rng() % 4 != 0;
            row_i32(steps, s)[LIL_SEL_N]      = n;
        }
    }

    int n(int s) const { return row_i32(cells, 0, s)[0]; }
};

// bytes [begin, end) of a tensor: the same bits, or F32 and near
static inline void compare(const ggml_tensor * t, const std::vector<char> & got, const std::vector<char> & ref,
        size_t begin, size_t end, double tol) {
    for (size_t i = begin; i < end; i += sizeof(float)) {
        const size_t n = std::min(sizeof(float), end - i);
        if (memcmp(&got[i], &ref[i], n) == 0) {
            continue;
        }

        float x = NAN;
        float y = NAN;
        memcpy(&x, &got[i], n);
        memcpy(&y, &ref[i], n);

        if (t->type != GGML_TYPE_F32 || !(std::fabs((double) x - y) <= tol * (1.0 + std::fabs((double) y)))) {
            int32_t xi = 0;
            int32_t yi = 0;
            memcpy(&xi, &got[i], n);
            memcpy(&yi, &ref[i], n);
            fprintf(stderr, "element %zu of [%d, %d, %d, %d]: %.9g (%d), expected %.9g (%d)\n",
                    (i - begin) / sizeof(float), (int) t->ne[0], (int) t->ne[1], (int) t->ne[2], (int) t->ne[3], x, xi,
                    y, yi);
            CHECK(!"near");
        }
    }
}

static inline void compare(
        const ggml_tensor * t, const std::vector<char> & got, const std::vector<char> & ref, double tol) {
    compare(t, got, ref, 0, ref.size(), tol);
}

// makes dst the node of an op
static inline void set_op(
        ggml_tensor * dst, ggml_custom_op_t fun, const std::vector<ggml_tensor *> & src, const void * layer) {
    lil_node_params params = {};

    params.fun      = fun;
    params.n_tasks  = 1;
    params.userdata = const_cast<void *>(layer);

    dst->op = GGML_OP_CUSTOM;
    memcpy(dst->op_params, &params, sizeof(params));

    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        dst->src[i] = i < (int) src.size() ? src[i] : nullptr;
    }
}
