#include "lil-ops.h"

#include "ggml-backend.h"

typedef const lil_cpu_ops * (*lil_ops_cpu_t)(void);

const lil_cpu_ops * lil_get_cpu_ops(void) {
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!dev) {
        return nullptr;
    }

    const auto get = (lil_ops_cpu_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "lil_ops");

    return get ? get() : nullptr;
}
