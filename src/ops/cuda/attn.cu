#include "attn-kernel.h"

// types of K and V that have kernels of their own; others are told apart at run time
static void lil_attn_launch_types(const lil_attn_params & p, int n_steps, cudaStream_t stream) {
    if (lil_attn_is_long(p)) {
        if (p.type_k == p.type_v && p.type_k == GGML_TYPE_F16) {
            lil_attn_launch_long<GGML_TYPE_F16, GGML_TYPE_F16>(p, n_steps, stream);
        } else {
            lil_attn_launch_long<LIL_TYPE_ANY, LIL_TYPE_ANY>(p, n_steps, stream);
        }
    } else if (p.type_k == p.type_v && p.type_k == GGML_TYPE_F16) {
        lil_attn_launch_lanes<GGML_TYPE_F16, GGML_TYPE_F16>(p, n_steps, stream);
    } else if (p.type_k == p.type_v && p.type_k == GGML_TYPE_BF16) {
        lil_attn_launch_lanes<GGML_TYPE_BF16, GGML_TYPE_BF16>(p, n_steps, stream);
    } else if (p.type_k == p.type_v && p.type_k == GGML_TYPE_Q8_0) {
        lil_attn_launch_lanes<GGML_TYPE_Q8_0, GGML_TYPE_Q8_0>(p, n_steps, stream);
    } else if (p.type_k == p.type_v && p.type_k == GGML_TYPE_Q4_0) {
        lil_attn_launch_lanes<GGML_TYPE_Q4_0, GGML_TYPE_Q4_0>(p, n_steps, stream);
    } else {
        lil_attn_launch_lanes<LIL_TYPE_ANY, LIL_TYPE_ANY>(p, n_steps, stream);
    }
}

bool lil_cuda_attn_supports(const lil_select_layer & layer, const lil_cuda_tensor & work, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & v, const lil_cuda_tensor & list,
        const lil_cuda_tensor & steps) {
    const int64_t n_head_kv = layer.n_head_kv;

    return work.type == GGML_TYPE_F32 && q.type == GGML_TYPE_F32 && list.type == GGML_TYPE_I32 &&
            steps.type == GGML_TYPE_I32 && q.ne[1] % n_head_kv == 0 && q.ne[1] / n_head_kv <= LIL_CUDA_MAX_GROUP &&
            k.ne[0] % n_head_kv == 0 && v.ne[0] % n_head_kv == 0 && k.ne[0] / n_head_kv == q.ne[0] &&
            lil_cuda_can_read(k, k.ne[0] / n_head_kv) && lil_cuda_can_read(v, v.ne[0] / n_head_kv) &&
            v.ne[0] / n_head_kv <= LIL_CUDA_MAX_EMBD_V && (list.ne[1] == 1 || list.ne[1] == n_head_kv) &&
            q.ne[1] <= 65535 && steps.ne[1] <= 65535;
}

void lil_cuda_attn(const lil_select_layer & layer, const lil_cuda_tensor & work, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & v, const lil_cuda_tensor & list,
        const lil_cuda_tensor & steps, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_attn_supports(layer, work, q, k, v, list, steps));

    const int64_t n_head  = q.ne[1];
    const int64_t n_steps = steps.ne[1];
    const int64_t n_max   = list.ne[0] - 1;

    lil_attn_params p = {};

    p.n_head_kv = layer.n_head_kv;
    p.n_group   = (int) (n_head / p.n_head_kv);
    p.n_embd_k  = (int) (k.ne[0] / p.n_head_kv);
    p.n_embd_v  = (int) (v.ne[0] / p.n_head_kv);
    p.n_split   = lil_cuda_attn_n_split(n_max, n_head, p.n_head_kv, n_steps, n_sm);
    p.n_max     = n_max;
    p.type_k    = k.type;
    p.type_v    = v.type;
    p.scale     = layer.scale;
    p.softcap   = layer.softcap;

    p.q     = (const char *) q.data;
    p.q_nb1 = q.nb[1];
    p.q_nb2 = q.nb[2];

    p.k      = (const char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = lil_cuda_row_size(k.type, p.n_embd_k);

    p.v      = (const char *) v.data;
    p.v_nb1  = v.nb[1];
    p.v_nb2  = v.nb[2];
    p.v_head = lil_cuda_row_size(v.type, p.n_embd_v);

    p.list     = (const char *) list.data;
    p.list_nb1 = list.ne[1] == 1 ? 0 : list.nb[1];
    p.list_nb2 = list.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    p.part = (float *) work.data;
    p.kq   = work.ne[0] == lil_cuda_attn_n_work(p.n_embd_v, n_head, n_max, n_steps, true)
            ? p.part + lil_cuda_attn_kq_offset(p.n_embd_v, n_head, n_max, n_steps)
            : nullptr;

    lil_attn_launch_types(p, (int) n_steps, stream);
}
