#include "score-kernel.h"

// score_prompt, score_add and score_window

static bool lil_is_score(const lil_evict_layer & layer, const lil_cuda_tensor & score) {
    return score.type == GGML_TYPE_F32 && score.ne[1] == layer.n_head_kv;
}

bool lil_cuda_score_prompt_supports(const lil_evict_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & steps) {
    return lil_is_score(layer, part) && part.ne[2] == 1 && lil_score_supports(layer.n_head_kv, q, k, steps);
}

size_t lil_cuda_score_prompt_n_scratch(const lil_evict_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & steps, int n_sm) {
    return lil_score_n_scratch(q.ne[2] / steps.ne[1] * (q.ne[1] / layer.n_head_kv), q.ne[0], part.ne[0],
            layer.n_head_kv, steps.ne[1], n_sm);
}

void lil_cuda_score_prompt(const lil_evict_layer & layer, const lil_cuda_tensor & part, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & steps, const lil_cuda_tensor & sinks, float * scratch,
        int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_score_prompt_supports(layer, part, q, k, steps));

    const int64_t n_steps = steps.ne[1];

    lil_score_params p = lil_score_get_params(LIL_SCORE_PROMPT, q.ne[0], layer.n_head_kv, k, steps);

    p.n_group = (int) (q.ne[1] / layer.n_head_kv);
    p.n_query = (int) (q.ne[2] / n_steps);
    p.n_sum   = (int) part.ne[0];
    p.n_split = lil_score_n_split(p.n_query * p.n_group, p.n_embd, p.n_sum, p.n_head_kv, n_steps, n_sm);
    p.scale   = layer.scale;
    p.softcap = layer.softcap;
    p.stat    = scratch;
    p.sinks   = (const float *) sinks.data;

    p.q          = (const char *) q.data;
    p.q_nb_step  = p.n_query * q.nb[2];
    p.q_nb_query = q.nb[2];
    p.q_nb_head  = q.nb[1];

    p.dst         = (char *) part.data;
    p.dst_nb1     = part.nb[1];
    p.dst_nb_step = part.nb[3];

    lil_score_launch(p, n_steps, stream);
}

bool lil_cuda_score_window_supports(const lil_evict_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & win, const lil_cuda_tensor & k, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps) {
    const int64_t n_embd = k.ne[0] / layer.n_head_kv;

    return lil_is_score(layer, score) && pos.type == GGML_TYPE_F32 && win.type == GGML_TYPE_F32 &&
            steps.type == GGML_TYPE_I32 && k.ne[0] % layer.n_head_kv == 0 && win.ne[0] % k.ne[0] == 0 &&
            win.ne[1] == LIL_PROMPT_WINDOW && lil_cuda_can_read(k, n_embd) && win.nb[1] % 16 == 0 &&
            win.nb[2] % 16 == 0 && layer.n_head_kv <= 65535 && steps.ne[1] <= 65535;
}

size_t lil_cuda_score_window_n_scratch(const lil_evict_layer & layer, const lil_cuda_tensor & win,
        const lil_cuda_tensor & k, const lil_cuda_tensor & steps, int n_sm) {
    return lil_score_n_scratch(LIL_PROMPT_WINDOW * win.ne[0] / k.ne[0], k.ne[0] / layer.n_head_kv, k.ne[1],
            layer.n_head_kv, steps.ne[1], n_sm);
}

void lil_cuda_score_window(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & win,
        const lil_cuda_tensor & k, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, float * scratch, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_score_window_supports(layer, score, win, k, pos, steps));

    const int64_t n_steps = steps.ne[1];

    lil_score_params p = lil_score_get_params(LIL_SCORE_WINDOW, k.ne[0] / layer.n_head_kv, layer.n_head_kv, k, steps);

    p.n_group = (int) (win.ne[0] / k.ne[0]);
    p.n_query = LIL_PROMPT_WINDOW;
    p.n_sum   = (int) k.ne[1];
    p.n_split = lil_score_n_split(p.n_query * p.n_group, p.n_embd, p.n_sum, p.n_head_kv, n_steps, n_sm);
    p.scale   = layer.scale;
    p.softcap = layer.softcap;
    p.stat    = scratch;
    p.sinks   = (const float *) sinks.data;

    p.q          = (const char *) win.data;
    p.q_nb_strm  = win.nb[2];
    p.q_nb_query = win.nb[1];
    p.q_nb_head  = p.n_embd * sizeof(float);

    p.pos     = (const char *) pos.data;
    p.pos_nb1 = pos.nb[1];
    p.pos_nb2 = pos.nb[2];

    p.dst         = (char *) score.data;
    p.dst_nb1     = score.nb[1];
    p.dst_nb_strm = score.nb[2];

    lil_score_launch(p, n_steps, stream);
}

//
// score_add
//

struct lil_score_add_params {
    char *       score; // [capacity, n_head_kv, n_stream]
    char *       pos;
    const char * part; // [n_kv, n_head_kv, 1, n_steps]
    const char * steps;

    int64_t score_nb1, score_nb2;
    int64_t pos_nb1, pos_nb2;
    int64_t part_nb1, part_nb3;
    int64_t steps_nb1;
};

static constexpr int LIL_SCORE_ADD_THREADS = 256;

static __global__ void __launch_bounds__(LIL_SCORE_ADD_THREADS) lil_score_add_kernel(const lil_score_add_params p) {
    const int i_kv   = blockIdx.y;
    const int i_step = blockIdx.z;
    const int j      = (int) (blockIdx.x * LIL_SCORE_ADD_THREADS + threadIdx.x); // slot

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];
    if (j >= base + step[LIL_STEP_NEW]) {
        return;
    }

    float *       score = (float *) (p.score + step[LIL_STEP_STREAM] * p.score_nb2 + i_kv * p.score_nb1);
    const float * part  = (const float *) (p.part + i_step * p.part_nb3 + i_kv * p.part_nb1);

    if (j < base) {
        score[j] += part[j];
    } else {
        score[j] = part[j];
        ((float *) (p.pos + step[LIL_STEP_STREAM] * p.pos_nb2 + i_kv * p.pos_nb1))[j] =
                (float) (step[LIL_STEP_POS] + j - base);
    }
}

void lil_cuda_score_add(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & part,
        const lil_cuda_tensor & pos, const lil_cuda_tensor & steps, cudaStream_t stream) {
    lil_score_add_params p = {};

    p.score     = (char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.pos     = (char *) pos.data;
    p.pos_nb1 = pos.nb[1];
    p.pos_nb2 = pos.nb[2];

    p.part     = (const char *) part.data;
    p.part_nb1 = part.nb[1];
    p.part_nb3 = part.nb[3];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    LIL_LAUNCH(dim3((unsigned) ((part.ne[0] + LIL_SCORE_ADD_THREADS - 1) / LIL_SCORE_ADD_THREADS),
                       (unsigned) layer.n_head_kv, (unsigned) steps.ne[1]),
            LIL_SCORE_ADD_THREADS, 0, stream, lil_score_add_kernel, p);
}
