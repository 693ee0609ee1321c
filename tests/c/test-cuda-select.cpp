// The CUDA ops that choose what a step reads, without a GPU. See cuda-common.h.
//
//   test-cuda-select [seed [test]]

#include "cuda-common.h"

#include "../../src/ops/cuda/page-select.cu"
#include "../../src/ops/cuda/tidal-select.cu"

static void test_page_select() {
    sequences seq(pick({ 1, 17, 100, 512, 513, 514, 1000, 5000 }));
    test_name = "page_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);

    tensor pages (GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);
    tensor scores(GGML_TYPE_F32, seq.n_max, n_head_kv, seq.n_steps);
    tensor list  (GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    fill_pages(pages, seq);
    fill_levels((float *) scores.data, seq.n_max*n_head_kv*seq.n_steps, pick({ 0, 1, 3, 50 }));

    lil_select_layer layer = {};
    layer.n_head_kv  = n_head_kv;
    layer.first_page = rng()%2;
    layer.n_pages    = rand_int(1 + layer.first_page, pick({ 2, 10, 100 }));

    // a page more, as many, one fewer
    if (rng()%2) {
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
    sequences seq(pick({ 1, 2, 17, 100, 513, 1000, 3000 }));
    test_name = "tidal_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);
    const int n_group   = pick({ 1, 3, 7 });
    const int n_head    = n_head_kv*n_group;
    const int n_embd_v  = pick({ 8, 24 });

    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd_v, n_head, seq.n_max, seq.n_steps, true));
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    float * kq = (float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, seq.n_max, seq.n_steps);
    fill_levels(kq, (int64_t) seq.n_max*n_head*seq.n_steps, pick({ 0, 1, 3, 50 }), (float) pick({ 1, 20 }));

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.budget    = rng()%2 ? std::max(1, seq.n(0) + rand_int(-1, 1)) : rand_int(1, pick({ 10, 100, 1500 }));

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
                        x[r] = std::max(x[r], kq[((int64_t) s*n_head + h*n_group + g)*seq.n_max + r]);
                    }
                }
                ranks = get_best(x, layer.budget - 1);
                ranks.push_back(n - 1);
            }
            check_list(list, h, s, seq.all(s), ranks);
        }
    }
}

int main(int argc, char ** argv) {
    run_tests("test-cuda-select", argc, argv, {
        { "page_select",  test_page_select,  100 },
        { "tidal_select", test_tidal_select, 100 },
    });

    printf("test-cuda-select: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
