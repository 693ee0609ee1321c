#pragma once

// What ggml-metal calls of ours, see docs/metal.md. C: it is read by Objective-C too.

#include "ggml-metal-device.h"
#include "lil-ops.h"

#ifdef __cplusplus
extern "C" {
#endif

// the table that the Metal backend hands out under the name "lil_ops"
const struct lil_ops * lil_ops_metal(void);

// Whether a GGML_OP_CUSTOM node is one of our ops and this device can run its kernel. The first one of ours has the
// library compiled, the first one of its kind the pipeline. Any thread
bool lil_metal_supports(ggml_metal_device_t dev, const struct ggml_tensor * node);

// whether a node writes to its sources as well, so that nothing may run beside it
bool lil_metal_writes_src(const struct ggml_tensor * node);

// encodes a node that is supported. Any thread, each with an encoder of its own
void lil_metal_encode(ggml_metal_device_t dev, ggml_metal_encoder_t enc, const struct ggml_tensor * node);

#ifdef __cplusplus
}
#endif
