#include "lil-init.h"
#include "lil-methods.h"
#include "lil-sparse.h"

#include "lil-error.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <string>

static thread_local const lil_init * current = nullptr;

const lil_init * lil_get_init() {
    return current;
}

static std::string check_model(const llama_model & model, const lil_sparse_params & p) {
    const auto & hparams = model.hparams;

    const char * name = llm_arch_name(model.arch);

    if (hparams.vocab_only) {
        return "the model was loaded with vocab_only = true: it has no layers";
    }
    if (llm_arch_is_recurrent(model.arch)) {
        return format("the architecture %s is not covered: it is recurrent, without attention", name);
    }
    if (llama_model_has_encoder(&model)) {
        return format("the architecture %s is not covered: it has an encoder", name);
    }
    if (hparams.indexer_top_k > 0) {
        return format("the architecture %s is not covered: its attention chooses tokens by a trained indexer", name);
    }
    if (hparams.router_layer >= 0) {
        return format("the architecture %s is not covered: a layer of its own looks over the text for the tokens that "
                      "turn adapters on",
                name);
    }
    if (hparams.use_alibi) {
        return format("the architecture %s is not covered: its attention depends on positions through ALiBi", name);
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
        return format("n_seq_max = %u with kv_unified = true: every sequence has a budget and slots of its own; use "
                      "kv_unified = false",
                n_seq_max);
    }

    // as llama_context computes them
    const uint32_t n_ctx     = cparams.n_ctx == 0 ? model.hparams.n_ctx_train : cparams.n_ctx;
    const uint32_t n_batch   = std::min(n_ctx, cparams.n_batch);
    const uint32_t n_ubatch  = std::min(n_batch, cparams.n_ubatch == 0 ? cparams.n_batch : cparams.n_ubatch);
    const uint64_t n_ctx_seq = GGML_PAD(n_ctx / n_seq_max, 256);

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
            v_trans                 = !ggml_is_quantized(cparams.type_v); // such a cache has no other form
        }
    }

    const bool optional = lil_init::is_optional(sparse);

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
            cparams.kv_unified = false; // of one sequence: the same, but no other sequence may share its cells
        }
    }

    const lil_init asked = { &sparse, v_trans };

    current             = sparse.method != LIL_SPARSE_NONE ? &asked : nullptr;
    llama_context * ctx = llama_init_from_model(model, cparams);
    current             = nullptr;

    if (optional) {
        auto * kv = ctx ? lil_get_sparse(llama_get_memory(ctx)) : nullptr;

        // llama.cpp's own cache was taken, or the attention has what the op does not know
        if (!kv || !kv->is_built() || !ctx->get_cparams().flash_attn) {
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
        // llama.cpp turns it off for some architectures; every step would be dense
        if (!ctx->get_cparams().flash_attn) {
            lil_set_last_error("the architecture %s is not covered: llama.cpp runs it without FlashAttention",
                    llm_arch_name(model->arch));
            llama_free(ctx);
            return nullptr;
        }

        auto * kv = lil_get_sparse(llama_get_memory(ctx));

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
