#include "lil-side.h"

#include "lil-kv-buffer.h"

#include "lil-sparse.h"

static constexpr size_t N_TENSORS_MAX = 4096; // per device

ggml_tensor * lil_side_tensors::add(const ggml_tensor * k, int il, const char * name, ggml_type type, int64_t ne0,
        int64_t ne1, int64_t ne2, int64_t ne3) {
    auto & ctx = ctxs[ggml_backend_buffer_get_type(k->buffer)];
    if (!ctx) {
        ggml_init_params params_ctx = {
            /*.mem_size   =*/N_TENSORS_MAX * ggml_tensor_overhead(),
            /*.mem_buffer =*/NULL,
            /*.no_alloc   =*/true,
        };
        ctx.reset(ggml_init(params_ctx));
    }

    ggml_tensor * t = ggml_new_tensor_4d(ctx.get(), type, ne0, ne1, ne2, ne3);
    ggml_format_name(t, "cache_%s_l%d", name, il);

    return t;
}

void lil_side_tensors::alloc(std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> & to, bool no_alloc) {
    for (auto & [buft, ctx] : ctxs) {
        ggml_backend_buffer_t buf =
                no_alloc ? ggml_backend_buft_alloc_buffer(buft, 0) : lil_alloc_kv_buffer(ctx.get(), buft);

        for (auto * t = ggml_get_first_tensor(ctx.get()); no_alloc && t; t = ggml_get_next_tensor(ctx.get(), t)) {
            t->buffer = buf;
        }
        if (!buf) {
            lil_throw("failed to allocate what the KV cache keeps beside keys and values (scores, positions, page "
                      "metadata)");
        }

        ggml_backend_buffer_clear(buf, 0);
        to.emplace_back(std::move(ctx), buf);
    }

    ctxs.clear();
}
