// Our library, pipelines and launches, by ggml-metal's own functions.
//
// The library is one of its own, compiled where the first of our nodes is seen: a program that has none never compiles
// it, and where it does not compile, the rest of the backend works as before.

#include "lil-ops-metal.h"

#include "lil-metal-plan.h"

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

extern const char lil_metal_source[]; // see embed.cmake

// a device's library, null: it does not compile. Kept until the process ends, as the device is
static ggml_metal_library_t get_library(ggml_metal_device_t dev) {
    static std::mutex                                          mutex;
    static std::map<ggml_metal_device_t, ggml_metal_library_t> libs;

    std::lock_guard<std::mutex> lock(mutex);

    const auto it = libs.find(dev);
    if (it != libs.end()) {
        return it->second;
    }

    ggml_metal_library_t lib = ggml_metal_library_init_from_source(dev, lil_metal_source, true);
    if (!lib) {
        GGML_LOG_ERROR("%s: lil's kernels do not compile: its ops do not run on this device\n", __func__);
    }
    return libs[dev] = lib;
}

// without pipeline: it does not compile
static ggml_metal_pipeline_with_params get_pipeline(ggml_metal_device_t dev, const lil_metal_launch & l) {
    static std::mutex                                             mutex;
    static std::set<std::pair<ggml_metal_library_t, std::string>> failed; // not tried again

    ggml_metal_library_t lib = get_library(dev);
    if (!lib) {
        return {};
    }

    char name[128];
    snprintf(name, sizeof(name), "%s_k=%d_v=%d", l.name, l.type_k, l.type_v);

    ggml_metal_pipeline_with_params res = ggml_metal_library_get_pipeline(lib, name);
    if (res.pipeline) {
        return res;
    }

    std::lock_guard<std::mutex> lock(mutex);

    if (failed.count({ lib, name })) {
        return res;
    }

    ggml_metal_cv_t cv = ggml_metal_cv_init();
    ggml_metal_cv_set_int32(cv, std::max(l.type_k, 0), LIL_METAL_FC_TYPE_K);
    ggml_metal_cv_set_int32(cv, std::max(l.type_v, 0), LIL_METAL_FC_TYPE_V);

    res = ggml_metal_library_compile_pipeline(lib, l.name, name, cv);

    ggml_metal_cv_free(cv);

    if (!res.pipeline) {
        failed.insert({ lib, name });
    }
    return res;
}

// 0: the pipeline allows fewer than the kernel needs
static uint32_t get_n_threads(ggml_metal_pipeline_with_params pipeline, const lil_metal_launch & l) {
    const uint32_t n_most = ggml_metal_pipeline_max_theads_per_threadgroup(pipeline);

    return l.all_threads ? (n_most >= l.n_threads ? l.n_threads : 0) : std::min(l.n_threads, n_most / 32 * 32);
}

bool lil_metal_supports(ggml_metal_device_t dev, const ggml_tensor * node) {
    lil_metal_launch l;
    if (lil_metal_plan(node, l)) {
        return false;
    }

    const ggml_metal_device_props * props = ggml_metal_device_get_props(dev);

    // simd-groups of 32 threads, their functions, and the threadgroup memory that plans count on
    if (!props->supports_gpu_family_apple7 || props->max_theadgroup_memory_size < LIL_METAL_MAX_SHMEM) {
        return false;
    }

    const auto pipeline = get_pipeline(dev, l);

    return pipeline.pipeline && get_n_threads(pipeline, l) > 0;
}

bool lil_metal_writes_src(const ggml_tensor * node) {
    lil_metal_launch l;

    return !lil_metal_plan(node, l) && l.writes_src;
}

void lil_metal_encode(ggml_metal_device_t dev, ggml_metal_encoder_t enc, const ggml_tensor * node) {
    lil_metal_launch l;
    if (const char * err = lil_metal_plan(node, l)) {
        GGML_ABORT("lil: node '%s': %s", node->name, err);
    }

    const auto pipeline = get_pipeline(dev, l);
    GGML_ASSERT(pipeline.pipeline);

    const uint32_t n_threads = get_n_threads(pipeline, l);
    GGML_ASSERT(n_threads > 0);

    if (l.grid[0] == 0 || l.grid[1] == 0 || l.grid[2] == 0) {
        return; // nothing to do, which Metal takes for an error
    }

    ggml_metal_encoder_set_pipeline(enc, pipeline);
    ggml_metal_encoder_set_bytes(enc, l.args, l.n_args, 0);

    for (int i = 0; i < l.n_buf; ++i) {
        const ggml_tensor * t = l.buf[i];

        ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;

        ggml_metal_encoder_set_buffer(enc, ggml_metal_buffer_get_id((ggml_metal_buffer_t) buffer->context, t), 1 + i);
    }
    if (l.n_shmem > 0) {
        ggml_metal_encoder_set_threadgroup_memory_size(enc, l.n_shmem, 0);
    }

    ggml_metal_encoder_dispatch_threadgroups(enc, l.grid[0], l.grid[1], l.grid[2], n_threads, 1, 1);
}
