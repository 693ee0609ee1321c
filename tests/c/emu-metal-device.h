#pragma once

// ggml-metal's device, library and encoder on the CPU, as far as src/ops/metal uses them: what is encoded runs at once,
// with the kernels' source (emu-metal.h). A kernel gets its parameters by what its text says of them, [[buffer(3)]] the
// third buffer, so that a number that is wrong there is found.
//
// The functions are those of ggml-metal-device.h, which the .m file beside it defines on a Mac.

#include "ggml-metal-device.h"

#include <cstdint>
#include <string>
#include <vector>

// what the tests set, and what they see
struct emu_metal_state {
    ggml_metal_device_props props = {};

    bool     compiles  = true; // whether the library and its pipelines do
    uint32_t n_threads = 1024; // that a pipeline allows

    std::string last; // kernel
    uint32_t    last_threads = 0;
    int         n_dispatched = 0;
    int         n_compiled   = 0; // libraries
    int         n_pipelines  = 0; // compiled

    std::vector<std::string> log; // "kernel_...", "barrier"
};

emu_metal_state & emu_metal_get();

// kernels of the text that the table of the emulation lacks, or the other way round: the first one's name
std::string emu_metal_check_kernels();

ggml_metal_device_t  emu_metal_device(int i = 0); // of 8
ggml_metal_encoder_t emu_metal_encoder();
