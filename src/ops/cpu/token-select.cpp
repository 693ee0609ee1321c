#include "select.h"

#include "lil-simd.h"
#include "topk.h"

namespace {

// An item is a token and its score: the greater one comes first, of equal scores the newer token.
uint64_t make_item(int32_t key, int64_t i) {
    return (uint64_t) ((uint32_t) key ^ 0x80000000u) << 32 | (uint32_t) i;
}

int64_t get_token(uint64_t item) {
    return (int64_t) (item & UINT32_MAX);
}

// The tokens as a query head ranks them, found as far as they are asked for.
struct ranking {
    const float * x; // [n]
    int64_t       n;
    int64_t       k;     // no more will be asked for
    int64_t       first; // so many may do

    uint64_t * item; // [n_item()], a heap of those found and not taken
    int64_t    n_left;
    int64_t    n_found;
    int64_t    above; // keys from this one on are found

    int64_t n_item() const { return 2 * k + 256; }

    void find_more(int32_t * key) {
        lil_topk_keys(x, n, key);

        const int64_t n_want = std::min(k, n_found > 0 ? 3 * n_found : first);

        int64_t       n_ge;
        const int32_t lo = lil_topk_guess(key, n, n_want, n_ge);

        int64_t    m   = 0;
        const auto add = [&](int64_t i) {
            if (key[i] < above) {
                item[m++] = make_item(key[i], i);
            }
        };

        if (n_ge <= n_item()) {
            lil_topk_scan_few(key, 0, n, lo, add);
            n_found = n_ge;
            above   = lo;
        } else { // very many are equal
            lil_topk_each(key, n, k, add);
            n_found = k;
        }

        std::make_heap(item, item + m);
        n_left = m;
    }

    int64_t take(int32_t * key) {
        if (n_left == 0) {
            find_more(key);
        }
        std::pop_heap(item, item + n_left);
        return get_token(item[--n_left]);
    }
};

// scratch of a thread, grown on first use
struct token_scratch {
    std::vector<float>    best; // [n]
    std::vector<int32_t>  key;  // [n]
    std::vector<uint64_t> item; // [n_head][n_item]
    std::vector<ranking>  rank; // [n_head]
    std::vector<uint8_t>  in;   // [n]

    static token_scratch & get() {
        static thread_local token_scratch s;
        return s;
    }
};

}

void lil_tidal_select(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * work  = dst->src[0];
    const ggml_tensor * steps = dst->src[1];
    const ggml_tensor * cells = dst->src[2];

    auto & scratch = token_scratch::get();

    const auto logits = lil_sel_get_logits(work, layer->n_head_kv);

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = logits.n_head / n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_sel_row(steps, i_step);
        const int32_t * all  = lil_sel_list(cells, 0, i_step);

        lil_list list(lil_sel_list(dst, i_head, i_step), all);

        if (!step[LIL_SEL_SPARSE] || all[0] <= layer->budget) {
            list.add(0, all[0]);
            continue;
        }

        const int64_t n = all[0] - 1; // besides the current one

        const float * x = logits.row(i_head * n_group, i_step);

        if (n_group > 1) {
            float * best = lil_grow(scratch.best, n);

            int64_t i = 0;
            for (; i + LIL_VF_N <= n; i += LIL_VF_N) {
                lil_vf m = lil_vf_load(x + i);
                for (int64_t g = 1; g < n_group; ++g) {
                    m = lil_vf_max(m, lil_vf_load(x + g * logits.n_max + i));
                }
                lil_vf_store(best + i, m);
            }
            for (; i < n; ++i) {
                best[i] = x[i];
                for (int64_t g = 1; g < n_group; ++g) {
                    best[i] = std::max(best[i], x[g * logits.n_max + i]);
                }
            }

            x = best;
        }

        int32_t * key = lil_grow(scratch.key, n);
        lil_topk_keys(x, n, key);

        lil_topk_each(key, n, layer->budget - 1, [&](int64_t i) { list.add(i, i + 1); });

        list.add(n, n + 1);
    }
}

void lil_lessismore_select(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * work  = dst->src[0];
    const ggml_tensor * steps = dst->src[1];
    const ggml_tensor * cells = dst->src[2];

    auto & scratch = token_scratch::get();

    const auto logits = lil_sel_get_logits(work, layer->n_head_kv);

    const int64_t n_head = logits.n_head;

    for (int64_t i_step = ith; i_step < steps->ne[1]; i_step += nth) {
        const int32_t * step = lil_sel_row(steps, i_step);
        const int32_t * all  = lil_sel_list(cells, 0, i_step);

        lil_list list(lil_sel_list(dst, 0, i_step), all);

        if (!step[LIL_SEL_SPARSE] || all[0] <= layer->budget) {
            list.add(0, all[0]);
            continue;
        }

        // k of the ranks [r0, r1) are wanted: more than any head has to name, even if all heads agree
        const int64_t r0 = layer->n_sink;
        const int64_t r1 = all[0] - layer->n_recent;
        const int64_t n  = r1 - r0;
        const int64_t k  = layer->budget - layer->n_sink - layer->n_recent;

        int32_t * key  = lil_grow(scratch.key, n);
        ranking * rank = lil_grow(scratch.rank, n_head);
        uint8_t * in   = lil_grow(scratch.in, n);

        for (int64_t h = 0; h < n_head; ++h) {
            rank[h] = {};

            rank[h].x     = logits.row(h, i_step) + r0;
            rank[h].n     = n;
            rank[h].k     = k;
            rank[h].first = 2 * k / n_head + 16;
            rank[h].above = (int64_t) INT32_MAX + 1;
            rank[h].item  = lil_grow(scratch.item, n_head * rank[h].n_item()) + h * rank[h].n_item();
        }

        // rank by rank; how many ranks that takes depends on what the heads have in common
        memset(in, 0, n);

        for (int64_t n_in = 0; n_in < k;) {
            for (int64_t h = 0; h < n_head && n_in < k; ++h) {
                uint8_t & is_in = in[rank[h].take(key)];

                n_in += !is_in;
                is_in = 1;
            }
        }

        list.add(0, r0);
        for (int64_t i = 0; i < n; ++i) {
            if (in[i]) {
                list.add(r0 + i, r0 + i + 1);
            }
        }
        list.add(r1, all[0]);
    }
}
