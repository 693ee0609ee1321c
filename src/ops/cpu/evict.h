#pragma once

// What the evict ops of the CPU share.

#include "lil-ops-cpu.h"

#include <cstddef>
#include <cstdint>

// one KV head of one sequence
struct lil_evict_head {
    char * k; // slot i at k + i*k_stride, k_size bytes
    char * v;

    size_t k_stride;
    size_t v_stride;
    size_t k_size;
    size_t v_size;

    float * score; // [capacity]
    float * pos;   // [capacity]
};

static inline const int32_t * lil_get_step(const ggml_tensor * steps, int64_t i) {
    return (const int32_t *) ((const char *) steps->data + i * steps->nb[1]);
}

// any may be null
static inline lil_evict_head lil_get_evict_head(const lil_evict_layer & layer, const ggml_tensor * k,
        const ggml_tensor * v, const ggml_tensor * score, const ggml_tensor * pos, int64_t strm, int64_t i_head) {
    lil_evict_head res = {};

    if (k) {
        res.k_stride = k->nb[1];
        res.k_size   = ggml_row_size(k->type, k->ne[0] / layer.n_head_kv);
        res.k        = (char *) k->data + strm * k->nb[2] + i_head * res.k_size;
    }

    if (v) {
        res.v_stride = v->nb[1];
        res.v_size   = ggml_row_size(v->type, v->ne[0] / layer.n_head_kv);
        res.v        = (char *) v->data + strm * v->nb[2] + i_head * res.v_size;
    }

    res.score = score ? (float *) ((char *) score->data + strm * score->nb[2] + i_head * score->nb[1]) : nullptr;
    res.pos   = pos ? (float *) ((char *) pos->data + strm * pos->nb[2] + i_head * pos->nb[1]) : nullptr;

    return res;
}

// the new slots of a step and head: their positions, score 0
static inline void lil_set_new_slots(const lil_evict_head & head, const int32_t * step) {
    const int64_t base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];

    for (int64_t i = 0; i < step[LIL_STEP_NEW]; ++i) {
        head.score[base + i] = 0.0f;
        head.pos[base + i]   = step[LIL_STEP_POS] + i;
    }
}
