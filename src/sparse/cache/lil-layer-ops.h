#pragma once

#include "lil.h"

#include "lil-ops.h"

#include <string>
#include <vector>

// the ops that a method's fused form needs
using lil_needs = std::vector<ggml_custom_op_t lil_ops::*>;

// what a node computes: the name of ggml's op, or of ours in the device's table
const char * lil_get_node_name(ggml_backend_dev_t dev, const ggml_tensor * node);

// The backend of each layer of a cache: where its keys and values live its nodes run, with that backend's ops. Layers
// may be on different ones: what passes from layer to layer (lists of cells) looks the same on all.
class lil_layer_ops {
public:
    // the next layer
    void add(const ggml_tensor * k, const ggml_tensor * v, int il, int64_t n_head, int64_t n_head_kv, bool sinks,
            bool shared);

    // Whether the fused form runs: every layer's backend has the ops needed and can compute the layer, and params.form
    // allows it. Throws where form is FUSED and it does not.
    bool choose(const lil_sparse_params & params, const lil_needs & needs);

    // Whether decode steps that attend to everything go through the op attn. AUTO: where every layer is on a CPU whose
    // op is known to be faster. Throws where fused_dense is ON and a layer cannot have it.
    bool choose_dense(const lil_sparse_params & params) const;

    // why the fused form does not run, after choose()
    const std::string & why_not() const { return reason; }

    const lil_ops & operator[](size_t ikv) const { return *layers[ikv].ops; }

    // whether all layers are in the CPU's memory
    bool on_cpu() const;

    // the devices' names, in the layers' order, "CUDA0+CPU"
    const std::string & names() const { return devices; }

private:
    struct layer {
        ggml_backend_dev_t dev;
        const lil_ops *    ops; // null: the backend has none
        int                il;
        lil_ops_shape      shape;
    };

    std::vector<layer> layers;

    std::string devices;
    std::string reason;

    std::string find_lack(const lil_needs & needs) const;
};
