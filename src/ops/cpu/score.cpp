#include "evict.h"

#include "score-block.h"

#include <algorithm>
#include <cstring>

namespace {

// a few rows, as a decode step has
void score_rows(const lil_score_job & job, int64_t r0, int64_t n_rows, float * sum) {
    while (n_rows > 0) {
        const int64_t n = std::min<int64_t>(n_rows, 2 * LIL_VF_N);

        if (n <= LIL_VF_N) {
            lil_score_block<1, 8>(job, r0, n, sum);
        } else {
            lil_score_block<2, 4>(job, r0, n, sum);
        }

        r0 += n;
        n_rows -= n;
    }
}

// sinks: may be null
lil_score_job make_job(const lil_evict_layer & layer, const ggml_tensor * k, const ggml_tensor * sinks, int64_t n_group,
        int64_t strm, int64_t i_head) {
    const auto head = lil_get_evict_head(layer, k, nullptr, nullptr, nullptr, strm, i_head);

    lil_score_job job = {};

    job.type     = k->type;
    job.scale    = layer.scale;
    job.softcap  = layer.softcap;
    job.k_head   = head.k;
    job.k_stride = head.k_stride;
    job.n_embd   = k->ne[0] / layer.n_head_kv;
    job.n_group  = n_group;
    job.sinks    = sinks ? (const float *) sinks->data + i_head * n_group : nullptr;
    job.ring_pos = -1;

    return job;
}

}

void lil_score_step(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_evict_layer *) userdata;

    const ggml_tensor * q     = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];
    const ggml_tensor * sinks = dst->src[5];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1] / n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_get_step(steps, i_step);

        const auto head = lil_get_evict_head(*layer, k, nullptr, dst, pos, step[LIL_STEP_STREAM], i_head);
        // the query's own slot
        const int64_t base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT] + step[LIL_STEP_NEW] - 1;

        if (!layer->adds) {
            lil_set_new_slots(head, step);

            if (layer->last) {
                std::fill_n(head.score, base + 1, 0.0f);
            }
        }

        lil_score_job job = make_job(*layer, k, sinks, n_group, step[LIL_STEP_STREAM], i_head);

        job.n_keys         = base + 1;
        job.base           = base;
        job.q              = (const char *) q->data + i_step * q->nb[2] + i_head * n_group * q->nb[1];
        job.q_stride_head  = q->nb[1];
        job.q_stride_token = q->nb[2];

        score_rows(job, 0, n_group, head.score);
    }
}

void lil_score_prompt(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_evict_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * steps = dst->src[2];
    const ggml_tensor * sinks = dst->src[3];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1] / n_head_kv;
    const int64_t n_query   = q->ne[2] / steps->ne[1];
    const int64_t n_block   = (n_query * n_group + LIL_SCORE_ROWS - 1) / LIL_SCORE_ROWS;

    // each thread sums into a part of its own
    nth = std::min(nth, layer->n_score_part);
    if (ith >= nth) {
        return;
    }

    for (int64_t s = 0; s < dst->ne[3]; ++s) {
        memset((char *) dst->data + s * dst->nb[3] + ith * dst->nb[2], 0, dst->nb[2]);
    }

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv * n_block; u += nth) {
        const int64_t i_step  = u / (n_head_kv * n_block);
        const int64_t i_head  = u / n_block % n_head_kv;
        const int64_t i_block = u % n_block;

        const int32_t * step = lil_get_step(steps, i_step);
        const int64_t   base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];

        lil_score_job job = make_job(*layer, k, sinks, n_group, step[LIL_STEP_STREAM], i_head);

        job.n_keys         = base + n_query;
        job.base           = base;
        job.q              = (const char *) q->data + i_step * n_query * q->nb[2] + i_head * n_group * q->nb[1];
        job.q_stride_head  = q->nb[1];
        job.q_stride_token = q->nb[2];

        const int64_t r0 = i_block * LIL_SCORE_ROWS;

        lil_score_block<LIL_SCORE_NV, LIL_SCORE_NK>(job, r0, std::min<int64_t>(LIL_SCORE_ROWS, n_query * n_group - r0),
                (float *) ((char *) dst->data + i_step * dst->nb[3] + ith * dst->nb[2] + i_head * dst->nb[1]));
    }
}

void lil_score_add(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_evict_layer *) userdata;

    const ggml_tensor * part  = dst->src[1];
    const ggml_tensor * pos   = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    const int64_t n_head_kv = layer->n_head_kv;
    const int     n_part    = std::min(nth, layer->n_score_part); // as many as lil_score_prompt wrote

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_get_step(steps, i_step);

        const int64_t base  = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];
        const int64_t n_new = step[LIL_STEP_NEW];

        const auto head = lil_get_evict_head(*layer, nullptr, nullptr, dst, pos, step[LIL_STEP_STREAM], i_head);

        if (!layer->adds) {
            lil_set_new_slots(head, step);
        }

        for (int i_part = 0; i_part < n_part; ++i_part) {
            ggml_vec_acc_f32(base + n_new, head.score,
                    (const float *) ((const char *) part->data + i_step * part->nb[3] + i_part * part->nb[2] +
                            i_head * part->nb[1]));
        }
    }
}

void lil_new_slots(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_evict_layer *) userdata;

    const ggml_tensor * pos   = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    const int64_t n_head_kv = layer->n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int32_t * step = lil_get_step(steps, u / n_head_kv);

        lil_set_new_slots(
                lil_get_evict_head(*layer, nullptr, nullptr, dst, pos, step[LIL_STEP_STREAM], u % n_head_kv), step);
    }
}

void lil_score_window(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_evict_layer *) userdata;

    const ggml_tensor * win   = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];
    const ggml_tensor * sinks = dst->src[5];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_embd    = k->ne[0] / n_head_kv;
    const int64_t n_group   = win->ne[0] / n_embd / n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_get_step(steps, u / n_head_kv);

        const int64_t n_win = step[LIL_STEP_WIN];
        if (n_win == 0) {
            continue;
        }

        const auto head = lil_get_evict_head(*layer, k, nullptr, dst, pos, step[LIL_STEP_STREAM], i_head);

        lil_score_job job = make_job(*layer, k, sinks, n_group, step[LIL_STEP_STREAM], i_head);

        job.n_keys = step[LIL_STEP_BEFORE];
        job.q      = (const char *) win->data + step[LIL_STEP_STREAM] * win->nb[2] +
                i_head * n_group * n_embd * sizeof(float);
        job.q_stride_head  = n_embd * sizeof(float);
        job.q_stride_token = win->nb[1];
        job.ring_pos       = step[LIL_STEP_POS] - n_win;
        job.pos            = head.pos;
        job.pos0           = step[LIL_STEP_POS] - n_win;

        for (int64_t r0 = 0; r0 < n_win * n_group; r0 += LIL_SCORE_ROWS) {
            lil_score_block<LIL_SCORE_NV, LIL_SCORE_NK>(
                    job, r0, std::min<int64_t>(LIL_SCORE_ROWS, n_win * n_group - r0), head.score);
        }
    }
}
