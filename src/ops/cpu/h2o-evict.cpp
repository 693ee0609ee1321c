#include "h2o.h"

#include <algorithm>
#include <cstring>
#include <vector>

// moves one KV head's token from slot src to slot dst
static void move_slot(const lil_h2o_head & t, uint32_t src, uint32_t dst) {
    memcpy(t.k + dst*t.k_stride, t.k + src*t.k_stride, t.k_size);
    memcpy(t.v + dst*t.v_stride, t.v + src*t.v_stride, t.v_size);

    t.score[dst] = t.score[src];
    t.pos  [dst] = t.pos  [src];
}

// whether slot a's token goes before slot b's
static bool goes_before(const lil_h2o_head & t, uint32_t a, uint32_t b) {
    return t.score[a] < t.score[b] || (t.score[a] == t.score[b] && t.pos[a] < t.pos[b]);
}

static void evict_one(const lil_h2o_head & t, uint32_t n, float protect) {
    uint32_t i_min = UINT32_MAX;

    for (uint32_t i = 0; i < n; ++i) {
        if (t.pos[i] < protect && (i_min == UINT32_MAX || goes_before(t, i, i_min))) {
            i_min = i;
        }
    }

    GGML_ASSERT(i_min != UINT32_MAX);

    if (i_min != n - 1) {
        move_slot(t, n - 1, i_min);
    }
}

// the cut of a prompt: once per prompt, so it may allocate
static void evict_many(const lil_h2o_head & t, uint32_t n, uint32_t n_evict, float protect) {
    std::vector<uint32_t> slots; // unprotected
    slots.reserve(n);

    for (uint32_t i = 0; i < n; ++i) {
        if (t.pos[i] < protect) {
            slots.push_back(i);
        }
    }

    GGML_ASSERT(slots.size() >= n_evict);

    std::nth_element(slots.begin(), slots.begin() + (n_evict - 1), slots.end(), [&](uint32_t a, uint32_t b) { return goes_before(t, a, b); });

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

        move_slot(t, src, dst);
    }
}

void lil_h2o_evict(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_h2o_layer *) userdata;

    ggml_tensor       * pos   = dst;
    ggml_tensor       * k     = dst->src[1];
    ggml_tensor       * v     = dst->src[2];
    ggml_tensor       * score = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int n_head_kv = layer->n_head_kv;

    for (int64_t u = ith; u < steps->ne[1]*n_head_kv; u += nth) {
        const int32_t * step = lil_h2o_step(steps, u/n_head_kv);

        const uint32_t n_evict = step[LIL_STEP_EVICT];
        if (n_evict == 0) {
            continue;
        }

        const auto head = lil_h2o_get_head(*layer, k, v, score, pos, step[LIL_STEP_STREAM], u%n_head_kv);

        const float protect = step[LIL_STEP_PROTECT];

        if (n_evict == 1) {
            evict_one(head, step[LIL_STEP_BEFORE], protect);
        } else {
            evict_many(head, step[LIL_STEP_BEFORE], n_evict, protect);
        }
    }
}
