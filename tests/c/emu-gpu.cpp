#include "emu-gpu.h"

#include "race.h"

#if defined(LIL_EMU_METAL)
#include "emu-metal-device.h"
#include "metal/lil-ops-metal.h"
#else
#include "emu-cuda.h"

#include "cuda/lil-cuda.h"
#include "cuda/lil-ops-cuda.h"
#endif

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include <vector>

#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

//
// the dispatcher
//

#if defined(LIL_EMU_METAL)
static const lil_ops * emu_gpu_ops() {
    return lil_ops_metal();
}

static bool emu_gpu_supports(const ggml_tensor * node) {
    return lil_metal_supports(emu_metal_device(), node);
}

static void emu_gpu_run(ggml_tensor * node) {
    lil_metal_encode(emu_metal_device(), emu_metal_encoder(), node);
}

// of ours, launched so far
static size_t emu_gpu_n_kernels() {
    return emu_metal_get().n_dispatched;
}
#else
static const lil_ops * emu_gpu_ops() {
    return lil_ops_cuda();
}

static bool emu_gpu_supports(const ggml_tensor * node) {
    return lil_cuda_supports(node);
}

static void emu_gpu_run(ggml_tensor * node) {
    std::vector<uint32_t> poison(4, UINT32_MAX);
    std::vector<uint4>    scratch((lil_cuda_n_scratch(node, emu_gpu.n_sm) + 15) / 16 + 1);
    memset(scratch.data(), 0xff, scratch.size() * 16);

    race_watch(scratch.data(), scratch.size() * 16);
    lil_cuda_compute(node, scratch.data(), emu_gpu.n_sm, nullptr);
    race_unwatch(scratch.data());

    GGML_ASSERT(memcmp(&scratch.back(), poison.data(), 16) == 0); // behind its end
}

static size_t emu_gpu_n_kernels() {
    return emu.n_launches;
}
#endif

// what ggml-cuda compares to know whether it may launch a graph's kernels as it captured them
struct emu_gpu_graph {
    std::vector<char> nodes;  // with the addresses and shapes of their sources
    std::vector<char> layers; // the constants of our nodes
};

static emu_gpu_state make_state() {
    emu_gpu_state res = {};
    res.ops           = *emu_gpu_ops();
    return res;
}

emu_gpu_state emu_gpu = make_state();

static std::map<const void *, emu_gpu_graph> graphs; // by their first node, as in ggml-cuda

static std::map<char *, size_t> memory;           // buffers
static int                      n_open = 0;       // depth of emu_gpu_access
static ggml_backend_t           cpu    = nullptr; // computes ggml's own ops

// lets the backend at its memory as long as it lives
struct emu_gpu_access {
    emu_gpu_access() {
        if (n_open++ == 0) {
            protect(PROT_READ | PROT_WRITE);
        }
    }
    ~emu_gpu_access() {
        if (--n_open == 0) {
            protect(PROT_NONE);
        }
    }

    static void protect(int prot) {
        for (const auto & [p, size] : memory) {
            GGML_ASSERT(mprotect(p, size, prot) == 0);
        }
    }
};

//
// buffers
//

static const size_t GUARD = 4096;

static void emu_gpu_buffer_free(ggml_backend_buffer_t buf) {
    munmap(buf->context, buf->size + GUARD);
    memory.erase((char *) buf->context);
    race_unwatch(buf->context);
}

static void * emu_gpu_buffer_base(ggml_backend_buffer_t buf) {
    return buf->context;
}

static void emu_gpu_buffer_memset(ggml_backend_buffer_t, ggml_tensor * t, uint8_t value, size_t offset, size_t size) {
    emu_gpu_access access;
    memset((char *) t->data + offset, value, size);
}

static void emu_gpu_buffer_set(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    emu_gpu_access access;
    memcpy((char *) t->data + offset, data, size);
    emu_gpu.n_set += size;
}

static void emu_gpu_buffer_get(ggml_backend_buffer_t, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    emu_gpu_access access;
    memcpy(data, (const char *) t->data + offset, size);
    emu_gpu.n_get += size;
}

static bool emu_gpu_buffer_copy(ggml_backend_buffer_t buf, const ggml_tensor * src, ggml_tensor * dst) {
    if (src->buffer->buft != buf->buft) {
        return false;
    }
    emu_gpu_access access;
    memcpy(dst->data, src->data, ggml_nbytes(src));
    return true;
}

static void emu_gpu_buffer_clear(ggml_backend_buffer_t buf, uint8_t value) {
    emu_gpu_access access;
    memset(buf->context, value, buf->size);
}

static ggml_backend_buffer_t emu_gpu_buft_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    size = GGML_PAD(size, 4096);

    // behind its end nobody may read
    void * p = mmap(nullptr, size + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return nullptr;
    }
    GGML_ASSERT(mprotect(p, size, PROT_READ | PROT_WRITE) == 0);

    memset(p, 0xff, size); // NaN, for those that read what nobody wrote
    mprotect(p, size, PROT_NONE);

    memory[(char *) p] = size;
    race_watch(p, size);

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

ggml_backend_buffer_type_t emu_gpu_buft() {
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

static const char * emu_gpu_op_name(const ggml_tensor * node) {
    const auto fun = lil_get_node_params(node).fun;

#define EMU_GPU_OP_NAME(x) \
    if (emu_gpu_ops()->x == fun) { \
        return #x; \
    }
    LIL_OPS(EMU_GPU_OP_NAME)
#undef EMU_GPU_OP_NAME

    return "?";
}

bool emu_gpu_is_view(const ggml_tensor * t) {
    return t->op == GGML_OP_NONE || t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE ||
            t->op == GGML_OP_TRANSPOSE;
}

// null: no memory
ggml_backend_buffer_type_t emu_gpu_get_buft(const ggml_tensor * t) {
    const ggml_backend_buffer_t buf = t->view_src ? t->view_src->buffer : t->buffer;
    return buf ? buf->buft : nullptr;
}

// Whether ggml-cuda would launch a graph as it captured it before: where nothing has changed since the last time. What
// was read on the host and handed to the kernels has to be the same then.
static bool emu_gpu_replays(const ggml_cgraph * cgraph) {
    emu_gpu_graph now;

    const auto add = [](std::vector<char> & to, const void * p, size_t n) {
        to.insert(to.end(), (const char *) p, (const char *) p + n);
    };

    for (int i = 0; i < cgraph->n_nodes; ++i) {
        const ggml_tensor * node = cgraph->nodes[i];

        add(now.nodes, node, sizeof(*node));
        for (const ggml_tensor * src : node->src) {
            if (src) {
                add(now.nodes, &src->data, sizeof(src->data));
                add(now.nodes, src->ne, sizeof(src->ne));
                add(now.nodes, src->nb, sizeof(src->nb));
            }
        }

        if (node->op == GGML_OP_CUSTOM) {
            const std::string op = emu_gpu_op_name(node);
            const bool        evicts =
                    op == "evict_slots" || op == "rkv_score" || op == "new_slots" || op.rfind("score_step", 0) == 0;

            add(now.layers, lil_get_node_params(node).userdata,
                    evicts ? sizeof(lil_evict_layer) : sizeof(lil_select_layer));
        }
    }

    emu_gpu_graph & last = graphs[cgraph->nodes[0]];

    const bool res = now.nodes == last.nodes;

    GGML_ASSERT(!res || now.layers == last.layers);
    last = now;

    return res;
}

static ggml_status emu_gpu_compute(ggml_backend_t, ggml_cgraph * graph) {
    emu_gpu_access access;

    emu_gpu.n_graphs++;
    emu_gpu.n_replayed += emu_gpu_replays(graph);

    const int n_nodes = ggml_graph_n_nodes(graph);

    // ggml's own ops up to the next of ours
    const auto compute_run = [&](int i0, int i1) {
        if (i0 == i1) {
            return GGML_STATUS_SUCCESS;
        }

        ggml_context * ctx =
                ggml_init({ ggml_graph_overhead_custom(i1 - i0, false) + 1024, nullptr, /*.no_alloc =*/true });
        ggml_cgraph * run = ggml_new_graph_custom(ctx, i1 - i0, false);

        for (int i = i0; i < i1; ++i) {
            ggml_graph_add_node(run, ggml_graph_node(graph, i));
        }

        const ggml_status res = ggml_backend_graph_compute(cpu, run);
        ggml_free(ctx);
        return res;
    };

    int i0 = 0;
    for (int i = 0; i < n_nodes; ++i) {
        ggml_tensor * node = ggml_graph_node(graph, i);

        // everything that a node reads or writes is on the device; views are no work, and may stand anywhere
        for (int j = -1; j < GGML_MAX_SRC && !emu_gpu_is_view(node); ++j) {
            const ggml_tensor * t = j < 0 ? node : node->src[j];
            if (t && emu_gpu_get_buft(t) != emu_gpu_buft()) {
                GGML_ABORT("%s %s on the device reads or writes %s %s elsewhere", ggml_op_name(node->op), node->name,
                        ggml_op_name(t->op), t->name);
            }
        }

        if (node->op != GGML_OP_CUSTOM) {
            emu_gpu.n_launches += emu_gpu_is_view(node) || ggml_nelements(node) == 0 ? 0
                    : node->op == GGML_OP_FLASH_ATTN_EXT                             ? 2
                                                                                     : 1;
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

static ggml_backend_t emu_gpu_init(ggml_backend_dev_t dev, const char *) {
    static uint8_t guid[16] = { 'l', 'i', 'l', '-', 'e', 'm', 'u', '-', 'g', 'p', 'u' };

    ggml_backend_i iface = {};

    iface.get_name      = [](ggml_backend_t) -> const char * { return EMU_GPU_NAME; };
    iface.free          = [](ggml_backend_t backend) { delete backend; };
    iface.graph_compute = emu_gpu_compute;

    return new ggml_backend{ &guid, iface, dev, nullptr };
}

static bool emu_gpu_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_CUSTOM:      return emu_gpu_supports(op) && emu_gpu_op_name(op) != emu_gpu.refused;
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3: return false;
        default:                  return ggml_backend_dev_supports_op(ggml_backend_get_device(cpu), op);
    }
}

//
// the device
//

static void emu_gpu_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *free = *total = (size_t) 1 << 30;
}

static void emu_gpu_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    *props = {};

    props->name        = EMU_GPU_NAME;
    props->description = "an emulated GPU";
    props->type        = GGML_BACKEND_DEVICE_TYPE_GPU;

    emu_gpu_memory(dev, &props->memory_free, &props->memory_total);
}

static ggml_backend_reg_t emu_gpu_reg() {
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

ggml_backend_dev_t emu_gpu_dev() {
    static ggml_backend_device dev = []() {
        ggml_backend_device res = {};

        res.iface.get_name        = [](ggml_backend_dev_t) -> const char * { return EMU_GPU_NAME; };
        res.iface.get_description = [](ggml_backend_dev_t) -> const char * { return "an emulated GPU"; };
        res.iface.get_memory      = emu_gpu_memory;
        res.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
        res.iface.get_props       = emu_gpu_props;
        res.iface.init_backend    = emu_gpu_init;
        res.iface.get_buffer_type = [](ggml_backend_dev_t) { return emu_gpu_buft(); };
        res.iface.supports_op     = emu_gpu_supports_op;
        res.iface.supports_buft   = [](ggml_backend_dev_t, ggml_backend_buffer_type_t buft) {
            return buft == emu_gpu_buft();
        };
        res.reg = emu_gpu_reg();

        return res;
    }();

    return &dev;
}

void emu_gpu_register() {
#if defined(LIL_EMU_METAL)
    emu_metal_get().props.supports_gpu_family_apple7 = true;
    emu_metal_get().props.max_theadgroup_memory_size = 32768;
    emu_metal_get().n_threads                        = 128; // few, which is faster here
#endif

    cpu = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    GGML_ASSERT(cpu);

    // it computes one node at a time, for which its usual threads do little but start and wait
    const auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu)), "ggml_backend_set_n_threads");
    set_n_threads(cpu, 1);

    ggml_backend_register(emu_gpu_reg());
}
