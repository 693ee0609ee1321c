#pragma once

#include "lil.h"

#include "llama-graph.h"
#include "llama-kv-cache.h"

// the hook of a cache into the graph, see lil-hooks.h
struct lil_sparse {
    virtual ~lil_sparse() = default;

    virtual void build_before_store(
             const llm_graph_context & g,
        const llama_kv_cache_context * mctx,
                         ggml_tensor * k_rot,
                                 int   il) = 0;

    virtual ggml_tensor * build_attn(
             const llm_graph_context & g,
        const llama_kv_cache_context * mctx,
                         ggml_tensor * q,
                         ggml_tensor * k,
                         ggml_tensor * v,
                         ggml_tensor * kq_mask,
                               float   kq_scale,
                                 int   il) = 0;

    // nodes that a graph gets in addition, at most
    virtual uint32_t graph_max_nodes() const = 0;
};

// records the message for lil_last_error() and throws it
[[noreturn]] void lil_throw(const char * fmt, ...);
