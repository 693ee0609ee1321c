#pragma once

// What the patched llama.cpp calls. Each function behaves as stock where a context has no sparse attention.

#include "lil-kv-buffer.h" // lil_alloc_kv_buffer()

#include "llama-kv-cache.h"

#include <utility>
#include <vector>

struct llm_graph_context;

class llama_io_read_i;
class llama_io_write_i;

// before a layer's new keys and values are stored: evict, move
//   k_rot [n_rot, n_rot] the rotation of quantised keys, or null
void lil_build_before_store(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il);

// llm_graph_context::build_attn_mha(), by the method of the cache
ggml_tensor * lil_build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx,
        ggml_tensor * q, // [n_embd_head_k, n_head,    n_tokens]
        ggml_tensor * k, // [n_embd_head_k, n_head_kv, n_kv, n_stream]
        ggml_tensor * v, // [n_embd_head_v, n_head_kv, n_kv, n_stream]
        ggml_tensor * kq_b,
        ggml_tensor * kq_mask, // [n_kv, n_tokens/n_stream, 1, n_stream]
        ggml_tensor * sinks, ggml_tensor * v_mla, float kq_scale, int il);

// the cache of a model's full-attention layers: llama_kv_cache, or what lil_init_from_model() asked for
llama_kv_cache * lil_new_kv_cache(const llama_model & model, const llama_hparams & hparams, ggml_type type_k,
        ggml_type type_v, bool v_trans, bool offload, bool unified, uint32_t kv_size, uint32_t n_seq_max,
        uint32_t n_pad, uint32_t n_swa, llama_swa_type swa_type, llama_memory_t mem_other,
        const llama_memory_i::layer_filter_cb & filter, const llama_memory_i::layer_reuse_cb & reuse,
        const llama_memory_i::layer_share_cb & share);

// Stands around a change of a memory's cells that a user asks for: what many tokens that it removed had taken goes back
// to the system. (Not inside of the caches, which also remove cells for trial and put them back.) Where it ends with an
// exception, a state that was refused half-way, the sequence goes: the halves of a model with sliding windows must not
// hold different texts.
class lil_removal {
public:
    explicit lil_removal(llama_memory_i * memory, llama_seq_id seq_id = -1);
    ~lil_removal();

private:
    llama_memory_i * memory;
    llama_seq_id     seq_id; // -1: all of them
    int              n_exceptions;

    std::vector<std::pair<llama_kv_cache *, std::vector<uint32_t>>> before; // cells that held tokens, per stream
};

// the copies of a llama_kv_cache::update(), of the cells in use only. False: nothing was done
bool lil_copy_streams(llama_kv_cache & kv, const llama_kv_cache::stream_copy_info & sc_info);

// the computation of a ubatch is over
void lil_ubatch_done(llama_kv_cache & kv);

// In a model with sliding windows: whether the two halves can both do this removal. The full-attention half says the
// rest itself.
bool lil_can_seq_rm(llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// In a hybrid model: whether the attention half can do this removal.
bool lil_can_seq_rm(llama_memory_i & attn, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// In a model with sliding windows, and in a hybrid: whether a state with these flags holds the full-attention half,
// too. Partial states do where it cannot go back to where they were saved by removing the tokens that have come since.
bool lil_in_state(const llama_kv_cache & attn, llama_state_seq_flags flags);

// a batch is about to be cut into ubatches: see lil-steps.h
void lil_begin_batch(llama_memory_i & memory, llama_batch_allocr & balloc, uint32_t n_ubatch);

// the computation of a ubatch failed or was aborted after it had been applied to the memory
void lil_ubatch_failed(llama_memory_i & memory, const llama_ubatch & ubatch);

// graph nodes that the method of a memory adds at most; memory may be null
uint32_t lil_graph_max_nodes(llama_memory_i * memory);

// Whether the contexts being made write their states with V transposed, although FlashAttention is on: see
// lil_sparse_params::flash_attn_free. Declared in llama-kv-cache.h too.
bool lil_state_v_trans();

// V of the cells [first, second) of each range, or of sinfo's first n_cells: transposed in the state, rows in the
// tensor
void lil_state_write_v(llama_io_write_i & io, const ggml_tensor * v, uint32_t n_embd,
        const std::vector<std::pair<uint32_t, uint32_t>> & ranges);

// with the number of rows in front of them; false: it is not n_embd
bool lil_state_read_v(llama_io_read_i & io, ggml_tensor * v, uint32_t n_embd, uint32_t n_cells,
        const llama_kv_cache::slot_info & sinfo);
