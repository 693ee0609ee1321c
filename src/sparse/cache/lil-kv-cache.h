#pragma once

#include "lil-layer-ops.h"
#include "lil-methods.h"
#include "lil-side.h"
#include "lil-sparse.h"

#include "lil-ops.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <set>

// What the caches of both families are: llama.cpp's cache, the attention of whose layers follows a method. The families
// are lil_kv_cache_evict and lil_kv_cache_select.
class lil_kv_cache : public llama_kv_cache, public lil_sparse {
public:
    using args = lil_cache_args;

    lil_sparse * get_sparse() override { return this; }

    // lil_sparse

    bool acts_on(int il) const override { return map_layer_ids.count(il) > 0; }

    bool is_built() const override { return built.size() == readers.size(); }

    bool takes_sinks(const ggml_tensor * sinks, int il) const override {
        return sinks == this->sinks(map_layer_ids.at(il)) && sinks->type == GGML_TYPE_F32;
    }

    void set_context(llama_context * lctx) override { this->lctx = lctx; }

    // what both families know of themselves
    void get_info(lil_sparse_info & info) const override;

protected:
    // how llama.cpp's cache below is laid out
    struct layout {
        bool     v_trans;
        bool     unified;
        uint32_t kv_size; // cells of a stream
        uint32_t n_pad;
    };

    // chooses the form of the method's own steps; the family that of those that attend to everything
    lil_kv_cache(const args & a, const layout & l);

    // all that lies beside a layer's K and V
    virtual std::vector<const ggml_tensor *> get_beside(size_t ikv) const = 0;

    // The layers that attend to this cache, in their order: L of them, and what a layer's number counts. Most own the
    // keys and values that they read; some read another's
    struct reader {
        int    il;
        size_t ikv; // whose
    };
    std::vector<reader> readers;

    size_t get_reader(int il) const;

    // whether other layers than its own read a cache
    bool is_shared(size_t ikv) const {
        return std::any_of(readers.begin(), readers.end(),
                [&](const auto & r) { return r.ikv == ikv && r.il != (int) layers[ikv].il; });
    }

    bool owns(size_t ir) const { return (int) layers[readers[ir].ikv].il == readers[ir].il; }

    lil_sparse_params params;

    lil_layer_ops ops; // by cache layer

    bool fused       = false; // the method's own steps
    bool fused_dense = false; // decode steps that attend to everything, or to all that is held

    // constants of attn and of the select ops, [n_layer]: scale when a graph is built
    std::vector<lil_select_layer> select_layers;

    // tensors beside K and V, on the device of layer ikv; alloc_side() once after all
    ggml_tensor * new_side(
            size_t ikv, const char * name, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3 = 1);
    void alloc_side();

    uint32_t n_head_kv(size_t ikv) const { return hparams.n_head_kv(layers[ikv].il); }
    uint32_t n_embd_head_k(size_t ikv) const { return layers[ikv].k->ne[0] / n_head_kv(ikv); }
    uint32_t n_embd_head_v(size_t ikv) const { return values[ikv]->ne[0] / n_head_kv(ikv); }

    // What attention reads as a layer's values [n_embd_head_v*n_head_kv, n_cells, n_stream], with the strides of what
    // holds them: V, or (MLA) the first channels of K
    std::vector<ggml_tensor *> values; // [n_layer]

    // whether keys hold the values too (MLA)
    bool is_joined(size_t ikv) const { return !layers[ikv].v; }

    // the tensors that hold a layer's keys and values: K and V, or K alone
    std::vector<ggml_tensor *> get_stored(size_t ikv) const;

    // learned sinks of a layer, F32 [n_head]; null: none
    ggml_tensor * sinks(size_t ikv) const;
    bool          has_sinks() const;

    // the sources of a node that takes them last
    std::vector<ggml_tensor *> with_sinks(size_t ikv, std::vector<ggml_tensor *> srcs) const;

    // of q.k; 0: none
    float softcap() const { return hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f; }

    // partial sums of the ops that score a prompt
    int32_t n_score_part(const llm_graph_context & g, size_t ikv) const;

    // waits until the computation in progress is over
    void synchronize() const;

    // decode steps so far, and the KV rows that they read
    uint64_t n_dense     = 0;
    uint64_t n_sparse    = 0;
    uint64_t n_rows_read = 0;

    std::set<int> built; // layers that have passed through build_attn()

    lil_side_tensors side;

private:
    llama_context * lctx = nullptr;

    ggml_context_ptr ctx_values; // views of K

    void make_values();
};
