#include "lil-kv-buffer.h"

#include "lil-os-memory.h"

#include "ggml-alloc.h"
#include "ggml-backend-impl.h"

#include "llama-impl.h"

#include <cstring>
#include <mutex>
#include <set>

// Of all buffers that live, for the warning: each counts with what it may still take.
static std::mutex                      live_mutex;
static std::set<ggml_backend_buffer_t> live;

static void warn_if_too_large(ggml_backend_buffer_t buffer) {
    const uint64_t available = lil_os_available();

    std::lock_guard<std::mutex> lock(live_mutex);

    uint64_t others = 0;
    for (auto * other : live) {
        others += other->size - lil_os_resident(other->context, other->size);
    }

    if (available != UINT64_MAX && buffer->size + others > available) {
        LLAMA_LOG_WARN(
                "%s: a KV cache of %.0f MiB is made, and %.0f MiB of memory are left, of which other caches may "
                "take %.0f: "
                "it does not fit once it is full, and the lack will show then. A smaller n_ctx would, a quantised "
                "cache (type_k, "
                "type_v), or an evicting method with a capacity\n",
                __func__, buffer->size / 1024.0 / 1024.0, available / 1024.0 / 1024.0, others / 1024.0 / 1024.0);
    }

    live.insert(buffer);
}

static void * get_base(ggml_backend_buffer_t buffer) {
    return buffer->context;
}

static void free_buffer(ggml_backend_buffer_t buffer) {
    {
        std::lock_guard<std::mutex> lock(live_mutex);
        live.erase(buffer);
    }

    lil_os_unmap(buffer->context, buffer->size);
}

static void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * t, uint8_t value, size_t offset, size_t size) {
    GGML_UNUSED(buffer);
    memset((char *) t->data + offset, value, size);
}

static void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    GGML_UNUSED(buffer);
    memcpy((char *) t->data + offset, data, size);
}

static void get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * t, void * data, size_t offset, size_t size) {
    GGML_UNUSED(buffer);
    memcpy(data, (const char *) t->data + offset, size);
}

static bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * src, ggml_tensor * dst) {
    GGML_UNUSED(buffer);
    if (!ggml_backend_buffer_is_host(src->buffer)) {
        return false;
    }
    memcpy(dst->data, src->data, ggml_nbytes(src));
    return true;
}

static void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    if (value != 0 || !lil_os_discard(buffer->context, lil_os_pad(buffer->size))) {
        memset(buffer->context, value, buffer->size);
    }
}

static const ggml_backend_buffer_i kv_buffer_i = {
    /* .free_buffer   = */ free_buffer,
    /* .get_base      = */ get_base,
    /* .init_tensor   = */ NULL,
    /* .memset_tensor = */ memset_tensor,
    /* .set_tensor    = */ set_tensor,
    /* .get_tensor    = */ get_tensor,
    /* .set_tensor_2d = */ NULL,
    /* .get_tensor_2d = */ NULL,
    /* .cpy_tensor    = */ cpy_tensor,
    /* .clear         = */ clear,
    /* .reset         = */ NULL,
};

static ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    GGML_UNUSED(buft);

    void * data = lil_os_map(size);
    if (!data) {
        LLAMA_LOG_ERROR("%s: failed to allocate a KV cache of %.0f MiB\n", __func__, size / 1024.0 / 1024.0);
        return nullptr;
    }

    auto * buffer = ggml_backend_buffer_init(ggml_backend_cpu_buffer_type(), kv_buffer_i, data, size);
    warn_if_too_large(buffer);

    return buffer;
}

ggml_backend_buffer_t lil_alloc_kv_buffer(ggml_context * ctx, ggml_backend_buffer_type_t buft) {
    if (buft != ggml_backend_cpu_buffer_type()) {
        return ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft);
    }

    // the CPU's type but for the allocation
    ggml_backend_buffer_type mapped = *buft;
    mapped.iface.alloc_buffer       = alloc_buffer;

    return ggml_backend_alloc_ctx_tensors_from_buft(ctx, &mapped);
}

bool lil_is_kv_buffer(ggml_backend_buffer_t buffer) {
    return buffer && buffer->iface.free_buffer == free_buffer;
}

void lil_discard(const ggml_tensor * t, size_t offset, size_t n) {
    GGML_ASSERT(lil_is_kv_buffer(t->buffer) && offset + n <= ggml_nbytes(t));

    lil_os_discard((char *) t->data + offset, n);
}

size_t lil_get_resident(ggml_backend_buffer_t buffer) {
    return lil_is_kv_buffer(buffer) ? lil_os_resident(buffer->context, buffer->size)
                                    : ggml_backend_buffer_get_size(buffer);
}
