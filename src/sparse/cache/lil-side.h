#pragma once

#include "ggml-cpp.h"

#include <map>
#include <utility>
#include <vector>

// The tensors that a cache keeps beside K and V, each on the device of its layer.
class lil_side_tensors {
public:
    // a tensor beside k, which is layer il's; it has no memory before alloc()
    ggml_tensor * add(const ggml_tensor * k, int il, const char * name, ggml_type type, int64_t ne0, int64_t ne1,
            int64_t ne2, int64_t ne3 = 1);

    // gives all of them memory, zeroed, which `to` owns; a model of a trial, without any (llama_hparams::no_alloc), a
    // buffer of no size, as llama_kv_cache does. Throws where there is not enough.
    void alloc(std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> & to, bool no_alloc);

private:
    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctxs;
};
