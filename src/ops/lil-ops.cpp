#include "lil-ops.h"

#include <cstddef>

// the list has every op that the table has, or a backend would lack one in silence
#define LIL_OP_COUNT(op) +1
static_assert(offsetof(lil_ops, evict_slots) + (0 LIL_OPS(LIL_OP_COUNT)) * sizeof(ggml_custom_op_t) == sizeof(lil_ops),
        "an op of struct lil_ops is not in LIL_OPS");
#undef LIL_OP_COUNT

const lil_ops * lil_get_ops(ggml_backend_dev_t dev) {
    ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : nullptr;
    if (!reg) {
        return nullptr;
    }

    const auto get = (lil_get_ops_t) ggml_backend_reg_get_proc_address(reg, "lil_ops");

    return get ? get() : nullptr;
}
