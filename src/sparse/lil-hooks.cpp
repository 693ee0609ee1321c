#include "lil-hooks.h"
#include "lil-init.h"
#include "lil-layer-ops.h"
#include "lil-methods.h"
#include "lil-sparse.h"

#include "lil-error.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"

#include <algorithm>
#include <set>
#include <string>

bool lil_state_v_trans() {
    const auto * init = lil_get_init();

    return init && init->v_trans;
}

// whether all layers of such a cache are on a CPU whose op is faster
static bool dense_wins(const llama_model & model, const llama_hparams & hparams, ggml_type type_k, ggml_type type_v,
        bool offload, const llama_memory_i::layer_filter_cb & filter) {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);

    const lil_ops * ops = lil_get_ops(cpu);
    if (!ops || !ops->attn_wins) {
        return false;
    }

    for (uint32_t il = 0; il < hparams.n_layer_all; ++il) {
        if (!hparams.has_kv(il) || (filter && !filter(il))) {
            continue;
        }

        const uint32_t n_head    = hparams.n_head(il);
        const uint32_t n_head_kv = hparams.n_head_kv(il);

        if (n_head_kv == 0 || n_head % n_head_kv != 0) {
            return false;
        }

        const lil_ops_shape shape = {
            type_k,
            type_v,
            hparams.n_embd_head_k(il),
            hparams.n_embd_head_v(il),
            n_head,
            n_head_kv,
            model.layers[il].attn_sinks != nullptr,
            /*.shared =*/false,
        };

        if ((offload && model.dev_layer(il) != cpu) || !ops->attn_wins(&shape)) {
            return false;
        }
    }

    return true;
}

llama_kv_cache * lil_new_kv_cache(const llama_model & model, const llama_hparams & hparams, ggml_type type_k,
        ggml_type type_v, bool v_trans, bool offload, bool unified, uint32_t kv_size, uint32_t n_seq_max,
        uint32_t n_pad, uint32_t n_swa, llama_swa_type swa_type, llama_memory_t mem_other,
        const llama_memory_i::layer_filter_cb & filter, const llama_memory_i::layer_reuse_cb & reuse,
        const llama_memory_i::layer_share_cb & share) {
    const auto * init = lil_get_init();

    // gemma4's callback is always there, and says of most models that no layer does
    bool shares = false;
    for (uint32_t il = 0; reuse && il < hparams.n_layer_all; ++il) {
        shares = shares || ((!filter || filter(il)) && reuse(il) >= 0);
    }

    if (!init ||
            (init->is_optional() &&
                    (mem_other || shares || share || v_trans ||
                            !dense_wins(model, hparams, type_k, type_v, offload, filter)))) {
        return new llama_kv_cache(model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max, n_pad,
                n_swa, swa_type, mem_other, filter, reuse, share);
    }

    lil_sparse_params params = *init->sparse;

    if (mem_other || share) {
        lil_throw("the architecture %s is not covered: it reads the cache of another model", llm_arch_name(model.arch));
    }

    const auto * m = lil_find_method(params.method);

    if (m->evicts) { // kv_size is n_ctx of one sequence, padded
        params.capacity = params.capacity == 0 ? kv_size : std::min<uint32_t>(GGML_PAD(params.capacity, 256), kv_size);
        params.recent   = params.recent == 0 ? params.budget / 2 : params.recent;
    }

    static const llama_memory_i::layer_reuse_cb no_reuse = nullptr;

    return m->make({ model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max, n_pad, filter,
            shares ? reuse : no_reuse, params });
}

// A node that the device of the cache cannot compute would go to the CPU, and with it the cache, step by step. Nodes
// [i0, n) of the graph are those of a layer's attention, k is what it reads of the cache.
static void check_nodes(const llm_graph_context & g, int i0, const ggml_tensor * k, const ggml_tensor * v) {
    const ggml_backend_buffer_t buf = k->view_src ? k->view_src->buffer : k->buffer;
    const ggml_backend_dev_t    dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buf));

    if (!dev || ggml_backend_buffer_is_host(buf)) {
        return;
    }

    for (int i = i0; i < ggml_graph_n_nodes(g.gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(g.gf, i);

        if (node->op == GGML_OP_VIEW || node->op == GGML_OP_RESHAPE || node->op == GGML_OP_PERMUTE ||
                node->op == GGML_OP_TRANSPOSE || ggml_backend_dev_supports_op(dev, node)) {
            continue;
        }

        const std::string msg = format(
                "%s (%s) cannot compute what this method needs with a KV cache of types %s and %s and heads of %d: "
                "it has no %s for it. "
                "Use type f16 for both, or keep the cache on the CPU with offload_kqv = false",
                ggml_backend_dev_name(dev), ggml_backend_dev_description(dev), ggml_type_name(k->type),
                ggml_type_name(v->type), (int) k->ne[0], lil_get_node_name(dev, node));

        if (!lil_get_init()) { // after construction nothing catches an exception
            GGML_ABORT("%s", msg.c_str());
        }
        lil_throw("%s", msg.c_str());
    }
}

// the first node of the layer being built
static thread_local int i_first = 0;

void lil_build_before_store(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) {
    if (auto * sparse = mctx->get_sparse()) {
        i_first = ggml_graph_n_nodes(g.gf);

        sparse->build_before_store(g, mctx, k_rot, il);
    }
}

// MLA, absorbed: from the latent values [n_embd_v*n_head, n_tokens] to each head's own
static ggml_tensor * build_v_mla(
        const llm_graph_context & g, ggml_tensor * cur, int64_t n_embd_v, ggml_tensor * v_mla) {
    const int64_t n_head = cur->ne[0] / n_embd_v;

    cur = ggml_reshape_3d(g.ctx0, cur, n_embd_v, n_head, cur->ne[1]);
    cur = ggml_mul_mat(g.ctx0, v_mla, ggml_permute(g.ctx0, cur, 0, 2, 1, 3)); // [n_embd, n_tokens, n_head]
    cur = ggml_cont(g.ctx0, ggml_permute(g.ctx0, cur, 0, 2, 1, 3));

    return ggml_reshape_2d(g.ctx0, cur, cur->ne[0] * n_head, cur->ne[2]);
}

ggml_tensor * lil_build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q,
        ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_b, ggml_tensor * kq_mask, ggml_tensor * sinks,
        ggml_tensor * v_mla, float kq_scale, int il) {
    auto * sparse = mctx->get_sparse();
    if (!sparse) {
        return g.build_attn_mha(q, k, v, kq_b, kq_mask, sinks, v_mla, 0, kq_scale, il);
    }

    if (kq_b || (sinks && !sparse->takes_sinks(sinks, il))) {
        const auto * init = lil_get_init();

        if (init && init->is_optional()) {
            return g.build_attn_mha(q, k, v, kq_b, kq_mask, sinks, v_mla, 0, kq_scale, il);
        }

        lil_throw("the architecture %s is not covered: its attention has %s", llm_arch_name(g.arch),
                kq_b ? "a position bias" : "learned sinks of an unknown kind");
    }

    ggml_tensor * cur = sparse->build_attn(g, mctx, q, k, v, kq_mask, kq_scale, il);

    ggml_build_forward_expand(g.gf, cur);
    check_nodes(g, i_first, k, v);

    return v_mla ? build_v_mla(g, cur, v->ne[0], v_mla) : cur;
}

llama_kv_cache * lil_get_kv(llama_memory_i * memory) {
    if (auto * hybrid = dynamic_cast<llama_memory_hybrid *>(memory)) {
        memory = hybrid->get_mem_attn();
    } else if (auto * hybrid_iswa = dynamic_cast<llama_memory_hybrid_iswa *>(memory)) {
        memory = hybrid_iswa->get_mem_attn();
    }
    if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        memory = iswa->get_base();
    }

    return dynamic_cast<llama_kv_cache *>(memory);
}

const llama_kv_cache_context * lil_get_kv_context(const llama_memory_context_i * mctx) {
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_context *>(mctx)) {
        return hybrid->get_attn();
    }
    if (const auto * hybrid_iswa = dynamic_cast<const llama_memory_hybrid_iswa_context *>(mctx)) {
        return hybrid_iswa->get_attn()->get_base();
    }
    if (const auto * iswa = dynamic_cast<const llama_kv_cache_iswa_context *>(mctx)) {
        return iswa->get_base();
    }

    return dynamic_cast<const llama_kv_cache_context *>(mctx);
}

lil_sparse * lil_get_sparse(llama_memory_i * memory) {
    auto * kv = lil_get_kv(memory);

    return kv ? kv->get_sparse() : nullptr;
}

void lil_begin_batch(llama_memory_i & memory, llama_batch_allocr & balloc, uint32_t n_ubatch) {
    if (auto * kv = lil_get_sparse(&memory)) {
        balloc.set_pieces(kv->begin_batch(balloc.get_batch(), n_ubatch));
    }
}

void lil_ubatch_failed(llama_memory_i & memory, const llama_ubatch & ubatch) {
    std::set<llama_seq_id> gone;

    if (auto * kv = lil_get_sparse(&memory)) {
        const auto seq_ids = kv->fail_ubatch();
        gone.insert(seq_ids.begin(), seq_ids.end());
    }

    // what a recurrent half has taken in cannot be taken back, and is not whole
    const bool is_hybrid =
            dynamic_cast<llama_memory_hybrid *>(&memory) || dynamic_cast<llama_memory_hybrid_iswa *>(&memory);

    for (uint32_t i = 0; i < ubatch.n_tokens && is_hybrid; ++i) {
        gone.insert(ubatch.seq_id[i], ubatch.seq_id[i] + ubatch.n_seq_id[i]);
    }

    for (const llama_seq_id seq_id : gone) {
        LLAMA_LOG_WARN("%s: sequence %d was left half changed and is removed\n", __func__, seq_id);
        memory.seq_rm(seq_id, -1, -1);
    }
}

uint32_t lil_graph_max_nodes(llama_memory_i * memory) {
    const auto * kv = lil_get_sparse(memory);

    return kv ? kv->graph_max_nodes() : 0;
}
