#pragma once

#include "lil-ops.h"

// the table that the CPU backend hands out under the name "lil_ops"; compiled once per CPU variant
#ifdef __cplusplus
extern "C"
#endif
        const struct lil_ops * lil_ops_cpu(void);

#ifdef __cplusplus
// every op's function, lil_<op>(): each in a file of its own or of its kind
#define LIL_CPU_OP(op) void lil_##op(ggml_tensor * dst, int ith, int nth, void * userdata);
LIL_OPS(LIL_CPU_OP)
#undef LIL_CPU_OP

bool lil_attn_wins(const lil_ops_shape * shape);
#endif
