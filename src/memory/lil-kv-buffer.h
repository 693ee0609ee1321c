#pragma once

#include "ggml-backend.h"

// Memory of KV caches on the CPU: mapped afresh, so that a page takes memory where it is first written, and given back
// where a cache needs it no longer. A byte of it is zero or has been written by the cache: rows that are padding, or
// masked, are read and multiplied, and must hold numbers.
//
// Such a buffer has the CPU's own type. What asks for types (where an op may run, where a state goes) sees no
// difference.

// ggml_backend_alloc_ctx_tensors_from_buft(), with such a buffer where buft is the CPU's own. Warns in the log where
// the memory that is left does not suffice for this buffer and the others once they are full.
ggml_backend_buffer_t lil_alloc_kv_buffer(ggml_context * ctx, ggml_backend_buffer_type_t buft);

bool lil_is_kv_buffer(ggml_backend_buffer_t buffer);

// The whole pages inside [offset, offset + n) of a tensor of such a buffer go back to the system and read as zeros.
void lil_discard(const ggml_tensor * t, size_t offset, size_t n);

// bytes that take memory now; of another kind of buffer, its size
size_t lil_get_resident(ggml_backend_buffer_t buffer);
