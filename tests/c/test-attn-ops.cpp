// The CPU ops of the select methods that read K and V rows, against references in F64 over random inputs:
// attn and attn_join, page_bounds, page_scores, block_scores. attn's error is no larger than that of ggml's
// FlashAttention.
//
//   test-attn-ops [seed]

#include "ops-common.h"

#include "lil-ops.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"

static const lil_ops * ops;

static double error_worst = 0.0; // the largest ratio of our error to llama.cpp's

static ggml_backend_t               backend;
static ggml_backend_set_n_threads_t set_n_threads;

//
// helpers
//

// the tensors of one test, and the graph of its ops
struct graph {
    ggml_context *        ctx;
    ggml_cgraph *         gf;
    ggml_backend_buffer_t buf = nullptr;

    graph() {
        ctx = ggml_init({ 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true });
        gf  = ggml_new_graph(ctx);
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

    ggml_tensor * op(ggml_custom_op_t fun, lil_select_layer & layer, std::vector<ggml_tensor *> src, int64_t ne0,
            int64_t ne1 = 1, int64_t ne2 = 1) {
        ggml_tensor * res = ggml_custom_4d(
                ctx, GGML_TYPE_F32, ne0, ne1, ne2, 1, src.data(), (int) src.size(), fun, GGML_N_TASKS_MAX, &layer);
        ggml_build_forward_expand(gf, res);
        return res;
    }

    ggml_tensor * op_inplace(
            ggml_custom_op_t fun, lil_select_layer & layer, ggml_tensor * dst, std::vector<ggml_tensor *> src) {
        ggml_tensor * res = ggml_custom_inplace(ctx, dst, src.data(), (int) src.size(), fun, GGML_N_TASKS_MAX, &layer);
        ggml_build_forward_expand(gf, res);
        return res;
    }

    // all bytes set: NaN in every float
    void alloc() {
        buf = ggml_backend_alloc_ctx_tensors(ctx, backend);
        CHECK(buf);
        ggml_backend_buffer_clear(buf, 0xFF);
    }

    void compute(int n_threads) {
        set_n_threads(backend, n_threads);
        CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
    }
};

template <typename T>
static void set_data(ggml_tensor * t, const std::vector<T> & data) {
    CHECK(data.size() * sizeof(T) == ggml_nbytes(t));
    memcpy(t->data, data.data(), ggml_nbytes(t));
}

// what a tensor's row holds, in F32
static std::vector<float> get_row(const ggml_tensor * t, int64_t i1, int64_t i2, int64_t i3) {
    std::vector<float> res(t->ne[0]);
    const char *       src = (const char *) t->data + i3 * t->nb[3] + i2 * t->nb[2] + i1 * t->nb[1];
    if (t->type == GGML_TYPE_F32) {
        memcpy(res.data(), src, res.size() * sizeof(float));
    } else {
        ggml_get_type_traits(t->type)->to_float(src, res.data(), t->ne[0]);
    }
    return res;
}

// K or V [n_embd*n_head_kv, n_cells, n_stream] with random content. Each cell has a scale of its own, so that an
// attention is no mean
struct kv_cache {
    ggml_tensor * t = nullptr;

    int n_embd    = 0;
    int n_head_kv = 0;

    std::vector<float> values; // as attention reads them

    void fill(ggml_tensor * tensor, int n_head) {
        t         = tensor;
        n_head_kv = n_head;
        n_embd    = (int) (t->ne[0] / n_head);

        std::vector<float> data = rand_floats(ggml_nelements(t));

        for (int64_t r = 0; r < ggml_nrows(t); ++r) {
            const float scale = 0.25f + 2.0f * (float) rng() / (float) rng.max();
            for (int64_t i = 0; i < t->ne[0]; ++i) {
                data[r * t->ne[0] + i] *= scale;
            }
        }

        if (t->type == GGML_TYPE_F32) {
            set_data(t, data);

            std::vector<ggml_fp16_t> half(data.size());
            ggml_fp32_to_fp16_row(data.data(), half.data(), (int64_t) data.size());
            ggml_fp16_to_fp32_row(half.data(), data.data(), (int64_t) data.size());
        } else {
            ggml_quantize_chunk(t->type, data.data(), t->data, 0, ggml_nrows(t), t->ne[0], nullptr);
            ggml_get_type_traits(t->type)->to_float(t->data, data.data(), (int64_t) data.size());
        }

        values = data;
    }

    const float * row(int64_t cell, int64_t i_head, int64_t strm) const {
        return values.data() + (strm * t->ne[1] + cell) * t->ne[0] + i_head * n_embd;
    }
};

//
// tests
//

//   n_tok   tokens of a sequence that share a list
//   joined  MLA: one KV head, the values are the first channels of the keys
static void test_attn(int n_embd, int n_embd_v, int n_group, ggml_type type_k, ggml_type type_v, int n_list,
        bool shared, bool kq, float softcap, int n_tok = 1, bool joined = false) {
    const int n_head_kv = joined ? 1 : rand_int(1, 3);
    const int n_head    = n_head_kv * n_group;
    const int n_seqs    = rand_int(1, 3);
    const int n_steps   = n_seqs * n_tok;
    const int n_stream  = n_seqs + rand_int(0, 1);
    const int n_max     = n_list + (rng() % 2 ? rand_int(0, 300) : 0);
    const int n_cells   = n_list + rand_int(0, 100);
    const int n_threads = rand_int(1, 5);

    char name[256];
    snprintf(name, sizeof(name),
            "attn: n_embd %d/%d, heads %d*%d, %s/%s, list %d of %d, steps %d*%d, shared %d, kq %d, softcap %g, "
            "threads %d",
            n_embd, n_embd_v, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_v), n_list, n_max, n_seqs,
            n_tok, shared, kq, softcap, n_threads);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.scale            = 1.0f / sqrtf((float) n_embd);
    layer.softcap          = softcap;

    graph g;

    ggml_tensor * q     = g.input(GGML_TYPE_F32, n_embd, n_head, n_steps);
    ggml_tensor * k     = g.input(type_k, n_embd * n_head_kv, n_cells, n_stream);
    ggml_tensor * v     = joined ? ggml_view_3d(g.ctx, k, n_embd_v, n_cells, n_stream, k->nb[1], k->nb[2], 0)
                                 : g.input(type_v, n_embd_v * n_head_kv, n_cells, n_stream);
    ggml_tensor * list  = g.input(GGML_TYPE_I32, 1 + n_max, shared ? 1 : n_head_kv, n_seqs);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);

    ggml_tensor * work =
            g.op(ops->attn, layer, { q, k, v, list, steps }, ops->attn_n_work(n_embd_v, n_head, n_max, n_steps, kq));
    ggml_tensor * sinks = rng() % 2 ? g.input(GGML_TYPE_F32, n_head) : nullptr;
    ggml_tensor * out   = sinks ? g.op(ops->attn_join, layer, { work, list, sinks }, n_embd_v, n_head, n_steps)
                                : g.op(ops->attn_join, layer, { work, list }, n_embd_v, n_head, n_steps);

    g.alloc();

    const std::vector<float> qs = rand_floats(ggml_nelements(q), 4.0f);
    set_data(q, qs);

    const std::vector<float> ss = rand_floats(n_head, 4.0f);
    if (sinks) {
        set_data(sinks, ss);
    }

    kv_cache kc;
    kv_cache vc;
    kc.fill(k, n_head_kv);
    if (!joined) {
        vc.fill(v, n_head_kv);
    }

    // the first list has n_list entries, the others at most as many, but one for each token
    std::vector<std::vector<int32_t>> lists;
    for (int64_t i = 0; i < n_seqs * list->ne[1]; ++i) {
        lists.push_back(rand_cells(i == 0 ? n_list : rand_int(n_tok, n_list), n_cells));

        auto * dst = (int32_t *) list->data + i * list->ne[0];
        dst[0]     = (int32_t) lists[i].size();
        std::copy(lists[i].begin(), lists[i].end(), dst + 1);
    }

    std::vector<int32_t> streams;
    for (int i = 0; i < n_steps; ++i) {
        streams.push_back(n_stream - 1 - i / n_tok);
        ((int32_t *) steps->data)[i * LIL_SEL_COUNT + LIL_SEL_STREAM] = streams[i];
    }

    g.compute(n_threads);

    const float * x = (const float *) work->data + ops->attn_kq_offset(n_embd_v, n_head, n_max, n_steps);

    for (int s = 0; s < n_steps; ++s) {
        for (int h = 0; h < n_head; ++h) {
            auto cells = lists[shared ? s / n_tok : s / n_tok * n_head_kv + h / n_group];
            cells.resize(cells.size() - (n_tok - 1 - s % n_tok));

            std::vector<double> logits;
            double              max = -INFINITY;
            for (int32_t c : cells) {
                double l = dot(qs.data() + (s * n_head + h) * n_embd, kc.row(c, h / n_group, streams[s]), n_embd) *
                        layer.scale;
                if (softcap != 0.0f) {
                    l = softcap * std::tanh(l / softcap);
                }
                logits.push_back(l);
                max = std::max(max, l);
            }

            double              sum = sinks ? std::exp(ss[h] - max) : 0.0;
            std::vector<double> ref(n_embd_v, 0.0);
            for (size_t j = 0; j < cells.size(); ++j) {
                const double  p   = std::exp(logits[j] - max);
                const float * row = (joined ? kc : vc).row(cells[j], h / n_group, streams[s]);
                for (int i = 0; i < n_embd_v; ++i) {
                    ref[i] += p * row[i];
                }
                sum += p;
            }

            const auto y = get_row(out, h, s, 0);
            for (int i = 0; i < n_embd_v; ++i) {
                check_near(y[i], ref[i] / sum, 2e-5);
            }

            if (kq) {
                for (size_t j = 0; j < cells.size(); ++j) {
                    check_near(x[(s * n_head + h) * n_max + j], logits[j], 2e-5);
                }
            }
        }
    }
}

// The errors of the op over all tokens and of llama.cpp's FlashAttention, as it builds it, against F64: ours is not the
// larger
static void test_error(int n_embd, int n_group, ggml_type type, int n) {
    const int n_head_kv = 2;
    const int n_head    = n_head_kv * n_group;
    const int n_kv      = (n + 255) / 256 * 256; // llama.cpp's, which masks the rest

    char name[256];
    snprintf(name, sizeof(name), "error: n_embd %d, heads %d*%d, %s, %d tokens", n_embd, n_head_kv, n_group,
            ggml_type_name(type), n);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.scale            = 1.0f / sqrtf((float) n_embd);

    graph g;

    ggml_tensor * q     = g.input(GGML_TYPE_F32, n_embd, n_head, 1);
    ggml_tensor * k     = g.input(type, n_embd * n_head_kv, n_kv, 1);
    ggml_tensor * v     = g.input(type, n_embd * n_head_kv, n_kv, 1);
    ggml_tensor * list  = g.input(GGML_TYPE_I32, 1 + n_kv, 1, 1);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, 1);
    ggml_tensor * mask  = g.input(GGML_TYPE_F16, n_kv, 1);

    ggml_tensor * work =
            g.op(ops->attn, layer, { q, k, v, list, steps }, ops->attn_n_work(n_embd, n_head, n_kv, 1, false));
    ggml_tensor * ours = g.op(ops->attn_join, layer, { work, list }, n_embd, n_head, 1);

    const auto view = [&](ggml_tensor * t) {
        t = ggml_view_3d(g.ctx, t, n_embd, n_head_kv, n_kv, ggml_row_size(type, n_embd), t->nb[1], 0);
        t = ggml_permute(g.ctx, t, 0, 2, 1, 3);
        return type == GGML_TYPE_F32 ? ggml_cast(g.ctx, t, GGML_TYPE_F16) : t;
    };

    ggml_tensor * theirs = ggml_flash_attn_ext(
            g.ctx, ggml_permute(g.ctx, q, 0, 2, 1, 3), view(k), view(v), mask, layer.scale, 0.0f, 0.0f);
    ggml_prec_set_acc(theirs, GGML_PREC_F32);
    ggml_build_forward_expand(g.gf, theirs);

    g.alloc();

    const std::vector<float> qs = rand_floats(ggml_nelements(q), 4.0f);
    set_data(q, qs);

    kv_cache kc;
    kv_cache vc;
    kc.fill(k, n_head_kv);
    vc.fill(v, n_head_kv);

    std::vector<ggml_fp16_t> ms(n_kv, ggml_fp32_to_fp16(-INFINITY));
    std::fill_n(ms.begin(), n, ggml_fp32_to_fp16(0.0f));
    set_data(mask, ms);

    ((int32_t *) steps->data)[LIL_SEL_STREAM] = 0;
    ((int32_t *) list->data)[0]               = n;
    for (int i = 0; i < n; ++i) {
        ((int32_t *) list->data)[1 + i] = i;
    }

    g.compute(2);

    double sum_ours   = 0.0;
    double sum_theirs = 0.0;

    for (int h = 0; h < n_head; ++h) {
        std::vector<double> logits;
        for (int c = 0; c < n; ++c) {
            logits.push_back(get_logit(qs.data() + h * n_embd, kc.row(c, h / n_group, 0), n_embd, layer.scale, 0.0f));
        }

        const auto p = get_softmax(logits);

        std::vector<double> ref(n_embd, 0.0);
        for (int c = 0; c < n; ++c) {
            const float * row = vc.row(c, h / n_group, 0);
            for (int i = 0; i < n_embd; ++i) {
                ref[i] += p[c] * row[i];
            }
        }

        const auto y = get_row(ours, h, 0, 0);
        const auto z = get_row(theirs, h, 0, 0);
        for (int i = 0; i < n_embd; ++i) {
            sum_ours += (y[i] - ref[i]) * (y[i] - ref[i]);
            sum_theirs += (z[i] - ref[i]) * (z[i] - ref[i]);
        }
    }

    const double rms_ours   = std::sqrt(sum_ours / (n_head * n_embd));
    const double rms_theirs = std::sqrt(sum_theirs / (n_head * n_embd));

    error_worst = std::max(error_worst, rms_ours / std::max(rms_theirs, 1e-7));

    CHECK(rms_theirs < 0.02);
    if (!(rms_ours <= std::max(rms_theirs, 1e-7))) { // a few roundings of F32, where theirs happens to be exact
        fprintf(stderr, "%s: ours %g, llama.cpp's %g\n", name, rms_ours, rms_theirs);
        CHECK(false);
    }
}

static void test_pages(int n_embd, int n_group, ggml_type type_k, ggml_type type_b) {
    const int n_head_kv = rand_int(1, 3);
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 3);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_cells   = 400;
    const int n_tables  = n_stream;
    const int n_pages   = rand_int(1, 90);
    const int page_size = rand_int(1, 20);
    const int n_threads = rand_int(1, 5);

    char name[256];
    snprintf(name, sizeof(name), "pages: n_embd %d, heads %d*%d, %s, bounds %s, steps %d, pages %d of %d, threads %d",
            n_embd, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_b), n_steps, n_pages, page_size,
            n_threads);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;

    graph g;

    ggml_tensor * q      = g.input(GGML_TYPE_F32, n_embd, n_head, n_steps);
    ggml_tensor * k      = g.input(type_k, n_embd * n_head_kv, n_cells, n_stream);
    ggml_tensor * bounds = g.input(type_b, 2 * n_embd, n_head_kv, n_pages + 1, n_tables);
    ggml_tensor * dirty  = g.input(GGML_TYPE_I32, LIL_DIRTY_HEAD + page_size, n_pages * n_steps);
    ggml_tensor * steps  = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);

    const bool in_scores = rng() % 2; // page_scores computes the bounds itself

    ggml_tensor * bounds_new = in_scores ? bounds : g.op_inplace(ops->page_bounds, layer, bounds, { k, dirty });
    ggml_tensor * scores     = in_scores
            ? g.op(ops->page_scores, layer, { q, bounds, steps, k, dirty }, n_pages + 1, n_head_kv, n_steps)
            : g.op(ops->page_scores, layer, { q, bounds_new, steps }, n_pages + 1, n_head_kv, n_steps);

    g.alloc();

    const std::vector<float> qs = rand_floats(ggml_nelements(q), 4.0f);
    set_data(q, qs);

    kv_cache kc;
    kc.fill(k, n_head_kv);

    auto * step = (int32_t *) steps->data;
    for (int s = 0; s < n_steps; ++s) {
        step[s * LIL_SEL_COUNT + LIL_SEL_STREAM] = n_stream - 1 - s;
        step[s * LIL_SEL_COUNT + LIL_SEL_TABLE]  = s;
        step[s * LIL_SEL_COUNT + LIL_SEL_PAGES]  = s == 0 || in_scores ? n_pages : rand_int(1, n_pages);
    }

    std::vector<std::vector<int32_t>> cells; // [n_steps][n_pages]
    for (int i = 0; i < n_steps * n_pages; ++i) {
        cells.push_back(rand_cells(rand_int(1, page_size), n_cells));

        auto * entry            = (int32_t *) dirty->data + i * dirty->ne[0];
        entry[LIL_DIRTY_STREAM] = step[i / n_pages * LIL_SEL_COUNT + LIL_SEL_STREAM];
        entry[LIL_DIRTY_TABLE]  = i / n_pages;
        entry[LIL_DIRTY_PAGE]   = i % n_pages;
        entry[LIL_DIRTY_N]      = (int32_t) cells[i].size();
        std::copy(cells[i].begin(), cells[i].end(), entry + LIL_DIRTY_HEAD);
    }

    g.compute(n_threads);

    for (int s = 0; s < n_steps; ++s) {
        const int strm = step[s * LIL_SEL_COUNT + LIL_SEL_STREAM];

        for (int h = 0; h < n_head_kv; ++h) {
            const auto score = get_row(scores, h, s, 0);

            for (int p = 0; p <= n_pages; ++p) {
                const auto bound = get_row(bounds, h, p, s);

                if (p == n_pages) {
                    CHECK(std::isnan(bound[0]) && std::isnan(bound[2 * n_embd - 1])); // not written
                    CHECK(std::isnan(score[p]));
                    continue;
                }

                for (int i = 0; i < n_embd; ++i) {
                    float max = -INFINITY;
                    float min = INFINITY;
                    for (int32_t c : cells[s * n_pages + p]) {
                        max = std::max(max, kc.row(c, h, strm)[i]);
                        min = std::min(min, kc.row(c, h, strm)[i]);
                    }
                    CHECK(bound[i] == max && bound[n_embd + i] == min);
                }

                if (p >= step[s * LIL_SEL_COUNT + LIL_SEL_PAGES]) {
                    CHECK(std::isnan(score[p]));
                    continue;
                }

                double ref = -INFINITY;
                for (int i_head = h * n_group; i_head < (h + 1) * n_group; ++i_head) {
                    const float * qh = qs.data() + (s * n_head + i_head) * n_embd;

                    double sum = 0.0;
                    for (int i = 0; i < n_embd; ++i) {
                        sum += std::max((double) qh[i] * bound[i], (double) qh[i] * bound[n_embd + i]);
                    }
                    ref = std::max(ref, sum);

                    for (int32_t c : cells[s * n_pages + p]) {
                        const double x = dot(qh, kc.row(c, h, strm), n_embd);
                        CHECK(score[p] >= x - 1e-5 * (1.0 + std::fabs(x)));
                    }
                }
                check_near(score[p], ref, 1e-5);
            }
        }
    }
}

static void test_blocks(int n_embd, int n_group) {
    const int n_head_kv = rand_int(1, 3);
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 3);
    const int n_tables  = n_steps + 1;
    const int n_blocks  = rand_int(1, 150);
    const int n_threads = rand_int(1, 5);

    char name[256];
    snprintf(name, sizeof(name), "blocks: n_embd %d, heads %d*%d, steps %d, blocks %d, threads %d", n_embd, n_head_kv,
            n_group, n_steps, n_blocks, n_threads);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.n_repr           = rand_int(1, 5);

    const int n_cells = 100;
    const int block   = rand_int(1, 20);
    const int n_dirty = rand_int(0, 1); // of each step: its last block, if it has any, is not there yet

    graph g;

    ggml_tensor * q     = g.input(GGML_TYPE_F32, n_embd, n_head, n_steps);
    ggml_tensor * k     = g.input(GGML_TYPE_F32, n_embd * n_head_kv, n_cells, n_steps);
    ggml_tensor * given = g.input(GGML_TYPE_F32, n_cells, n_head_kv, n_steps);
    ggml_tensor * dirty = g.input(GGML_TYPE_I32, LIL_DIRTY_HEAD + block, n_steps);
    ggml_tensor * repr  = g.input(GGML_TYPE_F32, n_embd * n_head_kv, n_blocks, n_tables);
    ggml_tensor * steps = g.input(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);

    ggml_tensor * scores = n_dirty
            ? g.op(ops->block_scores, layer, { q, repr, steps, k, given, dirty }, n_blocks, n_steps)
            : g.op(ops->block_scores, layer, { q, repr, steps }, n_blocks, n_steps);

    g.alloc();

    const std::vector<float> qs = rand_floats(ggml_nelements(q));
    std::vector<float>       rs = rand_floats(ggml_nelements(repr), 5.0f);
    set_data(q, qs);

    kv_cache kc;
    kc.fill(k, n_head_kv);

    const std::vector<float> gs = rand_floats(ggml_nelements(given));
    set_data(given, gs);

    auto * step = (int32_t *) steps->data;
    for (int s = 0; s < n_steps; ++s) {
        step[s * LIL_SEL_COUNT + LIL_SEL_TABLE] = n_tables - 1 - s;
        step[s * LIL_SEL_COUNT + LIL_SEL_PAGES] = s == 0 ? n_blocks : rand_int(0, n_blocks);
    }

    std::vector<float> rs_before = rs;
    for (int s = 0; s < n_steps; ++s) {
        const int b = step[s * LIL_SEL_COUNT + LIL_SEL_PAGES] - 1;

        auto *     entry        = (int32_t *) dirty->data + s * dirty->ne[0];
        const auto cells        = rand_cells(rand_int(1, block), n_cells);
        entry[LIL_DIRTY_STREAM] = s;
        entry[LIL_DIRTY_TABLE]  = n_tables - 1 - s;
        entry[LIL_DIRTY_PAGE]   = b; // -1: none
        entry[LIL_DIRTY_N]      = (int32_t) cells.size();
        std::copy(cells.begin(), cells.end(), entry + LIL_DIRTY_HEAD);

        for (int h = 0; n_dirty && b >= 0 && h < n_head_kv; ++h) {
            std::vector<int32_t> best = cells;
            std::sort(best.begin(), best.end(), [&](int32_t x, int32_t y) {
                return gs[(s * n_head_kv + h) * n_cells + x] > gs[(s * n_head_kv + h) * n_cells + y];
            });
            best.resize(std::min<size_t>(best.size(), layer.n_repr));

            for (int i = 0; i < n_embd; ++i) {
                const size_t at = ((n_tables - 1 - s) * n_blocks + b) * repr->ne[0] + h * n_embd + i;

                rs_before[at] = NAN;
                rs[at]        = 0.0f;
                for (int32_t c : best) {
                    rs[at] += kc.row(c, h, s)[i];
                }
            }
        }
    }
    set_data(repr, rs_before);

    g.compute(n_threads);

    for (int s = 0; s < n_steps; ++s) {
        const auto score = get_row(scores, s, 0, 0);

        for (int b = 0; b < n_blocks; ++b) {
            if (b >= step[s * LIL_SEL_COUNT + LIL_SEL_PAGES]) {
                CHECK(std::isnan(score[b]));
                continue;
            }

            double ref = 0.0;
            for (int h = 0; h < n_head; ++h) {
                ref += dot(qs.data() + (s * n_head + h) * n_embd,
                        rs.data() + ((n_tables - 1 - s) * n_blocks + b) * repr->ne[0] + h / n_group * n_embd, n_embd);
            }
            check_near(score[b], ref, 2e-4);
        }
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
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);

    using get_ops_t = const lil_ops * (*)(void);

    auto get_ops  = (get_ops_t) ggml_backend_reg_get_proc_address(reg, "lil_ops");
    set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    CHECK(get_ops && set_n_threads);

    ops     = get_ops();
    backend = ggml_backend_dev_init(dev, nullptr);
    CHECK(ops && backend);

    int n_tests = 0;

    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 5, 7, 8, 16 }) {
            for (int n_list : { 1, 15, 16, 17, 255, 256, 257, 1000 }) {
                const int n_embd_v = rng() % 4 == 0 ? 32 * rand_int(1, 5) : n_embd;

                test_attn(n_embd, n_embd_v, n_group, rand_type(n_embd), rand_type(n_embd_v), n_list, rng() % 2 == 0,
                        rng() % 2 == 0, rng() % 4 == 0 ? 5.0f : 0.0f);
                n_tests++;
            }

            const ggml_type type_k = rand_type(n_embd);

            test_pages(n_embd, n_group, type_k,
                    type_k == GGML_TYPE_F16 || (type_k == GGML_TYPE_F32 && rng() % 2 == 0) ? GGML_TYPE_F16
                                                                                           : GGML_TYPE_F32);
            test_blocks(n_embd, n_group);
            n_tests += 2;
        }
    }

    for (const ggml_type type : TYPES) {
        for (int n_embd : { 64, 128 }) {
            for (int n_group : { 1, 3, 7, 8 }) {
                for (int n : { 1, 2, 100, 256, 1000, 4096 }) {
                    test_error(n_embd, n_group, type, n);
                    n_tests++;
                }
            }
        }
    }

    // drafts, MLA, and both
    for (int n_tok : { 1, 2, 5, 8 }) {
        for (int n_group : { 1, 6, 16 }) {
            for (int n_list : { 8, 16, 255, 256, 257, 260, 1000 }) {
                const ggml_type type = rand_type(64);

                test_attn(64, 96, n_group, type, rand_type(96), n_list, rng() % 2 == 0, rng() % 2 == 0, 0.0f, n_tok);
                test_attn(576, 512, n_group, type, type, n_list, true, rng() % 2 == 0, 0.0f, n_tok, /*.joined =*/true);
                n_tests += 2;
            }
        }
    }

    // odd sizes
    for (int i = 0; i < 50; ++i) {
        const int n_embd   = rand_int(1, 70);
        const int n_embd_v = rand_int(1, 70);
        const int n_group  = rand_int(1, 20);

        test_attn(n_embd, n_embd_v, n_group, TYPES[rng() % 3], TYPES[rng() % 3], rand_int(1, 300), rng() % 2 == 0,
                rng() % 2 == 0, 0.0f);
        test_pages(n_embd, n_group, TYPES[rng() % 2], GGML_TYPE_F16);
        test_blocks(n_embd, n_group);
        n_tests += 3;
    }

    ggml_backend_free(backend);

    printf("test-attn-ops: %d cases, seed %u: ok; error at most %.1e of FlashAttention's\n", n_tests, seed,
            error_worst);

    return 0;
}
