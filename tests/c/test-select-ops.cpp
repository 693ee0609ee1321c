// The select ops that choose tokens and keep scores, each against its definition in lil-ops.h, computed the naive way:
// random inputs with many ties, every size around a border, dense and sparse steps together, 1 to 5 threads, outputs
// poisoned.
//
//   test-select-ops [seed]

#include "ops-common.h"

#include "ggml-backend.h"
#include "lil-ops.h"

#include <list>
#include <thread>

static const lil_ops * ops = nullptr;

//
// helpers
//

struct test_case {
    std::mt19937   rng;
    ggml_context * ctx;

    std::list<std::vector<int32_t>> data; // of the tensors, each by itself for sanitizers to see its ends

    explicit test_case(uint32_t seed) : rng(seed) {
        ctx = ggml_init({ 64 * ggml_tensor_overhead(), nullptr, true });
        CHECK(ctx);
    }

    ~test_case() { ggml_free(ctx); }

    test_case(const test_case &)             = delete;
    test_case & operator=(const test_case &) = delete;

    // both ends included
    int32_t rand_int(int32_t lo, int32_t hi) { return lo + (int32_t) (rng() % (uint32_t) (hi - lo + 1)); }

    float rand_float() { return (float) (rng() % (1u << 24)) / (float) (1u << 23) - 1.0f; }

    int32_t pick(const std::vector<int32_t> & of) { return of[rng() % of.size()]; }

    // levels 0: no ties to speak of
    void fill(float * x, int64_t n, int32_t levels, float scale = 1.0f) {
        for (int64_t i = 0; i < n; ++i) {
            x[i] = levels ? scale * (float) (rand_int(0, levels - 1) - levels / 2) : scale * rand_float();
            if (x[i] == 0.0f && rand_int(0, 1)) {
                x[i] = -0.0f;
            }
        }
    }

    ggml_tensor * tensor(ggml_type type, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        ggml_tensor * t = ggml_new_tensor_4d(ctx, type, ne0, ne1, ne2, ne3);
        CHECK(t);
        data.emplace_back((ggml_nbytes(t) + sizeof(int32_t) - 1) / sizeof(int32_t), POISON);
        t->data = data.back().data();
        return t;
    }

    ggml_tensor * tensor_f32(
            int32_t levels, float scale, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        ggml_tensor * t = tensor(GGML_TYPE_F32, ne0, ne1, ne2, ne3);
        fill((float *) t->data, ggml_nelements(t), levels, scale);
        return t;
    }

    // keys or values
    ggml_tensor * tensor_kv(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2) {
        ggml_tensor * t = tensor(type, ne0, ne1, ne2);

        std::vector<float> x(ggml_nelements(t));
        fill(x.data(), (int64_t) x.size(), 0);
        if (type == GGML_TYPE_F32) {
            memcpy(t->data, x.data(), ggml_nbytes(t));
        } else {
            ggml_get_type_traits(type)->from_float_ref(x.data(), t->data, (int64_t) x.size());
        }
        return t;
    }
};

static void run(ggml_custom_op_t op, ggml_tensor * dst, const std::vector<ggml_tensor *> & src,
        const lil_select_layer & layer, int n_threads) {
    for (size_t i = 0; i < src.size(); ++i) {
        dst->src[i] = src[i];
    }

    std::vector<std::thread> threads;
    for (int ith = 0; ith < n_threads; ++ith) {
        threads.emplace_back([=, &layer] { op(dst, ith, n_threads, (void *) &layer); });
    }
    for (auto & t : threads) {
        t.join();
    }
}

static int32_t * row_i32(const ggml_tensor * t, int64_t i1, int64_t i2 = 0) {
    return (int32_t *) ((char *) t->data + i2 * t->nb[2] + i1 * t->nb[1]);
}

static float * row_f32(const ggml_tensor * t, int64_t i1, int64_t i2 = 0, int64_t i3 = 0) {
    return (float *) ((char *) t->data + i3 * t->nb[3] + i2 * t->nb[2] + i1 * t->nb[1]);
}

static std::vector<float> data_f32(const ggml_tensor * t) {
    return std::vector<float>((const float *) t->data, (const float *) t->data + ggml_nelements(t));
}

// a head of a row of keys, as attention reads it
static std::vector<float> get_key(
        const ggml_tensor * k, int64_t n_head_kv, int64_t i_head, int64_t cell, int64_t strm) {
    const int64_t n_embd = k->ne[0] / n_head_kv;
    const char *  src =
            (const char *) k->data + strm * k->nb[2] + cell * k->nb[1] + i_head * ggml_row_size(k->type, n_embd);

    std::vector<float> res(n_embd);
    if (k->type == GGML_TYPE_F32) {
        for (int64_t i = 0; i < n_embd; ++i) {
            res[i] = ggml_fp16_to_fp32(ggml_fp32_to_fp16(((const float *) src)[i]));
        }
    } else {
        ggml_get_type_traits(k->type)->to_float(src, res.data(), n_embd);
    }
    return res;
}

// a list says: the cells of these ranks, and nothing is written behind them
static void check_list(
        const ggml_tensor * list, int64_t i_head, int64_t i_step, const int32_t * all, std::vector<int32_t> ranks) {
    const int32_t * got = row_i32(list, i_head, i_step);

    std::sort(ranks.begin(), ranks.end());
    CHECK(got[0] == (int32_t) ranks.size());
    for (size_t i = 0; i < ranks.size(); ++i) {
        CHECK(i == 0 || ranks[i] != ranks[i - 1]);
        CHECK(got[1 + i] == all[1 + ranks[i]]);
    }
    for (int64_t i = 1 + (int64_t) ranks.size(); i < list->ne[0]; ++i) {
        CHECK(got[i] == POISON);
    }
}

static std::vector<int32_t> all_ranks(int32_t n) {
    std::vector<int32_t> res;
    add_ranks(res, 0, n);
    return res;
}

// sequences, some of which share a stream and then cells
struct sequences {
    int32_t n_steps;
    int32_t n_stream;
    int32_t n_cells;
    int32_t n_max;

    ggml_tensor * steps;
    ggml_tensor * cells;

    sequences(test_case & t, int32_t n_max) :
        n_steps(t.rand_int(1, 3)), n_stream(t.rand_int(0, 1) ? 1 : n_steps + 1), n_cells(n_max + t.rand_int(0, 5)),
        n_max(n_max) {
        steps = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
        cells = t.tensor(GGML_TYPE_I32, 1 + n_max, 1, n_steps);

        for (int32_t s = 0; s < n_steps; ++s) {
            std::vector<int32_t> perm = all_ranks(n_cells);
            std::shuffle(perm.begin(), perm.end(), t.rng);

            row_i32(cells, 0, s)[0] = 0;
            memcpy(row_i32(cells, 0, s) + 1, perm.data(), n_max * sizeof(int32_t));

            step(s)[LIL_SEL_STREAM] = n_stream == 1 ? 0 : n_stream - 1 - s;
            step(s)[LIL_SEL_TABLE]  = s;
            step(s)[LIL_SEL_SPARSE] = t.rand_int(0, 3) != 0;
            step(s)[LIL_SEL_NEW]    = 1;
            step(s)[LIL_SEL_PAGES]  = 0;
            step(s)[LIL_SEL_NOW]    = 0;
            set_n(s, t.rand_int(0, 1) ? n_max : t.rand_int(1, n_max));
        }
    }

    int32_t * step(int32_t s) { return row_i32(steps, s); }
    int32_t * all(int32_t s) { return row_i32(cells, 0, s); }
    int32_t   n(int32_t s) const { return row_i32(cells, 0, s)[0]; }

    void set_n(int32_t s, int32_t n) {
        step(s)[LIL_SEL_N] = n;
        all(s)[0]          = n;
    }
};

// pages of any sizes, or of 16
static ggml_tensor * make_pages(test_case & t, sequences & seq) {
    ggml_tensor * pages = t.tensor(GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        const int32_t n_page = t.pick({ 0, 1, 16 });

        int32_t n = 0;
        for (int32_t r = 0; r < seq.n(s);) {
            row_i32(pages, s)[n++] = r;
            r += n_page ? n_page : t.rand_int(1, 20);
        }
        row_i32(pages, s)[n] = seq.n(s);

        seq.step(s)[LIL_SEL_PAGES] = n;
    }

    return pages;
}

struct heads {
    int32_t n_head_kv;
    int32_t n_group;

    heads(test_case & t) : n_head_kv(t.rand_int(1, 3)), n_group(t.pick({ 1, 3, 7 })) {}

    int32_t n_head() const { return n_head_kv * n_group; }
};

// the work of attn over a list, of which only the logits are there
static ggml_tensor * make_work(
        test_case & t, const heads & h, ggml_tensor * list, ggml_tensor * steps, int32_t levels, float scale) {
    const int32_t n_embd_v = t.pick({ 8, 24 });
    const int64_t n_max    = list->ne[0] - 1;
    const int64_t n_steps  = steps->ne[1];

    ggml_tensor * work = t.tensor(GGML_TYPE_F32, lil_attn_n_work(n_embd_v, h.n_head(), n_max, n_steps, true));

    t.fill((float *) work->data + lil_attn_kq_offset(n_embd_v, h.n_head(), n_max, n_steps),
            n_max * h.n_head() * n_steps, levels, scale);

    work->src[0] = t.tensor(GGML_TYPE_F32, 16, h.n_head(), n_steps);
    work->src[1] = t.tensor(GGML_TYPE_F16, 16 * h.n_head_kv, 4);
    work->src[2] = t.tensor(GGML_TYPE_F16, n_embd_v * h.n_head_kv, 4);
    work->src[3] = list;
    work->src[4] = steps;

    return t.rand_int(0, 1) ? work : ggml_view_1d(t.ctx, work, ggml_nelements(work), 0);
}

static const float * get_logits(const ggml_tensor * work, const heads & h, int64_t i_head, int64_t i_step) {
    const ggml_tensor * node = work->view_src ? work->view_src : work;

    const int64_t n_max = node->src[3]->ne[0] - 1;

    return (const float *) node->data + ggml_nelements(node) - n_max * h.n_head() * node->src[4]->ne[1] +
            (i_step * h.n_head() + i_head) * n_max;
}

//
// tests
//

static void test_page_select(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 1, 17, 100, 1000, 5000 }));

    ggml_tensor * pages  = make_pages(t, seq);
    ggml_tensor * scores = t.tensor_f32(t.pick({ 0, 1, 3, 50 }), 1.0f, seq.n_max, h.n_head_kv, seq.n_steps);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, h.n_head_kv, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.first_page       = t.rand_int(0, 1);
    layer.n_pages          = t.rand_int(1 + layer.first_page, t.pick({ 2, 10, 100 }));

    // a page more, as many, one fewer
    if (t.rand_int(0, 1)) {
        layer.n_pages = std::max(1 + layer.first_page, seq.step(0)[LIL_SEL_PAGES] + t.rand_int(-1, 1));
    }

    run(ops->page_select, list, { scores, seq.steps, seq.cells, pages }, layer, t.rand_int(1, 5));

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        const int32_t   n_pages = seq.step(s)[LIL_SEL_PAGES];
        const int32_t * first   = row_i32(pages, s);

        for (int32_t i = 0; i < h.n_head_kv; ++i) {
            std::vector<int32_t> ranks;

            if (!seq.step(s)[LIL_SEL_SPARSE]) {
                ranks = all_ranks(seq.n(s));
            } else {
                std::vector<float> x(row_f32(scores, i, s), row_f32(scores, i, s) + n_pages - 1);
                if (layer.first_page && n_pages > 1) {
                    x[0] = 1e30f;
                }
                auto best = get_best(x, layer.n_pages - 1);
                best.push_back(n_pages - 1);
                for (const int32_t p : best) {
                    add_ranks(ranks, first[p], first[p + 1]);
                }
            }
            check_list(list, i, s, seq.all(s), ranks);
        }
    }
}

static void test_tidal_select(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 1, 2, 17, 100, 1000, 5000 }));

    ggml_tensor * work = make_work(t, h, seq.cells, seq.steps, t.pick({ 0, 1, 3, 50 }), t.pick({ 1, 20 }));
    ggml_tensor * list = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, h.n_head_kv, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.budget =
            t.rand_int(0, 1) ? std::max(1, seq.n(0) + t.rand_int(-1, 1)) : t.rand_int(2, t.pick({ 10, 100, 1500 }));

    run(ops->tidal_select, list, { work, seq.steps, seq.cells }, layer, t.rand_int(1, 5));

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        for (int32_t i = 0; i < h.n_head_kv; ++i) {
            const int32_t n = seq.n(s);

            std::vector<int32_t> ranks;

            if (!seq.step(s)[LIL_SEL_SPARSE]) {
                ranks = all_ranks(n);
            } else {
                std::vector<float> x(n - 1, -INFINITY);
                for (int32_t r = 0; r < n - 1; ++r) {
                    for (int32_t g = 0; g < h.n_group; ++g) {
                        x[r] = std::max(x[r], get_logits(work, h, i * h.n_group + g, s)[r]);
                    }
                }
                ranks = get_best(x, layer.budget - 1);
                ranks.push_back(n - 1);
            }
            check_list(list, i, s, seq.all(s), ranks);
        }
    }
}

static void test_lessismore_select(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 1, 17, 100, 1000, 5000, 9000 }));

    // heads that agree in much name many tokens, more than are looked up at first
    const bool is_long = seq.n_max >= 5000;
    if (is_long) {
        seq.set_n(0, seq.n_max);
        seq.step(0)[LIL_SEL_SPARSE] = 1;
    }

    ggml_tensor * work = make_work(t, h, seq.cells, seq.steps,
            is_long ? t.pick({ 0, 0, 2000, 3 }) : t.pick({ 0, 1, 3, 50 }), t.pick({ 1, 20 }));
    ggml_tensor * list = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.n_sink           = t.rand_int(0, 4);
    layer.n_recent         = t.rand_int(1, 30);
    layer.budget           = layer.n_sink + layer.n_recent + t.rand_int(1, is_long ? 1500 : t.pick({ 1, 30, 300 }));

    if (t.rand_int(0, 3) == 0) {
        layer.budget = std::max(layer.n_sink + layer.n_recent + 1, seq.n(0) + t.rand_int(-1, 1));
    }

    if (is_long || t.rand_int(0, 1)) {
        const int32_t one_of = t.pick({ 0, 3, 20 }); // logits of each head differ; 0: none

        for (int32_t s = 0; s < seq.n_steps; ++s) {
            for (int32_t i = 1; i < h.n_head(); ++i) {
                float * x = (float *) get_logits(work, h, i, s);

                for (int32_t r = 0; r < seq.n_max; ++r) {
                    if (!one_of || t.rand_int(1, one_of) > 1) {
                        x[r] = get_logits(work, h, 0, s)[r];
                    }
                }
            }
        }
    }

    run(ops->lessismore_select, list, { work, seq.steps, seq.cells }, layer, t.rand_int(1, 5));

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        const int32_t n = seq.n(s);

        std::vector<int32_t> ranks;

        if (!seq.step(s)[LIL_SEL_SPARSE] || n <= layer.budget) {
            ranks = all_ranks(n);
        } else {
            const int32_t r0 = layer.n_sink;
            const int32_t r1 = n - layer.n_recent;

            std::vector<std::vector<int32_t>> ranking;
            for (int32_t i = 0; i < h.n_head(); ++i) {
                const float * x = get_logits(work, h, i, s);
                ranking.push_back(get_ranking(std::vector<float>(x + r0, x + r1)));
            }

            add_ranks(ranks, 0, r0);
            add_ranks(ranks, r1, n);

            std::vector<bool> in(r1 - r0);
            for (int32_t i = 0; (int32_t) ranks.size() < layer.budget; ++i) {
                for (int32_t j = 0; j < h.n_head() && (int32_t) ranks.size() < layer.budget; ++j) {
                    const int32_t r = ranking[j][i];
                    if (!in[r]) {
                        in[r] = true;
                        ranks.push_back(r0 + r);
                    }
                }
            }
        }
        check_list(list, 0, s, seq.all(s), ranks);
    }
}

static void test_block_select(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 30, 100, 1000, 5000 }));

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.n_sink           = t.rand_int(0, 4);
    layer.block            = t.pick({ 1, 8, 16 });
    layer.n_pages          = t.rand_int(1, t.pick({ 3, 50 }));

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        seq.set_n(s, std::max(layer.n_sink + 1, seq.n(s)));
        const int32_t n_full = (seq.n(s) - layer.n_sink - 1) / layer.block;
        seq.step(s)[LIL_SEL_PAGES] =
                t.rand_int(0, 1) ? n_full : std::min(n_full, std::max(0, layer.n_pages + t.rand_int(-1, 1)));
    }

    ggml_tensor * scores = t.tensor_f32(t.pick({ 0, 1, 3, 50 }), 1.0f, seq.n_max, seq.n_steps);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    run(ops->block_select, list, { scores, seq.steps, seq.cells }, layer, t.rand_int(1, 5));

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        const int32_t n        = seq.n(s);
        const int32_t n_blocks = seq.step(s)[LIL_SEL_PAGES];

        std::vector<int32_t> ranks;

        if (!seq.step(s)[LIL_SEL_SPARSE]) {
            ranks = all_ranks(n);
        } else {
            add_ranks(ranks, 0, layer.n_sink);
            for (const int32_t b :
                    get_best(std::vector<float>(row_f32(scores, s), row_f32(scores, s) + n_blocks), layer.n_pages)) {
                add_ranks(ranks, layer.n_sink + b * layer.block, layer.n_sink + (b + 1) * layer.block);
            }
            add_ranks(ranks, layer.n_sink + n_blocks * layer.block, n);
        }
        check_list(list, 0, s, seq.all(s), ranks);
    }
}

static void test_raas(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 1, 17, 100, 1000 }));

    ggml_tensor * pages  = make_pages(t, seq);
    ggml_tensor * scores = t.tensor_f32(t.pick({ 0, 1, 3, 50 }), 1.0f, seq.n_max, h.n_head_kv, seq.n_steps);
    ggml_tensor * stamp  = t.tensor(GGML_TYPE_F32, seq.n_cells, h.n_head_kv, seq.n_stream);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, h.n_head_kv, seq.n_steps);

    const int32_t now = t.pick({ 1, 5, 300 });

    for (int64_t i = 0; i < ggml_nelements(stamp); ++i) {
        ((float *) stamp->data)[i] = t.rand_int(0, 30) ? (float) t.rand_int(0, now - 1) : LIL_RAAS_NEVER;
    }
    for (int32_t s = 0; s < seq.n_steps; ++s) {
        seq.step(s)[LIL_SEL_NOW] = now + s;
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.n_pages          = t.rand_int(1, t.pick({ 2, 10, 100 }));
    layer.ratio            = (float) t.rand_int(0, 10) / 10.0f;

    if (t.rand_int(0, 1)) {
        layer.n_pages = std::max(1, seq.step(0)[LIL_SEL_PAGES] + t.rand_int(-1, 1));
    }

    const auto get_step = [&](int32_t s) {
        const int32_t n_pages = seq.step(s)[LIL_SEL_PAGES];

        return raas_step{ seq.all(s) + 1, row_i32(pages, s), n_pages,
            seq.step(s)[LIL_SEL_SPARSE] ? layer.n_pages : n_pages + 1 };
    };

    // what is to become of the stamps
    std::vector<float> want = data_f32(stamp);
    for (int32_t s = 0; s < seq.n_steps; ++s) {
        for (int32_t i = 0; i < h.n_head_kv; ++i) {
            float *     x  = want.data() + (seq.step(s)[LIL_SEL_STREAM] * h.n_head_kv + i) * seq.n_cells;
            const float at = (float) seq.step(s)[LIL_SEL_NOW];

            x[seq.all(s)[seq.n(s)]] = at;
            get_step(s).stamp(x, row_f32(scores, i, s), layer.ratio, at);
        }
    }

    run(ops->raas_stamp, stamp, { stamp, scores, seq.steps, seq.cells, pages }, layer, t.rand_int(1, 5));
    CHECK(data_f32(stamp) == want);

    run(ops->raas_select, list, { stamp, seq.steps, seq.cells, pages }, layer, t.rand_int(1, 5));

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        for (int32_t i = 0; i < h.n_head_kv; ++i) {
            std::vector<int32_t> ranks;
            for (const int32_t p : get_step(s).get_alive(row_f32(stamp, i, seq.step(s)[LIL_SEL_STREAM]))) {
                add_ranks(ranks, row_i32(pages, s)[p], row_i32(pages, s)[p + 1]);
            }
            check_list(list, i, s, seq.all(s), ranks);
        }
    }
}

static void check_close(const std::vector<float> & got, const std::vector<float> & want) {
    CHECK(got.size() == want.size());
    for (size_t i = 0; i < got.size(); ++i) {
        if (!(std::fabs(got[i] - want[i]) <= 2e-5f * std::max(1.0f, std::fabs(want[i])))) {
            fprintf(stderr, "[%zu]: %g instead of %g\n", i, (double) got[i], (double) want[i]);
            CHECK(false);
        }
    }
}

static void test_infllm_score(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 1, 17, 100, 1000 }));

    // the list: some of the cells; one for all heads, or one each
    const int32_t n_lists = t.rand_int(0, 1) ? 1 : h.n_head_kv;
    ggml_tensor * list    = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_lists, seq.n_steps);

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        for (int32_t i = 0; i < n_lists; ++i) {
            int32_t * l = row_i32(list, i, s);

            l[0] = 0;
            for (int32_t r = 0; r < seq.n(s); ++r) {
                if (r == seq.n(s) - 1 || !seq.step(s)[LIL_SEL_SPARSE] || t.rand_int(0, 1)) {
                    l[1 + l[0]++] = seq.all(s)[1 + r];
                }
            }
        }
    }

    ggml_tensor * work  = make_work(t, h, list, seq.steps, 0, t.pick({ 1, 20 }));
    ggml_tensor * score = t.tensor_f32(0, 3.0f, seq.n_cells, h.n_head_kv, seq.n_stream);

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.n_recent         = t.pick({ 1, 10, 64, 2000 });

    std::vector<float> want = data_f32(score);
    for (int32_t s = 0; s < seq.n_steps; ++s) {
        for (int32_t i = 0; i < h.n_head_kv; ++i) {
            float *         x = want.data() + (seq.step(s)[LIL_SEL_STREAM] * h.n_head_kv + i) * seq.n_cells;
            const int32_t * l = row_i32(list, n_lists == 1 ? 0 : i, s);

            x[l[l[0]]] = 0.0f;
            for (int32_t g = 0; g < h.n_group; ++g) {
                const float * kq = get_logits(work, h, i * h.n_group + g, s);
                const auto    p  = get_softmax(std::vector<double>(kq, kq + l[0]));

                for (int32_t j = std::max(0, l[0] - layer.n_recent); j < l[0]; ++j) {
                    x[l[1 + j]] += (float) p[j];
                }
            }
        }
    }

    run(ops->infllm_score, score, { score, work, list, seq.steps }, layer, t.rand_int(1, 5));
    check_close(data_f32(score), want);
}

static void test_infllm_score_prompt(uint32_t seed) {
    test_case t(seed);
    heads     h(t);
    sequences seq(t, t.pick({ 1, 17, 60, 150 }));

    static const ggml_type types[] = { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

    const int32_t n_embd = t.pick({ 32, 64 });

    int32_t n_min = seq.n_max;
    for (int32_t s = 0; s < seq.n_steps; ++s) {
        n_min = std::min(n_min, seq.n(s));
    }
    const int32_t n_new = t.rand_int(1, n_min);

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.scale            = t.pick({ 1, 3 }) * 0.2f;
    layer.softcap          = t.rand_int(0, 1) ? 0.0f : 2.0f;
    layer.n_recent         = t.pick({ 1, 10, 64, 200 });
    layer.n_score_part     = t.rand_int(1, 5);

    for (int32_t s = 0; s < seq.n_steps; ++s) {
        seq.step(s)[LIL_SEL_NEW] = n_new;
    }

    ggml_tensor * q     = t.tensor_f32(0, 1.0f, n_embd, h.n_head(), n_new * seq.n_steps);
    ggml_tensor * k     = t.tensor_kv(types[t.rng() % 5], n_embd * h.n_head_kv, seq.n_cells, seq.n_stream);
    ggml_tensor * part  = t.tensor(GGML_TYPE_F32, layer.n_recent + n_new, h.n_head_kv, layer.n_score_part, seq.n_steps);
    ggml_tensor * score = t.tensor_f32(0, 3.0f, seq.n_cells, h.n_head_kv, seq.n_stream);

    std::vector<float> want = data_f32(score);
    for (int32_t s = 0; s < seq.n_steps; ++s) {
        const int32_t base = seq.n(s) - n_new;
        const int32_t strm = seq.step(s)[LIL_SEL_STREAM];

        for (int32_t i = 0; i < h.n_head_kv; ++i) {
            float * x = want.data() + (strm * h.n_head_kv + i) * seq.n_cells;

            std::vector<std::vector<float>> keys;
            for (int32_t r = 0; r < seq.n(s); ++r) {
                keys.push_back(get_key(k, h.n_head_kv, i, seq.all(s)[1 + r], strm));
            }

            for (int32_t r = base; r < seq.n(s); ++r) {
                x[seq.all(s)[1 + r]] = 0.0f;
            }

            for (int32_t r = base; r < seq.n(s); ++r) {
                for (int32_t g = 0; g < h.n_group; ++g) {
                    const float * qr = row_f32(q, i * h.n_group + g, s * n_new + r - base);

                    std::vector<double> kq;
                    for (int32_t j = 0; j <= r; ++j) {
                        double v = 0.0;
                        for (int32_t d = 0; d < n_embd; ++d) {
                            v += (double) qr[d] * keys[j][d];
                        }
                        v *= layer.scale;
                        kq.push_back(layer.softcap == 0.0f ? v : layer.softcap * std::tanh(v / layer.softcap));
                    }

                    const auto p = get_softmax(kq);
                    for (int32_t j = std::max(0, r - layer.n_recent + 1); j <= r; ++j) {
                        x[seq.all(s)[1 + j]] += (float) p[j];
                    }
                }
            }
        }
    }

    run(ops->infllm_score_prompt, part, { q, k, seq.cells, seq.steps }, layer, t.rand_int(1, 5));
    run(ops->infllm_score_add, score, { score, part, seq.cells, seq.steps }, layer, t.rand_int(1, 5));
    check_close(data_f32(score), want);
}

static void test_block_repr(uint32_t seed) {
    test_case t(seed);
    heads     h(t);

    static const ggml_type types[] = { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

    const int32_t n_embd   = t.pick({ 32, 96 });
    const int32_t n_cells  = 200;
    const int32_t n_stream = t.rand_int(1, 3);
    const int32_t n_table  = t.rand_int(1, 3);
    const int32_t n_blocks = 12;
    const int32_t n_dirty  = t.rand_int(0, n_blocks);
    const int32_t block    = t.pick({ 1, 8, 16 });

    lil_select_layer layer = {};
    layer.n_head_kv        = h.n_head_kv;
    layer.n_repr           = t.pick({ 1, 4, 8, 20 });

    ggml_tensor * k     = t.tensor_kv(types[t.rng() % 5], n_embd * h.n_head_kv, n_cells, n_stream);
    ggml_tensor * score = t.tensor_f32(t.pick({ 0, 1, 3, 50 }), 1.0f, n_cells, h.n_head_kv, n_stream);
    ggml_tensor * repr  = t.tensor_f32(0, 1.0f, n_embd * h.n_head_kv, n_blocks, n_table);
    ggml_tensor * dirty = t.tensor(GGML_TYPE_I32, LIL_DIRTY_HEAD + block, std::max(1, n_dirty));

    dirty->ne[1] = n_dirty;

    std::vector<float> want = data_f32(repr);
    for (int32_t i = 0; i < n_dirty; ++i) {
        int32_t * head = row_i32(dirty, i);

        head[LIL_DIRTY_STREAM] = t.rand_int(0, n_stream - 1);
        head[LIL_DIRTY_TABLE]  = t.rand_int(0, n_table - 1);
        head[LIL_DIRTY_PAGE]   = i;
        head[LIL_DIRTY_N]      = t.rand_int(1, block);

        std::vector<int32_t> perm = all_ranks(n_cells);
        std::shuffle(perm.begin(), perm.end(), t.rng);
        memcpy(head + LIL_DIRTY_HEAD, perm.data(), head[LIL_DIRTY_N] * sizeof(int32_t));

        for (int32_t j = 0; j < h.n_head_kv; ++j) {
            float * x = want.data() + (head[LIL_DIRTY_TABLE] * n_blocks + i) * n_embd * h.n_head_kv + j * n_embd;

            std::vector<float> scores;
            for (int32_t r = 0; r < head[LIL_DIRTY_N]; ++r) {
                scores.push_back(row_f32(score, j, head[LIL_DIRTY_STREAM])[perm[r]]);
            }

            std::fill_n(x, n_embd, 0.0f);
            for (const int32_t r : get_best(scores, layer.n_repr)) {
                const auto key = get_key(k, h.n_head_kv, j, perm[r], head[LIL_DIRTY_STREAM]);
                for (int32_t d = 0; d < n_embd; ++d) {
                    x[d] += key[d];
                }
            }
        }
    }

    run(ops->block_repr, repr, { repr, k, score, dirty }, layer, t.rand_int(1, 5));
    check_close(data_f32(repr), want);
}

int main(int argc, char ** argv) {
    ggml_backend_load_all(); // where the backends are libraries of their own

    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!dev) {
        fprintf(stderr, "no CPU backend\n");
        return 1;
    }

    const auto get_ops = (const lil_ops * (*)(void) ) ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(dev), "lil_ops");
    if (!get_ops) {
        fprintf(stderr, "the CPU backend has no lil_ops\n");
        return 1;
    }
    ops = get_ops();

    static const struct {
        const char * name;
        void (*run)(uint32_t seed);
        uint32_t n;
    } tests[] = {
        { "page_select", test_page_select, 200 },
        { "tidal_select", test_tidal_select, 200 },
        { "lessismore_select", test_lessismore_select, 200 },
        { "block_select", test_block_select, 200 },
        { "raas", test_raas, 200 },
        { "infllm_score", test_infllm_score, 200 },
        { "infllm_score_prompt", test_infllm_score_prompt, 100 },
        { "block_repr", test_block_repr, 200 },
    };

    for (const auto & test : tests) {
        test_name = test.name;

        const uint32_t first = argc > 1 ? (uint32_t) strtoul(argv[1], nullptr, 10) : 0;
        const uint32_t n     = argc > 1 ? 1 : test.n;

        for (seed = first; seed < first + n; ++seed) {
            test.run(seed);
        }
    }

    printf("test-select-ops: ok\n");

    return 0;
}
