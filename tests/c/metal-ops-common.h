#pragma once

// What the tests of Metal's dispatcher share: its table of ops, and the CPU's.

#include "op-case.h"

#include "ggml-backend-impl.h"

#include "emu-metal-device.h"
#include "metal/lil-metal-plan.h"
#include "metal/lil-ops-metal.h"

static const lil_ops * ops; // the CPU's
static const lil_ops * metal;

// main's first lines
static void test_init(int argc, char ** argv) {
    static ggml_backend_buffer buffer = {}; // a node has one; the emulated device asks no more of it

    if (argc > 1) {
        seed = (uint32_t) strtoul(argv[1], nullptr, 10);
    }
    rng.seed(seed);

    test_buffer = &buffer;

    ggml_backend_load_all();

    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    CHECK(dev);

    const auto get_ops =
            (lil_get_ops_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "lil_ops");
    CHECK(get_ops);

    ops   = get_ops();
    metal = lil_ops_metal();
    CHECK(ops && metal);

    auto & props                     = emu_metal_get().props;
    props.supports_gpu_family_apple7 = true;
    props.max_theadgroup_memory_size = 32768;
}
