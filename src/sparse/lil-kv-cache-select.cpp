#include "lil-kv-cache-select.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <limits>

//
// lil_kv_cache_select
//

lil_kv_cache_select::lil_kv_cache_select(const args & a) :
    llama_kv_cache(a.model, a.hparams, a.type_k, a.type_v, a.v_trans, a.offload, a.unified, a.kv_size, a.n_seq_max, a.n_pad,
            /*.n_swa =*/ 0, LLAMA_SWA_TYPE_NONE, nullptr, a.filter, nullptr, nullptr),
    params(a.params) {
    index.resize(n_seq_max);
    last.resize(layers.size());

    // as many pages as full ones need, and some more for those that edits have left partly filled
    n_pages_max = GGML_PAD(get_size()/lil_seq_index::PAGE + get_size()/64 + 16, 16);

    bool on_cpu = true;
    for (const auto & layer : layers) {
        on_cpu = on_cpu && ggml_backend_buffer_is_host(layer.k->buffer);
    }

    ops   = lil_get_cpu_ops();
    fused = params.form != LIL_FORM_PORTABLE && on_cpu && ops != nullptr;

    if (params.form == LIL_FORM_FUSED && !fused) {
        lil_throw("form = LIL_FORM_FUSED: the fused form runs on the CPU only, and %s. Use LIL_FORM_AUTO or LIL_FORM_PORTABLE",
                on_cpu ? "this CPU backend has none" : "the KV cache is on another device");
    }
    if (params.fused_dense && !fused) {
        lil_throw("fused_dense = true needs the fused form, which runs on the CPU only, and %s",
                params.form == LIL_FORM_PORTABLE ? "form is LIL_FORM_PORTABLE" : on_cpu ? "this CPU backend has none" : "the KV cache is on another device");
    }

    for (size_t ikv = 0; ikv < layers.size() && !fused; ++ikv) {
        if ((uint64_t) get_size()*n_head_kv(ikv) > (1u << 24)) { // row numbers are computed in F32
            lil_throw("n_ctx = %u: at most %u with the portable form and %u KV heads", get_size(), (1u << 24)/n_head_kv(ikv), n_head_kv(ikv));
        }
    }

    op_layers.resize(layers.size());

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        auto & op = op_layers[ikv];

        op = {};
        op.n_head_kv = n_head_kv(ikv);
        op.softcap   = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;
        op.budget    = params.budget;
    }
}

uint32_t lil_kv_cache_select::n_head_kv(size_t ikv) const {
    return hparams.n_head_kv(layers[ikv].il);
}

//
// tensors beside K and V
//

ggml_tensor * lil_kv_cache_select::new_side(size_t ikv, const char * name, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    const auto & layer = layers[ikv];

    auto & ctx = side_ctx[ggml_backend_buffer_get_type(layer.k->buffer)];
    if (!ctx) {
        ggml_init_params params_ctx = {
            /*.mem_size   =*/ 4*layers.size()*ggml_tensor_overhead(),
            /*.mem_buffer =*/ NULL,
            /*.no_alloc   =*/ true,
        };
        ctx.reset(ggml_init(params_ctx));
    }

    ggml_tensor * t = ggml_new_tensor_4d(ctx.get(), type, ne0, ne1, ne2, ne3);
    ggml_format_name(t, "cache_%s_l%d", name, (int) layer.il);

    return t;
}

void lil_kv_cache_select::alloc_side() {
    for (auto & [buft, ctx] : side_ctx) {
        ggml_backend_buffer_t buf = ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft);
        if (!buf) {
            lil_throw("failed to allocate the page metadata and scores of the KV cache");
        }

        ggml_backend_buffer_clear(buf, 0);
        ctxs_bufs.emplace_back(std::move(ctx), buf);
    }

    side_ctx.clear();
}

void lil_kv_cache_select::synchronize() const {
    if (lctx) {
        llama_synchronize(lctx);
    }
}

//
// planning
//

// batches whose sequences have equally many tokens each; see plan()
llama_memory_context_ptr lil_kv_cache_select::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    GGML_UNUSED(embd_all);

    balloc.split_reset();

    std::vector<llama_ubatch> ubatches;
    while (true) {
        auto ubatch = n_seq_max == 1 ? balloc.split_simple(n_ubatch) : balloc.split_equal(n_ubatch, n_stream > 1, 0);

        if (ubatch.n_tokens == 0) {
            break;
        }

        ubatches.push_back(std::move(ubatch));
    }

    if (balloc.get_n_used() == balloc.get_n_tokens()) {
        auto sinfos = prepare(ubatches);

        if (!sinfos.empty()) {
            return std::make_unique<llama_kv_cache_context>(this, std::move(sinfos), std::move(ubatches));
        }
    }

    return std::make_unique<llama_kv_cache_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
}

// sequence sets of a ubatch, each with n_tokens/n_groups tokens in a row; 0: a mixture
static uint32_t get_n_groups(const llama_ubatch & ubatch) {
    return ubatch.equal_seqs() ? ubatch.n_seqs : ubatch.n_seqs_unq == 1 ? 1 : 0;
}

lil_kv_cache_select::slot_info_vec_t lil_kv_cache_select::prepare(const std::vector<llama_ubatch> & ubatches) {
    // tokens that will come, per sequence
    std::vector<uint32_t> n_new(n_seq_max, 0);

    for (const auto & ubatch : ubatches) {
        if (get_n_groups(ubatch) == 0) {
            return {}; // the caller splits it in another way
        }

        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
                n_new[ubatch.seq_id[i][s]]++;
            }
        }
    }

    for (uint32_t s = 0; s < n_seq_max; ++s) {
        const uint32_t n_pages = index[s].get_pages().size() + (n_new[s] > 0 ? n_new[s]/lil_seq_index::PAGE + 2 : 0);

        if (n_pages > n_pages_max) {
            LLAMA_LOG_ERROR("%s: sequence %u: its tokens lie on %u pages of %d positions, there is room for %u; positions with many gaps need a larger n_ctx\n",
                    __func__, s, n_pages, (int) lil_seq_index::PAGE, n_pages_max);
            return {};
        }
    }

    simulating = true;
    auto res = llama_kv_cache::prepare(ubatches);
    simulating = false;

    return res;
}

void lil_kv_cache_select::plan(lil_select_step & step) const {
    const auto & idx = *step.index;

    // a batch of one token is a decode step, a larger one is part of a prompt
    const bool decode = step.n_new == 1;

    step.n       = idx.size();
    step.n_valid = idx.n_valid;
    step.now     = idx.n_steps;
    step.pos     = idx.pos(idx.size() - 1);
    step.sparse  = decode && params.method != LIL_SPARSE_DENSE && step.n > params.budget && step.n >= params.min_ctx;

    if (!decode || !(step.sparse || dense_needs_pages())) {
        return;
    }

    step.n_pages = n_pages(idx);

    // at least one, so that the graph's shape is the same from step to step
    for (uint32_t i = step.n_pages; i-- > 0;) {
        if (i + 1 < step.n_pages && page_ranks(idx, i).second <= idx.n_valid) {
            break;
        }
        step.dirty.push_back(i);
    }
}

void lil_kv_cache_select::apply_ubatch(const slot_info & sinfo, const llama_ubatch & ubatch) {
    llama_kv_cache::apply_ubatch(sinfo, ubatch);

    if (simulating) {
        return;
    }

    // the tokens' cells
    const auto cell_of = [&](uint32_t i) { return sinfo.idxs[i/sinfo.size()][i%sinfo.size()]; };

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
            index[ubatch.seq_id[i][s]].append(cell_of(i), ubatch.pos[i]);
        }
    }

    cur.reserve = false;
    cur.steps.clear();

    const uint32_t n_groups = get_n_groups(ubatch);
    const uint32_t n_new    = ubatch.n_tokens/n_groups;

    for (uint32_t i = 0; i < n_groups; ++i) {
        const llama_seq_id seq_id = ubatch.seq_id[i*n_new][0];

        auto & idx = index[seq_id];
        if (idx.is_stale()) {
            idx.read(v_cells[seq_to_stream[seq_id]], seq_id);
        }
        if (n_new == 1) {
            idx.n_steps++;
        }
        idx.n_valid = std::min(idx.n_valid, n_final(idx.size() - n_new));

        lil_select_step step;
        step.seq_id = seq_id;
        step.strm   = seq_to_stream[seq_id];
        step.table  = seq_id;
        step.n_new  = n_new;
        step.index  = &idx;

        plan(step);

        if (!step.dirty.empty()) {
            idx.n_valid = page_ranks(idx, step.n_pages - 1).second;
        }

        if (n_new == 1) {
            (step.sparse ? n_sparse : n_dense)++;

            for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
                n_rows_read += n_head_kv(ikv)*(step.sparse && !is_dense_layer(ikv) ? n_rows(step) : step.n);
            }
        }

        cur.steps.push_back(std::move(step));
    }
}

std::vector<llama_seq_id> lil_kv_cache_select::fail_ubatch() {
    // llama.cpp removes the ubatch's tokens itself
    for (const auto & step : cur.steps) {
        auto & idx = index[step.seq_id];

        idx.n_valid = std::min(idx.n_valid, step.n_valid);
        if (step.n_new == 1) {
            idx.n_steps--;
        }
    }

    cur.steps.clear();

    return {};
}

llama_memory_context_ptr lil_kv_cache_select::init_full() {
    cur.reserve = true;

    return llama_kv_cache::init_full();
}

std::vector<lil_select_step> lil_kv_cache_select::get_steps(const llm_graph_context & g) const {
    if (!cur.reserve) {
        return cur.steps;
    }

    // the largest graph: a full cache
    const uint32_t n_groups = std::max<uint32_t>(1, g.ubatch.equal_seqs() ? g.ubatch.n_seqs : 1);

    std::vector<lil_select_step> steps(n_groups);

    for (uint32_t s = 0; s < n_groups; ++s) {
        auto & step = steps[s];

        step.strm    = std::min(s, n_stream - 1);
        step.table   = std::min(s, n_seq_max - 1);
        step.n       = get_size();
        step.n_new   = std::max<uint32_t>(1, g.ubatch.n_tokens/n_groups);
        step.sparse  = step.n_new == 1 && params.method != LIL_SPARSE_DENSE && step.n > params.budget;
        step.n_pages = n_pages_max;
        step.pos     = step.n - 1;

        if (step.sparse || dense_needs_pages()) {
            step.dirty = { 0 };
        }
    }

    return steps;
}

bool lil_kv_cache_select::uses_method(const std::vector<lil_select_step> & steps) const {
    return steps[0].n_new == 1 &&
        (params.fused_dense || std::any_of(steps.begin(), steps.end(), [](const auto & step) { return step.sparse; }));
}

int64_t lil_kv_cache_select::n_max(const std::vector<lil_select_step> & steps) {
    uint32_t res = 0;
    for (const auto & step : steps) {
        res = std::max(res, step.n);
    }

    return GGML_PAD(res, 256);
}

int64_t lil_kv_cache_select::n_list(const std::vector<lil_select_step> & steps) const {
    uint32_t n_dense_max = 0; // a dense step beside sparse ones lists everything
    for (const auto & step : steps) {
        n_dense_max = std::max(n_dense_max, step.sparse ? 0 : step.n);
    }

    return std::max<int64_t>(params.budget, GGML_PAD(n_dense_max, 256));
}

int64_t lil_kv_cache_select::n_pages_graph(const std::vector<lil_select_step> & steps) {
    uint32_t res = 1;
    for (const auto & step : steps) {
        res = std::max(res, step.n_pages);
    }

    return GGML_PAD(res, 16);
}

std::vector<int64_t> lil_kv_cache_select::get_key(const std::vector<lil_select_step> & steps) const {
    std::vector<int64_t> key = {
        (int64_t) steps.size(), steps[0].n_new, uses_method(steps), n_max(steps), n_list(steps), n_pages_graph(steps),
    };

    size_t n_dirty = 0;
    bool   sparse  = false;

    for (const auto & step : steps) {
        n_dirty += step.dirty.size();
        sparse   = sparse || step.sparse;

        if (!fused) { // the portable form builds each step on its own
            key.insert(key.end(), { step.strm, step.table, step.sparse, (int64_t) step.dirty.size() });
        }
    }

    key.insert(key.end(), { (int64_t) n_dirty, sparse });

    return key;
}

uint32_t lil_kv_cache_select::n_rows(const lil_select_step & step) const {
    GGML_UNUSED(step);

    return params.budget;
}

//
// llama_memory_i
//

void lil_kv_cache_select::for_each_seq(llama_seq_id seq_id, const std::function<void(lil_seq_index &)> & f) {
    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_id == -1 || (uint32_t) seq_id == s) {
            f(index[s]);
        }
    }
}

void lil_kv_cache_select::clear(bool data) {
    llama_kv_cache::clear(data);

    for_each_seq(-1, [](auto & idx) { idx.clear(); });
}

bool lil_kv_cache_select::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const bool res = llama_kv_cache::seq_rm(seq_id, p0, p1);

    if (res && !simulating) {
        const llama_pos end = p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1;

        for_each_seq(seq_id, [&](auto & idx) { idx.remove(std::max(p0, 0), end); });
    }

    return res;
}

void lil_kv_cache_select::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    llama_kv_cache::seq_cp(seq_id_src, seq_id_dst, p0, p1);

    const uint32_t s0 = seq_to_stream[seq_id_src];
    const uint32_t s1 = seq_to_stream[seq_id_dst];

    if (seq_id_src == seq_id_dst) {
        return;
    }

    index[seq_id_dst].invalidate(0);
    index[seq_id_dst].n_steps = index[seq_id_src].n_steps;

    if (s0 == s1) {
        return;
    }

    // llama.cpp copies the stream's keys and values at its next update
    synchronize();

    std::vector<uint8_t> buf;
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (ggml_tensor * t : get_cell_tensors(ikv)) {
            buf.resize(t->nb[2]);
            ggml_backend_tensor_get(t, buf.data(), s0*t->nb[2], t->nb[2]);
            ggml_backend_tensor_set(t, buf.data(), s1*t->nb[2], t->nb[2]);
        }
    }
}

void lil_kv_cache_select::seq_keep(llama_seq_id seq_id) {
    llama_kv_cache::seq_keep(seq_id);

    // as llama.cpp does: within the stream of the sequence
    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (s != (uint32_t) seq_id && seq_to_stream[s] == seq_to_stream[seq_id]) {
            index[s].clear();
        }
    }
}

void lil_kv_cache_select::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    llama_kv_cache::seq_add(seq_id, p0, p1, shift);

    // a cell's position is that of every sequence that shares it
    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_to_stream[s] == seq_to_stream[seq_id]) {
            index[s].invalidate(std::max(0, std::min(p0, p0 + shift)));
        }
    }
}

void lil_kv_cache_select::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    llama_kv_cache::seq_div(seq_id, p0, p1, d);

    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_to_stream[s] == seq_to_stream[seq_id]) {
            index[s].invalidate(0);
        }
    }
}

//
// inputs
//

ggml_tensor * lil_select_input::add(ggml_context * ctx, const char * name, int64_t ne0, int64_t ne1, int64_t ne2, fill_i32 fill) {
    ggml_tensor * t = ggml_new_tensor_3d(ctx, GGML_TYPE_I32, ne0, ne1, ne2);
    ggml_set_input(t);
    ggml_format_name(t, "lil_%s", name);

    inputs.push_back({ t, std::move(fill), nullptr });
    tensors[name] = t;

    return t;
}

ggml_tensor * lil_select_input::add(ggml_context * ctx, const char * name, int64_t ne0, int64_t ne1, int64_t ne2, fill_f32 fill) {
    ggml_tensor * t = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, ne0, ne1, ne2);
    ggml_set_input(t);
    ggml_format_name(t, "lil_%s", name);

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
            ggml_backend_tensor_set(input.t, i32.data(), 0, n*sizeof(int32_t));
        } else {
            f32.assign(n, 0.0f);
            input.f32(f32.data());
            ggml_backend_tensor_set(input.t, f32.data(), 0, n*sizeof(float));
        }
    }
}

bool lil_select_input::can_reuse(const llm_graph_params & graph_params) {
    GGML_UNUSED(graph_params); // the sizes that llama.cpp's own inputs check are checked there

    return key == kv->get_key(kv->cur.steps);
}

lil_select_input * lil_kv_cache_select::get_input(const llm_graph_context & g) {
    for (const auto & inp : g.res->inputs) {
        if (auto * res = dynamic_cast<lil_select_input *>(inp.get())) {
            return res;
        }
    }

    auto inp = std::make_unique<lil_select_input>(this);

    inp->steps = get_steps(g);
    inp->key   = get_key(inp->steps);

    // the lists of the graph before are gone with it
    for (auto & lists : last) {
        lists = {};
    }

    return static_cast<lil_select_input *>(g.res->add_input(std::move(inp)));
}

template <typename T>
ggml_tensor * lil_kv_cache_select::input(const layer_graph & lg, const char * name, int64_t ne0, int64_t ne1, std::function<void(T *, const lil_select_step &)> fill) const {
    const auto it = lg.inp->tensors.find(name);
    if (it != lg.inp->tensors.end()) {
        return it->second;
    }

    auto * inp = lg.inp;

    return inp->add(lg.ctx, name, ne0, ne1, inp->steps.size(), [inp, ne0, ne1, fill](T * dst) {
        for (size_t i = 0; i < inp->steps.size(); ++i) {
            fill(dst + i*ne0*ne1, inp->steps[i]);
        }
    });
}

template ggml_tensor * lil_kv_cache_select::input<float>  (const layer_graph &, const char *, int64_t, int64_t, std::function<void(float   *, const lil_select_step &)>) const;
template ggml_tensor * lil_kv_cache_select::input<int32_t>(const layer_graph &, const char *, int64_t, int64_t, std::function<void(int32_t *, const lil_select_step &)>) const;

ggml_tensor * lil_kv_cache_select::input_steps(const layer_graph & lg) const {
    ggml_tensor * t = input<int32_t>(lg, "steps", LIL_SEL_COUNT, 1, [](int32_t * dst, const lil_select_step & step) {
        dst[LIL_SEL_STREAM] = step.strm;
        dst[LIL_SEL_TABLE]  = step.table;
        dst[LIL_SEL_SPARSE] = step.sparse;
        dst[LIL_SEL_N]      = step.n;
        dst[LIL_SEL_NEW]    = step.n_new;
        dst[LIL_SEL_PAGES]  = step.n_pages;
        dst[LIL_SEL_NOW]    = step.now;
    });

    return ggml_reshape_2d(lg.ctx, t, LIL_SEL_COUNT, lg.steps.size());
}

ggml_tensor * lil_kv_cache_select::input_cells(const layer_graph & lg) const {
    return input<int32_t>(lg, "cells", 1 + n_max(lg.steps), 1, [](int32_t * dst, const lil_select_step & step) {
        const auto & cells = step.index->get_cells();

        dst[0] = cells.size();
        std::copy(cells.begin(), cells.end(), dst + 1);
    });
}

ggml_tensor * lil_kv_cache_select::input_pages(const layer_graph & lg) const {
    ggml_tensor * t = input<int32_t>(lg, "pages", n_pages_graph(lg.steps) + 1, 1, [](int32_t * dst, const lil_select_step & step) {
        const auto & pages = step.index->get_pages();

        std::copy(pages.begin(), pages.end(), dst);
        dst[pages.size()] = step.index->size();
    });

    return ggml_reshape_2d(lg.ctx, t, t->ne[0], t->ne[2]);
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

//
// graph
//

void lil_select_layer_graph::expand(ggml_tensor * t) const {
    ggml_build_forward_expand(g.gf, t);
}

ggml_tensor * lil_kv_cache_select::custom(const layer_graph & lg, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3,
        std::vector<ggml_tensor *> srcs, ggml_custom_op_t op) const {
    return ggml_custom_4d(lg.ctx, type, ne0, ne1, ne2, ne3, srcs.data(), srcs.size(), op, GGML_N_TASKS_MAX, const_cast<lil_select_layer *>(&op_layers[lg.ikv]));
}

void lil_kv_cache_select::custom_inplace(const layer_graph & lg, ggml_tensor * t, std::vector<ggml_tensor *> srcs, ggml_custom_op_t op) const {
    lg.expand(ggml_custom_inplace(lg.ctx, t, srcs.data(), srcs.size(), op, GGML_N_TASKS_MAX, const_cast<lil_select_layer *>(&op_layers[lg.ikv])));
}

void lil_kv_cache_select::build_before_store(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) {
    GGML_UNUSED(g);
    GGML_UNUSED(mctx);
    GGML_UNUSED(k_rot);
    GGML_UNUSED(il);
}

ggml_tensor * lil_kv_cache_select::build_attn(
         const llm_graph_context & g,
    const llama_kv_cache_context * mctx,
                     ggml_tensor * q,
                     ggml_tensor * k,
                     ggml_tensor * v,
                     ggml_tensor * kq_mask,
                           float   kq_scale,
                             int   il) {
    GGML_UNUSED(mctx);

    built.insert(il);

    auto * inp = get_input(g);

    const size_t ikv = map_layer_ids.at(il);

    op_layers[ikv].scale  = kq_scale;
    op_layers[ikv].n_part = std::max(1, std::max(g.cparams.n_threads, g.cparams.n_threads_batch));

    const layer_graph lg = {
        g, g.ctx0, inp, inp->steps, q, k, v, kq_mask, kq_scale, il, ikv,
        q->ne[0], v->ne[0], q->ne[1], k->ne[1], k->ne[2],
    };

    if (!uses_method(inp->steps)) {
        ggml_tensor * cur = build_prompt(lg);
        lg.expand(cur);

        build_after_dense(lg);

        return cur;
    }

    return fused ? build_decode_fused(lg) : build_decode_portable(lg);
}

ggml_tensor * lil_kv_cache_select::build_prompt(const layer_graph & lg) {
    return lg.g.build_attn_mha(lg.q, lg.k, lg.v, nullptr, lg.kq_mask, nullptr, nullptr, 0, lg.kq_scale, lg.il);
}

ggml_tensor * lil_kv_cache_select::build_decode_fused(const layer_graph & lg) {
    const bool sparse = std::any_of(lg.steps.begin(), lg.steps.end(), [](const auto & step) { return step.sparse; });

    // the new keys and values are stored before anything here reads them
    lg.expand(lg.k);
    lg.expand(lg.v);

    if (input_dirty(lg)) {
        build_pages(lg);
    }

    ggml_tensor * steps = input_steps(lg);
    ggml_tensor * list  = input_cells(lg);

    if (sparse && !is_dense_layer(lg.ikv)) {
        list = build_list(lg);

        ggml_set_output(list); // it stays readable after the computation
        last[lg.ikv].list = list;
    }

    const int64_t n_steps = lg.steps.size();
    const int64_t n_work  = lil_attn_n_work(lg.n_embd_v, lg.n_head, list->ne[0] - 1, n_steps, wants_kq(lg.ikv));

    ggml_tensor * work = custom(lg, GGML_TYPE_F32, n_work, 1, 1, 1, { lg.q, layers[lg.ikv].k, layers[lg.ikv].v, list, steps }, ops->attn);
    ggml_tensor * cur  = custom(lg, GGML_TYPE_F32, lg.n_embd_v, lg.n_head, n_steps, 1, { work, list }, ops->attn_join);
    lg.expand(cur);

    build_after(lg, work, list);

    return ggml_reshape_2d(lg.ctx, cur, lg.n_embd_v*lg.n_head, n_steps);
}

ggml_tensor * lil_kv_cache_select::build_decode_portable(const layer_graph & lg) {
    lg.expand(lg.k);
    lg.expand(lg.v);

    if (input_dirty(lg)) {
        build_pages(lg);
    }

    last[lg.ikv].rows.assign(lg.steps.size(), {});

    ggml_tensor * cur = nullptr;

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        ggml_tensor * one = lg.steps[i].sparse ? build_step(lg, i) : build_dense_step(lg, i);
        one = ggml_reshape_2d(lg.ctx, one, lg.n_embd_v*lg.n_head, 1);
        lg.expand(one);

        cur = cur ? ggml_concat(lg.ctx, cur, one, 1) : one;
    }

    lg.expand(cur);

    build_after_dense(lg);

    return cur;
}

ggml_tensor * lil_kv_cache_select::build_step(const layer_graph & lg, size_t i) {
    if (is_dense_layer(lg.ikv)) {
        return build_dense_step(lg, i);
    }

    const auto list = build_rows(lg, i);

    remember(lg, i, list);

    const auto & layer = layers[lg.ikv];
    const auto & step  = lg.steps[i];

    // heads in the last dimension: each has rows of its own
    const auto fold = [&](ggml_tensor * t) {
        ggml_tensor * x = ggml_cast(lg.ctx, gather(lg, t, step.strm, list.rows), GGML_TYPE_F16);
        return ggml_reshape_4d(lg.ctx, x, x->ne[0], x->ne[1], 1, x->ne[2]);
    };

    ggml_tensor * q = ggml_reshape_4d(lg.ctx, step_q(lg, i), lg.n_embd_k, 1, lg.n_group(), lg.n_head_kv);

    ggml_tensor * mask = list.mask ? ggml_reshape_4d(lg.ctx, list.mask, list.mask->ne[0], 1, 1, list.mask->ne[1]) : nullptr;

    ggml_tensor * cur = ggml_flash_attn_ext(lg.ctx, q, fold(layer.k), fold(layer.v), mask, lg.kq_scale, 0.0f, op_layers[lg.ikv].softcap);
    ggml_prec_set_acc(cur, GGML_PREC_F32);

    return cur;
}

void lil_kv_cache_select::remember(const layer_graph & lg, size_t i, const lil_select_rows & list) {
    for (ggml_tensor * t : { list.rows, list.mask }) {
        if (t) {
            ggml_set_output(t); // it stays readable after the computation
            lg.expand(t);
        }
    }

    last[lg.ikv].rows[i] = list;
}

//
// the portable form: ggml's own ops, on every backend. Which of exactly equal scores wins is up to them
//

ggml_tensor * lil_kv_cache_select::step_q(const layer_graph & lg, size_t i) const {
    const int64_t n_new = lg.steps[i].n_new;

    ggml_tensor * q = ggml_view_3d(lg.ctx, lg.q, lg.q->ne[0], lg.q->ne[1], n_new, lg.q->nb[1], lg.q->nb[2], i*n_new*lg.q->nb[2]);

    return ggml_is_contiguous(q) ? q : ggml_cont(lg.ctx, q);
}

ggml_tensor * lil_kv_cache_select::step_k(const layer_graph & lg, size_t i) const {
    const auto & k = lg.k;

    // with a stream per sequence, the streams of the ubatch follow each other
    return ggml_view_3d(lg.ctx, k, k->ne[0], k->ne[1], k->ne[2], k->nb[1], k->nb[2], (k->ne[3] > 1 ? i : 0)*k->nb[3]);
}

ggml_tensor * lil_kv_cache_select::build_dense_step(const layer_graph & lg, size_t i) const {
    const size_t s = lg.k->ne[3] > 1 ? i : 0;

    const auto stream = [&](ggml_tensor * t) {
        return ggml_view_3d(lg.ctx, t, t->ne[0], t->ne[1], t->ne[2], t->nb[1], t->nb[2], s*t->nb[3]);
    };

    ggml_tensor * mask = lg.kq_mask;
    mask = ggml_view_2d(lg.ctx, mask, mask->ne[0], 1, mask->nb[1], mask->ne[3] > 1 ? i*mask->nb[3] : i*mask->nb[1]);

    return lg.g.build_attn_mha(step_q(lg, i), stream(lg.k), stream(lg.v), nullptr, mask, nullptr, nullptr, 0, lg.kq_scale, lg.il);
}

ggml_tensor * lil_kv_cache_select::row_view(const layer_graph & lg, ggml_tensor * t, uint32_t strm, int64_t ne0, int64_t n_rows) const {
    return ggml_view_2d(lg.ctx, t, ne0, n_rows, ggml_row_size(t->type, ne0), strm*t->nb[2]);
}

ggml_tensor * lil_kv_cache_select::cells_to_rows(const layer_graph & lg, ggml_tensor * cells) const {
    ggml_tensor * head = ggml_reshape_2d(lg.ctx, ggml_arange(lg.ctx, 0.0f, (float) lg.n_head_kv, 1.0f), 1, lg.n_head_kv);

    if (cells->ne[1] != lg.n_head_kv) {
        cells = ggml_repeat_4d(lg.ctx, cells, cells->ne[0], lg.n_head_kv, 1, 1);
    }

    return ggml_cast(lg.ctx, ggml_add(lg.ctx, ggml_scale(lg.ctx, cells, (float) lg.n_head_kv), head), GGML_TYPE_I32);
}

ggml_tensor * lil_kv_cache_select::gather(const layer_graph & lg, ggml_tensor * t, uint32_t strm, ggml_tensor * rows) const {
    const int64_t n_embd = t->ne[0]/lg.n_head_kv;

    ggml_tensor * src = row_view(lg, t, strm, n_embd, lg.n_head_kv*n_cells());
    ggml_tensor * cur = ggml_get_rows(lg.ctx, src, ggml_reshape_1d(lg.ctx, rows, ggml_nelements(rows)));

    return ggml_reshape_3d(lg.ctx, cur, n_embd, rows->ne[0], rows->ne[1]);
}

ggml_tensor * lil_kv_cache_select::max_over(const layer_graph & lg, ggml_tensor * t) const {
    if (t->ne[1] == 1) {
        return t;
    }

    return ggml_pool_2d(lg.ctx, t, GGML_OP_POOL_MAX, 1, t->ne[1], 1, t->ne[1], 0.0f, 0.0f);
}

uint32_t lil_kv_cache_select::graph_max_nodes() const {
    return layers.size()*(64 + 128*n_seq_max);
}

//
// lil
//

void lil_kv_cache_select::get_info(lil_sparse_info & info) const {
    info = {};

    info.method   = params.method;
    info.budget   = params.budget;
    info.capacity = get_size();
    info.reselect = params.reselect;
    info.n_layer  = layers.size();
    info.fused    = fused;
    info.n_dense  = n_dense;
    info.n_sparse = n_sparse;
    info.n_rows   = n_rows_read;

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        info.kv_bytes += ggml_nbytes(layers[ikv].k) + ggml_nbytes(layers[ikv].v);

        for (const auto * t : get_cell_tensors(ikv)) {
            info.kv_bytes += ggml_nbytes(t);
        }
        for (const auto * t : get_page_tensors(ikv)) {
            info.kv_bytes += ggml_nbytes(t);
        }
    }
}

int32_t lil_kv_cache_select::get_slots(llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * pos, float * score, int32_t n) const {
    synchronize();

    const auto & idx   = index[seq_id];
    const size_t ikv   = map_layer_ids.at(il);
    const auto & lists = last[ikv];

    std::vector<int32_t> cells;

    const auto step = std::find_if(cur.steps.begin(), cur.steps.end(), [&](const auto & s) { return s.seq_id == seq_id; });

    if (!idx.is_stale() && step != cur.steps.end() && step->sparse && lists.list) {
        const ggml_tensor * t = lists.list;

        const size_t i      = step - cur.steps.begin();
        const size_t offset = i*t->nb[2] + (t->ne[1] > 1 ? i_head_kv : 0)*t->nb[1];

        std::vector<int32_t> data(t->ne[0]);
        ggml_backend_tensor_get(t, data.data(), offset, data.size()*sizeof(int32_t));

        cells.assign(data.begin() + 1, data.begin() + 1 + data[0]);
    } else if (!idx.is_stale() && step != cur.steps.end() && step->sparse && !lists.rows.empty() && lists.rows[step - cur.steps.begin()].rows) {
        const auto & rows = lists.rows[step - cur.steps.begin()];

        std::vector<int32_t> data(rows.rows->ne[0]);
        ggml_backend_tensor_get(rows.rows, data.data(), i_head_kv*rows.rows->nb[1], data.size()*sizeof(int32_t));

        std::vector<ggml_fp16_t> mask(data.size(), ggml_fp32_to_fp16(0.0f));
        if (rows.mask) {
            ggml_backend_tensor_get(rows.mask, mask.data(), (rows.mask->ne[1] > 1 ? i_head_kv : 0)*rows.mask->nb[1], mask.size()*sizeof(ggml_fp16_t));
        }

        for (size_t i = 0; i < data.size(); ++i) {
            if (ggml_fp16_to_fp32(mask[i]) == 0.0f) {
                cells.push_back(data[i]/n_head_kv(ikv));
            }
        }
    } else {
        cells.assign(idx.get_cells().begin(), idx.get_cells().end());
    }

    const auto & kv_cells = v_cells[seq_to_stream[seq_id]];

    const ggml_tensor * t = get_score(ikv);

    for (int32_t i = 0; i < std::min(n, (int32_t) cells.size()); ++i) {
        pos[i] = kv_cells.pos_get(cells[i]);

        if (score) {
            score[i] = 0.0f;
            if (t) {
                ggml_backend_tensor_get(t, score + i, seq_to_stream[seq_id]*t->nb[2] + i_head_kv*t->nb[1] + cells[i]*t->nb[0], sizeof(float));
            }
        }
    }

    return cells.size();
}
