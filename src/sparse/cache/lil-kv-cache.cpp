#include "lil-kv-cache.h"

#include "lil-kv-buffer.h"

#include "llama-model.h"

#include <algorithm>

lil_kv_cache::lil_kv_cache(const args & a, const layout & l) :
    llama_kv_cache(a.model, a.hparams, a.type_k, a.type_v, l.v_trans, a.offload, l.unified, l.kv_size, a.n_seq_max,
            l.n_pad,
            /*.n_swa =*/0, LLAMA_SWA_TYPE_NONE, nullptr, a.filter, a.reuse, nullptr),
    params(a.params) {
    for (const auto & [il, ikv] : map_layer_ids) {
        readers.push_back({ il, (size_t) ikv });
    }
    std::sort(readers.begin(), readers.end(), [](const auto & a, const auto & b) { return a.il < b.il; });

    make_values();

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        const auto & layer = layers[ikv];

        ops.add(layer.k, values[ikv], layer.il, hparams.n_head(layer.il), hparams.n_head_kv(layer.il),
                model.layers[layer.il].attn_sinks != nullptr, is_shared(ikv));
    }

    fused = ops.choose(params, lil_find_method(params.method)->needs(params));

    select_layers.resize(layers.size());

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        auto & layer = select_layers[ikv];

        layer           = {};
        layer.n_head_kv = n_head_kv(ikv);
        layer.softcap   = softcap();
        layer.budget    = params.budget;
    }
}

void lil_kv_cache::make_values() {
    ctx_values.reset(ggml_init({ layers.size() * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/true }));

    for (const auto & layer : layers) {
        if (layer.v) {
            values.push_back(layer.v);
            continue;
        }

        ggml_tensor * k = layer.k;
        ggml_tensor * v = ggml_view_3d(
                ctx_values.get(), k, hparams.n_embd_v_gqa(layer.il), k->ne[1], k->ne[2], k->nb[1], k->nb[2], 0);

        ggml_backend_view_init(v);
        ggml_format_name(v, "cache_v_l%d (of k)", (int) layer.il);

        values.push_back(v);
    }
}

std::vector<ggml_tensor *> lil_kv_cache::get_stored(size_t ikv) const {
    std::vector<ggml_tensor *> res = { layers[ikv].k };

    if (!is_joined(ikv)) {
        res.push_back(layers[ikv].v);
    }

    return res;
}

ggml_tensor * lil_kv_cache::new_side(
        size_t ikv, const char * name, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    return side.add(layers[ikv].k, layers[ikv].il, name, type, ne0, ne1, ne2, ne3);
}

size_t lil_kv_cache::get_reader(int il) const {
    const auto it = std::find_if(readers.begin(), readers.end(), [il](const auto & r) { return r.il == il; });
    GGML_ASSERT(it != readers.end());

    return it - readers.begin();
}

ggml_tensor * lil_kv_cache::sinks(size_t ikv) const {
    return model.layers[layers[ikv].il].attn_sinks;
}

bool lil_kv_cache::has_sinks() const {
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        if (sinks(ikv)) {
            return true;
        }
    }

    return false;
}

std::vector<ggml_tensor *> lil_kv_cache::with_sinks(size_t ikv, std::vector<ggml_tensor *> srcs) const {
    if (sinks(ikv)) {
        srcs.push_back(sinks(ikv));
    }

    return srcs;
}

void lil_kv_cache::alloc_side() {
    side.alloc(ctxs_bufs, hparams.no_alloc);
}

int32_t lil_kv_cache::n_score_part(const llm_graph_context & g, size_t ikv) const {
    return fused && ops[ikv].has_parts ? std::max(1, std::max(g.cparams.n_threads, g.cparams.n_threads_batch)) : 1;
}

void lil_kv_cache::synchronize() const {
    if (lctx) {
        llama_synchronize(lctx);
    }
}

void lil_kv_cache::get_info(lil_sparse_info & info) const {
    info = {};

    info.method      = params.method;
    info.budget      = params.budget;
    info.capacity    = get_size();
    info.n_layer     = readers.size();
    info.fused       = fused;
    info.fused_dense = fused_dense;
    info.n_dense     = n_dense;
    info.n_sparse    = n_sparse;
    info.n_rows      = n_rows_read;
    info.backend     = ops.names().c_str();

    for (const auto & [_, buf] : ctxs_bufs) {
        info.kv_resident += lil_get_resident(buf.get());
    }

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (const auto * t : get_stored(ikv)) {
            info.kv_bytes += ggml_nbytes(t);
        }
        for (const auto * t : get_beside(ikv)) {
            info.kv_bytes += ggml_nbytes(t);
        }
    }
}
