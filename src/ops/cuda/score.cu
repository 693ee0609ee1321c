#include "attn-kernel.h"

// score_step in two halves: the logits of the last query, with a maximum and a sum for each part of the slots; then the
// probabilities, which need the maximum and the sum of all parts.

struct lil_score_step_params {
    char *        score; // [capacity, n_head_kv, n_stream]
    char *        pos;
    const char *  steps;
    const float * part;  // [2, n_head, n_split, n_steps] maximum, sum
    const float * kq;    // [n_max, n_head, n_steps]
    const float * sinks; // [n_head], or null

    int64_t score_nb1, score_nb2;
    int64_t pos_nb1, pos_nb2;
    int64_t steps_nb1;
    int64_t n_max;

    int n_group; // 0: new_slots, no scores
    int n_split;
    int last;
};

static constexpr int LIL_SCORE_THREADS = 256;

static __global__ void __launch_bounds__(LIL_SCORE_THREADS) lil_score_step_kernel(const lil_score_step_params p) {
    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;
    const int j      = (int) (blockIdx.x * LIL_SCORE_THREADS + threadIdx.x); // slot

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];
    const int n    = base + step[LIL_STEP_NEW];

    if ((int) (blockIdx.x * LIL_SCORE_THREADS) >= n) {
        return; // the whole block
    }

    LIL_SHARED(float, shared); // [2, n_group] maximum, 1/sum

    const int64_t i_head = (int64_t) i_kv * p.n_group;
    const int64_t n_head = (int64_t) gridDim.y * p.n_group;

    if (p.n_group > 0) {
        const int lane   = threadIdx.x % LIL_WARP;
        const int n_part = lil_split_size(n, p.n_split);
        const int n_used = (n + n_part - 1) / n_part;

        for (int g = threadIdx.x / LIL_WARP; g < p.n_group; g += LIL_SCORE_THREADS / LIL_WARP) {
            const float * part = p.part + ((int64_t) i_step * p.n_split * n_head + i_head + g) * 2;

            const float sink = lil_get_sink(p.sinks, i_head + g);

            float max = sink;
            for (int s = lane; s < n_used; s += LIL_WARP) {
                max = fmaxf(max, part[s * n_head * 2]);
            }
            max = lil_warp_max(max);

            float sum = 0.0f;
            for (int s = lane; s < n_used; s += LIL_WARP) {
                sum += expf(part[s * n_head * 2] - max) * part[s * n_head * 2 + 1];
            }
            sum = lil_warp_sum(sum) + expf(sink - max);

            if (lane == 0) {
                shared[2 * g]     = max;
                shared[2 * g + 1] = 1.0f / sum;
            }
        }
        __syncthreads();
    }

    if (j >= n) {
        return;
    }

    float * score = (float *) (p.score + step[LIL_STEP_STREAM] * p.score_nb2 + i_kv * p.score_nb1);
    float * pos   = (float *) (p.pos + step[LIL_STEP_STREAM] * p.pos_nb2 + i_kv * p.pos_nb1);

    if (j >= base) {
        pos[j] = (float) (step[LIL_STEP_POS] + j - base);
    }
    if (p.n_group == 0 && j < base) {
        return;
    }

    float res = p.last || j >= base ? 0.0f : score[j];
    for (int g = 0; g < p.n_group; ++g) {
        res += expf(p.kq[((int64_t) i_step * n_head + i_head + g) * p.n_max + j] - shared[2 * g]) * shared[2 * g + 1];
    }
    score[j] = res;
}

static lil_score_step_params lil_score_step_get_params(
        const lil_cuda_tensor & score, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps) {
    lil_score_step_params p = {};

    p.score     = (char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.pos     = (char *) pos.data;
    p.pos_nb1 = pos.nb[1];
    p.pos_nb2 = pos.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    return p;
}

static dim3 lil_score_step_grid(const lil_cuda_tensor & score, int64_t n_head_kv, const lil_cuda_tensor & steps) {
    return dim3((unsigned) ((score.ne[0] + LIL_SCORE_THREADS - 1) / LIL_SCORE_THREADS), (unsigned) n_head_kv,
            (unsigned) steps.ne[1]);
}

bool lil_cuda_score_step_supports(const lil_evict_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps) {
    return score.type == GGML_TYPE_F32 && pos.type == GGML_TYPE_F32 && q.type == GGML_TYPE_F32 &&
            steps.type == GGML_TYPE_I32 && q.ne[1] % layer.n_head_kv == 0 &&
            q.ne[1] / layer.n_head_kv <= LIL_CUDA_MAX_GROUP && k.ne[0] == q.ne[0] * layer.n_head_kv &&
            lil_cuda_can_read(k, q.ne[0]) && q.ne[1] <= 65535 && steps.ne[1] <= 65535;
}

size_t lil_cuda_score_step_n_scratch(
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & steps) {
    return q.ne[1] * steps.ne[1] * (k.ne[1] + 2 * lil_cuda_attn_n_part(k.ne[1]));
}

void lil_cuda_score_step(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, float * scratch, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_score_step_supports(layer, score, q, k, pos, steps));

    const int64_t n_head  = q.ne[1];
    const int64_t n_steps = steps.ne[1];

    lil_attn_params a = {};

    a.n_head_kv = layer.n_head_kv;
    a.n_group   = (int) (n_head / a.n_head_kv);
    a.n_embd_k  = (int) q.ne[0];
    a.n_split   = lil_cuda_attn_n_split(k.ne[1], n_head, a.n_head_kv, n_steps, n_sm);
    a.n_max     = k.ne[1];
    a.type_k    = k.type;
    a.scale     = layer.scale;
    a.softcap   = layer.softcap;
    a.kq        = scratch;
    a.part      = scratch + n_head * n_steps * a.n_max;

    a.q     = (const char *) q.data;
    a.q_nb1 = q.nb[1];
    a.q_nb2 = q.nb[2];

    a.k      = (const char *) k.data;
    a.k_nb1  = k.nb[1];
    a.k_nb2  = k.nb[2];
    a.k_head = lil_cuda_row_size(k.type, a.n_embd_k);

    a.steps     = (const char *) steps.data;
    a.steps_nb1 = steps.nb[1];

    if (lil_attn_is_long(a)) {
        lil_attn_launch_long<LIL_TYPE_ANY, LIL_TYPE_ANY + 1>(a, (int) n_steps, stream);
    } else if (k.type == GGML_TYPE_F16) {
        lil_attn_launch_lanes<GGML_TYPE_F16, LIL_TYPE_ANY + 1>(a, (int) n_steps, stream);
    } else {
        lil_attn_launch_lanes<LIL_TYPE_ANY, LIL_TYPE_ANY + 1>(a, (int) n_steps, stream);
    }

    lil_score_step_params p = lil_score_step_get_params(score, pos, steps);

    p.part    = a.part;
    p.kq      = a.kq;
    p.sinks   = (const float *) sinks.data;
    p.n_max   = a.n_max;
    p.n_group = a.n_group;
    p.n_split = a.n_split;
    p.last    = layer.last;

    LIL_LAUNCH(lil_score_step_grid(score, layer.n_head_kv, steps), LIL_SCORE_THREADS, sizeof(float) * 2 * p.n_group,
            stream, lil_score_step_kernel, p);
}

void lil_cuda_new_slots(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps, cudaStream_t stream) {
    LIL_LAUNCH(lil_score_step_grid(score, layer.n_head_kv, steps), LIL_SCORE_THREADS, 0, stream, lil_score_step_kernel,
            lil_score_step_get_params(score, pos, steps));
}
