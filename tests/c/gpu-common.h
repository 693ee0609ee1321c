#pragma once

// What the tests on GPU devices share. Without a device they are skipped, exit status 77; with LIL_REQUIRE_GPU set in
// the environment they fail instead. GGML_VK_VISIBLE_DEVICES=0 makes ggml's Vulkan backend take a device that is no
// GPU, as Mesa's lavapipe.

#include "sparse-common.h"

#include "ggml-backend.h"

#if defined(LIL_EMU_CUDA) || defined(LIL_EMU_METAL)
#include "emu-gpu.h" // an emulated device, beside those of the libraries
#endif

static const int STATUS_SKIP = 77;

static bool is_lavapipe = false;

// The lavapipe of Mesa 22.3 (Debian 12) reads buffers after they were destroyed: programs that replace a buffer by a
// larger one crash now and then. With it, buffers are not destroyed here; their memory is freed all the same.
#if defined(__linux__)
#include <dlfcn.h>

typedef void (*vk_function)(void);

static vk_function vk_destroy_buffer = nullptr;

static void keep_buffer(void * device, void * buffer, const void * allocator) {
    if (!is_lavapipe) {
        ((void (*)(void *, void *, const void *)) vk_destroy_buffer)(device, buffer, allocator);
    }
}

static vk_function get_proc(vk_function (*next)(void *, const char *), void * handle, const char * name) {
    vk_function f = next ? next(handle, name) : nullptr;

    if (f && strcmp(name, "vkDestroyBuffer") == 0) {
        vk_destroy_buffer = f;
        return (vk_function) keep_buffer;
    }

    return f;
}

extern "C" {
vk_function vkGetDeviceProcAddr(void * device, const char * name);
vk_function vkGetInstanceProcAddr(void * instance, const char * name);

vk_function vkGetDeviceProcAddr(void * device, const char * name) {
    static const auto next = (vk_function (*)(void *, const char *)) dlsym(RTLD_NEXT, "vkGetDeviceProcAddr");

    return get_proc(next, device, name);
}

vk_function vkGetInstanceProcAddr(void * instance, const char * name) {
    static const auto next = (vk_function (*)(void *, const char *)) dlsym(RTLD_NEXT, "vkGetInstanceProcAddr");

    if (strcmp(name, "vkGetDeviceProcAddr") == 0) {
        return (vk_function) vkGetDeviceProcAddr;
    }

    return get_proc(next, instance, name);
}
}
#endif

struct method {
    const char * name;
    options      o;
};

// form: LIL_FORM_PORTABLE or LIL_FORM_FUSED
static inline std::vector<method> all_methods(uint32_t budget, lil_form form = LIL_FORM_PORTABLE) {
    std::vector<method> res;

    const auto add = [&](const char * name, lil_sparse_method method) -> lil_sparse_params & {
        res.push_back({ name, make_options(method, budget) });
        res.back().o.n_ubatch    = 64;
        res.back().o.n_threads   = 2;
        res.back().o.sparse.form = form;
        return res.back().o.sparse;
    };

    add("full", LIL_SPARSE_NONE).form = LIL_FORM_AUTO; // first: how far apart the two backends are
    add("sink", LIL_SPARSE_SINK);
    add("sink-cache-positions", LIL_SPARSE_SINK).positions = LIL_POSITIONS_CACHE;
    add("h2o", LIL_SPARSE_H2O);
    add("tova", LIL_SPARSE_TOVA);
    auto & rkv = add("rkv", LIL_SPARSE_RKV);
    rkv.buffer = 6;
    rkv.n_obs  = 5;
    add("quest", LIL_SPARSE_QUEST);
    add("quest-first-page", LIL_SPARSE_QUEST).first_page = true;
    add("infllm", LIL_SPARSE_INFLLM);
    if (form == LIL_FORM_PORTABLE) {
        add("infllm-clipped", LIL_SPARSE_INFLLM).positions = LIL_POSITIONS_CLIPPED;
    } else {
        add("h2o-window", LIL_SPARSE_H2O).prompt_scores = LIL_PROMPT_SCORES_WINDOW;
        add("raas", LIL_SPARSE_RAAS);
    }
    add("tidal", LIL_SPARSE_TIDAL);
    add("lessismore", LIL_SPARSE_LESSISMORE);

    return res;
}

static inline std::vector<ggml_backend_dev_t> find_gpus() {
    ggml_backend_load_all();
#if defined(LIL_EMU_CUDA) || defined(LIL_EMU_METAL)
    emu_gpu_register();
#endif

    std::vector<ggml_backend_dev_t> res;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const auto type = ggml_backend_dev_type(ggml_backend_dev_get(i));
        if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU) {
            res.push_back(ggml_backend_dev_get(i));
        }
    }

    return res;
}

// whether the fused form can run there
static inline bool has_ops(ggml_backend_dev_t gpu) {
    return ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(gpu), "lil_ops") != nullptr;
}

// the model on the CPU alone, see load_model()
static inline bool load_on_cpu(const char * path) {
    ggml_backend_dev_t none[] = { nullptr };

    llama_model_params mparams = llama_model_default_params();
    mparams.devices            = none;
    mparams.n_gpu_layers       = 0;

    return load_model(path, mparams);
}

// the same on a device; n_layers: how many there, -1: all
static inline llama_model * load_on_gpu(const char * path, ggml_backend_dev_t gpu, int32_t n_layers) {
    ggml_backend_dev_t devs[] = { gpu, nullptr };

    llama_model_params mparams = llama_model_default_params();
    mparams.devices            = devs;
    mparams.n_gpu_layers       = n_layers;

    llama_model * res = llama_model_load_from_file(path, mparams);
    CHECK(res);
    return res;
}

// says which one it is
static inline void begin_gpu(ggml_backend_dev_t gpu) {
    printf("%s: %s\n", ggml_backend_dev_name(gpu), ggml_backend_dev_description(gpu));

    is_lavapipe = strstr(ggml_backend_dev_description(gpu), "llvmpipe") != nullptr;
}
