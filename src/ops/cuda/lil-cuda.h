#pragma once

// The CUDA ops: what lil-ops.h defines, on one stream of one device. One file per op, under the CPU's names.
//
// Every function launches its kernels on `stream` and returns; none allocates, waits or copies, so all may be captured
// in a CUDA graph. What varies from step to step (how many tokens, which cells) is read on the device, from steps and
// list; what the host decides (grid sizes) follows from the tensors' shapes alone. So a captured graph stays valid as
// long as the shapes do.
//
// Each has a companion *_supports with the same tensors, of which only type, ne and nb are read: where it says false,
// the function must not be called (it aborts). Nothing falls back to anything.
//
// Launches: 1, where nothing else is said. scratch: memory on the device, aligned to 16 bytes, that nothing else uses
// until the op has run: as many words of 4 bytes as the companion *_n_scratch says. The results do not depend on the
// device's size, but for rounding. sinks: F32 [n_head], {}: none.

#include "lil-ops.h"

#ifndef LIL_EMU_CUDA // tests/c/emu-cuda.h, which a test includes first, takes CUDA's place
#include <cuda_runtime.h>
#endif

// most query heads of a group
#define LIL_CUDA_MAX_GROUP 128

// largest head sizes of K and V, a multiple of 8 as every one: MLA's. Above 256 a row is long, and has kernels of its
// own
#define LIL_CUDA_MAX_EMBD   576
#define LIL_CUDA_MAX_EMBD_V 512

// of a ggml_tensor what a kernel needs
struct lil_cuda_tensor {
    ggml_type type;
    void *    data; // on the device
    int64_t   ne[4];
    size_t    nb[4];
};

static inline lil_cuda_tensor lil_cuda_get(const ggml_tensor * t) {
    return { t->type, t->data, { t->ne[0], t->ne[1], t->ne[2], t->ne[3] }, { t->nb[0], t->nb[1], t->nb[2], t->nb[3] } };
}

// the sources of page_scores and block_scores that tell of dirty pages
struct lil_cuda_dirty {
    lil_cuda_tensor k;
    lil_cuda_tensor dirty;
    lil_cuda_tensor score; // block_scores

    bool any() const { return dirty.ne[1] > 0; }
};

// The work of attn: as lil_attn_n_work(), with smaller and fewer parts, because a GPU needs hundreds of blocks for a
// short list and no more for a long one: room for [n_embd_head_v + 2, n_head, n_part, n_steps] partial results, then,
// where kq is asked for, the logits.
static inline int64_t lil_cuda_attn_n_part(int64_t n_max) {
    const int64_t n = (n_max + 31) / 32;
    return n < 256 ? n : 256;
}

static inline int64_t lil_cuda_attn_kq_offset(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps) {
    return (n_embd_v + 2) * n_head * lil_cuda_attn_n_part(n_max) * n_steps;
}

static inline int64_t lil_cuda_attn_n_work(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps, bool kq) {
    return lil_cuda_attn_kq_offset(n_embd_v, n_head, n_max, n_steps) + (kq ? n_max * n_head * n_steps : 0);
}

// parts that the lists are split into: two blocks for each of the device's multiprocessors, as far as there is room. 16
// heads of a group count as a block
static inline int lil_cuda_attn_n_split(int64_t n_max, int64_t n_head, int64_t n_head_kv, int64_t n_steps, int n_sm) {
    const int64_t n_block = n_head_kv * ((n_head / n_head_kv + 15) / 16) * n_steps;
    const int64_t n_want  = (2 * n_sm + n_block - 1) / n_block;
    const int64_t n_room  = lil_cuda_attn_n_part(n_max);

    return (int) (n_want < n_room ? n_want : n_room);
}

// attn. work F32 [lil_cuda_attn_n_work()]; its size says whether logits are asked for. Every list is split evenly,
// whatever its length; n_sm, the multiprocessors of the device, says into how many parts, and must be the same for attn
// and attn_join. K and V: any of F16, BF16, Q8_0, Q4_0, F32 (read as F16).
//   Time: reads each listed K and V row once, n_list*n_head_kv*(row of K + row of V) bytes; where a group has more than
//   16 query heads, or a row more than 256 channels, once for every 16, or 8, of them, from the L2 cache but for the
//   first.
bool lil_cuda_attn_supports(const lil_select_layer & layer, const lil_cuda_tensor & work, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & v, const lil_cuda_tensor & list,
        const lil_cuda_tensor & steps);
void lil_cuda_attn(const lil_select_layer & layer, const lil_cuda_tensor & work, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & v, const lil_cuda_tensor & list,
        const lil_cuda_tensor & steps, int n_sm, cudaStream_t stream);

// attn_join. dst F32 [n_embd_head_v, n_head, n_steps]
void lil_cuda_attn_join(const lil_select_layer & layer, const lil_cuda_tensor & dst, const lil_cuda_tensor & work,
        const lil_cuda_tensor & list, const lil_cuda_tensor & sinks, int n_sm, cudaStream_t stream);

// page_bounds. All tensors of lil_ops::page_bounds, dst in place.
//   Time: reads each dirty token's K row once, writes the bounds; once per page of a head, or per token as it comes.
bool lil_cuda_page_bounds_supports(const lil_select_layer & layer, const lil_cuda_tensor & bounds,
        const lil_cuda_tensor & k, const lil_cuda_tensor & dirty);
void lil_cuda_page_bounds(const lil_select_layer & layer, const lil_cuda_tensor & bounds, const lil_cuda_tensor & k,
        const lil_cuda_tensor & dirty, cudaStream_t stream);

// page_scores. scores F32 [n_pages_max, n_head_kv, n_steps]; with: {} where nothing is dirty
//   Time: reads each page's bounds once, n_pages*n_head_kv*2*n_embd_head*(size of a bound) bytes. The warp that has a
//   dirty page computes its bounds first.
bool lil_cuda_page_scores_supports(const lil_select_layer & layer, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & q, const lil_cuda_tensor & bounds, const lil_cuda_tensor & steps,
        const lil_cuda_dirty & with);
void lil_cuda_page_scores(const lil_select_layer & layer, const lil_cuda_tensor & scores, const lil_cuda_tensor & q,
        const lil_cuda_tensor & bounds, const lil_cuda_tensor & steps, const lil_cuda_dirty & with,
        cudaStream_t stream);

// page_select. list I32 [1 + n_max, n_head_kv, n_steps]
//   Time: a block for each KV head and step, which reads the scores five times, all but the first from its L1 cache.
//   With the 8192 pages of 131072 tokens each thread has 16 scores, and a pass two turns of loads.
void lil_cuda_page_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages,
        cudaStream_t stream);

// tidal_select. work is attn's, with logits over cells; n_head, of all query heads. list I32 [1 + n_max, n_head_kv,
// n_steps]
//   Time: a block for each KV head and step, which reads the logits of its group five times.
void lil_cuda_tidal_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & work,
        int64_t n_embd_v, int64_t n_head, const lil_cuda_tensor & steps, const lil_cuda_tensor & cells,
        cudaStream_t stream);

// lessismore_select. As tidal_select; list I32 [1 + n_max, 1, n_steps]
//   Launches: 2. Time: a block for each query head and step reads its logits five times and sorts the best budget -
//   n_sink - n_recent of them (in shared memory up to 4096); a block for each step merges.
size_t lil_cuda_lessismore_select_n_scratch(
        const lil_select_layer & layer, int64_t n_head, const lil_cuda_tensor & steps, const lil_cuda_tensor & cells);
void lil_cuda_lessismore_select(const lil_select_layer & layer, const lil_cuda_tensor & list,
        const lil_cuda_tensor & work, int64_t n_embd_v, int64_t n_head, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & cells, int32_t * scratch, cudaStream_t stream);

// infllm_score. work is attn's, with logits over list and attn's n_sm
//   Time: reads the logits of the window once; the maxima and sums are attn's. Steps of one stream go one after the
//   other.
bool lil_cuda_infllm_score_supports(const lil_select_layer & layer, const lil_cuda_tensor & score, int64_t n_head);
void lil_cuda_infllm_score(const lil_select_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & work,
        int64_t n_embd_v, int64_t n_head, const lil_cuda_tensor & list, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, int n_sm, cudaStream_t stream);

// infllm_score_prompt, infllm_score_add. part F32 [n_recent + n_new, n_head_kv, 1, n_steps]. Queries, scaled, and keys
// are read as F16, as FlashAttention on tensor cores reads them.
//   Launches: 2 and 1. Time: computes q.k twice on tensor cores: n_query*n_head*n_kv*n_embd multiply-adds, and again
//   for what lies in the windows.
bool   lil_cuda_infllm_score_prompt_supports(const lil_select_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & cells,
        const lil_cuda_tensor & steps);
size_t lil_cuda_infllm_score_prompt_n_scratch(const lil_select_layer & layer, const lil_cuda_tensor & q,
        const lil_cuda_tensor & cells, const lil_cuda_tensor & steps, int n_sm);
void   lil_cuda_infllm_score_prompt(const lil_select_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & cells,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & sinks, float * scratch, int n_sm, cudaStream_t stream);
void   lil_cuda_infllm_score_add(const lil_select_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & part, const lil_cuda_tensor & cells, const lil_cuda_tensor & steps,
        cudaStream_t stream);

// block_repr. Blocks of up to LIL_CUDA_MAX_BLOCK tokens.
//   Time: a warp for each block and KV head, which reads n_repr K rows.
#define LIL_CUDA_MAX_BLOCK 1024
bool lil_cuda_block_repr_supports(const lil_select_layer & layer, const lil_cuda_tensor & repr,
        const lil_cuda_tensor & k, const lil_cuda_tensor & score, const lil_cuda_tensor & dirty);
void lil_cuda_block_repr(const lil_select_layer & layer, const lil_cuda_tensor & repr, const lil_cuda_tensor & k,
        const lil_cuda_tensor & score, const lil_cuda_tensor & dirty, cudaStream_t stream);

// block_scores. scores F32 [n_blocks_max, n_steps]; with: {} where nothing is dirty
//   Time: reads each block's representatives once, 4*n_embd_head*n_head_kv bytes for each block. The warps of a dirty
//   block's neighbours compute its representatives first, one KV head each.
bool lil_cuda_block_scores_supports(const lil_select_layer & layer, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & q, const lil_cuda_tensor & repr, const lil_cuda_tensor & steps,
        const lil_cuda_dirty & with);
void lil_cuda_block_scores(const lil_select_layer & layer, const lil_cuda_tensor & scores, const lil_cuda_tensor & q,
        const lil_cuda_tensor & repr, const lil_cuda_tensor & steps, const lil_cuda_dirty & with, cudaStream_t stream);

// block_select. list I32 [1 + n_max, 1, n_steps]
//   Time: a block for each step, which reads the scores five times.
void lil_cuda_block_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, cudaStream_t stream);

// raas_stamp. Time: a block for each KV head and stream, which takes the stream's steps one after the other, reads the
// stamps of all tokens once, and the pages' five times.
size_t lil_cuda_raas_stamp_n_scratch(
        const lil_select_layer & layer, const lil_cuda_tensor & stamp, const lil_cuda_tensor & pages);
void lil_cuda_raas_stamp(const lil_select_layer & layer, const lil_cuda_tensor & stamp, const lil_cuda_tensor & scores,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages, int32_t * scratch,
        cudaStream_t stream);

// raas_select. list I32 [1 + n_max, n_head_kv, n_steps]
//   Time: a block for each KV head and step; otherwise as raas_stamp.
size_t lil_cuda_raas_select_n_scratch(
        const lil_select_layer & layer, const lil_cuda_tensor & steps, const lil_cuda_tensor & pages);
void lil_cuda_raas_select(const lil_select_layer & layer, const lil_cuda_tensor & list, const lil_cuda_tensor & stamp,
        const lil_cuda_tensor & steps, const lil_cuda_tensor & cells, const lil_cuda_tensor & pages, int32_t * scratch,
        cudaStream_t stream);

//
// evict
//

// score_step
//   Launches: 2. Time: reads each used K row once, n_used*n_head_kv*(row of K) bytes.
bool   lil_cuda_score_step_supports(const lil_evict_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps);
size_t lil_cuda_score_step_n_scratch(
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & steps);
void lil_cuda_score_step(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, float * scratch, int n_sm, cudaStream_t stream);

// new_slots
void lil_cuda_new_slots(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps, cudaStream_t stream);

// evict_slots. Positions of a head differ from each other.
//   Time: a block for each KV head and step (shared: for each step). Where one token goes, it reads the scores once;
//   else ten times, and twice, and moves the rows: two reads and two writes of a row for each that moves.
size_t lil_cuda_evict_slots_n_scratch(
        const lil_evict_layer & layer, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps);
void lil_cuda_evict_slots(const lil_evict_layer & layer, const lil_cuda_tensor & pos, const lil_cuda_tensor & k,
        const lil_cuda_tensor & v, const lil_cuda_tensor & score, const lil_cuda_tensor & steps, int32_t * scratch,
        cudaStream_t stream);

// score_prompt, score_add. part F32 [n_kv, n_head_kv, 1, n_steps]. Queries and keys are read as in
// infllm_score_prompt.
//   Launches: 2 and 1. Time: computes q.k twice on tensor cores, 2*n_query*n_head*n_kv*n_embd multiply-adds.
bool   lil_cuda_score_prompt_supports(const lil_evict_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & k, const lil_cuda_tensor & steps);
size_t lil_cuda_score_prompt_n_scratch(const lil_evict_layer & layer, const lil_cuda_tensor & part,
        const lil_cuda_tensor & q, const lil_cuda_tensor & steps, int n_sm);
void   lil_cuda_score_prompt(const lil_evict_layer & layer, const lil_cuda_tensor & part, const lil_cuda_tensor & q,
        const lil_cuda_tensor & k, const lil_cuda_tensor & steps, const lil_cuda_tensor & sinks, float * scratch,
        int n_sm, cudaStream_t stream);
void   lil_cuda_score_add(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & part,
        const lil_cuda_tensor & pos, const lil_cuda_tensor & steps, cudaStream_t stream);

// score_window. As score_prompt, for the LIL_STEP_WIN queries in win.
//   Launches: 2, which end at once for steps without such queries.
bool   lil_cuda_score_window_supports(const lil_evict_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & win, const lil_cuda_tensor & k, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps);
size_t lil_cuda_score_window_n_scratch(const lil_evict_layer & layer, const lil_cuda_tensor & win,
        const lil_cuda_tensor & k, const lil_cuda_tensor & steps, int n_sm);
void   lil_cuda_score_window(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & win,
        const lil_cuda_tensor & k, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, float * scratch, int n_sm, cudaStream_t stream);

// rkv_score. ring F32 [n_embd_head*n_head, n_ring, n_stream]. Queries, scaled, and keys are read as in
// infllm_score_prompt. Positions of a head differ from each other.
//   Launches: 3, which end at once for steps that do not evict. Time: n_before^2*n_head_kv*n_embd multiply-adds on
//   tensor cores at most (a key's search ends at its newest near-duplicate), and as many comparisons of positions as
//   n_before^2*n_head_kv.
bool   lil_cuda_rkv_score_supports(const lil_evict_layer & layer, const lil_cuda_tensor & score,
        const lil_cuda_tensor & ring, const lil_cuda_tensor & k, const lil_cuda_tensor & pos,
        const lil_cuda_tensor & steps);
size_t lil_cuda_rkv_score_n_scratch(const lil_evict_layer & layer, const lil_cuda_tensor & ring,
        const lil_cuda_tensor & k, const lil_cuda_tensor & steps);
void   lil_cuda_rkv_score(const lil_evict_layer & layer, const lil_cuda_tensor & score, const lil_cuda_tensor & ring,
        const lil_cuda_tensor & k, const lil_cuda_tensor & pos, const lil_cuda_tensor & steps,
        const lil_cuda_tensor & sinks, float * scratch, cudaStream_t stream);
