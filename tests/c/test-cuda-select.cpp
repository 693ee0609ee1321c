// The CUDA ops that choose what a step reads, without a GPU. See cuda-common.h.
//
//   test-cuda-select [seed [test]]

#include "cuda-common.h"

static void test_page_select() {
    sequences seq(pick({ 1, 17, 100, 512, 513, 514, 1000, 4097, 5000 }));
    test_name = "page_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);

    tensor pages(GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);
    tensor scores(GGML_TYPE_F32, seq.n_max, n_head_kv, seq.n_steps);
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    fill_pages(pages, seq);
    fill_levels((float *) scores.data, seq.n_max * n_head_kv * seq.n_steps, pick({ 0, 1, 3, 50 }));

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.first_page       = rng() % 2;
    layer.n_pages          = rand_int(1 + layer.first_page, pick({ 2, 10, 100 }));

    // a page more, as many, one fewer
    if (rng() % 2) {
        layer.n_pages = std::max(1 + layer.first_page, seq.step(0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    lil_cuda_page_select(layer, list, scores, seq.steps, seq.cells, pages, nullptr);

    for (int s = 0; s < seq.n_steps; ++s) {
        const int       n_pages = seq.step(s)[LIL_SEL_PAGES];
        const int32_t * first   = pages.i32(s);

        for (int h = 0; h < n_head_kv; ++h) {
            std::vector<int32_t> ranks;

            if (!seq.step(s)[LIL_SEL_SPARSE]) {
                add_ranks(ranks, 0, seq.n(s));
            } else {
                std::vector<float> x(scores.f32(h, s), scores.f32(h, s) + n_pages - 1);
                if (layer.first_page && n_pages > 1) {
                    x[0] = 1e30f;
                }
                auto best = get_best(x, layer.n_pages - 1);
                best.push_back(n_pages - 1);
                for (const int32_t p : best) {
                    add_ranks(ranks, first[p], first[p + 1]);
                }
            }
            check_list(list, h, s, seq.all(s), ranks);
        }
    }
}

static void test_tidal_select() {
    sequences seq(pick({ 1, 2, 17, 100, 513, 1000, 4096, 4097, 4098, 9000 }));
    test_name = "tidal_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16 });
    const int n_head    = n_head_kv * n_group;
    const int n_embd_v  = pick({ 8, 24 });

    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd_v, n_head, seq.n_max, seq.n_steps, true));
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    float * kq = (float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, seq.n_max, seq.n_steps);
    fill_levels(kq, (int64_t) seq.n_max * n_head * seq.n_steps, pick({ 0, 1, 3, 50 }), (float) pick({ 1, 20 }));

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.budget           = rng() % 2 ? std::max(1, seq.n(0) + rand_int(-1, 1)) : rand_int(1, pick({ 10, 100, 1500 }));

    lil_cuda_tidal_select(layer, list, work, n_embd_v, n_head, seq.steps, seq.cells, nullptr);

    for (int s = 0; s < seq.n_steps; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            const int n = seq.n(s);

            std::vector<int32_t> ranks;

            if (!seq.step(s)[LIL_SEL_SPARSE]) {
                add_ranks(ranks, 0, n);
            } else {
                std::vector<float> x(n - 1, -INFINITY);
                for (int r = 0; r < n - 1; ++r) {
                    for (int g = 0; g < n_group; ++g) {
                        x[r] = std::max(x[r], kq[((int64_t) s * n_head + h * n_group + g) * seq.n_max + r]);
                    }
                }
                ranks = get_best(x, layer.budget - 1);
                ranks.push_back(n - 1);
            }
            check_list(list, h, s, seq.all(s), ranks);
        }
    }
}

static void test_lessismore_select() {
    sequences seq(pick({ 1, 17, 31, 32, 33, 100, 513, 1000, 5000 }));
    test_name = "lessismore_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);
    const int n_head    = n_head_kv * pick({ 1, 3, 4, 7, 8, 16 });
    const int n_embd_v  = pick({ 8, 24 });

    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd_v, n_head, seq.n_max, seq.n_steps, true));
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    float * kq = (float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, seq.n_max, seq.n_steps);
    fill_levels(kq, (int64_t) seq.n_max * n_head * seq.n_steps, pick({ 0, 1, 3, 50 }), (float) pick({ 1, 20 }));

    // heads that agree name few different tokens
    if (rng() % 2) {
        const int one_of = pick({ 0, 3, 20 }); // logits of each head differ; 0: none
        for (int s = 0; s < seq.n_steps; ++s) {
            for (int h = 1; h < n_head; ++h) {
                for (int r = 0; r < seq.n_max; ++r) {
                    if (!one_of || rand_int(1, one_of) > 1) {
                        kq[((int64_t) s * n_head + h) * seq.n_max + r] = kq[(int64_t) s * n_head * seq.n_max + r];
                    }
                }
            }
        }
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.n_sink           = rand_int(0, 4);
    layer.n_recent         = rand_int(1, 30);
    layer.budget           = layer.n_sink + layer.n_recent + rand_int(0, pick({ 1, 30, 300, 1500 }));

    if (rng() % 4 == 0) {
        layer.budget = std::max(layer.n_sink + layer.n_recent, seq.n(0) + rand_int(-1, 1));
    }

    tensor scratch(GGML_TYPE_I32, (int64_t) lil_cuda_lessismore_select_n_scratch(layer, n_head, seq.steps, seq.cells));

    lil_cuda_lessismore_select(
            layer, list, work, n_embd_v, n_head, seq.steps, seq.cells, (int32_t *) scratch.data, nullptr);
    CHECK(scratch.is_whole());

    for (int s = 0; s < seq.n_steps; ++s) {
        const int n = seq.n(s);

        std::vector<int32_t> ranks;

        if (!seq.step(s)[LIL_SEL_SPARSE] || n <= layer.budget) {
            add_ranks(ranks, 0, n);
        } else {
            const int r0 = layer.n_sink;
            const int r1 = n - layer.n_recent;

            std::vector<std::vector<int32_t>> ranking;
            for (int h = 0; h < n_head; ++h) {
                const float * x = kq + ((int64_t) s * n_head + h) * seq.n_max;
                ranking.push_back(get_ranking(std::vector<float>(x + r0, x + r1)));
            }

            add_ranks(ranks, 0, r0);
            add_ranks(ranks, r1, n);

            std::vector<bool> in(r1 - r0);
            for (int i = 0; (int) ranks.size() < layer.budget; ++i) {
                for (int h = 0; h < n_head && (int) ranks.size() < layer.budget; ++h) {
                    const int r = ranking[h][i];
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

// more to sort and more tokens than fit into shared memory
static void test_lessismore_select_long() {
    sequences seq(263000);
    test_name = "lessismore_select, long";

    lil_select_layer layer = {};
    layer.n_head_kv        = 1;
    layer.n_sink           = 1;
    layer.n_recent         = 7;
    layer.budget           = layer.n_sink + layer.n_recent + 5000;

    for (int s = 0; s < seq.n_steps; ++s) {
        seq.step(s)[LIL_SEL_SPARSE] = 0;
    }
    seq.set_n(0, seq.n_max);
    seq.step(0)[LIL_SEL_SPARSE] = 1;

    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(8, 1, seq.n_max, seq.n_steps, true));
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    float * kq = (float *) work.data + lil_cuda_attn_kq_offset(8, 1, seq.n_max, seq.n_steps);
    fill_levels(kq, seq.n_max, 0);

    tensor scratch(GGML_TYPE_I32, (int64_t) lil_cuda_lessismore_select_n_scratch(layer, 1, seq.steps, seq.cells));

    lil_cuda_lessismore_select(layer, list, work, 8, 1, seq.steps, seq.cells, (int32_t *) scratch.data, nullptr);
    CHECK(scratch.is_whole());

    auto ranks = get_best(std::vector<float>(kq + layer.n_sink, kq + seq.n_max - layer.n_recent), 5000);
    for (int32_t & r : ranks) {
        r += layer.n_sink;
    }
    add_ranks(ranks, 0, layer.n_sink);
    add_ranks(ranks, seq.n_max - layer.n_recent, seq.n_max);
    check_list(list, 0, 0, seq.all(0), ranks);
}

static void test_block_select() {
    sequences seq(pick({ 30, 100, 1000, 5000 }));
    test_name = "block_select: n_max " + std::to_string(seq.n_max);

    lil_select_layer layer = {};
    layer.n_head_kv        = rand_int(1, 3);
    layer.n_sink           = rand_int(0, 4);
    layer.block            = pick({ 1, 8, 16, 100 });
    layer.n_pages          = rand_int(0, pick({ 3, 50 }));

    for (int s = 0; s < seq.n_steps; ++s) {
        seq.set_n(s, std::max(layer.n_sink + 1, seq.n(s)));
        const int n_full = (seq.n(s) - layer.n_sink - 1) / layer.block;
        seq.step(s)[LIL_SEL_PAGES] =
                rng() % 2 ? n_full : std::min(n_full, std::max(0, layer.n_pages + rand_int(-1, 1)));
    }

    tensor scores(GGML_TYPE_F32, seq.n_max, seq.n_steps, 1, 1, 64);
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    const int levels = pick({ 0, 1, 3, 50 });
    for (int s = 0; s < seq.n_steps; ++s) {
        fill_levels(scores.f32(s), seq.n_max, levels);
    }

    lil_cuda_block_select(layer, list, scores, seq.steps, seq.cells, nullptr);

    for (int s = 0; s < seq.n_steps; ++s) {
        const int n_blocks = seq.step(s)[LIL_SEL_PAGES];

        std::vector<int32_t> ranks;

        if (!seq.step(s)[LIL_SEL_SPARSE]) {
            add_ranks(ranks, 0, seq.n(s));
        } else {
            add_ranks(ranks, 0, layer.n_sink);
            for (const int b : get_best(std::vector<float>(scores.f32(s), scores.f32(s) + n_blocks), layer.n_pages)) {
                add_ranks(ranks, layer.n_sink + b * layer.block, layer.n_sink + (b + 1) * layer.block);
            }
            add_ranks(ranks, layer.n_sink + n_blocks * layer.block, seq.n(s));
        }
        check_list(list, 0, s, seq.all(s), ranks);
    }
}

static void test_raas() {
    sequences seq(pick({ 1, 17, 100, 513, 1000, 5000 }));
    test_name = "raas: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);

    tensor pages(GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);
    tensor scores(GGML_TYPE_F32, seq.n_max, n_head_kv, seq.n_steps);
    tensor stamp(GGML_TYPE_F32, seq.n_cells, n_head_kv, seq.n_stream);
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    fill_pages(pages, seq);
    fill_levels((float *) scores.data, (int64_t) seq.n_max * n_head_kv * seq.n_steps, pick({ 0, 1, 3, 50 }));

    const int now = pick({ 1, 5, 300 });

    for (int64_t i = 0; i < (int64_t) seq.n_cells * n_head_kv * seq.n_stream; ++i) {
        ((float *) stamp.data)[i] = rand_int(0, 30) ? (float) rand_int(0, now - 1) : LIL_RAAS_NEVER;
    }
    for (int s = 0; s < seq.n_steps; ++s) {
        seq.step(s)[LIL_SEL_NOW] = now + s;
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.n_pages          = rand_int(1, pick({ 2, 10, 100 }));
    layer.ratio            = (float) rand_int(0, 10) / 10.0f;

    if (rng() % 2) {
        layer.n_pages = std::max(1, seq.step(0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    const auto get_step = [&](int s) {
        const int n_pages = seq.step(s)[LIL_SEL_PAGES];

        return raas_step{ seq.all(s) + 1, pages.i32(s), n_pages,
            seq.step(s)[LIL_SEL_SPARSE] ? layer.n_pages : n_pages + 1 };
    };

    // what is to become of the stamps
    auto want = get_floats(stamp);
    for (int s = 0; s < seq.n_steps; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            float *     x  = want.data() + ((int64_t) seq.step(s)[LIL_SEL_STREAM] * n_head_kv + h) * seq.n_cells;
            const float at = (float) seq.step(s)[LIL_SEL_NOW];

            x[seq.all(s)[seq.n(s)]] = at;
            get_step(s).stamp(x, scores.f32(h, s), layer.ratio, at);
        }
    }

    tensor scratch_stamp(GGML_TYPE_I32, (int64_t) lil_cuda_raas_stamp_n_scratch(layer, stamp, pages));
    tensor scratch_select(GGML_TYPE_I32, (int64_t) lil_cuda_raas_select_n_scratch(layer, seq.steps, pages));

    lil_cuda_raas_stamp(layer, stamp, scores, seq.steps, seq.cells, pages, (int32_t *) scratch_stamp.data, nullptr);
    CHECK(get_floats(stamp) == want && stamp.is_whole() && scratch_stamp.is_whole());

    lil_cuda_raas_select(layer, list, stamp, seq.steps, seq.cells, pages, (int32_t *) scratch_select.data, nullptr);
    CHECK(scratch_select.is_whole());

    for (int s = 0; s < seq.n_steps; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            std::vector<int32_t> ranks;
            for (const int p : get_step(s).get_alive(stamp.f32(h, seq.step(s)[LIL_SEL_STREAM]))) {
                add_ranks(ranks, pages.i32(s)[p], pages.i32(s)[p + 1]);
            }
            check_list(list, h, s, seq.all(s), ranks);
        }
    }
}

int main(int argc, char ** argv) {
    run_tests("test-cuda-select", argc, argv,
            {
                    { "page_select", test_page_select, 100 },
                    { "tidal_select", test_tidal_select, 100 },
                    { "lessismore_select", test_lessismore_select, 100 },
                    { "lessismore_select, long", test_lessismore_select_long, 1 },
                    { "block_select", test_block_select, 100 },
                    { "raas", test_raas, 100 },
            });

    printf("test-cuda-select: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
