#pragma once

#include "ggml-backend.h"
#include "ggml.h"

// Portable form: the keys of a cache as the left side of a product with queries.
//   k [n_embd_head, n_kv, n_head_kv, ...]  a permuted view of the cache
// F32 goes through F16, as FlashAttention reads it. Quantised rows that lie apart have no product on every GPU
// (Vulkan): they are unpacked there; the CPU's product reads them as they are.
static inline ggml_tensor * lil_build_keys(ggml_context * ctx, ggml_tensor * k) {
    if (k->type == GGML_TYPE_F32) {
        return ggml_cast(ctx, k, GGML_TYPE_F16);
    }
    if (ggml_is_quantized(k->type) && k->view_src && !ggml_backend_buffer_is_host(k->view_src->buffer)) {
        return ggml_cast(ctx, k, GGML_TYPE_F32);
    }

    return k;
}
