#pragma once

#include "lil.h"

#include "lil-layer-ops.h"

#include "llama-kv-cache.h"

#include <string>

// what a cache is made of
struct lil_cache_args {
    const llama_model &   model;
    const llama_hparams & hparams;
    ggml_type             type_k;
    ggml_type             type_v;
    bool                  v_trans;
    bool                  offload;
    bool                  unified;
    uint32_t              kv_size; // n_ctx of one sequence, padded; of all, where they share a cache (unified)
    uint32_t              n_seq_max;
    uint32_t              n_pad;
    const llama_memory_i::layer_filter_cb & filter;
    const llama_memory_i::layer_reuse_cb &  reuse;  // layers that read another's keys and values; null: none does
    lil_sparse_params                       params; // evict: complete, capacity and recent are set
};

// Options of a method's family in the notation, see lil_method::options.
#define LIL_EVICT_OPTIONS  "budget capacity kept_prompts form fused_dense "
#define LIL_SELECT_OPTIONS "budget min_ctx form fused_dense "

// A method: one file each, evict/<name>.cpp or select/<name>.cpp. See docs/methods.md for how to add one.
struct lil_method {
    lil_sparse_method method;

    bool evicts; // its family: lil_kv_cache_evict, otherwise lil_kv_cache_select

    // what is wrong with the parameters, or an empty string
    std::string (*check)(const lil_sparse_params & params);

    // the ops of its fused form
    lil_needs (*needs)(const lil_sparse_params & params);

    llama_kv_cache * (*make)(const lil_cache_args & args);

    // what lil_parse_sparse() takes with it, words of the table in doors/lil-parse-sparse.cpp
    const char * options;

    // what positions may be, beside absolute
    lil_positions positions = LIL_POSITIONS_ABSOLUTE;

    // LessIsMore's ratio, and RaaS's
    float ratio = 0.25f;

    // whether its first layers attend to everything, see lil_sparse_params::dense_layers
    bool has_dense_layers = false;
};

// each is defined in the method's file
#define LIL_METHOD(NAME, name, number) extern const lil_method lil_method_##name;
LIL_SPARSE_METHODS(LIL_METHOD)
#undef LIL_METHOD

// null: there is none of that number
const lil_method * lil_find_method(lil_sparse_method method);

// what is wrong with the parameters of any method, or an empty string
std::string lil_check_params(const lil_sparse_params & params);
