#pragma once

// What the tests of the Metal kernels share: tensors, random inputs, and check_op, which runs a node on the CPU and, from the
// same state, through the dispatcher (lil-metal.cpp) on the emulated device, and compares all that it could have written.

#undef NDEBUG

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "lil-ops.h"

#include "emu-metal-device.h"
#include "metal/lil-metal-plan.h"
#include "metal/lil-ops-metal.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <random>
#include <string>
#include <vector>

static uint32_t    seed = 1;
static std::string test_name;

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: seed %u: %s: CHECK(%s) failed\n", __FILE__, __LINE__, seed, test_name.c_str(), #x); \
            exit(1); \
        } \
    } while (0)

static std::mt19937 rng;

static const lil_ops * ops;   // the CPU's
static const lil_ops * metal;

static const int32_t POISON = 0x7fc0dead; // as F32: not a number

//
// helpers
//

static int rand_int(int lo, int hi) { // [lo, hi]
    return lo + (int) (rng()%(uint32_t) (hi - lo + 1));
}

static bool rand_bool() {
    return rng()%2 == 0;
}

// n of [0, n_cells), ascending
[[maybe_unused]] static std::vector<int32_t> rand_cells(int n, int n_cells) {
    std::vector<int32_t> all(n_cells);
    for (int i = 0; i < n_cells; ++i) {
        all[i] = i;
    }
    std::shuffle(all.begin(), all.end(), rng);
    all.resize(n);
    std::sort(all.begin(), all.end());
    return all;
}

// the tensors of one test, poisoned, each in memory of its own
struct test_case {
    ggml_context * ctx = ggml_init({ 64*ggml_tensor_overhead(), nullptr, true });

    std::list<std::vector<char>> data;

    ggml_backend_buffer buffer = {}; // a node has one; the emulated device asks no more of it

    test_case() {
        CHECK(ctx);
    }

    ~test_case() {
        ggml_free(ctx);
    }

    test_case(const test_case &) = delete;
    test_case & operator=(const test_case &) = delete;

    ggml_tensor * tensor(ggml_type type, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        ggml_tensor * t = ggml_new_tensor_4d(ctx, type, ne0, ne1, ne2, ne3);

        // aligned as a backend's buffers are, with poison behind the end
        data.emplace_back(ggml_nbytes(t) + 128);
        for (size_t i = 0; i + sizeof(POISON) <= data.back().size(); i += sizeof(POISON)) {
            memcpy(data.back().data() + i, &POISON, sizeof(POISON));
        }
        const uintptr_t at = ((uintptr_t) data.back().data() + 63)/64*64;
        t->data   = (void *) at;
        t->buffer = &buffer;
        for (size_t i = 0; i + sizeof(POISON) <= ggml_nbytes(t); i += sizeof(POISON)) {
            memcpy((char *) t->data + i, &POISON, sizeof(POISON));
        }

        return t;
    }

    // levels: how many different values, 0: no ties to speak of
    ggml_tensor * tensor_f32(int levels, float scale, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        ggml_tensor * t = tensor(GGML_TYPE_F32, ne0, ne1, ne2, ne3);

        float * x = (float *) t->data;
        for (int64_t i = 0; i < ggml_nelements(t); ++i) {
            x[i] = scale*(levels ? (float) (rand_int(0, levels - 1) - levels/2) : (float) rng()/(float) rng.max()*2.0f - 1.0f);
            if (x[i] == 0.0f && rand_bool()) {
                x[i] = -0.0f;
            }
        }
        return t;
    }

    // K or V [n_embd*n_head_kv, n_cells, n_stream]. Each cell has a scale of its own, so that an attention is no mean
    ggml_tensor * tensor_kv(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2) {
        ggml_tensor * t = tensor(type, ne0, ne1, ne2);

        std::vector<float> x(ggml_nelements(t));
        for (int64_t r = 0; r < ggml_nrows(t); ++r) {
            const float scale = 0.25f + 2.0f*(float) rng()/(float) rng.max();
            for (int64_t i = 0; i < ne0; ++i) {
                x[r*ne0 + i] = scale*((float) rng()/(float) rng.max()*2.0f - 1.0f);
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
        res->data = t->data;
        return res;
    }
};

[[maybe_unused]] static int32_t * row_i32(const ggml_tensor * t, int64_t i1, int64_t i2 = 0) {
    return (int32_t *) ((char *) t->data + i2*t->nb[2] + i1*t->nb[1]);
}

static const ggml_type TYPES[] = { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

[[maybe_unused]] static ggml_type rand_type(int n_embd) {
    ggml_type type;
    do {
        type = TYPES[rng()%5];
    } while (n_embd%ggml_blck_size(type) != 0);
    return type;
}

[[maybe_unused]] static const int LEVELS[] = { 0, 0, 1, 3, 50 };
[[maybe_unused]] static const int SIZES [] = { 1, 2, 17, 31, 32, 33, 100, 255, 257, 1000, 3000 };

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
                row_i32(cells, 0, s)[1 + i] = 7*i + s;
            }
            row_i32(steps, s)[LIL_SEL_SPARSE] = rng()%4 != 0;
            row_i32(steps, s)[LIL_SEL_N]      = n;
        }
    }

    int n(int s) const { return row_i32(cells, 0, s)[0]; }
};

// same bits, or F32 and near
static void compare(const ggml_tensor * t, const std::vector<char> & got, const std::vector<char> & ref, double tol) {
    if (got == ref) {
        return;
    }
    for (size_t i = 0; i < ref.size(); i += sizeof(float)) {
        if (memcmp(&got[i], &ref[i], sizeof(float)) == 0) {
            continue;
        }

        float x;
        float y;
        memcpy(&x, &got[i], sizeof(float));
        memcpy(&y, &ref[i], sizeof(float));

        if (t->type != GGML_TYPE_F32 || !(std::fabs((double) x - y) <= tol*(1.0 + std::fabs((double) y)))) {
            int32_t xi;
            int32_t yi;
            memcpy(&xi, &got[i], sizeof(float));
            memcpy(&yi, &ref[i], sizeof(float));
            fprintf(stderr, "element %zu of [%d, %d, %d, %d]: %.9g (%d), expected %.9g (%d)\n", i/sizeof(float), (int) t->ne[0], (int) t->ne[1], (int) t->ne[2], (int) t->ne[3], x, xi, y, yi);
            CHECK(!"near");
        }
    }
}

// makes dst the node of an op
static void set_op(ggml_tensor * dst, ggml_custom_op_t fun, const std::vector<ggml_tensor *> & src, const void * layer) {
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

// a node, through the dispatcher; the pipeline allows any number of threads, where its kernel takes any
static void run_metal(ggml_tensor * dst) {
    lil_metal_launch l;
    if (const char * err = lil_metal_plan(dst, l)) {
        fprintf(stderr, "%s\n", err);
        CHECK(!"a plan");
    }

    auto & state = emu_metal_get();

    state.n_threads = l.all_threads || rand_bool() ? 1024 : rand_int(32, (int) l.n_threads);
    state.last      = "";

    CHECK(lil_metal_supports(emu_metal_device(), dst));
    lil_metal_encode(emu_metal_device(), emu_metal_encoder(), dst);

    CHECK(state.last == l.name);
    CHECK(state.last_threads == std::min(l.n_threads, state.n_threads/32*32));

    state.log.clear();
}

// An op of both tables: on the CPU, then from the same state its kernel, and compares every tensor that it could have written.
// The CPU's result stays.
[[maybe_unused]] static void check_op(ggml_custom_op_t lil_ops::* op, ggml_tensor * dst, const std::vector<ggml_tensor *> & src, const void * layer, double tol) {
    std::vector<ggml_tensor *> all = src;
    all.push_back(dst);

    const auto get = [&] {
        std::vector<std::vector<char>> res;
        for (const ggml_tensor * t : all) {
            res.emplace_back((const char *) t->data, (const char *) t->data + ggml_nbytes(t));
        }
        return res;
    };
    const auto set = [&](const std::vector<std::vector<char>> & data) {
        for (size_t i = 0; i < all.size(); ++i) {
            memcpy(all[i]->data, data[i].data(), data[i].size());
        }
    };

    const auto before = get();

    set_op(dst, ops->*op, src, layer);

    const int n_threads = rand_int(1, 3);
    for (int i = 0; i < n_threads; ++i) {
        (ops->*op)(dst, i, n_threads, const_cast<void *>(layer));
    }

    const auto ref = get();

    set(before);

    set_op(dst, metal->*op, src, layer);
    run_metal(dst);

    const auto got = get();

    for (size_t i = 0; i < all.size(); ++i) {
        compare(all[i], got[i], ref[i], tol);

        // what else it writes to has to be known, or it would run beside those that read it
        CHECK(all[i]->data == dst->data || ref[i] == before[i] || lil_metal_writes_src(dst));
    }

    set(ref);
}

// An op that makes partial sums: on the CPU into ref, which has one part, its kernel into part, which may have several. Their
// sums are compared
[[maybe_unused]] static void check_parts(ggml_custom_op_t lil_ops::* op, ggml_tensor * ref, ggml_tensor * part, const std::vector<ggml_tensor *> & src, const void * layer, double tol) {
    set_op(ref, ops->*op, src, layer);
    (ops->*op)(ref, 0, 1, const_cast<void *>(layer));

    set_op(part, metal->*op, src, layer);
    run_metal(part);

    const auto at = [](const ggml_tensor * t, int64_t i, int64_t h, int64_t p, int64_t s) {
        return *(const float *) ((const char *) t->data + s*t->nb[3] + p*t->nb[2] + h*t->nb[1] + i*t->nb[0]);
    };

    for (int64_t s = 0; s < ref->ne[3]; ++s) {
        for (int64_t h = 0; h < ref->ne[1]; ++h) {
            for (int64_t i = 0; i < ref->ne[0]; ++i) {
                double sum = 0.0;
                for (int64_t p = 0; p < part->ne[2]; ++p) {
                    sum += at(part, i, h, p, s);
                }
                CHECK(std::fabs(sum - at(ref, i, h, 0, s)) <= tol*(1.0 + std::fabs(at(ref, i, h, 0, s))));
            }
        }
    }
}

// main's first lines
static void test_init(int argc, char ** argv) {
    if (argc > 1) {
        seed = (uint32_t) strtoul(argv[1], nullptr, 10);
    }
    rng.seed(seed);

    ggml_backend_load_all();

    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    CHECK(dev);

    const auto get_ops = (lil_get_ops_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "lil_ops");
    CHECK(get_ops);

    ops   = get_ops();
    metal = lil_ops_metal();
    CHECK(ops && metal);

    auto & props = emu_metal_get().props;
    props.supports_gpu_family_apple7 = true;
    props.max_theadgroup_memory_size = 32768;
}
