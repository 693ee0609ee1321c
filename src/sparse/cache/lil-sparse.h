#pragma once

#include "lil.h"

#include "lil-error.h"
#include "lil-steps.h"

#include "llama-graph.h"
#include "llama-kv-cache.h"

#include <string>
#include <vector>

// A cache with a sparse method: its hooks into the graph, see lil-hooks.h, and what lil.h asks it.
struct lil_sparse {
    virtual ~lil_sparse() = default;

    virtual void build_before_store(
            const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) = 0;

    virtual ggml_tensor * build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q,
            ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) = 0;

    // whether the learned sinks of a layer's attention are those that build_attn() takes: the model's
    virtual bool takes_sinks(const ggml_tensor * sinks, int il) const = 0;

    // nodes that a graph gets in addition, at most
    virtual uint32_t graph_max_nodes() const = 0;

    // whether a layer attends to this cache
    virtual bool acts_on(int il) const = 0;

    // whether every layer of the cache has passed through build_attn()
    virtual bool is_built() const = 0;

    // for waiting until a computation is over
    virtual void set_context(llama_context * lctx) = 0;

    // how a batch that is about to be decoded is to be cut, see lil_steps
    virtual std::vector<lil_batch_piece> begin_batch(const llama_batch & batch, uint32_t n_ubatch) = 0;

    // see lil_set_prompt()
    void set_prompt(bool value) { record.set_prompt(value); }

    // the budget of lil_init_from_model(), where it can be changed; 0 otherwise
    virtual uint32_t get_budget() const { return 0; }

    // see lil_set_budget(); returns why it cannot be, or an empty text
    virtual std::string set_budget(uint32_t budget) {
        GGML_UNUSED(budget);
        return "this method drops what is outside its budget, which therefore stays as it is: use one of the select "
               "family";
    }

    // see lil_sparse_get_warning()
    const char * get_warning() const { return warning.empty() ? nullptr : warning.c_str(); }

    // The computation of the ubatch failed half-way. Returns the sequences that cannot be kept.
    virtual std::vector<llama_seq_id> fail_ubatch() = 0;

    // the computation of a ubatch, applied to the cache before, is over
    virtual void ubatch_done() {}

    // of all layers, tensors beside K and V with a column for each cell [n_cells, ..., n_stream]
    virtual std::vector<ggml_tensor *> get_cell_side() const = 0;

    // gives back the memory of what else is kept for tokens of these streams that are gone
    virtual void release_side(const std::vector<uint32_t> & streams) { GGML_UNUSED(streams); }

    virtual void get_info(lil_sparse_info & info) const = 0;

    // see lil_sparse_get_slots()
    virtual int32_t get_slots(
            llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * pos, float * score, int32_t n) const = 0;

protected:
    lil_steps record;

    std::string warning; // said once
};

// the cache of a memory's full-attention layers, or null
llama_kv_cache * lil_get_kv(llama_memory_i * memory);

// the part of a graph's memory that belongs to that cache
const llama_kv_cache_context * lil_get_kv_context(const llama_memory_context_i * mctx);

// the same, as a cache with a sparse method; null: it has none
lil_sparse * lil_get_sparse(llama_memory_i * memory);
