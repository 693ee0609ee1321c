#pragma once

// guardian-backend.h: a Guardian in a chain that samples on a backend (llama_set_sampler): what it forces is known
// before the graph runs, and goes in as two numbers per output. The functions are llama_sampler_i's of the same names.

#include "llama.h"

#include "ggml-backend.h"

bool lil_guardian_backend_init(llama_sampler * smpl, ggml_backend_buffer_type_t buft, uint32_t n_outputs_max_per_seq);
void lil_guardian_backend_apply(llama_sampler * smpl, ggml_context * ctx, ggml_cgraph * gf, llama_sampler_data * data);
void lil_guardian_backend_set_input(llama_sampler * smpl);
void lil_guardian_backend_reset(llama_sampler * smpl);
