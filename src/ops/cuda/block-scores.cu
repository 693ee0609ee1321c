#include "dirty.h"

// A warp has one block: q.k summed over the query heads of a group is the sum of the queries times k, so a score is one
// dot product of the summed queries, in shared memory, with the block's representatives, one row.

struct lil_block_scores_params {
    char *       scores; // [n_blocks_max, n_steps]
    const char * q;      // [n_embd, n_head, n_steps]
    const char * repr;   // [n_embd*n_head_kv, n_blocks_max, n_tables]
    const char * steps;

    int64_t scores_nb1;
    int64_t q_nb1, q_nb2;
    int64_t repr_nb1, repr_nb2;
    int64_t steps_nb1;

    int n_embd;
    int n_head_kv;
    int n_group;
};

static constexpr int LIL_BLOCK_SCORES_N_WARP = 8;
static constexpr int LIL_BLOCK_SCORES_SHARED = 48 * 1024;

static __global__ void __launch_bounds__(LIL_WARP * LIL_BLOCK_SCORES_N_WARP, 3)
        lil_block_scores_kernel(const lil_block_scores_params p, const lil_dirty_params d) {
    const int i_step = blockIdx.y;
    const int lane   = threadIdx.x % LIL_WARP;

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int warp = threadIdx.x / LIL_WARP;
    const int b0   = blockIdx.x * LIL_BLOCK_SCORES_N_WARP;

    const int n_blocks = step[LIL_SEL_PAGES];

    if (b0 >= n_blocks) {
        return; // the whole block
    }

    LIL_SHARED(float, sum); // [n_embd*n_head_kv], then the scratch of each warp's lil_dirty_repr

    const int n = p.n_embd * p.n_head_kv;

    for (int i = threadIdx.x; i < n; i += LIL_WARP * LIL_BLOCK_SCORES_N_WARP) {
        const char * src =
                p.q + i_step * p.q_nb2 + (int64_t) (i / p.n_embd * p.n_group) * p.q_nb1 + i % p.n_embd * sizeof(float);

        float x = 0.0f;
        for (int g = 0; g < p.n_group; ++g) {
            x += *(const float *) (src + g * p.q_nb1);
        }
        sum[i] = x;
    }
    for (int i = 0; i < d.n_dirty; ++i) {
        const int32_t * entry = lil_dirty_entry(d, i);

        if (lil_dirty_is_in(entry, step[LIL_SEL_TABLE], b0, min(b0 + LIL_BLOCK_SCORES_N_WARP, n_blocks))) {
            // 32 lanes read heads of any size
            for (int i_kv = warp; i_kv < p.n_head_kv; i_kv += LIL_BLOCK_SCORES_N_WARP) {
                lil_dirty_repr<LIL_TYPE_ANY, LIL_WARP>(d, entry, i_kv, (int *) (sum + n) + warp * 2 * d.n_max);
            }
        }
    }
    __syncthreads();

    const int b = b0 + warp;
    if (b >= n_blocks) {
        return; // the whole warp
    }

    const float4 * row = (const float4 *) (p.repr + step[LIL_SEL_TABLE] * p.repr_nb2 + b * p.repr_nb1);
    const float4 * qs  = (const float4 *) sum;

    float res = 0.0f;
    LIL_UNROLL_BY(8)
    for (int i = lane; i < n / 4; i += LIL_WARP) {
        const float4 x = row[i];
        const float4 y = qs[i];
        res += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
    }
    res = lil_warp_sum(res);

    if (lane == 0) {
        ((float *) (p.scores + i_step * p.scores_nb1))[b] = res;
    }
}

// bytes
static int64_t lil_block_scores_n_shared(const lil_cuda_tensor & repr, const lil_cuda_dirty & with) {
    return sizeof(float) * repr.ne[0] +
            (with.any() ? sizeof(int) * LIL_BLOCK_SCORES_N_WARP * 2 * (with.dirty.ne[0] - LIL_DIRTY_HEAD) : 0);
}

bool lil_cuda_block_scores_supports(const lil_select_layer & layer, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & q, const lil_cuda_tensor & repr, const lil_cuda_tensor & steps,
        const lil_cuda_dirty & with) {
    return scores.type == GGML_TYPE_F32 && q.type == GGML_TYPE_F32 && repr.type == GGML_TYPE_F32 &&
            steps.type == GGML_TYPE_I32 && q.ne[1] % layer.n_head_kv == 0 && repr.ne[0] == q.ne[0] * layer.n_head_kv &&
            repr.ne[0] % 4 == 0 && lil_block_scores_n_shared(repr, with) <= LIL_BLOCK_SCORES_SHARED &&
            repr.nb[1] % 16 == 0 && repr.nb[2] % 16 == 0 && steps.ne[1] <= 65535 &&
            (!with.any() || lil_cuda_block_repr_supports(layer, repr, with.k, with.score, with.dirty));
}

void lil_cuda_block_scores(const lil_select_layer & layer, const lil_cuda_tensor & scores, const lil_cuda_tensor & q,
        const lil_cuda_tensor & repr, const lil_cuda_tensor & steps, const lil_cuda_dirty & with, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_block_scores_supports(layer, scores, q, repr, steps, with));

    lil_block_scores_params p = {};

    p.n_embd    = (int) q.ne[0];
    p.n_head_kv = layer.n_head_kv;
    p.n_group   = (int) (q.ne[1] / layer.n_head_kv);

    p.scores     = (char *) scores.data;
    p.scores_nb1 = scores.nb[1];

    p.q     = (const char *) q.data;
    p.q_nb1 = q.nb[1];
    p.q_nb2 = q.nb[2];

    p.repr     = (const char *) repr.data;
    p.repr_nb1 = repr.nb[1];
    p.repr_nb2 = repr.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    const lil_dirty_params d = lil_dirty_get_params(layer, repr, with);

    LIL_LAUNCH(dim3((unsigned) ((scores.ne[0] + LIL_BLOCK_SCORES_N_WARP - 1) / LIL_BLOCK_SCORES_N_WARP),
                       (unsigned) steps.ne[1]),
            LIL_WARP * LIL_BLOCK_SCORES_N_WARP, lil_block_scores_n_shared(repr, with), stream, lil_block_scores_kernel,
            p, d);
}
