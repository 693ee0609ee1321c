// The attention of a decode step alone, on any backend that has our ops: full FlashAttention next to the ops of Sink,
// H2O, Quest, TidalDecode and LessIsMore, and what they read next to a large copy. The layers are of a model's shape,
// with random keys and values.
//
//   bench_attention [--device NAME] [--threads N] [--type f16|q8_0|q4_0] [--heads N] [--heads-kv N] [--head-size N]
//                   [--budget N] [--contexts N,N,...] [--rounds N] [--json FILE]
//
// Everything takes its turn in each round, after two rounds that do not count; medians, and the lowest and highest
// ratio of a round. It is built with the C tests (`make test-c`), and in build folders of one's own as they are
// (tests/c/CMakeLists.txt).

#include "lil-ops.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s failed\n", __FILE__, __LINE__, #x); \
            exit(1); \
        } \
    } while (0)

static const int PAGE = 16;

struct options {
    std::string device    = "";
    std::string type      = "f16";
    int         threads   = 2;
    int64_t     heads     = 32;
    int64_t     heads_kv  = 8;
    int64_t     head_size = 128;
    int64_t     budget    = 2048;
    int         rounds    = 20;
    std::string json      = "";

    std::vector<int64_t> contexts = { 2048, 32768, 131072 };
};

static options         opt;
static ggml_backend_t  backend;
static const lil_ops * ops;
static ggml_type       type_kv;

static uint64_t next_random() {
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

// F32 in [-1, 1)
static float next_float() {
    return (next_random() >> 40) / (float) (1 << 23) - 1.0f;
}

//
// one measurement: a graph of layers
//

struct graph {
    std::string    name;
    ggml_context * ctx;
    ggml_cgraph *  gf;

    ggml_backend_buffer_t buf = nullptr;

    int64_t n_layer;
    double  n_bytes = 0; // of K, V and metadata that a layer reads

    std::vector<lil_select_layer> select;
    std::vector<lil_evict_layer>  h2o;

    std::vector<ggml_tensor *> kv;     // to be filled with random numbers
    std::function<void()>      fill;   // the other inputs, once
    std::function<void()>      before; // each round
    std::vector<double>        us;     // a layer, by round

    graph(const char * name, int64_t n_layer) : name(name), n_layer(n_layer), select(n_layer), h2o(n_layer) {
        ctx = ggml_init(
                { (size_t) (64 * n_layer + 64) * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true });
        gf = ggml_new_graph(ctx);
        for (auto & l : select) {
            l.n_head_kv    = opt.heads_kv;
            l.scale        = 0.1f;
            l.budget       = opt.budget;
            l.n_pages      = opt.budget / PAGE;
            l.n_score_part = 1;
        }
        for (auto & l : h2o) {
            l.n_head_kv    = opt.heads_kv;
            l.scale        = 0.1f;
            l.n_score_part = 1;
        }
    }

    ~graph() {
        ggml_backend_buffer_free(buf);
        ggml_free(ctx);
    }

    graph(const graph &)             = delete;
    graph & operator=(const graph &) = delete;

    ggml_tensor * input(ggml_type type, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        return ggml_new_tensor_4d(ctx, type, ne0, ne1, ne2, ne3);
    }

    ggml_tensor * cache(int64_t n_cells) {
        kv.push_back(input(type_kv, opt.head_size * opt.heads_kv, n_cells, 1));
        return kv.back();
    }

    ggml_tensor * op(ggml_custom_op_t fun, void * layer, std::vector<ggml_tensor *> src, ggml_type type, int64_t ne0,
            int64_t ne1 = 1, int64_t ne2 = 1) {
        ggml_tensor * res =
                ggml_custom_4d(ctx, type, ne0, ne1, ne2, 1, src.data(), (int) src.size(), fun, GGML_N_TASKS_MAX, layer);
        ggml_build_forward_expand(gf, res);
        return res;
    }

    void op_inplace(ggml_custom_op_t fun, void * layer, ggml_tensor * dst, std::vector<ggml_tensor *> src) {
        ggml_build_forward_expand(
                gf, ggml_custom_inplace(ctx, dst, src.data(), (int) src.size(), fun, GGML_N_TASKS_MAX, layer));
    }

    // llama.cpp's attention over n_kv cells
    void flash(ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * mask, int64_t n_kv) {
        const auto view = [&](ggml_tensor * t) {
            return ggml_permute(ctx,
                    ggml_view_4d(ctx, t, opt.head_size, opt.heads_kv, n_kv, 1, ggml_row_size(t->type, opt.head_size),
                            t->nb[1], t->nb[2], 0),
                    0, 2, 1, 3);
        };

        ggml_tensor * cur =
                ggml_flash_attn_ext(ctx, ggml_permute(ctx, q, 0, 2, 1, 3), view(k), view(v), mask, 0.1f, 0.0f, 0.0f);
        ggml_prec_set_acc(cur, GGML_PREC_F32);
        ggml_build_forward_expand(gf, cur);
    }

    void alloc() {
        buf = ggml_backend_alloc_ctx_tensors(ctx, backend);
        if (!buf) {
            fprintf(stderr, "%s: no memory\n", name.c_str());
            exit(1);
        }
        ggml_backend_buffer_clear(buf, 0);

        for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
            if (!ggml_backend_supports_op(backend, ggml_graph_node(gf, i))) {
                fprintf(stderr, "%s: %s cannot compute %s\n", name.c_str(), ggml_backend_name(backend),
                        ggml_op_desc(ggml_graph_node(gf, i)));
                exit(1);
            }
        }

        std::vector<char> chunk;
        for (ggml_tensor * t : kv) {
            for (int64_t i0 = 0; i0 < t->ne[1]; i0 += 4096) {
                const int64_t n = std::min<int64_t>(4096, t->ne[1] - i0);

                chunk.resize(n * t->nb[1]);
                for (size_t i = 0; i + 8 <= chunk.size(); i += 8) {
                    const uint64_t x = next_random();
                    memcpy(chunk.data() + i, &x, 8);
                }
                const size_t n_block = ggml_type_size(t->type);
                // F16, and the scales of blocks: in [0.5, 1), of any sign
                for (size_t i = 0; i < chunk.size(); i += n_block) {
                    chunk[i + 1] = (chunk[i + 1] & 0x83) | 0x38;
                }
                ggml_backend_tensor_set(t, chunk.data(), i0 * t->nb[1], chunk.size());
            }
        }
        fill();
    }

    void run(bool counts) {
        if (before) {
            before();
        }
        ggml_backend_synchronize(backend);

        const auto t0 = std::chrono::steady_clock::now();
        CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
        ggml_backend_synchronize(backend);
        const auto t1 = std::chrono::steady_clock::now();

        if (counts) {
            us.push_back(std::chrono::duration<double, std::micro>(t1 - t0).count() / n_layer);
        }
    }
};

template <typename T>
static void set(ggml_tensor * t, const std::vector<T> & data) {
    CHECK(data.size() * sizeof(T) == ggml_nbytes(t));
    ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
}

static std::vector<float> random_floats(size_t n) {
    std::vector<float> res(n);
    for (float & x : res) {
        x = next_float();
    }
    return res;
}

// how many, then 0, 1, 2, ...
static std::vector<int32_t> get_cells(int64_t n) {
    std::vector<int32_t> res = { (int32_t) n };
    for (int64_t i = 0; i < n; ++i) {
        res.push_back((int32_t) i);
    }
    return res;
}

static double row_size() {
    return (double) ggml_row_size(type_kv, opt.head_size) * opt.heads_kv;
}

//
// what is measured
//

static void add_full(graph & g, int64_t n) {
    ggml_tensor * q    = g.input(GGML_TYPE_F32, opt.head_size, opt.heads, 1);
    ggml_tensor * mask = g.input(GGML_TYPE_F16, n, 1); // zero

    for (int64_t il = 0; il < g.n_layer; ++il) {
        ggml_tensor * k = g.cache(n);
        ggml_tensor * v = g.cache(n);
        g.flash(q, k, v, mask, n);
    }
    g.n_bytes = 2.0 * n * row_size();
    g.fill    = [=]() { set(q, random_floats(ggml_nelements(q))); };
}

// a list of n tokens: with all of them, what our kernel makes of the memory; with the budget, a layer of TidalDecode or
// LessIsMore that reads what another chose
static void add_list(graph & g, int64_t n) {
    ggml_tensor * q     = g.input(GGML_TYPE_F32, opt.head_size, opt.heads, 1);
    ggml_tensor * list  = g.input(GGML_TYPE_I32, 1 + n, 1, 1);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, 1);

    for (int64_t il = 0; il < g.n_layer; ++il) {
        ggml_tensor * k    = g.cache(n);
        ggml_tensor * v    = g.cache(n);
        ggml_tensor * work = g.op(ops->attn, &g.select[il], { q, k, v, list, steps }, GGML_TYPE_F32,
                ops->attn_n_work(opt.head_size, opt.heads, n, 1, false));
        g.op(ops->attn_join, &g.select[il], { work, list }, GGML_TYPE_F32, opt.head_size, opt.heads);
    }
    g.n_bytes = 2.0 * n * row_size();
    g.fill    = [=]() {
        set(q, random_floats(ggml_nelements(q)));
        set(list, get_cells(n));
        set(steps, std::vector<int32_t>{ 0, 0, 1, (int32_t) n, 1, 0, 0, 0 });
    };
}

// a layer of TidalDecode or LessIsMore that attends to everything and chooses
static void add_choice(graph & g, int64_t n, ggml_custom_op_t select, bool per_head) {
    ggml_tensor * q     = g.input(GGML_TYPE_F32, opt.head_size, opt.heads, 1);
    ggml_tensor * cells = g.input(GGML_TYPE_I32, 1 + n, 1, 1);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, 1);

    for (int64_t il = 0; il < g.n_layer; ++il) {
        auto * layer = &g.select[il];

        layer->n_sink   = 4;
        layer->n_recent = opt.budget / 4;

        ggml_tensor * k    = g.cache(n);
        ggml_tensor * v    = g.cache(n);
        ggml_tensor * work = g.op(ops->attn, layer, { q, k, v, cells, steps }, GGML_TYPE_F32,
                ops->attn_n_work(opt.head_size, opt.heads, n, 1, true));
        g.op(ops->attn_join, layer, { work, cells }, GGML_TYPE_F32, opt.head_size, opt.heads);
        g.op(select, layer, { work, steps, cells }, GGML_TYPE_I32, 1 + opt.budget, per_head ? opt.heads_kv : 1);
    }
    g.n_bytes = 2.0 * n * row_size();
    g.fill    = [=]() {
        set(q, random_floats(ggml_nelements(q)));
        set(cells, get_cells(n));
        set(steps, std::vector<int32_t>{ 0, 0, 1, (int32_t) n, 1, 0, 0, 0 });
    };
}

static void add_quest(graph & g, int64_t n) {
    const int64_t n_pages = n / PAGE;

    ggml_tensor * q     = g.input(GGML_TYPE_F32, opt.head_size, opt.heads, 1);
    ggml_tensor * cells = g.input(GGML_TYPE_I32, 1 + n, 1, 1);
    ggml_tensor * pages = g.input(GGML_TYPE_I32, n_pages + 1, 1);
    ggml_tensor * dirty = g.input(GGML_TYPE_I32, LIL_DIRTY_HEAD + PAGE, 1);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, 1);

    std::vector<ggml_tensor *> all_bounds;
    for (int64_t il = 0; il < g.n_layer; ++il) {
        ggml_tensor * k      = g.cache(n);
        ggml_tensor * v      = g.cache(n);
        ggml_tensor * bounds = g.input(
                type_kv == GGML_TYPE_F16 ? GGML_TYPE_F16 : GGML_TYPE_F32, 2 * opt.head_size, opt.heads_kv, n_pages, 1);

        auto * layer = &g.select[il];

        ggml_tensor * scores =
                g.op(ops->page_scores, layer, { q, bounds, steps, k, dirty }, GGML_TYPE_F32, n_pages, opt.heads_kv);
        ggml_tensor * list = g.op(
                ops->page_select, layer, { scores, steps, cells, pages }, GGML_TYPE_I32, 1 + opt.budget, opt.heads_kv);
        ggml_tensor * work = g.op(ops->attn, layer, { q, k, v, list, steps }, GGML_TYPE_F32,
                ops->attn_n_work(opt.head_size, opt.heads, opt.budget, 1, false));
        g.op(ops->attn_join, layer, { work, list }, GGML_TYPE_F32, opt.head_size, opt.heads);

        all_bounds.push_back(bounds);
    }
    g.n_bytes = 2.0 * opt.budget * row_size() + (double) ggml_nbytes(all_bounds[0]);
    g.fill    = [=]() {
        set(q, random_floats(ggml_nelements(q)));
        set(cells, get_cells(n));

        std::vector<int32_t> first;
        for (int64_t p = 0; p <= n_pages; ++p) {
            first.push_back((int32_t) (p * PAGE));
        }
        set(pages, first);

        std::vector<int32_t> entry = { 0, 0, (int32_t) (n_pages - 1), PAGE };
        for (int i = 0; i < PAGE; ++i) {
            entry.push_back((int32_t) (n - PAGE + i));
        }
        set(dirty, entry);
        set(steps, std::vector<int32_t>{ 0, 0, 1, (int32_t) n, 1, (int32_t) n_pages, 0, 0 });

        std::vector<float>       x(ggml_nelements(all_bounds[0]));
        std::vector<ggml_fp16_t> h(x.size());
        for (ggml_tensor * bounds : all_bounds) {
            for (size_t i = 0; i < x.size(); ++i) { // maxima, then minima
                const float r = 0.5f + 0.25f * next_float();
                x[i]          = (int64_t) (i % (2 * opt.head_size)) < opt.head_size ? r : -r;
            }
            if (bounds->type == GGML_TYPE_F16) {
                ggml_fp32_to_fp16_row(x.data(), h.data(), (int64_t) x.size());
                set(bounds, h);
            } else {
                set(bounds, x);
            }
        }
    };
}

// a full budget: one token goes, one comes
static void add_h2o(graph & g, int64_t n) {
    const int64_t n_slots = (n + 1 + 255) / 256 * 256;

    ggml_tensor * q     = g.input(GGML_TYPE_F32, opt.head_size, opt.heads, 1);
    ggml_tensor * mask  = g.input(GGML_TYPE_F16, n_slots, 1);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_STEP_COUNT, 1);

    std::vector<ggml_tensor *> all_pos;
    for (int64_t il = 0; il < g.n_layer; ++il) {
        ggml_tensor * k     = g.cache(n_slots);
        ggml_tensor * v     = g.cache(n_slots);
        ggml_tensor * score = g.input(GGML_TYPE_F32, n_slots, opt.heads_kv, 1);
        ggml_tensor * pos   = g.input(GGML_TYPE_F32, n_slots, opt.heads_kv, 1);

        g.op_inplace(ops->evict_slots, &g.h2o[il], pos, { k, v, score, steps });
        g.flash(q, k, v, mask, n_slots);
        g.op_inplace(ops->score_step, &g.h2o[il], score, { q, k, pos, steps });

        all_pos.push_back(pos);
    }
    g.n_bytes = 2.0 * n_slots * row_size() + n * row_size();
    g.fill    = [=]() {
        set(q, random_floats(ggml_nelements(q)));

        std::vector<ggml_fp16_t> m(n_slots, ggml_fp32_to_fp16(0.0f));
        std::fill(m.begin() + n, m.end(), ggml_fp32_to_fp16(-INFINITY));
        set(mask, m);

        std::vector<float> p(ggml_nelements(all_pos[0]));
        for (size_t i = 0; i < p.size(); ++i) {
            p[i] = (float) (i % n_slots);
        }
        for (ggml_tensor * pos : all_pos) {
            set(pos, p);
        }
    };

    auto now = std::make_shared<int32_t>((int32_t) n);
    g.before = [=]() {
        set(steps, std::vector<int32_t>{ 0, (int32_t) n, 1, (int32_t) (*now - n / 2), 1, *now, 0, 0 });
        ++*now;
    };
}

// bytes read and written
static void add_copy(graph & g, int64_t n_bytes) {
    for (int64_t il = 0; il < g.n_layer; ++il) {
        ggml_tensor * a = g.input(GGML_TYPE_F32, 1024, n_bytes / 4096);
        ggml_tensor * b = g.input(GGML_TYPE_F32, 1024, n_bytes / 4096);
        ggml_build_forward_expand(g.gf, ggml_cpy(g.ctx, a, b));
    }
    g.n_bytes = 2.0 * n_bytes;
    g.fill    = []() {};
}

//
// program
//

static double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

static FILE * json = nullptr;

static void print(const graph & g, const graph & base, const graph & copy, int64_t n) {
    double lo = 1e30;
    double hi = 0;
    for (size_t i = 0; i < g.us.size(); ++i) {
        lo = std::min(lo, base.us[i] / g.us[i]);
        hi = std::max(hi, base.us[i] / g.us[i]);
    }
    const double faster = median(base.us) / median(g.us);
    const double share  = (g.n_bytes / median(g.us)) / (copy.n_bytes / median(copy.us));

    printf("  %-26s %10.1f us  %7.2f x faster (%.2f .. %.2f)  %6.1f MB, %3.0f %% of a copy's bandwidth\n",
            g.name.c_str(), median(g.us), faster, lo, hi, g.n_bytes / 1e6, 100.0 * share);
    fflush(stdout);

    if (json) {
        fprintf(json,
                "{\"context\": %lld, \"budget\": %lld, \"what\": \"%s\", \"us\": %.3f, \"ratio\": %.4f, "
                "\"ratio_low\": %.4f, \"ratio_high\": %.4f, \"bytes\": %.0f, \"share\": %.4f}\n",
                (long long) n, (long long) opt.budget, g.name.c_str(), median(g.us), faster, lo, hi, g.n_bytes, share);
        fflush(json);
    }
}

static void bench(int64_t n) {
    // several layers, so that none finds its cache in the L2 cache
    const double  n_bytes = 2.0 * n * row_size();
    const int64_t n_layer = std::min<int64_t>(32, std::max<int64_t>(2, (int64_t) (256e6 / n_bytes)));

    std::vector<std::unique_ptr<graph>> all;
    const auto                          add = [&](const char * name, const std::function<void(graph &)> & build) {
        all.push_back(std::make_unique<graph>(name, n_layer));
        build(*all.back());
        all.back()->alloc();
    };

    add("copy", [&](graph & g) { add_copy(g, std::max<int64_t>(4096, (int64_t) n_bytes / 4096 * 4096)); });
    add("full, FlashAttention", [&](graph & g) { add_full(g, n); });
    add("our kernel, all tokens", [&](graph & g) { add_list(g, n); });
    // those that hold the budget alone have the same step whatever the context
    const int64_t n_held = std::min(n, opt.budget);
    add("Sink", [&](graph & g) { add_full(g, n_held); });
    add("H2O", [&](graph & g) { add_h2o(g, n_held); });
    if (n > opt.budget) {
        add("Quest", [&](graph & g) { add_quest(g, n); });
        add("TidalDecode, choosing", [&](graph & g) { add_choice(g, n, ops->tidal_select, true); });
        add("LessIsMore, choosing", [&](graph & g) { add_choice(g, n, ops->lessismore_select, false); });
        add("both, other layers", [&](graph & g) { add_list(g, opt.budget); });
    }

    for (int i = -2; i < opt.rounds; ++i) {
        for (auto & g : all) {
            g->run(i >= 0);
        }
    }

    printf("%lld tokens, a layer of %lld x %lld, %lld heads, %s, budget %lld, %lld layers in turn\n", (long long) n,
            (long long) opt.heads_kv, (long long) opt.head_size, (long long) opt.heads, ggml_type_name(type_kv),
            (long long) opt.budget, (long long) n_layer);
    for (size_t i = 1; i < all.size(); ++i) {
        print(*all[i], *all[1], *all[0], n);
    }
}

static int64_t to_number(const char * name, const std::string & s) {
    char *          end = nullptr;
    const long long x   = strtoll(s.c_str(), &end, 10);
    if (s.empty() || *end || x <= 0) {
        fprintf(stderr, "bench_attention: %s %s: a number above 0\n", name, s.c_str());
        exit(2);
    }
    return x;
}

static void parse(int argc, char ** argv) {
    for (int i = 1; i < argc; i += 2) {
        const std::string name = argv[i];

        if (i + 1 >= argc) {
            fprintf(stderr, "bench_attention: %s: a value is missing\n", argv[i]);
            exit(2);
        }
        const std::string value = argv[i + 1];

        const struct {
            const char * name;
            int64_t *    to;
        } numbers[] = {
            { "--heads", &opt.heads },
            { "--heads-kv", &opt.heads_kv },
            { "--head-size", &opt.head_size },
            { "--budget", &opt.budget },
        };

        bool known = true;
        if (name == "--device") {
            opt.device = value;
        } else if (name == "--type") {
            opt.type = value;
        } else if (name == "--json") {
            opt.json = value;
        } else if (name == "--threads") {
            opt.threads = (int) to_number("--threads", value);
        } else if (name == "--rounds") {
            opt.rounds = (int) to_number("--rounds", value);
        } else if (name == "--contexts") {
            opt.contexts.clear();
            for (size_t p = 0; p <= value.size(); p = std::min(value.find(',', p), value.size()) + 1) {
                opt.contexts.push_back(
                        to_number("--contexts", value.substr(p, std::min(value.find(',', p), value.size()) - p)));
            }
        } else {
            known = false;
            for (const auto & x : numbers) {
                if (name == x.name) {
                    *x.to = to_number(x.name, value);
                    known = true;
                }
            }
        }
        if (!known) {
            fprintf(stderr,
                    "bench_attention: no option %s; there are --device, --threads, --type, --heads, --heads-kv, "
                    "--head-size, --budget, --contexts, --rounds, --json\n",
                    argv[i]);
            exit(2);
        }
    }

    type_kv = opt.type == "f16"  ? GGML_TYPE_F16
            : opt.type == "q8_0" ? GGML_TYPE_Q8_0
            : opt.type == "q4_0" ? GGML_TYPE_Q4_0
                                 : GGML_TYPE_COUNT;
    if (type_kv == GGML_TYPE_COUNT) {
        fprintf(stderr, "bench_attention: --type %s: f16, q8_0 or q4_0\n", opt.type.c_str());
        exit(2);
    }
    if (opt.heads % opt.heads_kv != 0 || opt.head_size % 32 != 0 || opt.budget % PAGE != 0) {
        fprintf(stderr, "bench_attention: --heads is a multiple of --heads-kv, --head-size of 32, --budget of %d\n",
                PAGE);
        exit(2);
    }
    for (int64_t n : opt.contexts) {
        if (n % 256 != 0) {
            fprintf(stderr, "bench_attention: --contexts %lld: multiples of 256\n", (long long) n);
            exit(2);
        }
    }
}

int main(int argc, char ** argv) {
    parse(argc, argv);

    ggml_backend_load_all();

    ggml_backend_dev_t dev = opt.device.empty() ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU)
                                                : ggml_backend_dev_by_name(opt.device.c_str());
    if (!dev && opt.device.empty()) {
        dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    }
    if (!dev) {
        fprintf(stderr, "bench_attention: --device %s: there are", opt.device.c_str());
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            fprintf(stderr, " %s", ggml_backend_dev_name(ggml_backend_dev_get(i)));
        }
        fprintf(stderr, "\n");
        return 2;
    }

    using get_ops_t = const lil_ops * (*)(void);

    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);

    const auto get_ops = (get_ops_t) ggml_backend_reg_get_proc_address(reg, "lil_ops");
    if (!get_ops) {
        fprintf(stderr, "bench_attention: %s has none of our ops\n", ggml_backend_dev_name(dev));
        return 2;
    }
    ops     = get_ops();
    backend = ggml_backend_dev_init(dev, nullptr);
    CHECK(backend);

    const auto set_n_threads =
            (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    if (set_n_threads) {
        set_n_threads(backend, opt.threads);
    }

    if (!opt.json.empty() && !(json = fopen(opt.json.c_str(), "w"))) {
        fprintf(stderr, "bench_attention: --json %s: cannot be written\n", opt.json.c_str());
        return 2;
    }

    printf("%s: %s\n", ggml_backend_dev_name(dev), ggml_backend_dev_description(dev));
    for (int64_t n : opt.contexts) {
        bench(n);
    }

    if (json) {
        fclose(json);
    }

    ggml_backend_free(backend);

    return 0;
}
