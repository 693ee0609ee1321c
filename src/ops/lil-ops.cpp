#include "lil-ops.h"

const lil_ops * lil_get_ops(ggml_backend_dev_t dev) {
    ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : nullptr;
    if (!reg) {
        return nullptr;
    }

    const auto get = (lil_get_ops_t) ggml_backend_reg_get_proc_address(reg, "lil_ops");

    return get ? get() : nullptr;
}
