#pragma once

// What ggml-cuda calls: the table that it hands out under the name "lil_ops", and the nodes made of it.

#include "lil-cuda.h"

extern "C" const lil_ops * lil_ops_cuda(void);

// whether the node (GGML_OP_CUSTOM) is one of our ops, and its tensors are such as the kernels take
bool lil_cuda_supports(const ggml_tensor * node);

// bytes on the device that the node needs for itself until it has been computed; n_sm: the device's multiprocessors
size_t lil_cuda_n_scratch(const ggml_tensor * node, int n_sm);

// Launches the node's kernels. scratch: lil_cuda_n_scratch() bytes, aligned to 16, for the same n_sm. Aborts where
// lil_cuda_supports() is false.
void lil_cuda_compute(const ggml_tensor * node, void * scratch, int n_sm, cudaStream_t stream);
