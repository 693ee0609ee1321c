#include "topk.h"

#include <limits.h>

// A block for each KV head and step, or for each step where all heads hold the same tokens: finds what goes, then moves
// the last tokens into the holes: the first hole gets the last token that stays, and so on.

struct lil_evict_slots_params {
    char *       k;
    char *       v;
    char *       score;
    char *       pos;
    const char * steps;
    int32_t *    moves; // [2*capacity, blocks] from, to

    int64_t k_nb1, k_nb2, k_head;
    int64_t v_nb1, v_nb2, v_head;
    int64_t score_nb1, score_nb2;
    int64_t pos_nb1, pos_nb2;
    int64_t steps_nb1;
    int64_t n_max;

    int n_head; // of a block
    int is_16;  // rows are copied 16 bytes at a time, else 2
};

// a row, by one warp
static __device__ __forceinline__ void lil_copy_row(char * dst, const char * src, int n, int is_16) {
    const int lane = threadIdx.x % LIL_WARP;

    if (is_16) {
        for (int i = lane; i < n / 16; i += LIL_WARP) {
            ((uint4 *) dst)[i] = ((const uint4 *) src)[i];
        }
    } else {
        for (int i = lane; i < n / 2; i += LIL_WARP) {
            ((uint16_t *) dst)[i] = ((const uint16_t *) src)[i];
        }
    }
}

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1) lil_evict_slots_kernel(const lil_evict_slots_params p) {
    const int h0     = blockIdx.x * p.n_head; // first KV head
    const int i_step = blockIdx.y;
    const int lane   = threadIdx.x % LIL_WARP;
    const int warp   = threadIdx.x / LIL_WARP;

    const int32_t * step = (const int32_t *) (p.steps + i_step * p.steps_nb1);

    const int64_t strm    = step[LIL_STEP_STREAM];
    const int     n       = step[LIL_STEP_BEFORE];
    const int     n_evict = step[LIL_STEP_EVICT];
    const float   protect = (float) step[LIL_STEP_PROTECT];

    if (n_evict == 0) {
        return; // the whole block
    }

    LIL_SHARED(int, shared);

    char * scores = p.score + strm * p.score_nb2 + h0 * p.score_nb1;
    char * poss   = p.pos + strm * p.pos_nb2 + h0 * p.pos_nb1;

    const float * pos = (const float *) poss; // of the first head: shared heads have the same

    // the greater goes first; those protected come last
    const auto get_key = [&](int i) {
        if (!(pos[i] < protect)) {
            return (int32_t) INT_MIN;
        }
        float sum = p.n_head == 1 ? ((const float *) scores)[i] : 0.0f;
        if (p.n_head > 1) {
            for (int h = 0; h < p.n_head; ++h) {
                sum += ((const float *) (scores + h * p.score_nb1))[i];
            }
        }
        return ~lil_topk_key(sum);
    };
    const auto get_age = [&](int i) { return ~lil_topk_key(pos[i]); };

    int32_t * from = p.moves + ((int64_t) i_step * gridDim.x + blockIdx.x) * 2 * p.n_max;
    int32_t * to   = from + p.n_max;

    int n_move = 0;

    if (n_evict == 1) {
        int32_t key = INT_MIN;
        int32_t age = INT_MIN;
        int32_t at  = 0;

        const auto take = [&](int32_t key2, int32_t age2, int32_t at2) {
            if (key2 > key || (key2 == key && age2 > age)) {
                key = key2;
                age = age2;
                at  = at2;
            }
        };
        const auto take_warp = [&]() {
            LIL_UNROLL
            for (int offset = LIL_WARP / 2; offset > 0; offset /= 2) {
                const int32_t key2 = __shfl_xor_sync(LIL_FULL, key, offset);
                const int32_t age2 = __shfl_xor_sync(LIL_FULL, age, offset);
                const int32_t at2  = __shfl_xor_sync(LIL_FULL, at, offset);
                take(key2, age2, at2);
            }
        };

        for (int i = threadIdx.x; i < n; i += LIL_TOPK_THREADS) {
            const int32_t key2 = get_key(i);
            if (key2 != INT_MIN) {
                take(key2, get_age(i), i);
            }
        }
        take_warp();

        if (lane == 0) {
            shared[3 * warp]     = key;
            shared[3 * warp + 1] = age;
            shared[3 * warp + 2] = at;
        }
        __syncthreads();

        key = age = INT_MIN;
        if (lane < LIL_TOPK_WARPS) {
            key = shared[3 * lane];
            age = shared[3 * lane + 1];
            at  = shared[3 * lane + 2];
        }
        take_warp();

        n_move = at != n - 1;
        if (threadIdx.x == 0) {
            from[0] = n - 1;
            to[0]   = at;
        }
    } else {
        const lil_topk_bound bound = lil_topk_search(n, n_evict, shared, get_key);

        // of those equal to the bound the older ones go
        int32_t oldest = INT_MIN;
        if (bound.n_skip > 0) {
            oldest = lil_topk_search(n, bound.n_take, shared, [&](int i) {
                return get_key(i) == bound.key ? get_age(i) : (int32_t) INT_MIN;
            }).key;
        }

        const auto is_gone = [&](int i) {
            const int32_t key = get_key(i);
            return key > bound.key || (key == bound.key && get_age(i) >= oldest);
        };

        const int n_left = n - n_evict;

        int n_hole = 0;
        for (int i0 = 0; i0 < n_left; i0 += LIL_TOPK_THREADS) {
            const int  i  = i0 + (int) threadIdx.x;
            const bool is = i < n_left && is_gone(i);

            int       total;
            const int j = n_hole + lil_block_scan(is, shared, &total);
            if (is) {
                to[j] = i;
            }
            n_hole += total;
        }

        for (int i0 = 0; i0 < n_evict; i0 += LIL_TOPK_THREADS) {
            const int  i  = n - 1 - i0 - (int) threadIdx.x;
            const bool is = i >= n_left && !is_gone(i);

            int       total;
            const int j = n_move + lil_block_scan(is, shared, &total);
            if (is) {
                from[j] = i;
            }
            n_move += total;
        }
    }

    __syncthreads(); // nothing moves before all is known

    for (int u = warp; u < n_move * p.n_head; u += LIL_TOPK_WARPS) {
        const int64_t src = from[u / p.n_head];
        const int64_t dst = to[u / p.n_head];
        const int     h   = u % p.n_head;

        char * k = p.k + strm * p.k_nb2 + (h0 + h) * p.k_head;
        char * v = p.v + strm * p.v_nb2 + (h0 + h) * p.v_head;

        lil_copy_row(k + dst * p.k_nb1, k + src * p.k_nb1, (int) p.k_head, p.is_16);
        lil_copy_row(v + dst * p.v_nb1, v + src * p.v_nb1, (int) p.v_head, p.is_16);

        if (lane == 0) {
            float * s = (float *) (scores + h * p.score_nb1);
            float * t = (float *) (poss + h * p.pos_nb1);

            s[dst] = s[src];
            t[dst] = t[src];
        }
    }
}

size_t lil_cuda_evict_slots_n_scratch(
        const lil_evict_layer & layer, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps) {
    return (layer.shared ? 1 : layer.n_head_kv) * steps.ne[1] * 2 * pos.ne[0];
}

void lil_cuda_evict_slots(const lil_evict_layer & layer, const lil_cuda_tensor & pos, const lil_cuda_tensor & k,
        const lil_cuda_tensor & v, const lil_cuda_tensor & score, const lil_cuda_tensor & steps, int32_t * scratch,
        cudaStream_t stream) {
    lil_evict_slots_params p = {};

    p.n_max  = pos.ne[0];
    p.n_head = layer.shared ? layer.n_head_kv : 1;
    p.moves  = scratch;

    p.k      = (char *) k.data;
    p.k_nb1  = k.nb[1];
    p.k_nb2  = k.nb[2];
    p.k_head = ggml_row_size(k.type, k.ne[0] / layer.n_head_kv);

    p.v      = (char *) v.data;
    p.v_nb1  = v.nb[1];
    p.v_nb2  = v.nb[2];
    p.v_head = v.data == k.data ? 0 : ggml_row_size(v.type, v.ne[0] / layer.n_head_kv); // MLA: a part of K

    p.is_16 = (p.k_head | p.k_nb1 | p.k_nb2 | p.v_head | p.v_nb1 | p.v_nb2) % 16 == 0;

    p.score     = (char *) score.data;
    p.score_nb1 = score.nb[1];
    p.score_nb2 = score.nb[2];

    p.pos     = (char *) pos.data;
    p.pos_nb1 = pos.nb[1];
    p.pos_nb2 = pos.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    LIL_LAUNCH(dim3((unsigned) (layer.n_head_kv / p.n_head), (unsigned) steps.ne[1]), LIL_TOPK_THREADS,
            sizeof(int) * LIL_TOPK_SHARED, stream, lil_evict_slots_kernel, p);
}
