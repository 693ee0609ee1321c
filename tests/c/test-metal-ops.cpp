// The Metal kernels, their source run on the CPU (emu-metal.h), against the CPU's ops: the same random inputs, all that an op
// may write compared, outputs poisoned, sizes at and around every border.
//
//   test-metal-ops [seed]

#undef NDEBUG

#include "ggml-backend.h"
#include "ggml.h"
#include "lil-ops.h"

#include "metal/lil-metal-plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "emu-metal.h"

namespace emu_metal {
#include "metal/attn.metal"
#include "metal/h2o-evict.metal"
#include "metal/h2o-score.metal"
#include "metal/page-bounds.metal"
#include "metal/page-scores.metal"
#include "metal/page-select.metal"
#include "metal/raas.metal"
#include "metal/token-select.metal"
}

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

static const lil_ops * ops;

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
static std::vector<int32_t> rand_cells(int n, int n_cells) {
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
        t->data = (void *) at;
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

static int32_t * row_i32(const ggml_tensor * t, int64_t i1, int64_t i2 = 0) {
    return (int32_t *) ((char *) t->data + i2*t->nb[2] + i1*t->nb[1]);
}

static const ggml_type TYPES[] = { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

static ggml_type rand_type(int n_embd) {
    ggml_type type;
    do {
        type = TYPES[rng()%5];
    } while (n_embd%ggml_blck_size(type) != 0);
    return type;
}

//
// launches
//

// calls a kernel with as many buffers as it has
#define BUF(i) ((char *) l.buf[i]->data)

template <typename ARGS> static ARGS get_args(const lil_metal_launch & l) {
    ARGS args;
    CHECK(l.n_args == sizeof(args));
    memcpy(&args, l.args, sizeof(args));
    return args;
}

template <int N> static void run_attn(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_attn>(l);
    emu_metal::kernel_lil_attn<N>(args, BUF(0), BUF(1), BUF(2), BUF(3), BUF(4), BUF(5), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_attn_join(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_attn_join>(l);
    emu_metal::kernel_lil_attn_join(args, BUF(0), BUF(1), BUF(2), p.tgpig, p.tiitg, p.tiisg, p.ntg);
}

static void run_page_bounds(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_page_bounds>(l);
    emu_metal::kernel_lil_page_bounds(args, BUF(0), BUF(2), BUF(3), p.tgpig, p.tiitg, p.ntg);
}

template <int N> static void run_page_scores(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_page_scores>(l);
    emu_metal::kernel_lil_page_scores<N>(args, BUF(0), BUF(1), BUF(2), BUF(3), p.shmem, p.tgpig, p.tiitg, p.ntg);
}

static void run_page_select(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_page_select>(l);
    emu_metal::kernel_lil_page_select(args, BUF(0), BUF(1), BUF(2), BUF(3), BUF(4), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_tidal_select(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_token_select>(l);
    emu_metal::kernel_lil_tidal_select(args, BUF(0), BUF(1), BUF(2), BUF(3), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_lessismore_select(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_token_select>(l);
    emu_metal::kernel_lil_lessismore_select(args, BUF(0), BUF(1), BUF(2), BUF(3), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_raas_stamp(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_raas>(l);
    emu_metal::kernel_lil_raas_stamp(args, BUF(0), BUF(2), BUF(3), BUF(4), BUF(5), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_raas_select(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_raas>(l);
    emu_metal::kernel_lil_raas_select(args, BUF(0), BUF(1), BUF(2), BUF(3), BUF(4), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_h2o_evict(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_evict>(l);
    emu_metal::kernel_lil_h2o_evict(args, BUF(0), BUF(2), BUF(3), BUF(4), BUF(5), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

template <int N> static void run_h2o_score(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_evict>(l);
    emu_metal::kernel_lil_h2o_score<N>(args, BUF(0), BUF(2), BUF(3), BUF(4), BUF(5), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_h2o_score_prompt(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_evict>(l);
    emu_metal::kernel_lil_h2o_score_prompt(args, BUF(0), BUF(1), BUF(2), BUF(3), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_h2o_score_add(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_evict>(l);
    emu_metal::kernel_lil_h2o_score_add(args, BUF(0), BUF(2), BUF(3), BUF(4), p.tgpig, p.tiitg, p.ntg);
}

static void run_h2o_score_window(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_evict>(l);
    emu_metal::kernel_lil_h2o_score_window(args, BUF(0), BUF(2), BUF(3), BUF(4), BUF(5), p.shmem, p.tgpig, p.tiitg, p.tiisg, p.sgitg, p.ntg);
}

static void run_new_slots(const lil_metal_launch & l, const emu_metal::place & p) {
    auto args = get_args<lil_metal_kargs_evict>(l);
    emu_metal::kernel_lil_new_slots(args, BUF(0), BUF(2), BUF(3), p.tgpig, p.tiitg, p.ntg);
}

static const struct {
    const char * name;
    void      (* run)(const lil_metal_launch & l, const emu_metal::place & p);
} KERNELS[] = {
    { "kernel_lil_attn_1",  run_attn<1>  },
    { "kernel_lil_attn_2",  run_attn<2>  },
    { "kernel_lil_attn_3",  run_attn<3>  },
    { "kernel_lil_attn_4",  run_attn<4>  },
    { "kernel_lil_attn_5",  run_attn<5>  },
    { "kernel_lil_attn_6",  run_attn<6>  },
    { "kernel_lil_attn_7",  run_attn<7>  },
    { "kernel_lil_attn_8",  run_attn<8>  },
    { "kernel_lil_attn_12", run_attn<12> },
    { "kernel_lil_attn_16", run_attn<16> },

    { "kernel_lil_attn_join",     run_attn_join      },
    { "kernel_lil_page_bounds",   run_page_bounds    },
    { "kernel_lil_page_scores_1", run_page_scores<1> },
    { "kernel_lil_page_scores_2", run_page_scores<2> },
    { "kernel_lil_page_scores_4", run_page_scores<4> },
    { "kernel_lil_page_scores_8", run_page_scores<8> },
    { "kernel_lil_page_select",   run_page_select    },
    { "kernel_lil_tidal_select",  run_tidal_select   },

    { "kernel_lil_lessismore_select", run_lessismore_select },
    { "kernel_lil_raas_stamp",        run_raas_stamp        },
    { "kernel_lil_raas_select",       run_raas_select       },

    { "kernel_lil_h2o_evict",        run_h2o_evict        },
    { "kernel_lil_h2o_score_1",      run_h2o_score<1>     },
    { "kernel_lil_h2o_score_2",      run_h2o_score<2>     },
    { "kernel_lil_h2o_score_4",      run_h2o_score<4>     },
    { "kernel_lil_h2o_score_8",      run_h2o_score<8>     },
    { "kernel_lil_h2o_score_prompt", run_h2o_score_prompt },
    { "kernel_lil_h2o_score_add",    run_h2o_score_add    },
    { "kernel_lil_h2o_score_window", run_h2o_score_window },
    { "kernel_lil_new_slots",        run_new_slots        },
};

static void run_metal(const lil_metal_launch & l) {
    emu_metal::lil_type_k = l.type_k;
    emu_metal::lil_type_v = l.type_v;

    for (const auto & k : KERNELS) {
        if (strcmp(k.name, l.name) == 0) {
            emu_metal::launch({ l.grid[0], l.grid[1], l.grid[2] }, (int) l.n_threads, l.n_shmem, [&](const emu_metal::place & p) { k.run(l, p); });
            return;
        }
    }
    CHECK(!"a kernel of that name");
}

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

// Runs an op on the CPU, then from the same state its kernel, and compares every tensor that it could have written. The
// CPU's result stays.
static void check_op(lil_metal_op op, ggml_custom_op_t cpu, ggml_tensor * dst, const std::vector<ggml_tensor *> & src, const void * layer, double tol) {
    for (size_t i = 0; i < src.size(); ++i) {
        dst->src[i] = src[i];
    }

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

    const int n_threads = rand_int(1, 3);
    for (int i = 0; i < n_threads; ++i) {
        cpu(dst, i, n_threads, const_cast<void *>(layer));
    }

    const auto ref = get();

    set(before);

    lil_metal_launch l;
    const char * err = lil_metal_plan(op, dst, layer, l);
    if (err) {
        fprintf(stderr, "%s\n", err);
        CHECK(!"a plan");
    }
    if (op != LIL_METAL_OP_ATTN && rand_bool()) {
        l.n_threads = 32*rand_int(1, (int) l.n_threads/32);
    }
    run_metal(l);

    const auto got = get();

    for (size_t i = 0; i < all.size(); ++i) {
        compare(all[i], got[i], ref[i], tol);
    }

    set(ref);
}

//
// tests
//

static void test_attn(int n_embd, int n_embd_v, int n_group, ggml_type type_k, ggml_type type_v, int n_list, bool shared, bool kq, float softcap) {
    const int n_head_kv = rand_int(1, 2);
    const int n_head    = n_head_kv*n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_max     = n_list + (rand_bool() ? rand_int(0, 300) : 0);
    const int n_cells   = n_list + rand_int(0, 50);

    char name[256];
    snprintf(name, sizeof(name), "attn: n_embd %d/%d, heads %d*%d, %s/%s, list %d of %d, steps %d, shared %d, kq %d, softcap %g",
            n_embd, n_embd_v, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_v), n_list, n_max, n_steps, shared, kq, softcap);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.scale     = 1.0f/sqrtf((float) n_embd);
    layer.softcap   = softcap;

    test_case t;

    ggml_tensor * q     = t.tensor_f32(0, 4.0f, n_embd, n_head, n_steps);
    ggml_tensor * k     = t.tensor_kv(type_k, n_embd*n_head_kv, n_cells, n_stream);
    ggml_tensor * v     = t.tensor_kv(type_v, n_embd_v*n_head_kv, n_cells, n_stream);
    ggml_tensor * list  = t.tensor(GGML_TYPE_I32, 1 + n_max, shared ? 1 : n_head_kv, n_steps);
    ggml_tensor * steps = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    ggml_tensor * work  = t.tensor(GGML_TYPE_F32, lil_attn_n_work(n_embd_v, n_head, n_max, n_steps, kq));
    ggml_tensor * out   = t.tensor(GGML_TYPE_F32, n_embd_v, n_head, n_steps);

    // the first list has n_list entries, the others at most as many
    for (int s = 0; s < n_steps; ++s) {
        for (int h = 0; h < list->ne[1]; ++h) {
            const auto cells = rand_cells(s == 0 && h == 0 ? n_list : rand_int(1, n_list), n_cells);

            row_i32(list, h, s)[0] = (int32_t) cells.size();
            std::copy(cells.begin(), cells.end(), row_i32(list, h, s) + 1);
        }
        row_i32(steps, s)[LIL_SEL_STREAM] = n_stream - 1 - s;
    }

    check_op(LIL_METAL_OP_ATTN,      ops->attn,      work, { q, k, v, list, steps }, &layer, 2e-5);
    check_op(LIL_METAL_OP_ATTN_JOIN, ops->attn_join, out,  { work, list },           &layer, 2e-5);
}

static void test_pages(int n_embd, int n_group, ggml_type type_k, ggml_type type_b) {
    const int n_head_kv = rand_int(1, 3);
    const int n_steps   = rand_int(1, 3);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_cells   = 100;
    const int n_pages   = rand_int(1, 150);
    const int page_size = rand_int(1, 20);

    char name[256];
    snprintf(name, sizeof(name), "pages: n_embd %d, heads %d*%d, %s, bounds %s, steps %d, pages %d of %d",
            n_embd, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_b), n_steps, n_pages, page_size);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;

    test_case t;

    ggml_tensor * q      = t.tensor_f32(0, 4.0f, n_embd, n_head_kv*n_group, n_steps);
    ggml_tensor * k      = t.tensor_kv(type_k, n_embd*n_head_kv, n_cells, n_stream);
    ggml_tensor * bounds = t.tensor(type_b, 2*n_embd, n_head_kv, n_pages + 1, n_stream);
    ggml_tensor * dirty  = t.tensor(GGML_TYPE_I32, LIL_DIRTY_HEAD + page_size, n_pages*n_steps);
    ggml_tensor * steps  = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    ggml_tensor * scores = t.tensor(GGML_TYPE_F32, n_pages + 1, n_head_kv, n_steps);

    for (int s = 0; s < n_steps; ++s) {
        row_i32(steps, s)[LIL_SEL_STREAM] = n_stream - 1 - s;
        row_i32(steps, s)[LIL_SEL_TABLE]  = s;
        row_i32(steps, s)[LIL_SEL_PAGES]  = s == 0 ? n_pages : rand_int(0, n_pages);
    }

    for (int i = 0; i < n_steps*n_pages; ++i) {
        const auto cells = rand_cells(rand_int(1, page_size), n_cells);

        int32_t * entry = row_i32(dirty, i);
        entry[LIL_DIRTY_STREAM] = row_i32(steps, i/n_pages)[LIL_SEL_STREAM];
        entry[LIL_DIRTY_TABLE]  = i/n_pages;
        entry[LIL_DIRTY_PAGE]   = i%n_pages;
        entry[LIL_DIRTY_N]      = (int32_t) cells.size();
        std::copy(cells.begin(), cells.end(), entry + LIL_DIRTY_HEAD);
    }

    check_op(LIL_METAL_OP_PAGE_BOUNDS, ops->page_bounds, t.inplace(bounds), { bounds, k, dirty }, &layer, 0.0);
    check_op(LIL_METAL_OP_PAGE_SCORES, ops->page_scores, scores, { q, bounds, steps }, &layer, 2e-5);
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
                row_i32(cells, 0, s)[1 + i] = 7*i + s;
            }
            row_i32(steps, s)[LIL_SEL_SPARSE] = rng()%4 != 0;
            row_i32(steps, s)[LIL_SEL_N]      = n;
        }
    }

    int n(int s) const { return row_i32(cells, 0, s)[0]; }
};

static const int LEVELS[] = { 0, 0, 1, 3, 50 };
static const int SIZES [] = { 1, 2, 17, 31, 32, 33, 100, 255, 257, 1000, 3000 };

// pages of any sizes, of 1, or of 16
static ggml_tensor * make_pages(test_case & t, sequences & seq) {
    ggml_tensor * pages = t.tensor(GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);

    for (int s = 0; s < seq.n_steps; ++s) {
        const int size = rand_bool() ? 0 : rand_bool() ? 1 : 16;

        int n = 0;
        for (int r = 0; r < seq.n(s); r += size ? size : rand_int(1, 20)) {
            row_i32(pages, s)[n++] = r;
        }
        row_i32(pages, s)[n] = seq.n(s);
        row_i32(seq.steps, s)[LIL_SEL_PAGES] = n;
    }

    return pages;
}

static void test_page_select() {
    test_case t;
    sequences seq(t, SIZES[rng()%11]);

    const int n_head_kv = rand_int(1, 3);
    const int levels    = LEVELS[rng()%5];

    ggml_tensor * scores = t.tensor_f32(levels, 1.0f, seq.n_max, n_head_kv, seq.n_steps);
    ggml_tensor * pages  = make_pages(t, seq);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv  = n_head_kv;
    layer.first_page = rand_bool();
    layer.n_pages    = rand_int(1 + layer.first_page, rand_bool() ? 10 : 100);
    if (rand_bool()) { // a page more, as many, one fewer
        layer.n_pages = std::max(1 + layer.first_page, row_i32(seq.steps, 0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    char name[256];
    snprintf(name, sizeof(name), "page_select: heads %d, tokens %d, pages %d, first %d, levels %d", n_head_kv, seq.n_max, layer.n_pages, layer.first_page, levels);
    test_name = name;

    check_op(LIL_METAL_OP_PAGE_SELECT, ops->page_select, list, { scores, seq.steps, seq.cells, pages }, &layer, 0.0);
}

static void test_raas() {
    test_case t;
    sequences seq(t, SIZES[rng()%11]);

    const int  n_head_kv = rand_int(1, 3);
    const int  levels    = LEVELS[rng()%5];
    const bool one       = rand_bool(); // all sequences are in one stream, some with the same cells

    ggml_tensor * pages  = make_pages(t, seq);
    ggml_tensor * scores = t.tensor_f32(levels, 1.0f, seq.n_max, n_head_kv, seq.n_steps);
    ggml_tensor * stamp  = t.tensor_f32(20, 1.0f, 7*seq.n_max + 3, n_head_kv, one ? 1 : seq.n_steps);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    for (int64_t i = 0; i < ggml_nelements(stamp); ++i) {
        if (rng()%3 == 0) {
            ((float *) stamp->data)[i] = LIL_RAAS_NEVER;
        }
    }

    for (int s = 0; s < seq.n_steps; ++s) {
        row_i32(seq.steps, s)[LIL_SEL_STREAM] = one ? 0 : seq.n_steps - 1 - s;
        row_i32(seq.steps, s)[LIL_SEL_NOW]    = rand_int(1, 20);

        if (one && s > 0 && rand_bool()) {
            for (int i = 0; i < seq.n_max; ++i) {
                row_i32(seq.cells, 0, s)[1 + i] = row_i32(seq.cells, 0, 0)[1 + i];
            }
        }
    }

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.n_pages   = rand_int(1, rand_bool() ? 10 : 100);
    layer.ratio     = rand_int(1, 10)/10.0f;
    if (rand_bool()) { // a page more, as many, one fewer
        layer.n_pages = std::max(1, row_i32(seq.steps, 0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    char name[256];
    snprintf(name, sizeof(name), "raas: heads %d, tokens %d, pages %d, ratio %g, levels %d", n_head_kv, seq.n_max, layer.n_pages, layer.ratio, levels);
    test_name = name;

    check_op(LIL_METAL_OP_RAAS_STAMP,  ops->raas_stamp,  t.inplace(stamp), { stamp, scores, seq.steps, seq.cells, pages }, &layer, 0.0);
    check_op(LIL_METAL_OP_RAAS_SELECT, ops->raas_select, list, { stamp, seq.steps, seq.cells, pages }, &layer, 0.0);
}

static void test_token_select() {
    test_case t;
    sequences seq(t, SIZES[rng()%11]);

    const int n_head_kv = rand_int(1, 3);
    const int n_group   = rand_bool() ? 1 : rand_int(2, 7);
    const int n_head    = n_head_kv*n_group;
    const int n_embd_v  = 4*rand_int(1, 5);
    const int levels    = LEVELS[rng()%5];

    ggml_tensor * work = t.tensor_f32(levels, rand_bool() ? 1.0f : 20.0f, lil_attn_n_work(n_embd_v, n_head, seq.n_max, seq.n_steps, true));
    work->src[0] = t.tensor(GGML_TYPE_F32, 16, n_head, seq.n_steps);
    work->src[1] = t.tensor(GGML_TYPE_F16, 16*n_head_kv, 4);
    work->src[2] = t.tensor(GGML_TYPE_F16, n_embd_v*n_head_kv, 4);
    work->src[3] = seq.cells;
    work->src[4] = seq.steps;

    ggml_tensor * list = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.budget    = rand_bool() ? std::max(1, seq.n(0) + rand_int(-1, 1)) : rand_int(2, rand_bool() ? 100 : 1500);

    char name[256];
    snprintf(name, sizeof(name), "tidal_select: heads %d*%d, tokens %d, budget %d, levels %d", n_head_kv, n_group, seq.n_max, layer.budget, levels);
    test_name = name;

    check_op(LIL_METAL_OP_TIDAL_SELECT, ops->tidal_select, list, { rand_bool() ? work : t.inplace(work), seq.steps, seq.cells }, &layer, 0.0);

    // heads that agree, more or less
    const int one_of = rand_bool() ? 0 : rand_int(1, 20);

    for (int s = 0; s < seq.n_steps && one_of > 0; ++s) {
        float * x = (float *) work->data + lil_attn_kq_offset(n_embd_v, n_head, seq.n_max, seq.n_steps) + (int64_t) s*n_head*seq.n_max;
        for (int i = seq.n_max; i < n_head*seq.n_max; ++i) {
            x[i] = rng()%one_of == 0 ? x[i] : x[i%seq.n_max];
        }
    }

    layer.n_sink   = rand_int(0, 4);
    layer.n_recent = rand_int(1, 30);
    layer.budget   = std::max(layer.n_sink + layer.n_recent + 1, rand_bool() ? seq.n(0) + rand_int(-1, 1) : rand_int(2, rand_bool() ? 100 : 1500));

    ggml_tensor * one = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    snprintf(name, sizeof(name), "lessismore_select: heads %d*%d, tokens %d, budget %d, levels %d", n_head_kv, n_group, seq.n_max, layer.budget, levels);
    test_name = name;

    check_op(LIL_METAL_OP_LESSISMORE_SELECT, ops->lessismore_select, one, { work, seq.steps, seq.cells }, &layer, 0.0);
}

// a cache of an evict method: the tokens of each head, in any order
struct evict_cache {
    int n_head_kv = rand_int(1, 3);
    int n_steps   = rand_int(1, 2);
    int n_stream  = n_steps + rand_int(0, 1);
    int capacity;

    ggml_tensor * k;
    ggml_tensor * v;
    ggml_tensor * score;
    ggml_tensor * pos;
    ggml_tensor * steps;

    lil_h2o_layer layer = {};

    // same: every head holds the same tokens
    evict_cache(test_case & t, int n_embd, int n_embd_v, ggml_type type_k, ggml_type type_v, int n_slots, int levels, bool same) : capacity(n_slots + rand_int(0, 20)) {
        k     = t.tensor_kv(type_k, n_embd*n_head_kv, capacity, n_stream);
        v     = t.tensor_kv(type_v, n_embd_v*n_head_kv, capacity, n_stream);
        score = t.tensor_f32(levels, 1.0f, capacity, n_head_kv, n_stream);
        pos   = t.tensor(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
        steps = t.tensor(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);

        for (int s = 0; s < n_stream; ++s) {
            std::vector<int32_t> order = rand_cells(capacity, 3*capacity);
            for (int h = 0; h < n_head_kv; ++h) {
                if (h == 0 || !same) {
                    std::shuffle(order.begin(), order.end(), rng);
                }
                for (int i = 0; i < capacity; ++i) {
                    ((float *) ((char *) pos->data + s*pos->nb[2] + h*pos->nb[1]))[i] = (float) order[i];
                }
            }
        }

        for (int s = 0; s < n_steps; ++s) {
            memset(step(s), 0, LIL_STEP_COUNT*sizeof(int32_t));
            step(s)[LIL_STEP_STREAM] = n_stream - 1 - s;
        }

        layer.n_head_kv = n_head_kv;
        layer.n_part    = 1;
        layer.scale     = 1.0f/sqrtf((float) n_embd);
        layer.softcap   = rng()%4 == 0 ? 5.0f : 0.0f;
        layer.shared    = same;
        layer.last      = rand_bool();
    }

    int32_t * step(int s) { return row_i32(steps, s); }
};

static void test_h2o_evict(int n_slots, int n_evict) {
    const bool same    = rand_bool();
    const int  levels  = LEVELS[rng()%5];
    const int  n_embd  = 32*rand_int(1, 2);

    const ggml_type type_k = TYPES[rng()%5];
    const ggml_type type_v = TYPES[rng()%5];

    char name[256];
    snprintf(name, sizeof(name), "h2o_evict: %d of %d, %s/%s, same %d, levels %d", n_evict, n_slots, ggml_type_name(type_k), ggml_type_name(type_v), same, levels);
    test_name = name;

    test_case   t;
    evict_cache c(t, n_embd, 32, type_k, type_v, n_slots, levels, same);

    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_BEFORE]  = n_slots;
        c.step(s)[LIL_STEP_EVICT]   = s == 0 ? n_evict : rand_int(0, n_evict);
        c.step(s)[LIL_STEP_PROTECT] = 3*c.capacity;

        // as many unprotected as are to go, or more
        if (rand_bool()) {
            int protect = 0;
            for (int h = 0; h < c.n_head_kv; ++h) {
                const float * pos = (const float *) ((char *) c.pos->data + c.step(s)[LIL_STEP_STREAM]*c.pos->nb[2] + h*c.pos->nb[1]);

                std::vector<float> p(pos, pos + n_slots);
                std::sort(p.begin(), p.end());
                protect = std::max(protect, (int) p[n_evict - 1] + 1);
            }
            c.step(s)[LIL_STEP_PROTECT] = protect;
        }
    }

    check_op(LIL_METAL_OP_H2O_EVICT, ops->h2o_evict, t.inplace(c.pos), { c.pos, c.k, c.v, c.score, c.steps }, &c.layer, 0.0);
}

static void test_h2o_score(int n_embd, int n_group, ggml_type type_k, int n_slots) {
    char name[256];
    snprintf(name, sizeof(name), "h2o_score: n_embd %d, group %d, %s, slots %d", n_embd, n_group, ggml_type_name(type_k), n_slots);
    test_name = name;

    test_case   t;
    evict_cache c(t, n_embd, 4, type_k, GGML_TYPE_F16, n_slots, 0, false);

    const int n_head = c.n_head_kv*n_group;
    const int n_new  = rand_int(1, std::min(n_slots, n_group <= 4 ? 20 : 6));

    // decode: the last query of each
    for (int s = 0; s < c.n_steps; ++s) {
        const int n_evict = rand_int(0, 3);
        const int n_here  = s == 0 ? n_new : 1;

        c.step(s)[LIL_STEP_BEFORE] = n_slots - n_here + n_evict;
        c.step(s)[LIL_STEP_EVICT]  = n_evict;
        c.step(s)[LIL_STEP_NEW]    = n_here;
        c.step(s)[LIL_STEP_POS]    = 5000 + s;
    }

    ggml_tensor * q = t.tensor_f32(0, 4.0f, n_embd, n_head, c.n_steps);

    check_op(LIL_METAL_OP_H2O_SCORE, ops->h2o_score, t.inplace(c.score), { c.score, q, c.k, c.pos, c.steps }, &c.layer, 2e-5);
    check_op(LIL_METAL_OP_NEW_SLOTS, ops->new_slots, t.inplace(c.score), { c.score, c.pos, c.steps }, &c.layer, 0.0);

    // a prompt, in two ops: the parts are summed up differently, so both run before anything is compared
    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_NEW]    = n_new;
        c.step(s)[LIL_STEP_BEFORE] = n_slots - n_new + c.step(s)[LIL_STEP_EVICT];
    }

    const int n_kv = n_slots + rand_int(0, 30);

    ggml_tensor * qs   = t.tensor_f32(0, 4.0f, n_embd, n_head, n_new*c.n_steps);
    ggml_tensor * ref  = t.tensor(GGML_TYPE_F32, n_kv, c.n_head_kv, 1, c.n_steps);
    ggml_tensor * part = t.tensor(GGML_TYPE_F32, n_kv, c.n_head_kv, rand_int(1, 4), c.n_steps);

    ref ->src[0] = part->src[0] = qs;
    ref ->src[1] = part->src[1] = c.k;
    ref ->src[2] = part->src[2] = c.steps;

    ops->h2o_score_prompt(ref, 0, 1, &c.layer);

    lil_metal_launch l;
    CHECK(!lil_metal_plan(LIL_METAL_OP_H2O_SCORE_PROMPT, part, &c.layer, l));
    run_metal(l);

    for (int s = 0; s < c.n_steps; ++s) {
        for (int h = 0; h < c.n_head_kv; ++h) {
            for (int i = 0; i < n_kv; ++i) {
                const auto at = [&](const ggml_tensor * t, int p) { return ((const float *) ((const char *) t->data + s*t->nb[3] + p*t->nb[2] + h*t->nb[1]))[i]; };

                double sum = 0.0;
                for (int p = 0; p < part->ne[2]; ++p) {
                    sum += at(part, p);
                }
                CHECK(std::fabs(sum - at(ref, 0)) <= 2e-5*(1.0 + std::fabs(at(ref, 0))));
            }
        }
    }

    ggml_tensor * one = t.tensor_f32(0, 1.0f, n_kv, c.n_head_kv, 1, c.n_steps);

    check_op(LIL_METAL_OP_H2O_SCORE_ADD, ops->h2o_score_add, t.inplace(c.score), { c.score, one, c.pos, c.steps }, &c.layer, 1e-6);

    // every part counts
    c.layer.n_part = (int) part->ne[2];

    ggml_tensor * add = t.inplace(c.score);
    add->src[0] = c.score;
    add->src[1] = part;
    add->src[2] = c.pos;
    add->src[3] = c.steps;

    const std::vector<float> before((const float *) c.score->data, (const float *) c.score->data + ggml_nelements(c.score));

    for (int i = 0; i < c.layer.n_part; ++i) {
        ops->h2o_score_add(add, i, c.layer.n_part, &c.layer);
    }

    std::vector<char> sum_cpu((const char *) c.score->data, (const char *) c.score->data + ggml_nbytes(c.score));

    memcpy(c.score->data, before.data(), ggml_nbytes(c.score));
    CHECK(!lil_metal_plan(LIL_METAL_OP_H2O_SCORE_ADD, add, &c.layer, l));
    run_metal(l);

    compare(c.score, std::vector<char>((const char *) c.score->data, (const char *) c.score->data + ggml_nbytes(c.score)), sum_cpu, 1e-6);

    // the window: the last queries before LIL_STEP_POS, which see the tokens up to their own
    ggml_tensor * win = t.tensor_f32(0, 4.0f, n_embd*n_head, LIL_H2O_WINDOW, c.n_stream);

    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_BEFORE] = n_slots;
        c.step(s)[LIL_STEP_WIN]    = rand_bool() ? 0 : n_group <= 2 ? rand_int(1, LIL_H2O_WINDOW) : rand_int(1, 5);
        c.step(s)[LIL_STEP_POS]    = 100 + rand_int(0, 100); // no query before position 0

        // a token that every query sees
        for (int h = 0; h < c.n_head_kv; ++h) {
            float * pos = (float *) ((char *) c.pos->data + c.step(s)[LIL_STEP_STREAM]*c.pos->nb[2] + h*c.pos->nb[1]);

            for (int i = 0; i < n_slots; ++i) {
                pos[i] = i == 0 ? 0.0f : (float) (c.step(s)[LIL_STEP_POS] - rand_int(1, 100));
            }
        }
    }

    check_op(LIL_METAL_OP_H2O_SCORE_WINDOW, ops->h2o_score_window, t.inplace(c.score), { c.score, win, c.k, c.pos, c.steps }, &c.layer, 5e-5);
}

// what no kernel can compute has a reason
static void test_refusals() {
    test_name = "refusals";

    const struct {
        ggml_type type;
        int       n_embd;
        bool      ok;
    } cases[] = {
        { GGML_TYPE_F16,  64,   true  },
        { GGML_TYPE_Q4_0, 64,   true  },
        { GGML_TYPE_Q5_1, 64,   false },
        { GGML_TYPE_F16,  66,   false },
        { GGML_TYPE_F16,  512,  true  },
        { GGML_TYPE_F16,  1024, false },
    };

    for (const auto & c : cases) {
        test_case t;

        ggml_tensor * work = t.tensor(GGML_TYPE_F32, lil_attn_n_work(c.n_embd, 4, 16, 1, false));
        work->src[0] = t.tensor(GGML_TYPE_F32, c.n_embd, 4, 1);
        work->src[1] = t.tensor(c.type, 2*c.n_embd, 16);
        work->src[2] = t.tensor(c.type, 2*c.n_embd, 16);
        work->src[3] = t.tensor(GGML_TYPE_I32, 1 + 16, 1, 1);
        work->src[4] = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, 1);

        lil_select_layer layer = {};
        layer.n_head_kv = 2;

        lil_metal_launch l;
        CHECK((lil_metal_plan(LIL_METAL_OP_ATTN, work, &layer, l) == nullptr) == c.ok);
    }
}

int main(int argc, char ** argv) {
    if (argc > 1) {
        seed = (uint32_t) strtoul(argv[1], nullptr, 10);
    }
    rng.seed(seed);

    ggml_backend_load_all();

    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    CHECK(dev);

    using get_ops_t = const lil_ops * (*)(void);

    auto get_ops = (get_ops_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "lil_ops");
    CHECK(get_ops);
    ops = get_ops();
    CHECK(ops);

    test_refusals();

    int n_tests = 1;

    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 5, 7, 8, 16 }) {
            for (int n_list : { 1, 15, 16, 17, 255, 256, 257, 600 }) {
                const int n_embd_v = rng()%4 == 0 ? 32*rand_int(1, 5) : n_embd;

                test_attn(n_embd, n_embd_v, n_group, rand_type(n_embd), rand_type(n_embd_v), n_list, rand_bool(), rand_bool(), rng()%4 == 0 ? 5.0f : 0.0f);
                n_tests++;
            }

            const ggml_type type_k = rand_type(n_embd);

            test_pages(n_embd, n_group, type_k, type_k == GGML_TYPE_F16 || (type_k == GGML_TYPE_F32 && rand_bool()) ? GGML_TYPE_F16 : GGML_TYPE_F32);
            n_tests++;
        }
    }

    // odd sizes
    for (int i = 0; i < 50; ++i) {
        test_attn(4*rand_int(1, 20), 4*rand_int(1, 20), rand_int(1, 20), TYPES[rng()%3], TYPES[rng()%3], rand_int(1, 300), rand_bool(), rand_bool(), 0.0f);
        test_pages(4*rand_int(1, 20), rand_int(1, 20), TYPES[rng()%2], GGML_TYPE_F16);
        n_tests += 2;
    }

    for (int n_slots : { 1, 2, 31, 32, 33, 64, 257, 1000, 3000 }) {
        for (int n_evict : { 1, 2, 31, 32, 33, 200, 1000, 1024, 1030, 2000 }) {
            if (n_evict <= n_slots) {
                test_h2o_evict(n_slots, n_evict);
                test_h2o_evict(n_slots, n_evict);
                n_tests += 2;
            }
        }
    }

    // more moves than are planned at once
    for (int n_evict : { 2000, 2500, 3000 }) {
        test_h2o_evict(5000, n_evict);
        n_tests++;
    }

    for (int n_embd : { 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 4, 7, 8, 16 }) {
            test_h2o_score(n_embd, n_group, rand_type(n_embd), n_group <= 2 && rand_bool() ? rand_int(1, 300) : SIZES[rng()%7]);
            n_tests++;
        }
    }

    for (int i = 0; i < 300; ++i) {
        test_page_select();
        test_token_select();
        test_raas();
        n_tests += 3;
    }

    printf("test-metal-ops: %d cases, seed %u: ok\n", n_tests, seed);

    return 0;
}
