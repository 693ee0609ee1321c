#pragma once

// The fused ops: what a backend must compute for a method beyond ggml's own ops. They enter a graph as GGML_OP_CUSTOM.
// One file per op in each backend's folder, under the same names.
//
// Tensors of a layer (strides as given; the dimension 0 of each is contiguous):
//   K, V       [n_embd_head*n_head_kv, capacity, n_stream]  any type of a KV cache
//   score, pos [capacity, n_head_kv, n_stream]              F32; positions are exact up to 2^24
//   steps      [LIL_STEP_COUNT, n_steps]                    I32; what the ubatch does to each of its sequences

#include "ggml.h"

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
#define LIL_H2O_WINDOW 64

// the constants of one layer, kept by the cache as long as it lives
struct lil_h2o_layer {
    int32_t n_head_kv;
    int32_t n_part;   // partial sums of lil_h2o_score, at least 1
    float   scale;    // of q.k
    float   softcap;  // 0: none
};

// all run with any number of threads and hold no state
struct lil_cpu_ops {
    // Before a step: drops LIL_STEP_EVICT tokens of each KV head, those with the lowest scores among the unprotected (of
    // equal ones the older first), and moves the last tokens into the holes.
    //   dst = pos (in place), src = { pos, K, V, score, steps }
    ggml_custom_op_t h2o_evict;

    // One decode step each: sets the new slot's position, score 0, and adds to every score the step's attention (softmax
    // over the slots used, summed over the query heads of the group).
    //   dst = score (in place), src = { score, q, K, pos, steps }; q F32 [n_embd_head, n_head, n_steps]
    ggml_custom_op_t h2o_score;

    // The same for prompts of LIL_STEP_NEW tokens, in two ops: the attention summed over the queries, then added.
    //   dst = part F32 [n_kv, n_head_kv, n_part, n_steps], src = { q, K, steps }; q F32 [n_embd_head, n_head, n_new*n_steps]
    //   dst = score (in place), src = { score, part, pos, steps }
    ggml_custom_op_t h2o_score_prompt;
    ggml_custom_op_t h2o_score_add;

    // The LIL_STEP_WIN last prompt queries, kept in win [n_embd_head*n_head, LIL_H2O_WINDOW, n_stream], position p in row
    // p % LIL_H2O_WINDOW: adds their attention over the slots used to the scores.
    //   dst = score (in place), src = { score, win, K, pos, steps }
    ggml_custom_op_t h2o_score_window;
};

// null where the CPU backend was built without ours
const struct lil_cpu_ops * lil_get_cpu_ops(void);

#ifdef __cplusplus
}
#endif
