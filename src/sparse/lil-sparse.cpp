// What lil.h says of contexts, see lil-init.cpp for how they are made.

#include "lil-sparse.h"

#include "lil-kv-memory.h"
#include "lil-probe.h"

#include "lil-error.h"

#include "llama-context.h"
#include "llama-model.h"

#include <algorithm>
#include <string>

bool lil_sparse_get_info(const llama_context * ctx, lil_sparse_info * info) {
    const auto * kv = ctx && info ? lil_get_sparse(llama_get_memory(ctx)) : nullptr;
    if (!kv) {
        lil_set_last_error("the context has no sparse attention");
        return false;
    }

    kv->get_info(*info);

    return true;
}

const char * lil_sparse_get_warning(const llama_context * ctx) {
    const auto * kv = ctx ? lil_get_sparse(llama_get_memory(ctx)) : nullptr;

    return kv ? kv->get_warning() : nullptr;
}

void lil_set_prompt(llama_context * ctx, bool prompt) {
    if (auto * kv = ctx ? lil_get_sparse(llama_get_memory(ctx)) : nullptr) {
        kv->set_prompt(prompt);
    }
}

bool lil_set_budget(llama_context * ctx, uint32_t budget) {
    auto * kv = ctx ? lil_get_sparse(llama_get_memory(ctx)) : nullptr;
    if (!kv) {
        lil_set_last_error("the context has no sparse attention, and so no budget");
        return false;
    }

    const std::string err = kv->set_budget(budget);
    if (!err.empty()) {
        lil_set_last_error("budget = %u cannot be set: %s", budget, err.c_str());
        return false;
    }

    return true;
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
    const auto * kv = ctx ? lil_get_sparse(llama_get_memory(ctx)) : nullptr;
    if (!kv) {
        lil_set_last_error("the context has no sparse attention");
        return -1;
    }

    if (seq_id < 0 || seq_id >= (llama_seq_id) llama_n_seq_max(ctx)) {
        lil_set_last_error("seq_id = %d: 0 to %u", seq_id, llama_n_seq_max(ctx) - 1);
        return -1;
    }

    if (!kv->acts_on(il)) {
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
    const auto * probe = ctx ? dynamic_cast<const lil_probe *>(lil_get_sparse(llama_get_memory(ctx))) : nullptr;
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
