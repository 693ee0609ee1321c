#include "evict.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

// moves a token from slot src to slot dst, in the first n_head heads
void move_slot(const lil_evict_head * heads, int n_head, uint32_t src, uint32_t dst) {
    for (int h = 0; h < n_head; ++h) {
        const auto & t = heads[h];

        memcpy(t.k + dst * t.k_stride, t.k + src * t.k_stride, t.k_size);
        memcpy(t.v + dst * t.v_stride, t.v + src * t.v_stride, t.v_size);

        t.score[dst] = t.score[src];
        t.pos[dst]   = t.pos[src];
    }
}

// what a cut goes by: the scores of one KV head, or their sum over those that hold the same tokens
struct ranking {
    const float * score;
    const float * pos;

    // whether slot a's token goes before slot b's
    bool goes_before(uint32_t a, uint32_t b) const {
        return score[a] < score[b] || (score[a] == score[b] && pos[a] < pos[b]);
    }
};

void evict_one(const ranking & r, const lil_evict_head * heads, int n_head, uint32_t n, float protect) {
    uint32_t i_min = UINT32_MAX;

    for (uint32_t i = 0; i < n; ++i) {
        if (r.pos[i] < protect && (i_min == UINT32_MAX || r.goes_before(i, i_min))) {
            i_min = i;
        }
    }

    GGML_ASSERT(i_min != UINT32_MAX);

    if (i_min != n - 1) {
        move_slot(heads, n_head, n - 1, i_min);
    }
}

// a large cut: once per prompt, or every so many steps, so it may allocate
void evict_many(
        const ranking & r, const lil_evict_head * heads, int n_head, uint32_t n, uint32_t n_evict, float protect) {
    std::vector<uint32_t> slots; // unprotected
    slots.reserve(n);

    for (uint32_t i = 0; i < n; ++i) {
        if (r.pos[i] < protect) {
            slots.push_back(i);
        }
    }

    GGML_ASSERT(slots.size() >= n_evict);

    std::nth_element(slots.begin(), slots.begin() + (n_evict - 1), slots.end(),
            [&](uint32_t a, uint32_t b) { return r.goes_before(a, b); });

    std::vector<bool> gone(n, false);
    for (uint32_t i = 0; i < n_evict; ++i) {
        gone[slots[i]] = true;
    }

    uint32_t src = n;
    for (uint32_t dst = 0; dst < n - n_evict; ++dst) {
        if (!gone[dst]) {
            continue;
        }

        do {
            --src;
        } while (gone[src]);

        move_slot(heads, n_head, src, dst);
    }
}

}

void lil_evict_slots(ggml_tensor * dst, int ith, int nth, void * userdata) {
    static thread_local std::vector<lil_evict_head> heads;
    static thread_local std::vector<float>          sum;

    const auto * layer = (const lil_evict_layer *) userdata;

    ggml_tensor *       pos   = dst;
    ggml_tensor *       k     = dst->src[1];
    ggml_tensor *       v     = dst->src[2];
    ggml_tensor *       score = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int n_head_kv = layer->n_head_kv;
    const int n_head    = layer->shared ? n_head_kv : 1; // heads of a unit of work
    const int n_unit    = n_head_kv / n_head;

    heads.resize(n_head);

    for (int64_t u = ith; u < steps->ne[1] * n_unit; u += nth) {
        const int32_t * step = lil_get_step(steps, u / n_unit);

        const uint32_t n_before = step[LIL_STEP_BEFORE];
        const uint32_t n_evict  = step[LIL_STEP_EVICT];
        if (n_evict == 0) {
            continue;
        }

        for (int h = 0; h < n_head; ++h) {
            heads[h] = lil_get_evict_head(*layer, k, v, score, pos, step[LIL_STEP_STREAM], u % n_unit * n_head + h);
        }

        ranking r = { heads[0].score, heads[0].pos };

        if (layer->shared) {
            sum.assign(n_before, 0.0f);
            for (const auto & head : heads) {
                for (uint32_t i = 0; i < n_before; ++i) {
                    sum[i] += head.score[i];
                }
            }

            r.score = sum.data();
        }

        const float protect = step[LIL_STEP_PROTECT];

        if (n_evict == 1) {
            evict_one(r, heads.data(), n_head, n_before, protect);
        } else {
            evict_many(r, heads.data(), n_head, n_before, n_evict, protect);
        }
    }
}
