#pragma once

#include "lil.h"

#include <string>

// what is wrong with the parameters, or an empty string
std::string lil_check_params(const lil_sparse_params & p);

// whether a method keeps everything and reads a part
bool lil_is_select(lil_sparse_method method);

// InfLLM: how a budget is spent
struct lil_infllm_shape {
    uint32_t block;  // tokens per block
    uint32_t n_block; // blocks chosen
    uint32_t window; // tokens of the window, widened by what the blocks leave over
};

// n_block is 0 where the budget is too small
lil_infllm_shape lil_get_infllm_shape(const lil_sparse_params & p);
