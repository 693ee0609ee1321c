#include "score-kernel.h"

bool lil_cuda_infllm_score_prompt_supports(const lil_select_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & cells,
        const lil_cuda_tensor & steps) {
    return part.type == GGML_TYPE_F32 && part.ne[1] == layer.n_head_kv && part.ne[2] == 1 &&
            cells.type == GGML_TYPE_I32 && layer.n_recent > 0 && lil_score_supports(layer.n_head_kv, q, k, steps);
}

size_t lil_cuda_infllm_score_prompt_n_scratch(const lil_select_layer & layer, const lil_cuda_tensor & q,
        const lil_cuda_tensor & cells, const lil_cuda_tensor & steps, int n_sm) {
    return lil_score_n_scratch(q.ne[2] / steps.ne[1] * (q.ne[1] / layer.n_head_kv), q.ne[0], cells.ne[0] - 1,
            layer.n_head_kv, steps.ne[1], n_sm);
}

void lil_cuda_infllm_score_prompt(const lil_select_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & cells,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & sinks, float * scratch, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_infllm_score_prompt_supports(layer, part, q, k, cells, steps));

    const int64_t n_steps = steps.ne[1];

    lil_score_params p = lil_score_get_params(LIL_SCORE_INFLLM, q.ne[0], layer.n_head_kv, k, steps);

    p.n_group  = (int) (q.ne[1] / layer.n_head_kv);
    p.n_query  = (int) (q.ne[2] / n_steps);
    p.n_sum    = (int) part.ne[0];
    p.n_split  = lil_score_n_split(p.n_query * p.n_group, p.n_embd, cells.ne[0] - 1, p.n_head_kv, n_steps, n_sm);
    p.n_window = layer.n_recent;
    p.scale    = layer.scale;
    p.softcap  = layer.softcap;
    p.stat     = scratch;
    p.sinks    = (const float *) sinks.data;

    p.q          = (const char *) q.data;
    p.q_nb_step  = p.n_query * q.nb[2];
    p.q_nb_query = q.nb[2];
    p.q_nb_head  = q.nb[1];

    p.cells     = (const char *) cells.data;
    p.cells_nb2 = cells.nb[2];

    p.dst         = (char *) part.data;
    p.dst_nb1     = part.nb[1];
    p.dst_nb_step = part.nb[3];

    lil_score_launch(p, n_steps, stream);
}
