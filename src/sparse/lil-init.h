#pragma once

#include "lil.h"

// What lil_init_from_model() asks the hooks for, while this thread constructs the context: llama_context_params has no
// room for it, and must not change.
struct lil_init {
    const lil_sparse_params * sparse;

    bool v_trans; // FlashAttention was turned on where nobody had asked for it, see lil_state_v_trans()

    // full attention where nothing may be refused: what the op does not cover is llama.cpp's
    static bool is_optional(const lil_sparse_params & p) {
        return p.method == LIL_SPARSE_DENSE && p.fused_dense == LIL_FUSED_DENSE_AUTO;
    }

    bool is_optional() const { return is_optional(*sparse); }
};

// null: no such construction is going on
const lil_init * lil_get_init();
