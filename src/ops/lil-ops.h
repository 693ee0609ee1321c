#pragma once

// The fused ops: what a backend must compute for a method beyond ggml's own ops. They enter a graph as GGML_OP_CUSTOM.
// One file per op in each backend's folder, under the same names.
//
// A backend hands out one table of them, struct lil_ops at the end of this file. A node is told by its function, which
// is one of the table of the backend that its layer's keys and values live on. On the CPU that function does the work.
// On a GPU it is a name only: the backend's dispatcher looks it up and launches kernels, and called on a CPU it aborts
// with a message.
//
// Tensors of a layer (strides as given; the dimension 0 of each is contiguous):
//   K, V       [n_embd_head*n_head_kv, capacity, n_stream]  any type of a KV cache
//   score, pos [capacity, n_head_kv, n_stream]              F32; positions are exact up to 2^24
//   steps      [LIL_STEP_COUNT, n_steps]                    I32; what the ubatch does to each of its sequences
//
// The select ops stand behind the evict ops.

#include "ggml-backend.h"
#include "ggml.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

enum lil_step_field {
    LIL_STEP_STREAM,  // stream of the sequence
    LIL_STEP_BEFORE,  // slots used before the step
    LIL_STEP_EVICT,   // tokens to drop
    LIL_STEP_PROTECT, // tokens from this position on stay
    LIL_STEP_NEW,     // tokens stored, in the slots behind those left
    LIL_STEP_POS,     // position of the first of them
    LIL_STEP_WIN,     // prompt queries to count before the eviction, the last ones before LIL_STEP_POS
    LIL_STEP_COUNT = 8,
};

// prompt queries that prompt_scores = window counts
#define LIL_PROMPT_WINDOW 64

// the constants of one layer, kept by the cache as long as it lives
struct lil_evict_layer {
    int32_t n_head_kv;
    int32_t n_score_part; // partial sums of score_prompt, at least 1
    float   scale;        // of q.k
    float   softcap;      // 0: none

    bool last;       // TOVA: the scores are the last query's alone
    bool shared;     // TOVA: all heads hold the same tokens, ranked by the sum of their scores
    bool adds;       // a layer that reads another's cache: the new slots have positions and scores already, to which
                     // its own are added. score_step, score_add
    float lambda;    // R-KV
    float threshold; // R-KV
};

//
// The select ops: a decode step of each of n_steps sequences reads a part of the cache.
//
// Tensors of a graph:
//   q      F32 [n_embd_head, n_head, n_steps]        (prompts: [n_embd_head, n_head, n_new*n_steps])
//   steps  I32 [LIL_SEL_COUNT, n_steps]
//   list   I32 [1 + n_max, n_head_kv or 1, n_steps]  how many cells, then the cells, by ascending position; the last
//          one is
//                                                    the current token's. With one head: every KV head reads the same
//   cells  I32 [1 + n_max, 1, n_steps]               the list of all tokens that a step sees; an index into it is a
//          rank
//   pages  I32 [n_pages_max + 1, n_steps]            the rank of the first token of each page, and behind the last page
//          T
//   dirty  I32 [LIL_DIRTY_HEAD + n, n_dirty]         pages (blocks) whose metadata are to be computed
// Tensors of a layer:
//   bounds F16 or F32 [2*n_embd_head, n_head_kv, n_pages_max, n_tables]  per channel the keys' maximum, then their
//   minimum
//   repr   F32 [n_embd_head*n_head_kv, n_blocks_max, n_tables]           the sum of each block's representative keys
//   score  F32 [n_cells, n_head_kv, n_stream]                            InfLLM: attention received in the window
//   stamp  F32 [n_cells, n_head_kv, n_stream]                            RaaS: time stamps of the tokens
//

enum lil_sel_field {
    LIL_SEL_STREAM, // stream of the sequence
    LIL_SEL_TABLE,  // its table of page metadata
    LIL_SEL_SPARSE, // 0: this step is dense, it attends to all of `cells`
    LIL_SEL_N,      // T: tokens that it sees, the current one included; prompts: all tokens, the new ones included
    LIL_SEL_NEW,    // new tokens: the last ones of `cells`
    LIL_SEL_PAGES,  // Quest, RaaS: pages, the current one included; InfLLM: blocks that may be chosen
    LIL_SEL_NOW,    // RaaS: decode steps so far, this one included
    LIL_SEL_COUNT = 8,
};

enum lil_dirty_field {
    LIL_DIRTY_STREAM,
    LIL_DIRTY_TABLE,
    LIL_DIRTY_PAGE,
    LIL_DIRTY_N, // tokens, at least 1; their cells follow
    LIL_DIRTY_HEAD,
};

// list entries that one partial result of an attention covers, at most
#define LIL_ATTN_CHUNK 256

// the stamp of a prompt's tokens
#define LIL_RAAS_NEVER ((float) (1 << 30))

// the constants of one layer, kept by the cache as long as it lives
struct lil_select_layer {
    int32_t n_head_kv;
    float   scale;   // of q.k
    float   softcap; // 0: none

    int32_t budget;       // B
    int32_t n_pages;      // Quest, RaaS: pages attended to, the current one included; InfLLM: blocks
    bool    first_page;   // Quest
    int32_t n_sink;       // LessIsMore: first tokens; InfLLM: n_init
    int32_t n_recent;     // LessIsMore: last tokens, the current one included; InfLLM: the widened window w
    int32_t block;        // InfLLM
    int32_t n_repr;       // InfLLM
    float   ratio;        // RaaS: share of the pages that are stamped
    int32_t n_score_part; // InfLLM: partial sums of infllm_score_prompt, at least 1
};

// The work of lil_ops::attn as Metal has it, and the CPU but for long rows: [n_embd_head_v + 2, n_head, n_chunk,
// n_steps] partial results (the sum of exp(x - max)*v, max, the sum of exp(x - max)), then, where kq is asked for, the
// logits x [n_max, n_head, n_steps]: scaled and capped.
static inline int64_t lil_attn_n_chunk(int64_t n_max) {
    return (n_max + LIL_ATTN_CHUNK - 1) / LIL_ATTN_CHUNK;
}

static inline int64_t lil_attn_kq_offset(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps) {
    return (n_embd_v + 2) * n_head * lil_attn_n_chunk(n_max) * n_steps;
}

static inline int64_t lil_attn_n_work(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps, bool kq) {
    return lil_attn_kq_offset(n_embd_v, n_head, n_max, n_steps) + (kq ? n_max * n_head * n_steps : 0);
}

// what a layer's K, V and queries look like
struct lil_ops_shape {
    enum ggml_type type_k;
    enum ggml_type type_v;
    int64_t        n_embd_k; // of a head
    int64_t        n_embd_v;
    int64_t        n_head;
    int64_t        n_head_kv;
    bool           sinks;  // learned ones, a logit for each query head in the softmax's denominator
    bool           shared; // other layers read its keys and values too
};

// The ops of a backend. Null: the backend has no kernel for that op, and methods that need it have no fused form there.
// userdata is a pointer to the layer's constants, lil_evict_layer or lil_select_layer; a GPU's dispatcher reads it on
// the host. All run with any number of threads and hold no state.
//
// Learned sinks are the last source of a node whose op computes probabilities, F32 [n_head], left out where a model has
// none: attn_join, score_step, score_prompt, score_window, infllm_score, infllm_score_prompt, rkv_score.
struct lil_ops {
    const char * name; // of the backend

    // whether attn takes one list for several tokens of a sequence
    bool shares_lists;

    // whether `part` of score_prompt and infllm_score_prompt may have more than one part
    bool has_parts;

    // whether the ops that score tokens for an eviction know lil_evict_layer::adds
    bool has_adds;

    // attn's work: floats in all, and where the logits begin, which are [n_max, n_head, n_steps] everywhere. The
    // partial results before them are the backend's own matter
    int64_t (*attn_n_work)(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps, bool kq);
    int64_t (*attn_kq_offset)(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps);

    // what of a layer the ops cannot compute, null where there is nothing. A null function: they take every layer
    const char * (*check)(const struct lil_ops_shape * shape);

    // Whether attn over all tokens of a decode step is known to be faster than ggml's own attention of that shape.
    // Null: not known of any
    bool (*attn_wins)(const struct lil_ops_shape * shape);

    // Before a step: drops LIL_STEP_EVICT tokens of each KV head, those with the lowest scores among the unprotected
    // (of equal ones the older first), and moves the last tokens into the holes. shared: the same ones in every head.
    //   dst = pos (in place), src = { pos, K, V, score, steps }
    ggml_custom_op_t evict_slots;

    // The last query of each step: sets the new slots' positions, score 0, and adds to every score that query's
    // attention (softmax over the slots used, summed over the query heads of the group). last: every score begins at 0.
    // Otherwise for decode steps.
    //   dst = score (in place), src = { score, q, K, pos, steps }; q F32 [n_embd_head, n_head, n_steps]
    ggml_custom_op_t score_step;

    // The same for prompts of LIL_STEP_NEW tokens, in two ops: the attention summed over the queries, then added.
    //   dst = part F32 [n_kv, n_head_kv, n_score_part, n_steps], src = { q, K, steps }; q F32 [n_embd_head, n_head,
    //   n_new*n_steps] dst = score (in place), src = { score, part, pos, steps }
    ggml_custom_op_t score_prompt;
    ggml_custom_op_t score_add;

    // The LIL_STEP_WIN last prompt queries, kept in win [n_embd_head*n_head, LIL_PROMPT_WINDOW, n_stream], position p
    // in row p % LIL_PROMPT_WINDOW: adds their attention over the slots used to the scores.
    //   dst = score (in place), src = { score, win, K, pos, steps }
    ggml_custom_op_t score_window;

    //
    // select; userdata is a lil_select_layer. Ties go to the newer token, page or block.
    //

    // Attention over a list. Every K and V row is read once for all query heads of its group. With shares_lists there
    // may be a list for every n_tok steps in a row, tokens of one sequence that follow each other: it is the last
    // one's, and the token that is i-th from the end does not see its last i entries. K and V may overlap (MLA).
    //   dst = work F32 [lil_attn_n_work()], src = { q, K, V, list, steps }
    //   dst = F32 [n_embd_head_v, n_head, n_steps], src = { work, list } or { work, list, sinks }
    ggml_custom_op_t attn;
    ggml_custom_op_t attn_join;

    // Per channel the maximum and the minimum of a page's keys, as attention reads them.
    //   dst = bounds (in place), src = { bounds, K, dirty }
    ggml_custom_op_t page_bounds;

    // Upper bounds on q.k: sum_i max(q_i*m_i, q_i*M_i), the maximum over the group, for pages [0, LIL_SEL_PAGES). With
    // dirty, of whose pages each lies in the table of one step alone: the work of page_bounds is done first, in the
    // same launch.
    //   dst = F32 [n_pages_max, n_head_kv, n_steps], src = { q, bounds, steps } or { q, bounds (written too), steps, K,
    //   dirty }
    ggml_custom_op_t page_scores;

    // Quest: the tokens of the current page and of the best n_pages - 1 others. A dense step: all.
    //   dst = list I32 [1 + n_max, n_head_kv, n_steps], src = { scores, steps, cells, pages }
    ggml_custom_op_t page_select;

    // TidalDecode, per KV head: the current token and the budget - 1 others with the largest logit (the maximum over
    // the group). LessIsMore, all heads alike: the first n_sink, the last n_recent, and the best of those between,
    // ranked by every query head, merged rank by rank. A dense step: all.
    //   dst = list I32 [1 + n_max, n_head_kv (tidal) or 1, n_steps], src = { work with kq over cells, steps, cells }
    ggml_custom_op_t tidal_select;
    ggml_custom_op_t lessismore_select;

    // InfLLM: the probabilities of a step, summed over the group, are added to the scores of the tokens in the window:
    // the last n_recent of the list. The current token's score begins at 0.
    //   dst = score (in place), src = { score, work with kq over list, list, steps }
    ggml_custom_op_t infllm_score;

    // The same for prompts of LIL_SEL_NEW tokens, in two ops. Query i of the new ones, of rank r = T - NEW + i, sees
    // ranks [0, r]; what it gives to ranks (r - n_recent, r] counts. part begins at rank max(0, T - NEW - n_recent +
    // 1).
    //   dst = part F32 [n_recent + n_new, n_head_kv, n_score_part, n_steps], src = { q, K, cells, steps }
    //   dst = score (in place), src = { score, part, cells, steps }
    ggml_custom_op_t infllm_score_prompt;
    ggml_custom_op_t infllm_score_add;

    // Per KV head the sum of a block's n_repr keys with the highest scores.
    //   dst = repr (in place), src = { repr, K, score, dirty }
    ggml_custom_op_t block_repr;

    // Sum over all query heads and representatives of q.k, for blocks [0, LIL_SEL_PAGES). With dirty, as in
    // page_scores: the work of block_repr is done first.
    //   dst = F32 [n_blocks_max, n_steps], src = { q, repr, steps } or { q, repr (written too), steps, K, score, dirty
    //   }
    ggml_custom_op_t block_scores;

    // InfLLM: the first n_sink tokens, the best n_pages blocks (block b is the ranks from n_sink + b*block on), the
    // tokens from rank n_sink + LIL_SEL_PAGES*block on: those in no block that may be chosen. A dense step: all.
    //   dst = list I32 [1 + n_max, 1, n_steps], src = { scores, steps, cells }
    ggml_custom_op_t block_select;

    // RaaS. A page's stamp is the highest of its tokens'. The n_pages pages with the highest (stamp, page) are alive,
    // the current one among them (all are in a dense step). stamp: the current token's stamp is LIL_SEL_NOW, and of the
    // alive pages the ceil(ratio*n) best by score get LIL_SEL_NOW where theirs is lower. select: the tokens of the
    // alive pages.
    //   dst = stamp (in place), src = { stamp, scores, steps, cells, pages }
    //   dst = list I32 [1 + n_max, n_head_kv, n_steps], src = { stamp, steps, cells, pages }
    ggml_custom_op_t raas_stamp;
    ggml_custom_op_t raas_select;

    //
    // evict, again; userdata is a lil_evict_layer
    //

    // The new slots' positions, score 0.
    //   dst = score (in place), src = { score, pos, steps }
    ggml_custom_op_t new_slots;

    // R-KV, for steps that evict: every score is lambda*I - (1 - lambda)*R over the slots used, see evict/rkv.cpp.
    // The last LIL_STEP_WIN queries are kept in ring [n_embd_head*n_head, n_ring, n_stream], position p in row p %
    // n_ring.
    //   dst = score (in place), src = { score, ring, K, pos, steps }
    ggml_custom_op_t rkv_score;
};

// every op, for X(name)
// clang-format off
#define LIL_OPS(X) \
    X(evict_slots) X(score_step) X(score_prompt) X(score_add) X(score_window) \
    X(attn) X(attn_join) X(page_bounds) X(page_scores) X(page_select) X(tidal_select) X(lessismore_select) \
    X(infllm_score) X(infllm_score_prompt) X(infllm_score_add) X(block_repr) X(block_scores) X(block_select) \
    X(raas_stamp) X(raas_select) X(new_slots) X(rkv_score)
// clang-format on

// what ggml_custom_4d() and ggml_custom_inplace() write at the beginning of a node's op_params
struct lil_node_params {
    ggml_custom_op_t fun;
    int              n_tasks;
    void *           userdata;
};

static inline struct lil_node_params lil_get_node_params(const struct ggml_tensor * node) {
    struct lil_node_params res;
    memcpy(&res, node->op_params, sizeof(res));
    return res;
}

// what a backend answers to the name "lil_ops" in ggml_backend_reg_get_proc_address()
typedef const struct lil_ops * (*lil_get_ops_t)(void);

// the ops of a device's backend; null where it has none
const struct lil_ops * lil_get_ops(ggml_backend_dev_t dev);

#ifdef __cplusplus
}
#endif
