#include "lil-layer-ops.h"

#include "lil-sparse.h"

#include "llama-impl.h"

#include <algorithm>

static const char * get_op_name(ggml_custom_op_t lil_ops::* op) {
#define LIL_OP_NAME(x) \
    if (op == &lil_ops::x) { \
        return #x; \
    }
    LIL_OPS(LIL_OP_NAME)
#undef LIL_OP_NAME

    return "?";
}

const char * lil_get_node_name(ggml_backend_dev_t dev, const ggml_tensor * node) {
    const lil_ops * ops = node->op == GGML_OP_CUSTOM ? lil_get_ops(dev) : nullptr;
    if (!ops) {
        return ggml_op_desc(node);
    }

    const ggml_custom_op_t fun = lil_get_node_params(node).fun;

#define LIL_OP_NAME(x) \
    if (ops->x == fun) { \
        return #x; \
    }
    LIL_OPS(LIL_OP_NAME)
#undef LIL_OP_NAME

    return ggml_op_desc(node);
}

void lil_layer_ops::add(const ggml_tensor * k, const ggml_tensor * v, int il, int64_t n_head, int64_t n_head_kv,
        bool sinks, bool shared) {
    ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(k->buffer);

    // the CPU's own buffer type names no device
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    if (!dev && ggml_backend_buft_is_host(buft)) {
        dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    }

    if (layers.empty() || layers.back().dev != dev) {
        devices += (layers.empty() ? "" : "+") + std::string(dev ? ggml_backend_dev_name(dev) : "?");
    }

    layers.push_back({ dev, lil_get_ops(dev), il,
            { k->type, v->type, k->ne[0] / n_head_kv, v->ne[0] / n_head_kv, n_head, n_head_kv, sinks, shared } });
}

std::string lil_layer_ops::find_lack(const lil_needs & needs) const {
    for (const auto & layer : layers) {
        const char * name = layer.dev ? ggml_backend_dev_name(layer.dev) : "of the KV cache";

        if (!layer.ops) {
            return format("the backend %s, where layer %d is, has no fused ops", name, layer.il);
        }

        for (const auto op : needs) {
            if (layer.shape.shared && !layer.ops->has_adds &&
                    (op == &lil_ops::score_step || op == &lil_ops::score_add)) {
                return format("the op %s of the backend %s, where layer %d is, knows no layers that share keys",
                        get_op_name(op), name, layer.il);
            }
            if (!(layer.ops->*op)) {
                return format("the backend %s, where layer %d is, has no op %s", name, layer.il, get_op_name(op));
            }
        }

        const char * lack = layer.ops->check && !needs.empty() ? layer.ops->check(&layer.shape) : nullptr;
        if (lack) {
            return format("the ops of the backend %s cannot compute layer %d: %s", name, layer.il, lack);
        }
    }

    return "";
}

bool lil_layer_ops::choose(const lil_sparse_params & params, const lil_needs & needs) {
    reason = params.form == LIL_FORM_PORTABLE ? "form is LIL_FORM_PORTABLE" : find_lack(needs);

    if (params.form == LIL_FORM_FUSED && !reason.empty()) {
        lil_throw("form = LIL_FORM_FUSED: %s. Use LIL_FORM_AUTO or LIL_FORM_PORTABLE", reason.c_str());
    }

    return reason.empty();
}

bool lil_layer_ops::choose_dense(const lil_sparse_params & params) const {
    if (params.fused_dense == LIL_FUSED_DENSE_OFF ||
            (params.fused_dense == LIL_FUSED_DENSE_AUTO && params.form == LIL_FORM_PORTABLE)) {
        return false;
    }

    const std::string lack = find_lack({ &lil_ops::attn, &lil_ops::attn_join });

    if (params.fused_dense == LIL_FUSED_DENSE_ON) {
        if (!lack.empty()) {
            lil_throw("fused_dense = 1 (on) needs the fused op, and %s", lack.c_str());
        }
        return true;
    }

    return lack.empty() && on_cpu() && std::all_of(layers.begin(), layers.end(), [](const layer & l) {
        return l.ops->attn_wins && l.ops->attn_wins(&l.shape);
    });
}

bool lil_layer_ops::on_cpu() const {
    for (const auto & layer : layers) {
        if (!layer.dev || ggml_backend_dev_type(layer.dev) != GGML_BACKEND_DEVICE_TYPE_CPU) {
            return false;
        }
    }

    return true;
}
