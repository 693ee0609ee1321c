#include "lil-kv-cache-select.h"

#include "lil-graph-input.h"

ggml_tensor * lil_select_input::add(
        ggml_context * ctx, const char * name, int64_t ne0, int64_t ne1, int64_t ne2, fill_i32 fill) {
    ggml_tensor * t = lil_new_input(ctx, name, GGML_TYPE_I32, ne0, ne1, ne2);

    inputs.push_back({ t, std::move(fill), nullptr });
    tensors[name] = t;

    return t;
}

ggml_tensor * lil_select_input::add(
        ggml_context * ctx, const char * name, int64_t ne0, int64_t ne1, int64_t ne2, fill_f32 fill) {
    ggml_tensor * t = lil_new_input(ctx, name, GGML_TYPE_F32, ne0, ne1, ne2);

    inputs.push_back({ t, nullptr, std::move(fill) });
    tensors[name] = t;

    return t;
}

void lil_select_input::set_input(const llama_ubatch * ubatch) {
    GGML_UNUSED(ubatch);

    steps = kv->cur.steps;

    std::vector<int32_t> i32;
    std::vector<float>   f32;

    for (const auto & input : inputs) {
        if (!input.t->buffer) {
            continue; // nothing reads it
        }

        const size_t n = ggml_nelements(input.t);

        if (input.i32) {
            i32.assign(n, 0);
            input.i32(i32.data());
            ggml_backend_tensor_set(input.t, i32.data(), 0, n * sizeof(int32_t));
        } else {
            f32.assign(n, 0.0f);
            input.f32(f32.data());
            ggml_backend_tensor_set(input.t, f32.data(), 0, n * sizeof(float));
        }
    }
}

bool lil_select_input::can_reuse(const llm_graph_params & graph_params) {
    GGML_UNUSED(graph_params); // the sizes that llama.cpp's own inputs check are checked there

    return key == kv->get_key(kv->cur.steps);
}

lil_select_input * lil_kv_cache_select::get_input(const llm_graph_context & g) {
    if (auto * res = lil_find_input<lil_select_input>(g)) {
        return res;
    }

    auto inp = std::make_unique<lil_select_input>(this);

    inp->steps = get_steps(g);
    inp->key   = get_key(inp->steps);

    // the lists of the graph before are gone with it
    for (auto & lists : last) {
        lists = {};
    }

    return lil_add_input(g, std::move(inp));
}

template <typename T>
ggml_tensor * lil_kv_cache_select::input(const layer_graph & lg, const char * name, int64_t ne0, int64_t ne1,
        std::function<void(T *, const lil_select_step &)> fill) const {
    const auto it = lg.inp->tensors.find(name);
    if (it != lg.inp->tensors.end()) {
        return it->second;
    }

    auto * inp = lg.inp;

    const int64_t n_steps = inp->steps.size();
    const int64_t n       = ne1 == 0 ? ne0 : ne0 * ne1;

    return inp->add(lg.ctx, name, ne0, ne1 == 0 ? n_steps : ne1, ne1 == 0 ? 1 : n_steps, [inp, n, fill](T * dst) {
        for (size_t i = 0; i < inp->steps.size(); ++i) {
            fill(dst + i * n, inp->steps[i]);
        }
    });
}

template ggml_tensor * lil_kv_cache_select::input<float>(const layer_graph &, const char *, int64_t, int64_t,
        std::function<void(float *, const lil_select_step &)>) const;
template ggml_tensor * lil_kv_cache_select::input<int32_t>(const layer_graph &, const char *, int64_t, int64_t,
        std::function<void(int32_t *, const lil_select_step &)>) const;

ggml_tensor * lil_kv_cache_select::input_steps(const layer_graph & lg) const {
    return input<int32_t>(lg, "steps", LIL_SEL_COUNT, 0, [](int32_t * dst, const lil_select_step & step) {
        dst[LIL_SEL_STREAM] = step.strm;
        dst[LIL_SEL_TABLE]  = step.table;
        dst[LIL_SEL_SPARSE] = step.sparse;
        dst[LIL_SEL_N]      = step.n;
        dst[LIL_SEL_NEW]    = step.n_new;
        dst[LIL_SEL_PAGES]  = step.n_pages;
        dst[LIL_SEL_NOW]    = step.now;
    });
}

ggml_tensor * lil_kv_cache_select::input_cells(const layer_graph & lg) const {
    return input<int32_t>(lg, "cells", 1 + n_max(lg.steps), 1, [](int32_t * dst, const lil_select_step & step) {
        dst[0] = step.n;
        std::copy_n(step.index->get_cells().begin(), step.n, dst + 1);
    });
}

ggml_tensor * lil_kv_cache_select::input_cells_shared(const layer_graph & lg) const {
    const uint32_t n_each = lg.steps[0].n_later + 1;

    if (n_each == 1 || !ops[lg.ikv].shares_lists) {
        return input_cells(lg);
    }

    const auto it = lg.inp->tensors.find("cells_shared");
    if (it != lg.inp->tensors.end()) {
        return it->second;
    }

    auto * inp = lg.inp;

    const int64_t ne0 = 1 + n_max(lg.steps);

    return inp->add(lg.ctx, "cells_shared", ne0, 1, lg.steps.size() / n_each, [inp, ne0](int32_t * dst) {
        for (const auto & step : inp->steps) {
            if (step.n_later == 0) {
                dst[0] = step.n;
                std::copy_n(step.index->get_cells().begin(), step.n, dst + 1);
                dst += ne0;
            }
        }
    });
}

ggml_tensor * lil_kv_cache_select::input_pages(const layer_graph & lg) const {
    return input<int32_t>(lg, "pages", n_pages_graph(lg.steps) + 1, 0, [](int32_t * dst, const lil_select_step & step) {
        std::copy_n(step.index->get_pages().begin(), step.n_pages, dst);
        dst[step.n_pages] = step.n;
    });
}

ggml_tensor * lil_kv_cache_select::input_dirty(const layer_graph & lg) const {
    const auto it = lg.inp->tensors.find("dirty");
    if (it != lg.inp->tensors.end()) {
        return it->second;
    }

    int64_t n_dirty = 0;
    for (const auto & step : lg.steps) {
        n_dirty += step.dirty.size();
    }
    if (n_dirty == 0) {
        return nullptr;
    }

    auto * inp = lg.inp;

    const int64_t ne0 = LIL_DIRTY_HEAD + page_size();

    return inp->add(lg.ctx, "dirty", ne0, n_dirty, 1, [this, inp, ne0](int32_t * dst) {
        for (const auto & step : inp->steps) {
            for (const uint32_t page : step.dirty) {
                const auto [r0, r1] = page_ranks(*step.index, page);

                dst[LIL_DIRTY_STREAM] = step.strm;
                dst[LIL_DIRTY_TABLE]  = step.table;
                dst[LIL_DIRTY_PAGE]   = page;
                dst[LIL_DIRTY_N]      = r1 - r0;

                for (uint32_t r = r0; r < r1; ++r) {
                    dst[LIL_DIRTY_HEAD + r - r0] = step.index->cell(r);
                }

                dst += ne0;
            }
        }
    });
}

ggml_tensor * lil_kv_cache_select::input_dirty_few(const layer_graph & lg) const {
    ggml_tensor * dirty = input_dirty(lg);

    return dirty && lg.steps[0].n_later == 0 && dirty->ne[1] <= (int64_t) lg.steps.size() ? dirty : nullptr;
}
