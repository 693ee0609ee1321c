#pragma once

#include "llama-graph.h"

#include <memory>

// The inputs of a graph that all its layers share: made by the first layer that asks, found by the others.

// the graph's input of that class, or null
template <typename T>
T * lil_find_input(const llm_graph_context & g) {
    for (const auto & inp : g.res->inputs) {
        if (auto * res = dynamic_cast<T *>(inp.get())) {
            return res;
        }
    }

    return nullptr;
}

template <typename T>
T * lil_add_input(const llm_graph_context & g, std::unique_ptr<T> inp) {
    return static_cast<T *>(g.res->add_input(std::move(inp)));
}

// a tensor of an input
inline ggml_tensor * lil_new_input(
        ggml_context * ctx, const char * name, ggml_type type, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1) {
    ggml_tensor * t = ggml_new_tensor_3d(ctx, type, ne0, ne1, ne2);

    ggml_set_input(t);
    ggml_format_name(t, "lil_%s", name);

    return t;
}
