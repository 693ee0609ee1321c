#pragma once

#include "llama-graph.h"

struct llama_model;

// turns x [n_embd_head, n_head, n] on by so many positions I32 [n], as the model's RoPE does, but with no change of
// magnitude
ggml_tensor * lil_build_turn(const llm_graph_context & g, const llama_model & model, const llama_hparams & hparams,
        ggml_tensor * x, ggml_tensor * by, int il);
