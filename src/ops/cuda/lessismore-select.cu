#include "topk.h"

// Tokens are named rank by rank, and in a rank head by head, until k different ones are: name number c = rank*n_head +
// head is the token that the head ranks there. So a block for each head and step sorts the head's k best tokens, more
// than which no head has to name; then a block for each step goes through the names in order and keeps the set of
// tokens as bits.

struct lil_lessismore_params {
    char *        list; // [1 + n_max, 1, n_steps]
    const float * kq;   // [n_max, n_head, n_steps]
    const char *  steps;
    const char *  cells; // [1 + n_max, 1, n_steps]
    int32_t *     name;  // [n_head*k, n_steps] tokens, from rank n_sink on
    uint64_t *    item;  // [n_item, n_head, n_steps] where they are too many for shared memory, else null
    uint32_t *    bits;  // [n_word, n_steps] where they are too many for shared memory, else null

    int64_t list_nb2;
    int64_t steps_nb1;
    int64_t cells_nb2;
    int64_t n_max;

    int n_head;
    int budget;
    int n_sink;
    int n_recent;
    int n_item; // at least k, a power of 2
    int n_word; // n_max bits
};

static constexpr int LIL_LESSISMORE_ITEMS = 4;    // of a thread and turn
static constexpr int LIL_LESSISMORE_SORT  = 4096; // items that are sorted in shared memory
static constexpr int LIL_LESSISMORE_WORDS = 8192; // bits/32 that are kept there

// in ints
static constexpr int LIL_LESSISMORE_SHARED_RANK =
        (LIL_TOPK_SHARED + LIL_TOPK_THREADS * LIL_LESSISMORE_ITEMS + 1) / 2 * 2;
static constexpr int LIL_LESSISMORE_SHARED_MERGE = LIL_TOPK_SHARED + LIL_TOPK_THREADS;

// descending, m a power of 2
static __device__ __forceinline__ void lil_block_sort(uint64_t * item, int m) {
    for (int size = 2; size <= m; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (int t = threadIdx.x; t < m / 2; t += LIL_TOPK_THREADS) {
                const int i = 2 * t - (t & (stride - 1));

                const uint64_t a = item[i];
                const uint64_t b = item[i + stride];

                if ((a < b) == ((i & size) == 0)) {
                    item[i]          = b;
                    item[i + stride] = a;
                }
            }
        }
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1)
        lil_lessismore_rank_kernel(const lil_lessismore_params p) {
    const int i_head = blockIdx.x;
    const int i_step = blockIdx.y;

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);

    if (!step[LIL_SEL_SPARSE] || cells[0] <= p.budget) {
        return; // the whole block
    }

    LIL_SHARED(int, shared);
    uint64_t * item = p.item ? p.item + ((int64_t) i_step * p.n_head + i_head) * p.n_item
                             : (uint64_t *) (shared + LIL_LESSISMORE_SHARED_RANK);

    const int n = cells[0] - p.n_recent - p.n_sink;
    const int k = p.budget - p.n_recent - p.n_sink;

    const float * x = p.kq + ((int64_t) i_step * p.n_head + i_head) * p.n_max + p.n_sink;

    const auto get_key = [&](int i) { return lil_topk_key(x[i]); };

    const lil_topk_bound bound = lil_topk_search(n, k, shared, get_key);

    lil_topk_each<LIL_LESSISMORE_ITEMS>(n, bound, shared, get_key, [&](const int * pick, int n_pick, int n_done) {
        for (int i = threadIdx.x; i < n_pick; i += LIL_TOPK_THREADS) {
            item[n_done + i] = (uint64_t) ((uint32_t) get_key(pick[i]) ^ 0x80000000u) << 32 | (uint32_t) pick[i];
        }
    });
    for (int i = k + (int) threadIdx.x; i < p.n_item; i += LIL_TOPK_THREADS) {
        item[i] = 0;
    }

    lil_block_sort(item, p.n_item);

    int32_t * name = p.name + (int64_t) i_step * p.n_head * k;
    for (int i = threadIdx.x; i < k; i += LIL_TOPK_THREADS) {
        name[(int64_t) i * p.n_head + i_head] = (int32_t) (item[i] & 0xffffffffu);
    }
}

static __global__ void __launch_bounds__(LIL_TOPK_THREADS, 1)
        lil_lessismore_merge_kernel(const lil_lessismore_params p) {
    const int i_step = blockIdx.x;

    const int32_t * step  = (const int32_t *) (p.steps + i_step * p.steps_nb1);
    const int32_t * cells = (const int32_t *) (p.cells + i_step * p.cells_nb2);

    int32_t * list = (int32_t *) (p.list + i_step * p.list_nb2);

    if (!step[LIL_SEL_SPARSE] || cells[0] <= p.budget) {
        lil_list_copy_all(list, cells);
        return;
    }

    LIL_SHARED(int, shared);
    int *      scan = shared + 256;
    int *      turn = shared + LIL_TOPK_SHARED; // [LIL_TOPK_THREADS]
    uint32_t * bits =
            p.bits ? p.bits + (int64_t) i_step * p.n_word : (uint32_t *) (shared + LIL_LESSISMORE_SHARED_MERGE);

    const int r1 = cells[0] - p.n_recent;
    const int k  = p.budget - p.n_recent - p.n_sink;

    const int64_t   n_name = (int64_t) k * p.n_head;
    const int32_t * name   = p.name + i_step * n_name;

    const int n_word = (r1 - p.n_sink + 31) / 32;

    for (int i = threadIdx.x; i < n_word; i += LIL_TOPK_THREADS) {
        bits[i] = 0;
    }
    __syncthreads();

    int n_in = 0;

    for (int64_t c0 = 0; c0 < n_name && n_in < k; c0 += LIL_TOPK_THREADS) {
        const int64_t c = c0 + threadIdx.x;

        const int      token = c < n_name ? name[c] : 0;
        const uint32_t bit   = 1u << token % 32;

        const bool is_new = c < n_name && (bits[token / 32] & bit) == 0; // in no turn before
        __syncthreads();

        // one of those that name it in this turn
        const bool is_one = is_new && (atomicOr(&bits[token / 32], bit) & bit) == 0;

        int total;
        lil_block_scan(is_one, scan, &total);

        if (n_in + total <= k) {
            n_in += total;
            continue;
        }

        // The last turn names too many: those go that are named first behind the k-th. A block has one such turn
        turn[threadIdx.x] = is_new ? token : -1;
        __syncthreads();

        bool is_first = is_new;
        for (int i = 0; i < (int) threadIdx.x; ++i) {
            is_first = is_first && turn[i] != token;
        }

        const int j = n_in + lil_block_scan(is_first, scan, &total);
        if (is_first && j >= k) {
            atomicAnd(&bits[token / 32], ~bit);
        }
        n_in = k;
    }
    __syncthreads();

    lil_list_copy(list, 0, cells, 0, p.n_sink);

    int n_list = p.n_sink;
    for (int i0 = 0; i0 < n_word; i0 += LIL_TOPK_THREADS) {
        const int i = i0 + (int) threadIdx.x;

        uint32_t word = i < n_word ? bits[i] : 0;

        int total;
        int at = n_list + lil_block_scan(__popc(word), scan, &total);
        n_list += total;

        for (; word != 0; word &= word - 1) {
            list[1 + at++] = cells[1 + p.n_sink + i * 32 + __ffs((int) word) - 1];
        }
    }

    lil_list_copy(list, n_list, cells, r1, cells[0]);

    if (threadIdx.x == 0) {
        list[0] = n_list + p.n_recent;
    }
}

// a power of 2, at least n
static int lil_lessismore_n_item(int64_t n) {
    int res = 2;
    while (res < n) {
        res *= 2;
    }
    return res;
}

size_t lil_cuda_lessismore_select_n_scratch(
        const lil_select_layer & layer, int64_t n_head, const lil_cuda_tensor & steps, const lil_cuda_tensor & cells) {
    const int64_t k      = layer.budget - layer.n_sink - layer.n_recent;
    const int64_t n_item = lil_lessismore_n_item(k);
    const int64_t n_word = (cells.ne[0] - 1 + 31) / 32;

    return steps.ne[1] *
            ((n_item > LIL_LESSISMORE_SORT ? 2 * n_head * n_item : 0) + n_head * k +
                    (n_word > LIL_LESSISMORE_WORDS ? n_word : 0));
}

void lil_cuda_lessismore_select(const lil_select_layer & layer, const lil_cuda_tensor & list,
        const lil_cuda_tensor & work, int64_t n_embd_v, int64_t n_head, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & cells, int32_t * scratch, cudaStream_t stream) {
    const int64_t k       = layer.budget - layer.n_sink - layer.n_recent;
    const int64_t n_steps = steps.ne[1];

    lil_lessismore_params p = {};

    p.n_max    = cells.ne[0] - 1;
    p.n_head   = (int) n_head;
    p.budget   = layer.budget;
    p.n_sink   = layer.n_sink;
    p.n_recent = layer.n_recent;
    p.n_item   = lil_lessismore_n_item(k);
    p.n_word   = (int) ((p.n_max + 31) / 32);
    p.kq       = (const float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, p.n_max, n_steps);

    p.list     = (char *) list.data;
    p.list_nb2 = list.nb[2];

    p.steps     = (const char *) steps.data;
    p.steps_nb1 = steps.nb[1];

    p.cells     = (const char *) cells.data;
    p.cells_nb2 = cells.nb[2];

    if (p.n_item > LIL_LESSISMORE_SORT) {
        p.item = (uint64_t *) scratch;
        scratch += n_steps * n_head * p.n_item * 2;
    }
    p.name = scratch;
    scratch += n_steps * n_head * k;
    if (p.n_word > LIL_LESSISMORE_WORDS) {
        p.bits = (uint32_t *) scratch;
    }

    const size_t n_item = p.item ? 0 : p.n_item;
    const size_t n_word = p.bits ? 0 : p.n_word;

    if (k > 0) {
        LIL_LAUNCH(dim3((unsigned) n_head, (unsigned) n_steps), LIL_TOPK_THREADS,
                sizeof(int) * (LIL_LESSISMORE_SHARED_RANK + 2 * n_item), stream, lil_lessismore_rank_kernel, p);
    }
    LIL_LAUNCH(dim3((unsigned) n_steps), LIL_TOPK_THREADS, sizeof(int) * (LIL_LESSISMORE_SHARED_MERGE + n_word), stream,
            lil_lessismore_merge_kernel, p);
}
