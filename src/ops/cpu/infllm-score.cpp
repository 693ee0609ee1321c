#include "select.h"

#include "lil-simd.h"
#include "score-block.h"
#include "topk.h"

#include <cmath>

namespace {

// scratch of a thread, grown on first use
struct infllm_scratch {
    std::vector<float> p;   // [n]
    std::vector<float> sum; // [n_recent]

    static infllm_scratch & get() {
        static thread_local infllm_scratch s;
        return s;
    }
};

float get_max(const float * x, int64_t n) {
    lil_vf m = lil_vf_set1(-INFINITY);

    int64_t i = 0;
    for (; i + LIL_VF_N <= n; i += LIL_VF_N) {
        m = lil_vf_max(m, lil_vf_load(x + i));
    }

    float res = lil_vf_hmax(m);
    for (; i < n; ++i) {
        res = std::max(res, x[i]);
    }

    return res;
}

// Sequences of one stream can share cells. Whose scores are added to belongs to one thread, so that steps go one after
// the other.
bool is_mine(const int32_t * step, int64_t n_head_kv, int64_t i_head, int ith, int nth) {
    return (step[LIL_SEL_STREAM] * n_head_kv + i_head) % nth == ith;
}

// the rank where part begins
int64_t get_first(const lil_select_layer & layer, const int32_t * step) {
    return std::max(0, step[LIL_SEL_N] - step[LIL_SEL_NEW] - layer.n_recent + 1);
}

}

void lil_infllm_score(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * work  = dst->src[1];
    const ggml_tensor * list  = dst->src[2];
    const ggml_tensor * steps = dst->src[3];
    const ggml_tensor * sinks = dst->src[4];

    auto & scratch = infllm_scratch::get();

    const auto logits = lil_sel_get_logits(work, layer->n_head_kv);

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = logits.n_head / n_head_kv;

    for (int64_t u = 0; u < steps->ne[1] * n_head_kv; ++u) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_sel_row(steps, i_step);

        if (!is_mine(step, n_head_kv, i_head, ith, nth)) {
            continue;
        }

        const int32_t * entries = lil_sel_list(list, i_head, i_step);

        const int64_t n     = entries[0];
        const int64_t n_win = std::min<int64_t>(layer->n_recent, n);

        const int32_t * cell  = entries + 1 + (n - n_win); // of the window
        float *         score = lil_sel_f32(dst, i_head, step[LIL_SEL_STREAM]);

        score[entries[n]] = 0.0f;

        float * p   = lil_grow(scratch.p, n);
        float * sum = lil_grow(scratch.sum, n_win);

        std::fill_n(sum, n_win, 0.0f);

        for (int64_t g = 0; g < n_group; ++g) {
            const float * x = logits.row(i_head * n_group + g, i_step);

            const float sink = sinks ? ((const float *) sinks->data)[i_head * n_group + g] : -INFINITY;
            const float max  = std::max(get_max(x, n), sink);

            const double total = ggml_vec_soft_max_f32((int) n, p, x, max) + expf(sink - max);

            ggml_vec_mad_f32((int) n_win, sum, p + (n - n_win), (float) (1.0 / total));
        }

        for (int64_t i = 0; i < n_win; ++i) {
            score[cell[i]] += sum[i];
        }
    }
}

void lil_infllm_score_prompt(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * cells = dst->src[2];
    const ggml_tensor * steps = dst->src[3];
    const ggml_tensor * sinks = dst->src[4];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1] / n_head_kv;
    const int64_t n_query   = q->ne[2] / steps->ne[1];
    const int64_t n_block   = (n_query * n_group + LIL_SCORE_ROWS - 1) / LIL_SCORE_ROWS;

    // each thread sums into a part of its own; lil_infllm_score_add adds all, those of threads that there are not too
    for (int64_t i_step = 0; i_step < dst->ne[3]; ++i_step) {
        for (int64_t i_part = ith; i_part < dst->ne[2]; i_part += nth) {
            memset((char *) dst->data + i_step * dst->nb[3] + i_part * dst->nb[2], 0, dst->nb[2]);
        }
    }

    nth = std::min(nth, layer->n_score_part);
    if (ith >= nth) {
        return;
    }

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv * n_block; u += nth) {
        const int64_t i_step  = u / (n_head_kv * n_block);
        const int64_t i_head  = u / n_block % n_head_kv;
        const int64_t i_block = u % n_block;

        const int32_t * step = lil_sel_row(steps, i_step);
        const auto      keys = lil_sel_get_cells(k, n_head_kv, step[LIL_SEL_STREAM], i_head);

        lil_score_job job = {};

        job.type           = keys.type;
        job.scale          = layer->scale;
        job.softcap        = layer->softcap;
        job.k_head         = keys.data;
        job.k_stride       = keys.stride;
        job.slots          = lil_sel_list(cells, 0, i_step) + 1;
        job.n_embd         = keys.n_embd;
        job.n_keys         = step[LIL_SEL_N];
        job.q              = (const char *) q->data + i_step * n_query * q->nb[2] + i_head * n_group * q->nb[1];
        job.q_stride_head  = q->nb[1];
        job.q_stride_token = q->nb[2];
        job.n_group        = n_group;
        job.sinks          = sinks ? (const float *) sinks->data + i_head * n_group : nullptr;
        job.ring_pos       = -1;
        job.base           = step[LIL_SEL_N] - step[LIL_SEL_NEW];
        job.n_window       = layer->n_recent;

        const int64_t r0 = i_block * LIL_SCORE_ROWS;

        lil_score_block<LIL_SCORE_NV, LIL_SCORE_NK>(job, r0, std::min<int64_t>(LIL_SCORE_ROWS, n_query * n_group - r0),
                lil_sel_f32(dst, i_head, ith, i_step), get_first(*layer, step));
    }
}

void lil_infllm_score_add(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * part  = dst->src[1];
    const ggml_tensor * cells = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    const int64_t n_head_kv = layer->n_head_kv;

    for (int64_t u = 0; u < steps->ne[1] * n_head_kv; ++u) {
        const int64_t i_step = u / n_head_kv;
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_sel_row(steps, i_step);

        if (!is_mine(step, n_head_kv, i_head, ith, nth)) {
            continue;
        }

        const int32_t * cell  = lil_sel_list(cells, 0, i_step) + 1;
        float *         score = lil_sel_f32(dst, i_head, step[LIL_SEL_STREAM]);

        const int64_t n     = step[LIL_SEL_N];
        const int64_t first = get_first(*layer, step);

        for (int64_t r = n - step[LIL_SEL_NEW]; r < n; ++r) {
            score[cell[r]] = 0.0f;
        }

        for (int64_t i_part = 0; i_part < part->ne[2]; ++i_part) {
            const float * sum = lil_sel_f32(part, i_head, i_part, i_step);

            for (int64_t r = first; r < n; ++r) {
                score[cell[r]] += sum[r - first];
            }
        }
    }
}
