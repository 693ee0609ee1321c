#pragma once

// What the patched llama.cpp calls. Each function behaves as stock where a context has no sparse attention.

#include "llama-kv-cache.h"

struct llm_graph_context;

// before a layer's new keys and values are stored: evict, move
//   k_rot [n_rot, n_rot] the rotation of quantised keys, or null
void lil_build_before_store(
         const llm_graph_context & g,
    const llama_kv_cache_context * mctx,
                     ggml_tensor * k_rot,
                             int   il);

// llm_graph_context::build_attn_mha(), by the method of the cache
ggml_tensor * lil_build_attn(
         const llm_graph_context & g,
    const llama_kv_cache_context * mctx,
                     ggml_tensor * q,       // [n_embd_head_k, n_head,    n_tokens]
                     ggml_tensor * k,       // [n_embd_head_k, n_head_kv, n_kv, n_stream]
                     ggml_tensor * v,       // [n_embd_head_v, n_head_kv, n_kv, n_stream]
                     ggml_tensor * kq_b,
                     ggml_tensor * kq_mask, // [n_kv, n_tokens/n_stream, 1, n_stream]
                     ggml_tensor * sinks,
                     ggml_tensor * v_mla,
                           float   kq_scale,
                             int   il);

// the cache of a model's full-attention layers: llama_kv_cache, or what lil_init_from_model() asked for
llama_kv_cache * lil_new_kv_cache(
                       const llama_model & model,
                     const llama_hparams & hparams,
                               ggml_type   type_k,
                               ggml_type   type_v,
                                    bool   v_trans,
                                    bool   offload,
                                    bool   unified,
                                uint32_t   kv_size,
                                uint32_t   n_seq_max,
                                uint32_t   n_pad,
                                uint32_t   n_swa,
                          llama_swa_type   swa_type,
                          llama_memory_t   mem_other,
    const llama_memory_i::layer_filter_cb & filter,
    const llama_memory_i::layer_reuse_cb  & reuse,
    const llama_memory_i::layer_share_cb  & share);

// In a model with sliding windows: whether the two halves can both do this removal. The full-attention half says the rest itself.
bool lil_can_seq_rm(
            llama_kv_cache & base,
      const llama_kv_cache & swa,
              llama_seq_id   seq_id,
                 llama_pos   p0,
                 llama_pos   p1);

// the computation of a ubatch failed or was aborted after it had been applied to the memory
void lil_ubatch_failed(llama_memory_i & memory, const llama_ubatch & ubatch);

// graph nodes that the method of a memory adds at most; memory may be null
uint32_t lil_graph_max_nodes(llama_memory_i * memory);
