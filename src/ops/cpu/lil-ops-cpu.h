#pragma once

#include "lil-ops.h"

// the table that the CPU backend hands out under the name "lil_ops"; compiled once per CPU variant
#ifdef __cplusplus
extern "C"
#endif
const struct lil_ops * lil_ops_cpu(void);
