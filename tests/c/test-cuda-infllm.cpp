// The CUDA ops of InfLLM's scores and blocks, without a GPU. See cuda-common.h.
//
//   test-cuda-infllm [seed [test]]

#include "cuda-common.h"

static void check_score(const tensor & score, const std::vector<double> & want) {
    CHECK(score.is_whole());
    for (size_t i = 0; i < want.size(); ++i) {
        check_near(((const float *) score.data)[i], want[i], 3e-5);
    }
}

static std::vector<double> get_doubles(const tensor & t) {
    const auto x = get_floats(t);
    return std::vector<double>(x.begin(), x.end());
}

// the work is attn's own: its maxima and sums are read too
static void test_infllm_score() {
    sequences seq(pick({ 1, 17, 100, 511, 512, 513, 1100 }));

    const int n_embd    = 32;
    const int n_head_kv = rand_int(1, 2);
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16, 40 });
    const int n_head    = n_head_kv * n_group;
    const int n_lists   = rng() % 2 ? 1 : n_head_kv;
    const int n_sm      = pick({ 1, 4, 132 });

    test_name = "infllm_score: n_max " + std::to_string(seq.n_max) + ", group " + std::to_string(n_group);

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.scale            = 1.0f / sqrtf((float) n_embd);
    layer.softcap          = rng() % 4 ? 0.0f : 5.0f;
    layer.n_recent         = pick({ 1, 10, 64, 511, 512, 513, 2000 });

    tensor q(GGML_TYPE_F32, n_embd, n_head, seq.n_steps);
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, n_lists, seq.n_steps);
    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd, n_head, seq.n_max, seq.n_steps, true));
    tensor score(GGML_TYPE_F32, seq.n_cells, n_head_kv, seq.n_stream);

    kv_cache k(GGML_TYPE_F16, n_embd, n_head_kv, seq.n_cells, seq.n_stream);
    kv_cache v(GGML_TYPE_F16, n_embd, n_head_kv, seq.n_cells, seq.n_stream);

    const sinks_or_none sinks(n_head);

    q.fill(4.0f);
    fill_levels((float *) score.data, (int64_t) seq.n_cells * n_head_kv * seq.n_stream, 0, 3.0f);

    for (int s = 0; s < seq.n_steps; ++s) {
        for (int h = 0; h < n_lists; ++h) {
            int32_t * l = list.i32(h, s);

            l[0] = 0;
            for (int r = 0; r < seq.n(s); ++r) {
                if (r == seq.n(s) - 1 || !seq.step(s)[LIL_SEL_SPARSE] || rng() % 2) {
                    l[1 + l[0]++] = seq.all(s)[1 + r];
                }
            }
        }
    }

    auto want = get_doubles(score);
    for (int s = 0; s < seq.n_steps; ++s) {
        const int strm = seq.step(s)[LIL_SEL_STREAM];

        for (int h = 0; h < n_head_kv; ++h) {
            double *        x = want.data() + ((int64_t) strm * n_head_kv + h) * seq.n_cells;
            const int32_t * l = list.i32(n_lists == 1 ? 0 : h, s);

            x[l[l[0]]] = 0.0;
            for (int g = 0; g < n_group; ++g) {
                std::vector<double> kq;
                for (int j = 0; j < l[0]; ++j) {
                    kq.push_back(get_logit(
                            q.f32(h * n_group + g, s), k.row(l[1 + j], h, strm), n_embd, layer.scale, layer.softcap));
                }
                const auto p = get_softmax(kq, sinks[h * n_group + g]);
                for (int j = std::max(0, l[0] - layer.n_recent); j < l[0]; ++j) {
                    x[l[1 + j]] += p[j];
                }
            }
        }
    }

    CHECK(lil_cuda_infllm_score_supports(layer, score, n_head));

    lil_cuda_attn(layer, work, q, k.t, v.t, list, seq.steps, n_sm, nullptr);
    lil_cuda_infllm_score(layer, score, work, n_embd, n_head, list, seq.steps, sinks, n_sm, nullptr);

    check_score(score, want);
}

static void test_infllm_score_prompt() {
    sequences seq(pick({ 1, 17, 63, 64, 65, 128, 129, 250, 700 }));

    const int n_embd    = pick({ 32, 64, 72, 80, 128, 256, 288, 576 });
    const int n_head_kv = rand_int(1, 2);
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16, 20 });
    const int n_head    = n_head_kv * n_group;
    const int n_sm      = pick({ 1, 4, 132 });

    const ggml_type type = rng() % 2 ? GGML_TYPE_F16 : rand_type(n_embd);

    int n_min = seq.n_max;
    for (int s = 0; s < seq.n_steps; ++s) {
        n_min = std::min(n_min, seq.n(s));
    }
    const int n_new = rand_int(1, std::min(n_min, std::max(1, 260 / n_group)));

    for (int s = 0; s < seq.n_steps; ++s) {
        seq.step(s)[LIL_SEL_NEW] = n_new;
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.scale            = 1.0f / sqrtf((float) n_embd);
    layer.softcap          = rng() % 4 ? 0.0f : 5.0f;
    layer.n_recent         = pick({ 1, 10, 64, 100, 200, 1000 });
    layer.n_score_part     = 1;

    test_name = "infllm_score_prompt: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) +
            ", n_max " + std::to_string(seq.n_max) + ", new " + std::to_string(n_new) + ", recent " +
            std::to_string(layer.n_recent) + ", " + ggml_type_name(type);

    tensor q(GGML_TYPE_F32, n_embd, n_head, n_new * seq.n_steps);
    tensor part(GGML_TYPE_F32, layer.n_recent + n_new, n_head_kv, 1, seq.n_steps);
    tensor score(GGML_TYPE_F32, seq.n_cells, n_head_kv, seq.n_stream);

    kv_cache k(type, n_embd, n_head_kv, seq.n_cells, seq.n_stream);

    const sinks_or_none sinks(n_head);

    q.fill(4.0f);
    fill_levels((float *) score.data, (int64_t) seq.n_cells * n_head_kv * seq.n_stream, 0, 3.0f);

    auto want = get_doubles(score);
    for (int s = 0; s < seq.n_steps; ++s) {
        const int base = seq.n(s) - n_new;
        const int strm = seq.step(s)[LIL_SEL_STREAM];

        for (int h = 0; h < n_head_kv; ++h) {
            double * x = want.data() + ((int64_t) strm * n_head_kv + h) * seq.n_cells;

            std::vector<std::vector<float>> keys; // as F16
            for (int r = 0; r < seq.n(s); ++r) {
                keys.emplace_back(k.row(seq.all(s)[1 + r], h, strm), k.row(seq.all(s)[1 + r], h, strm) + n_embd);
                for (float & v : keys.back()) {
                    v = round_f16(v);
                }
            }

            for (int r = base; r < seq.n(s); ++r) {
                x[seq.all(s)[1 + r]] = 0.0;
            }
            for (int r = base; r < seq.n(s); ++r) {
                for (int g = 0; g < n_group; ++g) {
                    std::vector<float> row(q.f32(h * n_group + g, s * n_new + r - base),
                            q.f32(h * n_group + g, s * n_new + r - base) + n_embd);
                    for (float & v : row) {
                        v = round_f16(v * layer.scale);
                    }

                    std::vector<double> kq;
                    for (int j = 0; j <= r; ++j) {
                        kq.push_back(get_logit(row.data(), keys[j].data(), n_embd, 1.0f, layer.softcap));
                    }
                    const auto p = get_softmax(kq, sinks[h * n_group + g]);
                    for (int j = std::max(0, r - layer.n_recent + 1); j <= r; ++j) {
                        x[seq.all(s)[1 + j]] += p[j];
                    }
                }
            }
        }
    }

    CHECK(lil_cuda_infllm_score_prompt_supports(layer, part, q, k.t, seq.cells, seq.steps));

    tensor scratch(
            GGML_TYPE_F32, (int64_t) lil_cuda_infllm_score_prompt_n_scratch(layer, q, seq.cells, seq.steps, n_sm));

    lil_cuda_infllm_score_prompt(
            layer, part, q, k.t, seq.cells, seq.steps, sinks, (float *) scratch.data, n_sm, nullptr);
    lil_cuda_infllm_score_add(layer, score, part, seq.cells, seq.steps, nullptr);

    CHECK(scratch.is_whole() && part.is_whole());
    check_score(score, want);
}

static void test_block_repr() {
    const int n_embd    = pick({ 32, 64, 80, 96, 128, 256, 576 });
    const int n_head_kv = rand_int(1, 3);
    const int n_cells   = 400;
    const int n_stream  = rand_int(1, 3);
    const int n_table   = rand_int(1, 3);
    const int n_blocks  = 12;
    const int n_dirty   = rand_int(0, n_blocks);
    const int block     = pick({ 1, 8, 16, 31, 32, 33, 128, 300 });

    const ggml_type type = rng() % 2 ? GGML_TYPE_F16 : rand_type(n_embd);

    test_name = "block_repr: n_embd " + std::to_string(n_embd) + ", block " + std::to_string(block) + ", " +
            ggml_type_name(type);

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.n_repr           = pick({ 1, 4, 5, 8, 20, 130 });

    tensor score(GGML_TYPE_F32, n_cells, n_head_kv, n_stream);
    tensor repr(GGML_TYPE_F32, n_embd * n_head_kv, n_blocks, n_table);
    tensor dirty(GGML_TYPE_I32, LIL_DIRTY_HEAD + block, std::max(1, n_dirty));

    dirty.ne[1] = n_dirty;

    kv_cache k(type, n_embd, n_head_kv, n_cells, n_stream);

    fill_levels((float *) score.data, n_cells * n_head_kv * n_stream, pick({ 0, 1, 3, 50 }));

    std::vector<double> want((size_t) n_embd * n_head_kv * n_blocks * n_table, NAN);
    for (int i = 0; i < n_dirty; ++i) {
        int32_t * head = dirty.i32(i);

        head[LIL_DIRTY_STREAM] = rand_int(0, n_stream - 1);
        head[LIL_DIRTY_TABLE]  = rand_int(0, n_table - 1);
        head[LIL_DIRTY_PAGE]   = i;
        head[LIL_DIRTY_N]      = rng() % 2 ? block : rand_int(1, block);

        const auto order = rand_order(n_cells);
        memcpy(head + LIL_DIRTY_HEAD, order.data(), head[LIL_DIRTY_N] * sizeof(int32_t));

        for (int h = 0; h < n_head_kv; ++h) {
            std::vector<float> x;
            for (int r = 0; r < head[LIL_DIRTY_N]; ++r) {
                x.push_back(score.f32(h, head[LIL_DIRTY_STREAM])[order[r]]);
            }
            const auto best = get_best(x, layer.n_repr);

            for (int d = 0; d < n_embd; ++d) {
                double sum = 0.0;
                for (const int r : best) {
                    sum += k.row(order[r], h, head[LIL_DIRTY_STREAM])[d];
                }
                want[((int64_t) head[LIL_DIRTY_TABLE] * n_blocks + i) * n_embd * n_head_kv + h * n_embd + d] = sum;
            }
        }
    }

    CHECK(lil_cuda_block_repr_supports(layer, repr, k.t, score, dirty));

    lil_cuda_block_repr(layer, repr, k.t, score, dirty, nullptr);

    CHECK(repr.is_whole());
    for (size_t i = 0; i < want.size(); ++i) {
        if (std::isnan(want[i])) {
            CHECK(std::isnan(((const float *) repr.data)[i]));
        } else {
            check_near(((const float *) repr.data)[i], want[i], 2e-5);
        }
    }
}

static void test_block_scores() {
    const int n_embd    = pick({ 32, 64, 80, 128, 256, 576 });
    const int n_head_kv = rand_int(1, 4);
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16, 128 });
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 3);
    const int n_blocks  = pick({ 1, 7, 8, 9, 15, 16, 17, 100 });

    test_name = "block_scores: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) + ", blocks " +
            std::to_string(n_blocks);

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;

    tensor q(GGML_TYPE_F32, n_embd, n_head, n_steps, 1, rng() % 2 ? 4 : 0);
    tensor repr(GGML_TYPE_F32, n_embd * n_head_kv, n_blocks, n_steps, 1, rng() % 2 ? 16 : 0);
    tensor steps(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    tensor scores(GGML_TYPE_F32, n_blocks, n_steps);

    q.fill(4.0f);
    repr.fill(4.0f);

    for (int s = 0; s < n_steps; ++s) {
        steps.i32(s)[LIL_SEL_TABLE] = n_steps - 1 - s;
        steps.i32(s)[LIL_SEL_PAGES] = s == 0 ? n_blocks : rand_int(0, n_blocks);
    }

    // the representatives of the last blocks of each step are not there yet
    const int n_cells = 100;
    const int block   = pick({ 1, 8, 16, 33 });
    const int n_dirty = rand_int(0, 2);

    kv_cache k(rand_type(n_embd), n_embd, n_head_kv, n_cells, n_steps);
    tensor   score(GGML_TYPE_F32, n_cells, n_head_kv, n_steps);
    tensor   dirty(GGML_TYPE_I32, LIL_DIRTY_HEAD + block, std::max(1, n_dirty * n_steps));
    tensor   want(GGML_TYPE_F32, repr.ne[0], n_blocks, n_steps);

    layer.n_repr = pick({ 1, 4, 20 });

    score.fill(1.0f);

    int n = 0;
    for (int s = 0; s < n_steps; ++s) {
        for (int b = std::max(0, steps.i32(s)[LIL_SEL_PAGES] - n_dirty); b < steps.i32(s)[LIL_SEL_PAGES]; ++b) {
            int32_t * entry = dirty.i32(n++);

            entry[LIL_DIRTY_STREAM] = s;
            entry[LIL_DIRTY_TABLE]  = steps.i32(s)[LIL_SEL_TABLE];
            entry[LIL_DIRTY_PAGE]   = b;
            entry[LIL_DIRTY_N]      = rand_int(1, block);

            const auto order = rand_order(n_cells);
            memcpy(entry + LIL_DIRTY_HEAD, order.data(), entry[LIL_DIRTY_N] * sizeof(int32_t));

            std::fill_n(repr.f32(b, entry[LIL_DIRTY_TABLE]), repr.ne[0], NAN);
        }
    }
    dirty.ne[1] = n;

    for (int s = 0; s < n_steps; ++s) {
        for (int b = 0; b < n_blocks; ++b) {
            memcpy(want.f32(b, s), repr.f32(b, s), repr.ne[0] * sizeof(float));
        }
    }
    lil_cuda_block_repr(layer, want, k.t, score, dirty, nullptr);

    const lil_cuda_dirty with = { k.t, dirty, score };

    CHECK(lil_cuda_block_scores_supports(layer, scores, q, repr, steps, with));

    lil_cuda_block_scores(layer, scores, q, repr, steps, with, nullptr);

    CHECK(scores.is_whole() && repr.is_whole());
    for (int s = 0; s < n_steps; ++s) {
        for (int b = 0; b < n_blocks; ++b) {
            for (int64_t i = 0; i < repr.ne[0]; ++i) {
                // of another number of lanes, so summed in another order
                check_near(repr.f32(b, s)[i], want.f32(b, s)[i], 1e-6);
            }
        }
    }
    for (int s = 0; s < n_steps; ++s) {
        for (int b = 0; b < n_blocks; ++b) {
            if (b >= steps.i32(s)[LIL_SEL_PAGES]) {
                CHECK(std::isnan(scores.f32(s)[b]));
                continue;
            }
            double ref = 0.0;
            double mag = 0.0; // of what is summed
            for (int h = 0; h < n_head; ++h) {
                for (int d = 0; d < n_embd; ++d) {
                    const double x = (double) q.f32(h, s)[d] * repr.f32(b, n_steps - 1 - s)[h / n_group * n_embd + d];
                    ref += x;
                    mag += std::fabs(x);
                }
            }
            CHECK(std::fabs(scores.f32(s)[b] - ref) <= 1e-6 * mag);
        }
    }
}

int main(int argc, char ** argv) {
    run_tests("test-cuda-infllm", argc, argv,
            {
                    { "infllm_score", test_infllm_score, 60 },
                    { "infllm_score_prompt", test_infllm_score_prompt, 60 },
                    { "block_repr", test_block_repr, 100 },
                    { "block_scores", test_block_scores, 100 },
            });

    printf("test-cuda-infllm: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
