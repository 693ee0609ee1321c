#pragma once

// What the host hands to the kernels: one struct for each op, buffer 0 of its kernel. Read by the host (C++) and by
// Metal. Strides are in bytes: nb_x1 is tensor x's nb[1].

#if !defined(__METAL_VERSION__)
#include <stdint.h>
#endif

// largest head sizes of K and V: MLA's
#define LIL_METAL_MAX_EMBD   576
#define LIL_METAL_MAX_EMBD_V 512

// pages that a threadgroup of page_scores takes
#define LIL_METAL_SCORES_PAGES 64

// threadgroup memory of the ops that choose, in uints, see topk.h
#define LIL_METAL_TOPK_SHMEM (260 + 2 * 32)

// moves that a threadgroup of evict_slots plans at once
#define LIL_METAL_EVICT_MOVES 1024

// blocks that a threadgroup of block_scores takes
#define LIL_METAL_BLOCK_SCORES 32

// keys of R-KV that are compared with all others at once, and its threadgroup memory in floats
#define LIL_METAL_RKV_ROWS                  8
#define LIL_METAL_RKV_SHMEM(n_embd, n_slot) (LIL_METAL_RKV_ROWS * ((n_embd) + 3 * LIL_METAL_SCORE_SIMDS) + (n_slot))

// query rows that are scored at once, the simd-groups of a threadgroup at most, and the threadgroup memory for them in
// floats
#define LIL_METAL_SCORE_ROWS                 8
#define LIL_METAL_SCORE_SIMDS                16
#define LIL_METAL_SCORE_SHMEM(n_row, n_embd) ((n_row) * ((n_embd) + 2 * LIL_METAL_SCORE_SIMDS + 2))

// as in lil-ops.h, which Metal cannot read; lil-metal-plan.h compares them
#define LIL_METAL_ATTN_CHUNK 256

#define LIL_METAL_SEL_STREAM 0
#define LIL_METAL_SEL_TABLE  1
#define LIL_METAL_SEL_SPARSE 2
#define LIL_METAL_SEL_N      3
#define LIL_METAL_SEL_NEW    4
#define LIL_METAL_SEL_PAGES  5
#define LIL_METAL_SEL_NOW    6

#define LIL_METAL_STEP_STREAM  0
#define LIL_METAL_STEP_BEFORE  1
#define LIL_METAL_STEP_EVICT   2
#define LIL_METAL_STEP_PROTECT 3
#define LIL_METAL_STEP_NEW     4
#define LIL_METAL_STEP_POS     5
#define LIL_METAL_STEP_WIN     6

#define LIL_METAL_DIRTY_STREAM 0
#define LIL_METAL_DIRTY_TABLE  1
#define LIL_METAL_DIRTY_PAGE   2
#define LIL_METAL_DIRTY_N      3
#define LIL_METAL_DIRTY_HEAD   4

// as in ggml.h
#define LIL_METAL_TYPE_F32  0
#define LIL_METAL_TYPE_F16  1
#define LIL_METAL_TYPE_Q4_0 2
#define LIL_METAL_TYPE_Q8_0 8
#define LIL_METAL_TYPE_BF16 30

// function constants: a pipeline is made for each pair of types
#define LIL_METAL_FC_TYPE_K 0 // of K
#define LIL_METAL_FC_TYPE_V 1 // of V; page_bounds, page_scores: of bounds

struct lil_metal_kargs_attn {
    int32_t  n_embd;   // of a K head
    int32_t  n_embd_v; // of a V head
    int32_t  n_group;  // query heads of a KV head
    int32_t  n_head;   // query heads
    int32_t  n_part;   // parts that a group is cut into, each the work of a threadgroup
    int32_t  n_max;    // entries that a list may have
    float    scale;
    float    softcap;   // 0: none
    int64_t  kq_offset; // of the logits in dst, floats; -1: none wanted
    uint64_t size_k;    // bytes of a head's row
    uint64_t size_v;
    uint64_t nb_q1;
    uint64_t nb_q2;
    uint64_t nb_k1;
    uint64_t nb_k2;
    uint64_t nb_v1;
    uint64_t nb_v2;
    uint64_t nb_l1; // 0: all heads share the list
    uint64_t nb_l2;
    uint64_t nb_s1;
};

struct lil_metal_kargs_attn_join {
    int32_t  n_embd_v;
    int32_t  n_group;
    int32_t  n_head;
    int32_t  n_chunk;
    int32_t  has_sinks;
    int32_t  unused;
    uint64_t nb_d1;
    uint64_t nb_d2;
    uint64_t nb_l1; // 0: all heads share the list
    uint64_t nb_l2;
};

// the metadata of dirty pages or blocks
struct lil_metal_kargs_dirty {
    int32_t  n_embd;
    int32_t  n_dirty;
    int32_t  n_max;  // tokens of a page, at most
    int32_t  n_repr; // block_repr
    uint64_t size_k; // bytes of a head's row
    uint64_t nb_m1;  // of the metadata, bounds or repr
    uint64_t nb_m2;
    uint64_t nb_m3;
    uint64_t nb_k1;
    uint64_t nb_k2;
    uint64_t nb_x1; // of score, block_repr
    uint64_t nb_x2;
    uint64_t nb_d1; // of dirty
};

struct lil_metal_kargs_page_scores {
    int32_t  n_embd;
    int32_t  n_group;
    int32_t  n_row; // query heads that the threadgroup memory has room for
    int32_t  unused;
    uint64_t nb_d1;
    uint64_t nb_d2;
    uint64_t nb_q1;
    uint64_t nb_q2;
    uint64_t nb_b1;
    uint64_t nb_b2;
    uint64_t nb_b3;
    uint64_t nb_s1;

    struct lil_metal_kargs_dirty dirty;
};

struct lil_metal_kargs_page_select {
    int32_t  n_pages;    // to attend to
    int32_t  first_page; // whether the first one always is
    uint64_t nb_d1;
    uint64_t nb_d2;
    uint64_t nb_x1; // of scores
    uint64_t nb_x2;
    uint64_t nb_s1;
    uint64_t nb_c2;
    uint64_t nb_p1;
};

struct lil_metal_kargs_token_select {
    int32_t  budget;
    int32_t  n_sink;
    int32_t  n_recent;
    int32_t  n_group;
    int32_t  n_head;
    int32_t  n_max;     // entries of a row of logits
    int64_t  kq_offset; // of the logits in work, floats
    uint64_t nb_d1;
    uint64_t nb_d2;
    uint64_t nb_s1;
    uint64_t nb_c2;
};

struct lil_metal_kargs_raas {
    int32_t  n_pages; // alive
    int32_t  n_steps;
    float    ratio;
    uint64_t nb_t1; // of stamp
    uint64_t nb_t2;
    uint64_t nb_x1; // of scores
    uint64_t nb_x2;
    uint64_t nb_d1;
    uint64_t nb_d2;
    uint64_t nb_s1;
    uint64_t nb_c2;
    uint64_t nb_p1;
};

// The three ops share one struct; what an op does not use is 0.
struct lil_metal_kargs_infllm {
    int32_t  n_embd;
    int32_t  n_group;
    int32_t  n_head;
    int32_t  n_steps;
    int32_t  n_query; // queries of a step
    int32_t  n_recent;
    int32_t  n_part;
    int32_t  n_max; // entries of a row of logits
    int32_t  has_sinks;
    float    scale;
    float    softcap;   // 0: none
    int64_t  kq_offset; // of the logits in work, floats
    uint64_t size_k;    // bytes of a head's row
    uint64_t nb_q1;
    uint64_t nb_q2;
    uint64_t nb_k1;
    uint64_t nb_k2;
    uint64_t nb_x1; // of score
    uint64_t nb_x2;
    uint64_t nb_a1; // of the partial sums
    uint64_t nb_a2;
    uint64_t nb_a3;
    uint64_t nb_l1; // of list or cells, 0: all heads share the list
    uint64_t nb_l2;
    uint64_t nb_s1;
};

struct lil_metal_kargs_block_scores {
    int32_t  n_embd;
    int32_t  n_head_kv;
    int32_t  n_group;
    uint64_t nb_d1;
    uint64_t nb_q1;
    uint64_t nb_q2;
    uint64_t nb_r1;
    uint64_t nb_r2;
    uint64_t nb_s1;

    struct lil_metal_kargs_dirty dirty;
};

struct lil_metal_kargs_block_select {
    int32_t  n_blocks; // to attend to
    int32_t  block;    // tokens
    int32_t  n_init;   // tokens before block 0
    uint64_t nb_d2;
    uint64_t nb_x1; // of scores
    uint64_t nb_s1;
    uint64_t nb_c2;
};

// The evict ops share one struct; what an op does not use is 0.
struct lil_metal_kargs_evict {
    int32_t  n_embd; // of a K head
    int32_t  n_head_kv;
    int32_t  n_group;
    int32_t  n_query; // queries of a step
    int32_t  n_part;
    int32_t  n_kv;   // of a row of partial sums
    int32_t  n_ring; // rows of the ring that the last queries are kept in
    int32_t  last;
    int32_t  shared;
    int32_t  by_quads; // rows of K and V are copied 8 bytes at a time, otherwise 2
    int32_t  has_sinks;
    float    scale;
    float    softcap;   // 0: none
    float    lambda;    // R-KV
    float    threshold; // R-KV
    uint64_t size_k;    // bytes of a head's row
    uint64_t size_v;
    uint64_t nb_q0; // from head to head
    uint64_t nb_q1; // from query to query
    uint64_t nb_q2; // from sequence to sequence: a step's, or a stream's
    uint64_t nb_k1;
    uint64_t nb_k2;
    uint64_t nb_v1;
    uint64_t nb_v2;
    uint64_t nb_x1; // of score
    uint64_t nb_x2;
    uint64_t nb_p1; // of pos
    uint64_t nb_p2;
    uint64_t nb_a1; // of the partial sums
    uint64_t nb_a2;
    uint64_t nb_a3;
    uint64_t nb_s1;
};
