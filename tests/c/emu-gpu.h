#pragma once

// A GPU for tests, where there is none: a ggml backend whose device is of type GPU, with memory of its own that nothing else can
// read. Our ops go through the dispatcher of CUDA (src/ops/cuda/lil-ops-cuda.cu) to CUDA's kernels, which run on the CPU in lock
// step (emu-cuda.h), or with LIL_EMU_METAL through Metal's (emu-metal-device.h); ggml's own ops are computed by the CPU backend,
// in that memory.
//
// So everything is as on a GPU, from the choice of a form to the last kernel's arguments, but for ggml-cuda, or ggml-metal,
// itself. Memory is protected while the backend does not compute or copy: whoever takes a device's pointer for the host's crashes.
//
//   emu_gpu_register()   once, before a model is loaded that is to use it
//   emu_gpu              what happened so far
//
// Needs ggml-backend-impl.h of llama.cpp's sources. Not for Windows.

#if defined(LIL_EMU_METAL)
#include "emu-metal-device.h"
#include "metal/lil-ops-metal.h"
#else
#define LIL_EMU_CUDA
#include "emu-cuda.h"

#include "../../src/ops/cuda/attn-join.cu"
#include "../../src/ops/cuda/attn.cu"
#include "../../src/ops/cuda/block-repr.cu"
#include "../../src/ops/cuda/block-scores.cu"
#include "../../src/ops/cuda/block-select.cu"
#include "../../src/ops/cuda/h2o-evict.cu"
#include "../../src/ops/cuda/h2o-score-prompt.cu"
#include "../../src/ops/cuda/h2o-score.cu"
#include "../../src/ops/cuda/infllm-score-prompt.cu"
#include "../../src/ops/cuda/infllm-score.cu"
#include "../../src/ops/cuda/lessismore-select.cu"
#include "../../src/ops/cuda/lil-ops-cuda.cu"
#include "../../src/ops/cuda/page-bounds.cu"
#include "../../src/ops/cuda/page-scores.cu"
#include "../../src/ops/cuda/page-select.cu"
#include "../../src/ops/cuda/raas.cu"
#include "../../src/ops/cuda/rkv.cu"
#include "../../src/ops/cuda/tidal-select.cu"
#endif

#include "ggml-backend-impl.h"

#include <map>
#include <string>
#include <vector>

#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

#define EMU_GPU_NAME "EMU0"
#define EMU_GPU_N_SM 3 // multiprocessors: few, so that lists have few parts

//
// the dispatcher
//

#if defined(LIL_EMU_METAL)
inline const lil_ops * emu_gpu_ops() { return lil_ops_metal(); }

inline bool emu_gpu_supports(const ggml_tensor * node) { return lil_metal_supports(emu_metal_device(), node); }

inline void emu_gpu_run(ggml_tensor * node) { lil_metal_encode(emu_metal_device(), emu_metal_encoder(), node); }

// of ours, launched so far
inline size_t emu_gpu_n_kernels() { return emu_metal_get().n_dispatched; }
#else
inline const lil_ops * emu_gpu_ops() { return lil_ops_cuda(); }

inline bool emu_gpu_supports(const ggml_tensor * node) { return lil_cuda_supports(node); }

inline void emu_gpu_run(ggml_tensor * node) {
    std::vector<uint4> scratch(lil_cuda_n_scratch(node, EMU_GPU_N_SM)/16 + 1);
    memset(scratch.data(), 0xff, scratch.size()*16);

    lil_cuda_compute(node, scratch.data(), EMU_GPU_N_SM, nullptr);
}

inline size_t emu_gpu_n_kernels() { return emu.n_launches; }
#endif

struct emu_gpu_state {
    size_t n_get = 0; // bytes copied to the host
    size_t n_set = 0; // bytes copied from it

    std::map<std::string, size_t> n_ops; // nodes of ours computed, by their op
    size_t n_launches = 0; // kernels: ours, and one for each of ggml's nodes but FlashAttention, whose parts a second one joins

    lil_ops ops = *emu_gpu_ops(); // what the device hands out: a test may take ops away
    std::string refused;          // an op of ours whose nodes the device does not take

    std::map<char *, size_t> memory; // buffers
    int n_open = 0;                  // depth of emu_gpu_access

    ggml_backend_t cpu = nullptr; // computes ggml's own ops
};

inline emu_gpu_state emu_gpu;

// lets the backend at its memory as long as it lives
struct emu_gpu_access {
    emu_gpu_access()  { if (emu_gpu.n_open++ == 0) { protect(PROT_READ | PROT_WRITE); } }
    ~emu_gpu_access() { if (--emu_gpu.n_open == 0) { protect(PROT_NONE); } }

    static void protect(int prot) {
        for (const auto & [p, size] : emu_gpu.memory) {
            GGML_ASSERT(mprotect(p, size, prot) == 0);
        }
    }
};

//
// buffers
//

inline void emu_gpu_buffer_free(ggml_backend_buffer_t buf) {
    munmap(buf->context, buf->size);
    emu_gpu.memory.erase((char *) buf->context);
}

inline void * emu_gpu_buffer_base(ggml_backend_buffer_t buf) { return buf->context; }

inline void emu_gpu_buffer_memset(ggml_backend_buffer_t, ggml_tensor * t, uint8_t value, size_t offset, size_t size) {
    emu_gpu_access access;
    memset((char *) t->data + offset, value, size);
}

inline void emu_gpu_buffer_set(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    emu_gpu_access access;
    memcpy((char *) t->data + offset, data, size);
    emu_gpu.n_set += size;
}

inline void emu_gpu_buffer_get(ggml_backend_buffer_t, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    emu_gpu_access access;
    memcpy(data, (const char *) t->data + offset, size);
    emu_gpu.n_get += size;
}

inline bool emu_gpu_buffer_copy(ggml_backend_buffer_t buf, const ggml_tensor * src, ggml_tensor * dst) {
    if (src->buffer->buft != buf->buft) {
        return false;
    }
    emu_gpu_access access;
    memcpy(dst->data, src->data, ggml_nbytes(src));
    return true;
}

inline void emu_gpu_buffer_clear(ggml_backend_buffer_t buf, uint8_t value) {
    emu_gpu_access access;
    memset(buf->context, value, buf->size);
}

inline ggml_backend_buffer_t emu_gpu_buft_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    size = GGML_PAD(size, 4096);

    void * p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return nullptr;
    }

    memset(p, 0xff, size); // NaN, for those that read what nobody wrote
    mprotect(p, size, PROT_NONE);

    emu_gpu.memory[(char *) p] = size;

    ggml_backend_buffer_i iface = {};

    iface.free_buffer   = emu_gpu_buffer_free;
    iface.get_base      = emu_gpu_buffer_base;
    iface.memset_tensor = emu_gpu_buffer_memset;
    iface.set_tensor    = emu_gpu_buffer_set;
    iface.get_tensor    = emu_gpu_buffer_get;
    iface.cpy_tensor    = emu_gpu_buffer_copy;
    iface.clear         = emu_gpu_buffer_clear;

    return ggml_backend_buffer_init(buft, iface, p, size);
}

inline ggml_backend_dev_t emu_gpu_dev();

inline ggml_backend_buffer_type_t emu_gpu_buft(ggml_backend_dev_t) {
    static ggml_backend_buffer_type buft = []() {
        ggml_backend_buffer_type res = {};

        res.iface.get_name      = [](ggml_backend_buffer_type_t) -> const char * { return EMU_GPU_NAME; };
        res.iface.alloc_buffer  = emu_gpu_buft_alloc;
        res.iface.get_alignment = [](ggml_backend_buffer_type_t) -> size_t { return 128; };
        res.device              = emu_gpu_dev();

        return res;
    }();

    return &buft;
}

//
// the backend
//

inline const char * emu_gpu_op_name(const ggml_tensor * node) {
    const auto fun = lil_get_node_params(node).fun;

#define EMU_GPU_OP_NAME(x) if (emu_gpu_ops()->x == fun) { return #x; }
    LIL_OPS(EMU_GPU_OP_NAME)
#undef EMU_GPU_OP_NAME

    return "?";
}

inline bool emu_gpu_is_view(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE || t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE;
}

// null: no memory
inline ggml_backend_buffer_type_t emu_gpu_get_buft(const ggml_tensor * t) {
    const ggml_backend_buffer_t buf = t->view_src ? t->view_src->buffer : t->buffer;
    return buf ? buf->buft : nullptr;
}

inline ggml_status emu_gpu_compute(ggml_backend_t, ggml_cgraph * graph) {
    emu_gpu_access access;

    const int n_nodes = ggml_graph_n_nodes(graph);

    // ggml's own ops up to the next of ours
    const auto compute_run = [&](int i0, int i1) {
        if (i0 == i1) {
            return GGML_STATUS_SUCCESS;
        }

        ggml_context * ctx = ggml_init({ ggml_graph_overhead_custom(i1 - i0, false) + 1024, nullptr, /*.no_alloc =*/ true });
        ggml_cgraph  * run = ggml_new_graph_custom(ctx, i1 - i0, false);

        for (int i = i0; i < i1; ++i) {
            ggml_graph_add_node(run, ggml_graph_node(graph, i));
        }

        const ggml_status res = ggml_backend_graph_compute(emu_gpu.cpu, run);
        ggml_free(ctx);
        return res;
    };

    int i0 = 0;
    for (int i = 0; i < n_nodes; ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);

        // everything that a node reads or writes is on the device; views are no work, and may stand anywhere
        for (int j = -1; j < GGML_MAX_SRC && !emu_gpu_is_view(node); ++j) {
            const ggml_tensor * t = j < 0 ? node : node->src[j];
            if (t && emu_gpu_get_buft(t) != emu_gpu_buft(nullptr)) {
                GGML_ABORT("%s %s on the device reads or writes %s %s elsewhere", ggml_op_name(node->op), node->name, ggml_op_name(t->op), t->name);
            }
        }

        if (node->op != GGML_OP_CUSTOM) {
            emu_gpu.n_launches += emu_gpu_is_view(node) || ggml_nelements(node) == 0 ? 0 : node->op == GGML_OP_FLASH_ATTN_EXT ? 2 : 1;
            continue;
        }

        const ggml_status res = compute_run(i0, i);
        if (res != GGML_STATUS_SUCCESS) {
            return res;
        }
        i0 = i + 1;

        const size_t n_kernels = emu_gpu_n_kernels();

        emu_gpu_run(node);

        emu_gpu.n_ops[emu_gpu_op_name(node)]++;
        emu_gpu.n_launches += emu_gpu_n_kernels() - n_kernels;
    }

    return compute_run(i0, n_nodes);
}

inline ggml_backend_t emu_gpu_init(ggml_backend_dev_t dev, const char *) {
    static uint8_t guid[16] = { 'l', 'i', 'l', '-', 'e', 'm', 'u', '-', 'g', 'p', 'u' };

    ggml_backend_i iface = {};

    iface.get_name      = [](ggml_backend_t) -> const char * { return EMU_GPU_NAME; };
    iface.free          = [](ggml_backend_t backend) { delete backend; };
    iface.graph_compute = emu_gpu_compute;

    return new ggml_backend { &guid, iface, dev, nullptr };
}

inline bool emu_gpu_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_CUSTOM:
            return emu_gpu_supports(op) && emu_gpu_op_name(op) != emu_gpu.refused;
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
            return false;
        default:
            return ggml_backend_dev_supports_op(ggml_backend_get_device(emu_gpu.cpu), op);
    }
}

//
// the device
//

inline void emu_gpu_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *free = *total = (size_t) 1 << 30;
}

inline void emu_gpu_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    *props = {};

    props->name        = EMU_GPU_NAME;
    props->description = "an emulated GPU";
    props->type        = GGML_BACKEND_DEVICE_TYPE_GPU;

    emu_gpu_memory(dev, &props->memory_free, &props->memory_total);
}

inline ggml_backend_reg_t emu_gpu_reg() {
    static ggml_backend_reg reg = []() {
        ggml_backend_reg res = {};

        res.api_version            = GGML_BACKEND_API_VERSION;
        res.iface.get_name         = [](ggml_backend_reg_t) -> const char * { return "EMU"; };
        res.iface.get_device_count = [](ggml_backend_reg_t) -> size_t { return 1; };
        res.iface.get_device       = [](ggml_backend_reg_t, size_t) { return emu_gpu_dev(); };
        res.iface.get_proc_address = [](ggml_backend_reg_t, const char * name) -> void * {
            const lil_get_ops_t get = []() -> const lil_ops * { return &emu_gpu.ops; };
            return strcmp(name, "lil_ops") == 0 ? (void *) get : nullptr;
        };

        return res;
    }();

    return &reg;
}

inline ggml_backend_dev_t emu_gpu_dev() {
    static ggml_backend_device dev = []() {
        ggml_backend_device res = {};

        res.iface.get_name        = [](ggml_backend_dev_t) -> const char * { return EMU_GPU_NAME; };
        res.iface.get_description = [](ggml_backend_dev_t) -> const char * { return "an emulated GPU"; };
        res.iface.get_memory      = emu_gpu_memory;
        res.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
        res.iface.get_props       = emu_gpu_props;
        res.iface.init_backend    = emu_gpu_init;
        res.iface.get_buffer_type = emu_gpu_buft;
        res.iface.supports_op     = emu_gpu_supports_op;
        res.iface.supports_buft   = [](ggml_backend_dev_t, ggml_backend_buffer_type_t buft) { return buft == emu_gpu_buft(nullptr); };
        res.reg                   = emu_gpu_reg();

        return res;
    }();

    return &dev;
}

inline void emu_gpu_register() {
#if defined(LIL_EMU_METAL)
    emu_metal_get().props.supports_gpu_family_apple7 = true;
    emu_metal_get().props.max_theadgroup_memory_size = 32768;
    emu_metal_get().n_threads = 128; // few, which is faster here
#endif

    emu_gpu.cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    GGML_ASSERT(emu_gpu.cpu);

    ggml_backend_register(emu_gpu_reg());
}
