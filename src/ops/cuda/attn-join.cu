#include "lil-cuda-device.h"

#include <math.h>

// A block for each query head and step; a thread for each channel. The parts of a head are few, and lie in the L2
// cache.
static __global__ void lil_attn_join_kernel(float * dst, int64_t dst_nb1, int64_t dst_nb2, // [n_embd, n_head, n_steps]
        const float * part, // [n_embd + 2, n_head, n_split, n_steps]
        const char * list, int64_t list_nb1, int64_t list_nb2,
        const float * sinks, // [n_head], or null
        int n_embd, int n_group, int n_split) {
    const int i_head = blockIdx.x;
    const int i_step = blockIdx.y;
    const int n_head = gridDim.x;
    const int i      = threadIdx.x;

    const int n      = *(const int32_t *) (list + i_step * list_nb2 + i_head / n_group * list_nb1);
    const int n_part = lil_split_size(n, n_split);
    const int n_used = (n + n_part - 1) / n_part;

    const int64_t stride = (int64_t) n_head * (n_embd + 2);

    part += (int64_t) i_step * n_split * stride + (int64_t) i_head * (n_embd + 2);

    const float sink = lil_get_sink(sinks, i_head);

    float max = sink;
    for (int s = 0; s < n_used; ++s) {
        max = fmaxf(max, part[s * stride + n_embd]);
    }

    float y   = 0.0f;
    float sum = expf(sink - max);

    LIL_UNROLL_BY(4)
    for (int s = 0; s < n_used; ++s) {
        const float w = expf(part[s * stride + n_embd] - max);

        if (i < n_embd) {
            y += w * part[s * stride + i];
        }
        sum += w * part[s * stride + n_embd + 1];
    }

    if (i < n_embd) {
        ((float *) ((char *) dst + i_step * dst_nb2 + i_head * dst_nb1))[i] = y / sum;
    }
}

void lil_cuda_attn_join(const lil_select_layer & layer, const lil_cuda_tensor & dst, const lil_cuda_tensor & work,
        const lil_cuda_tensor & list, const lil_cuda_tensor & sinks, int n_sm, cudaStream_t stream) {
    const int64_t n_embd  = dst.ne[0];
    const int64_t n_head  = dst.ne[1];
    const int64_t n_steps = dst.ne[2];

    const int n_split = lil_cuda_attn_n_split(list.ne[0] - 1, n_head, layer.n_head_kv, n_steps, n_sm);

    LIL_LAUNCH(dim3((unsigned) n_head, (unsigned) n_steps), (int) (n_embd + 31) / 32 * 32, 0, stream,
            lil_attn_join_kernel, (float *) dst.data, (int64_t) dst.nb[1], (int64_t) dst.nb[2],
            (const float *) work.data, (const char *) list.data, list.ne[1] == 1 ? (int64_t) 0 : (int64_t) list.nb[1],
            (int64_t) list.nb[2], (const float *) sinks.data, (int) n_embd, (int) (n_head / layer.n_head_kv), n_split);
}
