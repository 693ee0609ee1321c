#pragma once

// A GPU for tests, where there is none: a ggml backend whose device is of type GPU, with memory of its own that nothing
// else can read. Our ops go through the dispatcher of CUDA (src/ops/cuda/lil-ops-cuda.cu) to CUDA's kernels, which run
// on the CPU in lock step (emu-cuda.h), or with LIL_EMU_METAL through Metal's (emu-metal-device.h); ggml's own ops are
// computed by the CPU backend, in that memory.
//
// So everything is as on a GPU, from the choice of a form to the last kernel's arguments, but for ggml-cuda, or
// ggml-metal, itself. Memory is protected while the backend does not compute or copy: whoever takes a device's pointer
// for the host's crashes.
//
//   emu_gpu_register()   once, before a model is loaded that is to use it
//   emu_gpu              what happened so far
//
// Compiled twice, as the libraries emu-gpu-cuda and emu-gpu-metal. Not for Windows.

#include "ggml-backend.h"
#include "lil-ops.h"

#include <map>
#include <string>

#define EMU_GPU_NAME "EMU0"

struct emu_gpu_state {
    size_t n_get = 0; // bytes copied to the host
    size_t n_set = 0; // bytes copied from it

    std::map<std::string, size_t> n_ops; // nodes of ours computed, by their op
    // kernels: ours, and one for each of ggml's nodes but FlashAttention, whose parts a second one joins
    size_t n_launches = 0;

    size_t n_graphs   = 0; // computed
    size_t n_replayed = 0; // of them as CUDA graphs, if this were ggml-cuda

    lil_ops     ops;      // what the device hands out: a test may take ops away
    std::string refused;  // an op of ours whose nodes the device does not take
    int         n_sm = 3; // CUDA: multiprocessors; few, so that lists have few parts
};

extern emu_gpu_state emu_gpu;

void emu_gpu_register();

ggml_backend_dev_t         emu_gpu_dev();
ggml_backend_buffer_type_t emu_gpu_buft();

// of a tensor's memory; null: it has none
ggml_backend_buffer_type_t emu_gpu_get_buft(const ggml_tensor * t);

bool emu_gpu_is_view(const ggml_tensor * t);
