// The fused ops on every device that has them, against the CPU's: device-ops.h.
//
//   test-gpu-ops [seed [test]]
//
// The devices are those of the installed libraries; without one it is skipped, exit status 77. Compiled with
// LIL_EMU_CUDA or LIL_EMU_METAL there is an emulated one (emu-gpu.h) instead. With LIL_RACES its kernels are looked at
// for races (race.h), in some of the tests, for the time it takes; with LIL_ALL in the environment in all.

#include "device-ops-attn.h"
#include "device-ops-evict.h"
#include "device-ops-infllm.h"
#include "device-ops-select.h"

#include "ggml-backend.h"

#if defined(LIL_EMU_CUDA) || defined(LIL_EMU_METAL)
#define LIL_EMU
#include "emu-gpu.h"
#endif
#if defined(LIL_EMU_METAL)
#include "emu-metal-device.h"
#include "metal/lil-metal-plan.h"
#include "metal/lil-ops-metal.h"
#endif

#if defined(LIL_EMU)
#include <csignal>
#include <unistd.h>
#endif

static const int STATUS_SKIP = 77;

static const std::vector<op_test> TESTS = {
    { "attn", test_attn_all, 1 },
    { "pages", test_pages_all, 1 },
    { "page-select", test_page_select, 300 },
    { "token-select", test_token_select, 300 },
    { "raas", test_raas, 300 },
    { "infllm", test_infllm_all, 1 },
    { "infllm-steps", test_infllm_steps, 100 },
    { "evict-slots", test_evict_slots_all, 1 },
    { "score", test_score_step_all, 1 },
    { "rkv", test_rkv_all, 1 },
};

// sizes that no model has; a device need not take them
static const std::vector<op_test> ODD_TESTS = {
    { "attn-odd", test_attn_odd, 50 },
    { "pages-odd", test_pages_odd, 50 },
    { "infllm-odd", test_infllm_odd, 30 },
};

#if defined(LIL_EMU_CUDA)
static void prepare_emulation() {
    device.begin = [] { emu_gpu.n_sm = pick({ 1, 3, 20, 132 }); };
}
#elif defined(LIL_EMU_METAL)
// pipelines allow any number of threads, where a kernel takes any; the kernel launched is the planned one
static void prepare_emulation() {
    static lil_metal_launch launch;

    device.before = [](const ggml_tensor * node) {
        launch = {};
        if (lil_metal_plan(node, launch)) {
            return; // it will be refused
        }
        emu_metal_get().n_threads = launch.all_threads || rand_bool() ? 1024 : rand_int(32, (int) launch.n_threads);
    };
    device.after = [](const ggml_tensor *) {
        auto & state = emu_metal_get();

        CHECK(state.last == launch.name && state.last_threads == std::min(launch.n_threads, state.n_threads / 32 * 32));
        state.log.clear();
    };
    device.writes_src = lil_metal_writes_src;
}
#endif

#if defined(LIL_EMU)
// which test it was that read or wrote behind a tensor
static void on_segv(int) {
    static const char text[] = "outside of its tensors: ";
    (void) !write(STDERR_FILENO, text, sizeof(text) - 1);
    (void) !write(STDERR_FILENO, test_name.data(), test_name.size());
    (void) !write(STDERR_FILENO, "\n", 1);
    _exit(1);
}
#endif

// devices with ops of their own
static std::vector<ggml_backend_dev_t> find_devices() {
    std::vector<ggml_backend_dev_t> res;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU && lil_get_ops(dev)) {
            res.push_back(dev);
        }
    }
    return res;
}

static std::vector<op_test> get_share(std::vector<op_test> tests) {
    for (auto & test : tests) {
        test.n = (test.n + device.one_in - 1) / device.one_in;
    }
    return tests;
}

int main(int argc, char ** argv) {
    ggml_backend_load_all();

#if defined(LIL_EMU)
    emu_gpu_register();
    prepare_emulation();
    signal(SIGSEGV, on_segv);
#endif

#if defined(LIL_RACES)
    device.one_in = getenv("LIL_ALL") ? 1 : 8;
#endif
    if (const char * n = getenv("LIL_ONE_IN")) { // for slow tools: compute-sanitizer
        device.one_in = std::max(1, atoi(n));
    }

    const auto devices = find_devices();
    if (devices.empty()) {
        printf("test-gpu-ops: skipped: no device of this build has ops\n");
        return getenv("LIL_REQUIRE_GPU") ? 1 : STATUS_SKIP;
    }

    ops = lil_get_ops(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    CHECK(ops);

    for (ggml_backend_dev_t dev : devices) {
        printf("%s: %s\n", ggml_backend_dev_name(dev), ggml_backend_dev_description(dev));

        device.dev = dev;
        device.ops = lil_get_ops(dev);
        device.backend.reset(ggml_backend_dev_init(dev, nullptr));
        CHECK(device.backend);
#if defined(LIL_EMU)
        device.is_emulated = true;
#else
        device.n_runs = 3; // ggml-cuda captures a graph when it comes the second time
#endif

        device.may_refuse = false;
        run_tests("test-gpu-ops", argc, argv, get_share(TESTS));
        device.may_refuse = true;
        run_tests("test-gpu-ops", argc, argv, get_share(ODD_TESTS));

        printf("test-gpu-ops: %d nodes, %d of odd sizes not taken, seed %u: ok\n", device.n_nodes, device.n_refused,
                seed);
    }

    device.backend.reset();

    return 0;
}
