// The CUDA ops that read K and V rows, without a GPU: attention over lists, page bounds and scores. See cuda-common.h.
//
//   test-cuda-attn [seed [test]]

#include "cuda-common.h"

// joined: the values are the first channels of the keys' rows, as MLA has them
static void test_attn(
        int n_embd, int n_embd_v, int n_group, ggml_type type_k, ggml_type type_v, int n_list, bool joined = false) {
    const bool  shared  = rng() % 2;
    const bool  kq      = rng() % 2;
    const float softcap = rng() % 4 ? 0.0f : 5.0f;

    const int n_head_kv = joined ? 1 : rand_int(1, n_list > 300 || n_group > 16 ? 2 : 3);
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_max     = n_list + (rng() % 2 ? rand_int(0, 2000) : 0);
    const int n_cells   = n_list + rand_int(0, 100);
    const int n_sm      = pick({ 1, 4, 20, 132 });

    char name[256];
    snprintf(name, sizeof(name),
            "attn: n_embd %d/%d, heads %d*%d, %s/%s, list %d of %d, steps %d, shared %d, kq %d, softcap %g, "
            "multiprocessors %d%s",
            n_embd, n_embd_v, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_v), n_list, n_max,
            n_steps, shared, kq, (double) softcap, n_sm, joined ? ", joined" : "");
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.scale            = 1.0f / sqrtf((float) n_embd);
    layer.softcap          = softcap;

    tensor q(GGML_TYPE_F32, n_embd, n_head, n_steps, 1, rng() % 2 ? 16 : 0);
    tensor list(GGML_TYPE_I32, 1 + n_max, shared ? 1 : n_head_kv, n_steps);
    tensor steps(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd_v, n_head, n_max, n_steps, kq));
    tensor out(GGML_TYPE_F32, n_embd_v, n_head, n_steps);

    kv_cache k(type_k, n_embd, n_head_kv, n_cells, n_stream);
    kv_cache v(type_v, n_embd_v, n_head_kv, n_cells, n_stream);

    lil_cuda_tensor values = joined ? k.t : v.t;
    values.ne[0]           = v.t.ne[0];

    const sinks_or_none sinks(n_head);

    q.fill(4.0f);

    // the first list has n_list entries, the others at most as many
    for (int s = 0; s < n_steps; ++s) {
        for (int h = 0; h < list.ne[1]; ++h) {
            const auto cells = rand_cells(s + h == 0 ? n_list : rand_int(1, n_list), n_cells);

            list.i32(h, s)[0] = (int32_t) cells.size();
            std::copy(cells.begin(), cells.end(), list.i32(h, s) + 1);
        }
        steps.i32(s)[LIL_SEL_STREAM] = n_stream - 1 - s;
    }

    CHECK(lil_cuda_attn_supports(layer, work, q, k.t, values, list, steps));

    lil_cuda_attn(layer, work, q, k.t, values, list, steps, n_sm, nullptr);
    lil_cuda_attn_join(layer, out, work, list, sinks, n_sm, nullptr);

    const float * x = (const float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, n_max, n_steps);

    for (int s = 0; s < n_steps; ++s) {
        for (int i = 0; i < n_head; ++i) {
            const int       h     = i / n_group;
            const int       strm  = n_stream - 1 - s;
            const int32_t * cells = list.i32(shared ? 0 : h, s);

            std::vector<double> logits;
            double              max = -INFINITY;
            for (int j = 0; j < cells[0]; ++j) {
                logits.push_back(get_logit(q.f32(i, s), k.row(cells[1 + j], h, strm), n_embd, layer.scale, softcap));
                max = std::max(max, logits[j]);
            }

            double              sum = std::exp(sinks[i] - max);
            std::vector<double> ref(n_embd_v, 0.0);
            for (int j = 0; j < cells[0]; ++j) {
                const double  p   = std::exp(logits[j] - max);
                const float * row = (joined ? k : v).row(cells[1 + j], h, strm);
                for (int d = 0; d < n_embd_v; ++d) {
                    ref[d] += p * row[d];
                }
                sum += p;
            }

            for (int d = 0; d < n_embd_v; ++d) {
                check_near(out.f32(i, s)[d], ref[d] / sum, 2e-5);
            }

            if (kq) {
                for (int j = 0; j < n_max; ++j) {
                    const float got = x[((int64_t) s * n_head + i) * n_max + j];
                    if (j < cells[0]) {
                        check_near(got, logits[j], 2e-5);
                    } else {
                        CHECK(std::isnan(got)); // not written
                    }
                }
            }
        }
    }
}

static void test_attn_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 5, 7, 8, 9, 16 }) {
            const int n_embd_v = rng() % 4 == 0 ? 32 * rand_int(1, 8) : n_embd;

            for (int n_list :
                    { pick({ 1, 2, 31, 32, 33 }), pick({ 63, 64, 65, 127, 128, 129 }), pick({ 255, 256, 257, 500 }) }) {
                const ggml_type type = rand_type(n_embd % 32 ? n_embd : n_embd_v);

                // the types that have kernels of their own, and others
                test_attn(n_embd, n_embd_v, n_group, type,
                        rng() % 4 && n_embd_v % ggml_blck_size(type) == 0 ? type : rand_type(n_embd_v), n_list);
            }
        }
    }

    // every kernel
    for (int type : { GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        for (int n_embd : { 64, 128, 256 }) {
            for (int n_group : { 1, 2, 4, 8, 16 }) {
                test_attn(n_embd, n_embd, n_group, (ggml_type) type, (ggml_type) type, rand_int(1, 150));
            }
        }
    }

    test_attn(128, 128, 7, GGML_TYPE_F16, GGML_TYPE_F16, 3000);

    // large groups, long rows: MLA's, and others
    test_attn(64, 64, 71, GGML_TYPE_F16, GGML_TYPE_F16, 100);
    for (int n_group : { 1, 7, 16, 20, 128 }) {
        for (ggml_type type : { GGML_TYPE_F16, rand_type(576) }) {
            test_attn(576, 512, n_group, type, type, pick({ 1, 33, 129, 300 }), true);
        }
        test_attn(pick({ 264, 320, 512 }), pick({ 64, 256, 288, 512 }), n_group, GGML_TYPE_F16, GGML_TYPE_F16, 70);
    }
}

// in_scores: page_scores computes some of the bounds itself
static void test_pages(int n_embd, int n_group, ggml_type type_k, ggml_type type_b, int n_pages, bool in_scores) {
    const int n_head_kv = rand_int(1, 3);
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_cells   = 400;
    const int page_size = pick({ 1, 2, 7, 15, 16, 17, 20 });

    char name[256];
    snprintf(name, sizeof(name), "pages: n_embd %d, heads %d*%d, %s, bounds %s, steps %d, pages %d of %d%s", n_embd,
            n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_b), n_steps, n_pages, page_size,
            in_scores ? ", in scores" : "");
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;

    tensor q(GGML_TYPE_F32, n_embd, n_head, n_steps);
    tensor bounds(type_b, 2 * n_embd, n_head_kv, n_pages + 1, n_stream);
    tensor dirty(GGML_TYPE_I32, LIL_DIRTY_HEAD + page_size, n_pages * n_steps);
    tensor steps(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    tensor scores(GGML_TYPE_F32, n_pages + 1, n_head_kv, n_steps);

    kv_cache k(type_k, n_embd, n_head_kv, n_cells, n_stream);

    q.fill(4.0f);

    for (int s = 0; s < n_steps; ++s) {
        steps.i32(s)[LIL_SEL_STREAM] = n_stream - 1 - s;
        steps.i32(s)[LIL_SEL_TABLE]  = s;
        steps.i32(s)[LIL_SEL_PAGES]  = s == 0 || in_scores ? n_pages : rand_int(1, n_pages);

        for (int p = 0; p < n_pages; ++p) {
            const auto cells = rand_cells(rand_int(1, page_size), n_cells);

            int32_t * entry         = dirty.i32(s * n_pages + p);
            entry[LIL_DIRTY_STREAM] = n_stream - 1 - s;
            entry[LIL_DIRTY_TABLE]  = s;
            entry[LIL_DIRTY_PAGE]   = p;
            entry[LIL_DIRTY_N]      = (int32_t) cells.size();
            std::copy(cells.begin(), cells.end(), entry + LIL_DIRTY_HEAD);
        }
    }

    CHECK(lil_cuda_page_bounds_supports(layer, bounds, k.t, dirty));
    const int n_before =
            in_scores ? rand_int(0, n_pages * n_steps - 1) : n_pages * n_steps; // dirty pages of page_bounds

    lil_cuda_dirty with = { k.t, dirty, {} };
    with.dirty.data     = dirty.i32(n_before);
    with.dirty.ne[1] -= n_before;

    lil_cuda_tensor before = dirty;
    before.ne[1]           = n_before;

    CHECK(lil_cuda_page_scores_supports(layer, scores, q, bounds, steps, with));

    lil_cuda_page_bounds(layer, bounds, k.t, before, nullptr);
    lil_cuda_page_scores(layer, scores, q, bounds, steps, with, nullptr);

    for (int s = 0; s < n_stream; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            for (int p = 0; p <= n_pages; ++p) {
                std::vector<float> bound(2 * n_embd);
                if (type_b == GGML_TYPE_F16) {
                    ggml_fp16_to_fp32_row((const ggml_fp16_t *) bounds.row(h, p, s), bound.data(), 2 * n_embd);
                } else {
                    memcpy(bound.data(), bounds.row(h, p, s), 2 * n_embd * sizeof(float));
                }

                if (p == n_pages || s >= n_steps) { // not written
                    CHECK(memcmp(bounds.row(h, p, s), &POISON, 4) == 0 &&
                            memcmp(bounds.row(h, p, s) + bounds.nb[1] - 4, &POISON, 4) == 0);
                    CHECK(s >= n_steps || std::isnan(scores.f32(h, s)[p]));
                    continue;
                }

                const int32_t * entry = dirty.i32(s * n_pages + p);

                for (int i = 0; i < n_embd; ++i) {
                    float max = -INFINITY;
                    float min = INFINITY;
                    for (int j = 0; j < entry[LIL_DIRTY_N]; ++j) {
                        const float x = k.row(entry[LIL_DIRTY_HEAD + j], h, n_stream - 1 - s)[i];
                        max           = std::max(max, x);
                        min           = std::min(min, x);
                    }
                    CHECK(bound[i] == max && bound[n_embd + i] == min);
                }

                if (p >= steps.i32(s)[LIL_SEL_PAGES]) {
                    CHECK(std::isnan(scores.f32(h, s)[p]));
                    continue;
                }

                double ref = -INFINITY;
                for (int g = 0; g < n_group; ++g) {
                    const float * qh = q.f32(h * n_group + g, s);

                    double sum = 0.0;
                    for (int i = 0; i < n_embd; ++i) {
                        sum += std::max((double) qh[i] * bound[i], (double) qh[i] * bound[n_embd + i]);
                    }
                    ref = std::max(ref, sum);
                }
                check_near(scores.f32(h, s)[p], ref, 1e-5);
            }
        }
    }
}

static void test_pages_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 5, 7, 8, 9, 16 }) {
            const ggml_type type_k = rand_type(n_embd);
            const bool      is_f16 = type_k == GGML_TYPE_F16 || (type_k == GGML_TYPE_F32 && rng() % 2 == 0);

            test_pages(n_embd, n_group, type_k, is_f16 ? GGML_TYPE_F16 : GGML_TYPE_F32,
                    pick({ 1, 2, 3, 15, 16, 17, 63, 64, 65, 90 }), rng() % 2);
        }
    }
    for (int n_group : { 1, 16, 20, 128 }) {
        test_pages(576, n_group, GGML_TYPE_F16, GGML_TYPE_F16, pick({ 1, 17, 65 }), rng() % 2);
        test_pages(pick({ 288, 576 }), n_group, GGML_TYPE_BF16, GGML_TYPE_F32, pick({ 1, 17, 65 }), rng() % 2);
    }
}

int main(int argc, char ** argv) {
    run_tests("test-cuda-attn", argc, argv,
            {
                    { "attn", test_attn_all, 1 },
                    { "pages", test_pages_all, 1 },
            });

    printf("test-cuda-attn: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
