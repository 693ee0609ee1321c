#include "lil-hooks.h"
#include "lil-kv-memory.h"
#include "lil-layer-ops.h"
#include "lil-methods.h"
#include "lil-probe.h"
#include "lil-sparse.h"

#include "lil-error.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-model.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

void lil_throw(const char * fmt, ...) {
    char buf[1024];

    va_list args;
    va_start(args, fmt);
    vsnprintf(buf, sizeof(buf), fmt, args);
    va_end(args);

    lil_set_last_error("%s", buf);

    throw std::runtime_error(buf);
}

//
// hooks
//

// What lil_init_from_model() asks the caches for, while this thread constructs the context: llama_context_params has no
// room for it, and must not change.
static thread_local const lil_sparse_params * pending = nullptr;

// whether FlashAttention was turned on where nobody had asked for it
static thread_local bool pending_v_trans = false;

bool lil_state_v_trans() {
    return pending_v_trans;
}

// full attention where nothing may be refused: what the op does not cover is llama.cpp's
static bool is_optional(const lil_sparse_params & p) {
    return p.method == LIL_SPARSE_DENSE && p.fused_dense == LIL_FUSED_DENSE_AUTO;
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

        if (n_head_kv == 0 || n_head%n_head_kv != 0) {
            return false;
        }

        const lil_ops_shape shape = {
            type_k, type_v, hparams.n_embd_head_k(il), hparams.n_embd_head_v(il), n_head, n_head_kv,
        };

        if ((offload && model.dev_layer(il) != cpu) || !ops->attn_wins(&shape)) {
            return false;
        }
    }

    return true;
}

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
    const llama_memory_i::layer_share_cb  & share) {
    if (!pending || (is_optional(*pending) &&
            (mem_other || reuse || share || v_trans || !dense_wins(model, hparams, type_k, type_v, offload, filter)))) {
        return new llama_kv_cache(model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max,
                n_pad, n_swa, swa_type, mem_other, filter, reuse, share);
    }

    lil_sparse_params params = *pending;

    if (mem_other || reuse || share) {
        lil_throw("the architecture %s shares keys and values between layers, which method %d cannot follow yet",
                llm_arch_name(model.arch), params.method);
    }

    const auto * m = lil_find_method(params.method);

    if (m->evicts) { // kv_size is n_ctx of one sequence, padded
        params.capacity = params.capacity == 0 ? kv_size : std::min<uint32_t>(GGML_PAD(params.capacity, 256), kv_size);
        params.recent   = params.recent   == 0 ? params.budget/2 : params.recent;
    }

    return m->make(
            { model, hparams, type_k, type_v, v_trans, offload, unified, kv_size, n_seq_max, n_pad, filter, params });
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

        if (!pending) { // after construction nothing catches an exception
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

ggml_tensor * lil_build_attn(
         const llm_graph_context & g,
    const llama_kv_cache_context * mctx,
                     ggml_tensor * q,
                     ggml_tensor * k,
                     ggml_tensor * v,
                     ggml_tensor * kq_b,
                     ggml_tensor * kq_mask,
                     ggml_tensor * sinks,
                     ggml_tensor * v_mla,
                           float   kq_scale,
                             int   il) {
    auto * sparse = mctx->get_sparse();
    if (!sparse) {
        return g.build_attn_mha(q, k, v, kq_b, kq_mask, sinks, v_mla, 0, kq_scale, il);
    }

    if (kq_b || sinks || v_mla) {
        if (pending && is_optional(*pending)) {
            return g.build_attn_mha(q, k, v, kq_b, kq_mask, sinks, v_mla, 0, kq_scale, il);
        }

        lil_throw("the architecture %s is not covered: its attention has %s", llm_arch_name(g.arch),
                kq_b ? "a position bias" : sinks ? "learned sinks" : "compressed values");
    }

    ggml_tensor * cur = sparse->build_attn(g, mctx, q, k, v, kq_mask, kq_scale, il);

    ggml_build_forward_expand(g.gf, cur);
    check_nodes(g, i_first, k, v);

    return cur;
}

// the cache of the full-attention layers
static llama_kv_cache * get_kv(llama_memory_i * memory) {
    if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        memory = iswa->get_base();
    }

    return dynamic_cast<llama_kv_cache *>(memory);
}

static lil_sparse * get_sparse(llama_memory_i * memory) {
    auto * kv = get_kv(memory);

    return kv ? kv->get_sparse() : nullptr;
}

void lil_begin_batch(llama_memory_i & memory, llama_batch_allocr & balloc, uint32_t n_ubatch) {
    if (auto * kv = get_sparse(&memory)) {
        balloc.set_pieces(kv->begin_batch(balloc.get_batch(), n_ubatch));
    }
}

void lil_ubatch_failed(llama_memory_i & memory, const llama_ubatch & ubatch) {
    GGML_UNUSED(ubatch);

    auto * kv = get_sparse(&memory);
    if (!kv) {
        return;
    }

    for (const llama_seq_id seq_id : kv->fail_ubatch()) {
        LLAMA_LOG_WARN("%s: sequence %d was left half changed and is removed\n", __func__, seq_id);
        memory.seq_rm(seq_id, -1, -1);
    }
}

uint32_t lil_graph_max_nodes(llama_memory_i * memory) {
    const auto * kv = get_sparse(memory);

    return kv ? kv->graph_max_nodes() : 0;
}

//
// public API
//

static std::string check_model(const llama_model & model, const lil_sparse_params & p) {
    const auto & hparams = model.hparams;

    const char * name = llm_arch_name(model.arch);

    if (hparams.vocab_only) {
        return "the model was loaded with vocab_only = true: it has no layers";
    }
    if (llm_arch_is_recurrent(model.arch) || llm_arch_is_hybrid(model.arch)) {
        return format("the architecture %s is not covered: it is recurrent or hybrid", name);
    }
    if (llama_model_has_encoder(&model)) {
        return format("the architecture %s is not covered: it has an encoder", name);
    }
    if (hparams.is_mla()) {
        return format("the architecture %s is not covered: its keys and values are compressed (MLA)", name);
    }
    if (hparams.use_alibi) {
        return format("the architecture %s is not covered: its attention depends on positions through ALiBi", name);
    }
    if (hparams.n_pos_per_embd() != 1) {
        return format("the architecture %s is not covered: its positions have several dimensions (M-RoPE)", name);
    }
    if (p.positions != LIL_POSITIONS_ABSOLUTE && hparams.rope_type != LLAMA_ROPE_TYPE_NORM &&
            hparams.rope_type != LLAMA_ROPE_TYPE_NEOX) {
        return format("positions = %d needs ordinary RoPE, which the architecture %s does not have", p.positions, name);
    }

    return "";
}

static std::string check_context(
        const llama_model & model, const llama_context_params & cparams, const lil_sparse_params & p) {
    if (cparams.embeddings) {
        return "embeddings = true: embeddings need every token's attention; create a context without sparse "
               "attention for them";
    }
    if (cparams.attention_type == LLAMA_ATTENTION_TYPE_NON_CAUSAL || !model.hparams.causal_attn) {
        return "sparse attention needs causal attention";
    }
    if (cparams.ctx_type != LLAMA_CONTEXT_TYPE_DEFAULT) {
        return "sparse attention needs an ordinary context, not a draft head's";
    }
    if (cparams.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
        return "flash_attn_type = disabled: sparse attention needs FlashAttention; use auto or enabled";
    }

    const uint32_t n_seq_max = std::max(1u, cparams.n_seq_max);

    if (lil_find_method(p.method)->evicts && n_seq_max > 1 && cparams.kv_unified) {
        return format(
                "n_seq_max = %u with kv_unified = true: every sequence has a budget and slots of its own; use "
                "kv_unified = false",
                n_seq_max);
    }

    // as llama_context computes them
    const uint32_t n_ctx    = cparams.n_ctx == 0 ? model.hparams.n_ctx_train : cparams.n_ctx;
    const uint32_t n_batch  = std::min(n_ctx, cparams.n_batch);
    const uint32_t n_ubatch = std::min(n_batch, cparams.n_ubatch == 0 ? cparams.n_batch : cparams.n_ubatch);
    const uint64_t n_ctx_seq = GGML_PAD(n_ctx/n_seq_max, 256);

    if (lil_find_method(p.method)->evicts && p.capacity != 0 && GGML_PAD((uint64_t) p.capacity, 256) < n_ctx_seq &&
            p.capacity < (uint64_t) p.budget + n_ubatch) {
        return format("capacity = %u is too small: at least budget + n_ubatch = %u + %u = %llu (or n_ctx)", p.capacity,
                p.budget, n_ubatch, (unsigned long long) p.budget + n_ubatch);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && ggml_is_quantized(cparams.type_k)) {
        return format(
                "positions = 2 (clipped) turns keys, which a cache of type %s does not allow: use f16, bf16 or f32",
                ggml_type_name(cparams.type_k));
    }
    if (n_ctx_seq > (1u << 24)) {
        return format(
                "n_ctx = %llu: at most %u positions with sparse attention", (unsigned long long) n_ctx_seq, 1u << 24);
    }

    return "";
}

// without anything of ours
static llama_context * init_plain(llama_model * model, const llama_context_params & cparams) {
    lil_set_last_error("%s", "");

    llama_context * ctx = llama_init_from_model(model, cparams);
    if (!ctx) {
        lil_set_last_error("llama_init_from_model() failed: its log says why");
    }

    return ctx;
}

llama_context * lil_init_from_model(llama_model * model, llama_context_params cparams, lil_sparse_params sparse) {
    lil_set_last_error("%s", "");

    if (!model) {
        lil_set_last_error("model is NULL");
        return nullptr;
    }

    const llama_context_params cparams_plain = cparams;

    bool v_trans = false;

    if (sparse.method == LIL_SPARSE_NONE && sparse.fused_dense != LIL_FUSED_DENSE_OFF) {
        sparse.method = LIL_SPARSE_DENSE;

        if (sparse.flash_attn_free && cparams.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
            cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
            v_trans = !ggml_is_quantized(cparams.type_v); // such a cache has no other form
        }
    }

    const bool optional = is_optional(sparse);

    if (sparse.method != LIL_SPARSE_NONE) {
        std::string err = lil_check_params(sparse);
        if (err.empty()) {
            err = check_model(*model, sparse);
        }
        if (err.empty()) {
            err = check_context(*model, cparams, sparse);
        }
        if (!err.empty()) {
            if (optional) {
                return init_plain(model, cparams_plain);
            }
            lil_set_last_error("%s", err.c_str());
            return nullptr;
        }

        cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        if (lil_find_method(sparse.method)->evicts) {
            cparams.kv_unified  = false; // of one sequence: the same, but no other sequence may share its cells
        }
        pending         = &sparse;
        pending_v_trans = v_trans;
    }

    llama_context * ctx = llama_init_from_model(model, cparams);

    pending         = nullptr;
    pending_v_trans = false;

    if (optional) {
        auto * kv = ctx ? get_sparse(llama_get_memory(ctx)) : nullptr;

        // llama.cpp's own cache was taken, or the attention has what the op does not know
        if (!kv || !kv->is_built()) {
            llama_free(ctx);

            return init_plain(model, cparams_plain);
        }
    }

    if (!ctx) {
        if (*lil_last_error() == '\0') {
            lil_set_last_error("llama_init_from_model() failed: its log says why");
        }
        return nullptr;
    }

    if (sparse.method != LIL_SPARSE_NONE) {
        auto * kv = get_sparse(llama_get_memory(ctx));

        // a layer that went past the hooks would silently run dense
        if (!kv || !kv->is_built()) {
            lil_set_last_error(
                    "the architecture %s is not covered: it does not build its attention through the ordinary KV cache",
                    llm_arch_name(model->arch));
            llama_free(ctx);
            return nullptr;
        }

        kv->set_context(ctx);
    }

    return ctx;
}

bool lil_sparse_get_info(const llama_context * ctx, lil_sparse_info * info) {
    const auto * kv = ctx && info ? get_sparse(llama_get_memory(ctx)) : nullptr;
    if (!kv) {
        lil_set_last_error("the context has no sparse attention");
        return false;
    }

    kv->get_info(*info);

    return true;
}

const char * lil_sparse_get_warning(const llama_context * ctx) {
    const auto * kv = ctx ? get_sparse(llama_get_memory(ctx)) : nullptr;

    return kv ? kv->get_warning() : nullptr;
}

void lil_set_prompt(llama_context * ctx, bool prompt) {
    if (auto * kv = ctx ? get_sparse(llama_get_memory(ctx)) : nullptr) {
        kv->set_prompt(prompt);
    }
}

bool lil_memory_get_info(const llama_context * ctx, lil_memory_info * info) {
    auto * memory = ctx && info ? llama_get_memory(ctx) : nullptr;
    if (!memory) {
        lil_set_last_error("the context has no KV cache");
        return false;
    }

    *info = lil_get_memory_info(memory);

    return true;
}

int32_t lil_sparse_get_slots(llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * pos,
        float * score, int32_t n) {
    const auto * kv = ctx ? get_sparse(llama_get_memory(ctx)) : nullptr;
    if (!kv) {
        lil_set_last_error("the context has no sparse attention");
        return -1;
    }

    if (seq_id < 0 || seq_id >= (llama_seq_id) llama_n_seq_max(ctx)) {
        lil_set_last_error("seq_id = %d: 0 to %u", seq_id, llama_n_seq_max(ctx) - 1);
        return -1;
    }

    const auto ids = get_kv(llama_get_memory(ctx))->get_layer_ids();
    if (std::find(ids.begin(), ids.end(), (uint32_t) il) == ids.end()) {
        lil_set_last_error("il = %d is no layer that the method acts on", il);
        return -1;
    }

    const int32_t n_head_kv = llama_get_model(ctx)->hparams.n_head_kv(il);
    if (i_head_kv < 0 || i_head_kv >= n_head_kv) {
        lil_set_last_error("i_head_kv = %d: 0 to %d", i_head_kv, n_head_kv - 1);
        return -1;
    }

    if (n < 0 || (n > 0 && !pos)) {
        lil_set_last_error("n = %d: the size of pos, 0 or more", n);
        return -1;
    }

    return kv->get_slots(seq_id, il, i_head_kv, pos, score, n);
}

int32_t lil_probe_get(llama_context * ctx, lil_sparse_method method, float * mass, int32_t n) {
    const auto * probe = ctx ? dynamic_cast<const lil_probe *>(get_sparse(llama_get_memory(ctx))) : nullptr;
    if (!probe) {
        lil_set_last_error("the context is no probe: create it with method LIL_SPARSE_PROBE");
        return -1;
    }

    if (method != LIL_SPARSE_TIDAL && method != LIL_SPARSE_LESSISMORE) {
        lil_set_last_error(
                "method = %d: %d (TidalDecode) or %d (LessIsMore)", method, LIL_SPARSE_TIDAL, LIL_SPARSE_LESSISMORE);
        return -1;
    }

    const int32_t res = mass ? probe->get(method, mass, n) : -1;
    if (res < 0) {
        lil_set_last_error("n = %d: mass needs room for L*L numbers", n);
    }

    return res;
}
