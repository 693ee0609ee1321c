#include "lil-cuda-device.h"

#include <math.h>

// infllm_score and infllm_score_add. Sequences of one stream can share cells: a block takes a stream's steps one after
// the other.

struct lil_infllm_params {
    char *       score; // [n_cells, n_head_kv, n_stream]
    const char * steps;
    const char * list; // infllm_score: list, list_nb1 is 0 where all heads share it; infllm_score_add: cells

    const float * work;  // [n_embd_v + 2, n_head, n_split, n_steps], of which the last two are read: maximum, sum
    const float * kq;    // [n_max, n_head, n_steps]
    const float * sinks; // [n_head], or null
    const char *  part;  // [n_recent + n_new, n_head_kv, 1, n_steps]

    int64_t score_nb1, score_nb2;
    int64_t steps_nb1;
    int64_t list_nb1, list_nb2;
    int64_t part_nb1, part_nb3;
    int64_t n_max;

    int n_steps;
    int n_embd_v;
    int n_group;
    int n_split;
    int n_recent;
};

static constexpr int LIL_INFLLM_THREADS = 512;
static constexpr int LIL_INFLLM_WARPS   = LIL_INFLLM_THREADS / LIL_WARP;

// Grid: [parts of the window, n_head_kv, n_stream]; with several steps one part
static __global__ void __launch_bounds__(LIL_INFLLM_THREADS, 1) lil_infllm_score_kernel(const lil_infllm_params p) {
    const int i_kv = blockIdx.y;
    const int strm = blockIdx.z;
    const int lane = threadIdx.x % LIL_WARP;

    LIL_SHARED(float, shared); // [2, n_group] maximum, 1/sum

    float * score = (float *) (p.score + strm * p.score_nb2 + i_kv * p.score_nb1);

    const int64_t n_head = (int64_t) gridDim.y * p.n_group;
    const int64_t i_head = (int64_t) i_kv * p.n_group;
    const int64_t stride = n_head * (p.n_embd_v + 2); // from part to part

    for (int i_step = 0; i_step < p.n_steps; ++i_step) {
        if (((const int32_t *) (p.steps + i_step * p.steps_nb1))[LIL_SEL_STREAM] != strm) {
            continue; // the whole block
        }

        const int32_t * list = (const int32_t *) (p.list + i_step * p.list_nb2 + i_kv * p.list_nb1);

        const int n      = list[0];
        const int n_part = lil_split_size(n, p.n_split);
        const int n_used = (n + n_part - 1) / n_part;

        for (int g = threadIdx.x / LIL_WARP; g < p.n_group; g += LIL_INFLLM_WARPS) {
            const float * part =
                    p.work + ((int64_t) i_step * p.n_split * n_head + i_head + g) * (p.n_embd_v + 2) + p.n_embd_v;

            const float sink = lil_get_sink(p.sinks, i_head + g);

            float max = sink;
            LIL_UNROLL_BY(1)
            for (int s = lane; s < n_used; s += LIL_WARP) {
                max = fmaxf(max, part[s * stride]);
            }
            max = lil_warp_max(max);

            float sum = 0.0f;
            LIL_UNROLL_BY(1)
            for (int s = lane; s < n_used; s += LIL_WARP) {
                sum += expf(part[s * stride] - max) * part[s * stride + 1];
            }
            sum = lil_warp_sum(sum) + expf(sink - max);

            if (lane == 0) {
                shared[2 * g]     = max;
                shared[2 * g + 1] = 1.0f / sum;
            }
        }
        __syncthreads();

        const float * kq = p.kq + ((int64_t) i_step * n_head + i_head) * p.n_max;

        for (int i = max(0, n - p.n_recent) + (int) (blockIdx.x * LIL_INFLLM_THREADS + threadIdx.x); i < n;
                i += gridDim.x * LIL_INFLLM_THREADS) {
            const int cell = list[1 + i];

            float sum = 0.0f;
            for (int g = 0; g < p.n_group; ++g) {
                sum += expf(kq[g * p.n_max + i] - shared[2 * g]) * shared[2 * g + 1];
            }
            score[cell] = i == n - 1 ? sum : score[cell] + sum; // the current token's begins at 0
        }
        __syncthreads(); // the next step reads the scores, and writes shared
    }
}

// Grid: [n_head_kv, n_stream]
static __global__ void __launch_bounds__(LIL_INFLLM_THREADS) lil_infllm_add_kernel(const lil_infllm_params p) {
    const int i_kv = blockIdx.x;
    const int strm = blockIdx.y;

    float * score = (float *) (p.score + strm * p.score_nb2 + i_kv * p.score_nb1);

    for (int i_step = 0; i_step < p.n_steps; ++i_step) {
        const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);
        if (step[LIL_SEL_STREAM] != strm) {
            continue; // the whole block
        }

        const int32_t * cells = (const int32_t *) (p.list + i_step * p.list_nb2) + 1;
        const float *   part  = (const float *) (p.part + i_step * p.part_nb3 + i_kv * p.part_nb1);

        const int n     = step[LIL_SEL_N];
        const int base  = n - step[LIL_SEL_NEW];
        const int first = max(0, base - p.n_recent + 1);

        for (int r = first + (int) threadIdx.x; r < n; r += LIL_INFLLM_THREADS) {
            const int cell = cells[r];
            score[cell]    = r >= base ? part[r - first] : score[cell] + part[r - first];
        }
        __syncthreads(); // the next step reads the scores
    }
}

static lil_infllm_params lil_infllm_get_params(const lil_select_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & list, const lil_cuda_tensor & steps) {
    lil_infllm_params p = {};

    p.n_steps  = (int) steps.ne[1];
    p.n_recent = layer.n_recent;

    p.score     = (char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.list     = (const char *) list.data;
    p.list_nb1 = list.ne[1] == 1 ? 0 : list.nb[1];
    p.list_nb2 = list.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    return p;
}

bool lil_cuda_infllm_score_supports(const lil_select_layer & layer, const lil_cuda_tensor & score, int64_t n_head) {
    return score.type == GGML_TYPE_F32 && score.ne[1] == layer.n_head_kv && n_head % layer.n_head_kv == 0 &&
            n_head / layer.n_head_kv <= LIL_CUDA_MAX_GROUP && layer.n_head_kv <= 65535 && score.ne[2] <= 65535;
}

void lil_cuda_infllm_score(const lil_select_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & work,
        int64_t n_embd_v, int64_t n_head, const lil_cuda_tensor & list, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_infllm_score_supports(layer, score, n_head));

    const int64_t n_steps = steps.ne[1];

    lil_infllm_params p = lil_infllm_get_params(layer, score, list, steps);

    p.n_max    = list.ne[0] - 1;
    p.n_embd_v = (int) n_embd_v;
    p.n_group  = (int) (n_head / layer.n_head_kv);
    p.n_split  = lil_cuda_attn_n_split(p.n_max, n_head, layer.n_head_kv, n_steps, n_sm);
    p.work     = (const float *) work.data;
    p.sinks    = (const float *) sinks.data;
    p.kq       = p.work + lil_cuda_attn_kq_offset(n_embd_v, n_head, p.n_max, n_steps);

    const int64_t n_win  = p.n_max < layer.n_recent ? p.n_max : layer.n_recent;
    const int64_t n_part = n_steps > 1 ? 1 : (n_win + LIL_INFLLM_THREADS - 1) / LIL_INFLLM_THREADS;

    LIL_LAUNCH(dim3((unsigned) n_part, (unsigned) layer.n_head_kv, (unsigned) score.ne[2]), LIL_INFLLM_THREADS,
            sizeof(float) * 2 * p.n_group, stream, lil_infllm_score_kernel, p);
}

void lil_cuda_infllm_score_add(const lil_select_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & part, const lil_cuda_tensor & cells, const lil_cuda_tensor & steps,
        cudaStream_t stream) {
    lil_infllm_params p = lil_infllm_get_params(layer, score, cells, steps);

    p.part     = (const char *) part.data;
    p.part_nb1 = part.nb[1];
    p.part_nb3 = part.nb[3];

    LIL_LAUNCH(dim3((unsigned) layer.n_head_kv, (unsigned) score.ne[2]), LIL_INFLLM_THREADS, 0, stream,
            lil_infllm_add_kernel, p);
}
