#include "lil-kv-cache-evict.h"

#include "lil-hooks.h"

#include "llama-impl.h"
#include "llama-io.h"
#include "llama-kv-cache-iswa.h"

#include <limits>
#include <stdexcept>

// The ends of the last prompts. What is evicted while an answer is written is gone; a host that goes back behind it
// (the same request again, a last message that was edited, a template that leaves out earlier thinking) would find a
// hollow cache, or have to evaluate everything anew. So the cut cache is kept as it is at the first token of an answer,
// in tensors beside the cache: B - 1 slots at most, and one copy of them on the device per prompt.
//
// The copy is part of the graph of that step, between its eviction and its new token: exact, and without waiting.

static bool can_copy(const ggml_tensor * t) {
    const ggml_backend_dev_t dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(t->buffer));

    if (!dev || ggml_backend_buffer_is_host(t->buffer)) {
        return true;
    }

    ggml_init_params params = {
        /*.mem_size   =*/4 * ggml_tensor_overhead(),
        /*.mem_buffer =*/NULL,
        /*.no_alloc   =*/true,
    };
    ggml_context_ptr ctx(ggml_init(params));

    ggml_tensor * a = ggml_new_tensor_2d(ctx.get(), t->type, t->ne[0], 2);
    ggml_tensor * b = ggml_new_tensor_2d(ctx.get(), t->type, t->ne[0], 2);

    return ggml_backend_dev_supports_op(dev, ggml_cpy(ctx.get(), a, b));
}

void lil_kv_cache_evict::alloc_kept() {
    kept.resize(n_stream);
    kept_tensors.resize(layers.size());

    if (params.kept_prompts == 0 || params.budget >= params.capacity) { // the latter never evicts
        return;
    }

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (const ggml_tensor * t : get_stored(ikv)) {
            if (!can_copy(t)) {
                LLAMA_LOG_WARN("%s: the device of layer %d cannot copy rows of type %s: no ends of prompts are kept\n",
                        __func__, layers[ikv].il, ggml_type_name(t->type));
                return;
            }
        }
    }

    n_kept_max = params.kept_prompts;

    const int64_t n_slots = std::max<int64_t>(1, params.budget - 1);
    const int64_t n_parts = (int64_t) n_kept_max * n_stream;

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        const auto & layer = layers[ikv];

        const auto add = [&](ggml_tensor * t, const char * name, kept_layout layout) {
            const int64_t ne0 = layout == KEPT_SLOTS ? n_slots : t->ne[0];
            const int64_t ne1 = layout == KEPT_ROWS ? n_slots : t->ne[1];

            kept_tensors[ikv].push_back({ t, side.add(layer.k, layer.il, name, t->type, ne0, ne1, n_parts), layout });
        };

        for (ggml_tensor * t : get_stored(ikv)) {
            add(t, t == layer.k ? "kept_k" : "kept_v", KEPT_ROWS);
        }

        for (const auto & beside : get_side(ikv)) {
            if (beside.changes) {
                add(beside.t, "kept_side", beside.per_slot ? KEPT_SLOTS : KEPT_WHOLE);
            }
        }
    }

    alloc_side();
}

void lil_kv_cache_evict::build_keep(const llm_graph_context & g, size_t ikv) const {
    auto * ctx0 = g.ctx0;

    for (const auto & step : get_steps(g)) {
        if (!step.keep) {
            continue;
        }

        for (const auto & kt : kept_tensors[ikv]) {
            const int64_t ne0 = kt.layout == KEPT_SLOTS ? step.base() : kt.t->ne[0];
            const int64_t ne1 = kt.layout == KEPT_ROWS ? step.base() : kt.t->ne[1];

            ggml_tensor * src = ggml_view_2d(ctx0, kt.t, ne0, ne1, kt.t->nb[1], step.strm * kt.t->nb[2]);
            ggml_tensor * dst =
                    ggml_view_2d(ctx0, kt.kept, ne0, ne1, kt.kept->nb[1], kept_offset(kt, step.strm, step.i_kept));

            ggml_build_forward_expand(g.gf, ggml_cpy(ctx0, src, dst));
        }
    }
}

void lil_kv_cache_evict::for_each_kept(uint32_t strm, const lil_evict_kept & e,
        const std::function<void(const kept_tensor &, size_t, size_t, uint64_t)> & f) const {
    for (const auto & tensors : kept_tensors) {
        for (const auto & kt : tensors) {
            const size_t o0 = strm * kt.t->nb[2];
            const size_t o1 = kept_offset(kt, strm, e.i_kept);

            switch (kt.layout) {
                case KEPT_ROWS: f(kt, o0, o1, e.st.n_used * kt.t->nb[1]); break;
                case KEPT_SLOTS:
                    for (int64_t h = 0; h < kt.t->ne[1]; ++h) {
                        f(kt, o0 + h * kt.t->nb[1], o1 + h * kt.kept->nb[1], e.st.n_used * kt.t->nb[0]);
                    }
                    break;
                case KEPT_WHOLE: f(kt, o0, o1, kt.t->nb[2]); break;
            }
        }
    }
}

uint64_t lil_kv_cache_evict::kept_size(uint32_t strm, const lil_evict_kept & e) const {
    uint64_t res = 0;
    for_each_kept(strm, e, [&](const kept_tensor &, size_t, size_t, uint64_t n_bytes) { res += n_bytes; });

    return res;
}

//
// removals
//

bool lil_kv_cache_evict::can_serve(const lil_evict_kept & e, llama_pos p0) const {
    if (p0 > e.end || p0 <= e.st.pos_first || e.n_left(p0) == 0) {
        return false;
    }
    if (e.st.n_evicted == 0) {
        return true;
    }

    // hosts evaluate the last token again, whatever the budget
    return e.st.pos_next - p0 <= (llama_pos) std::max(1u, params.budget / 16) &&
            p0 - e.st.pos_first > (llama_pos) params.n_sink;
}

const lil_evict_kept * lil_kv_cache_evict::find_kept(uint32_t strm, llama_pos p0) const {
    const lil_evict_kept * res = nullptr;

    for (const auto & e : kept[strm]) {
        if (can_serve(e, p0) && (!res || e.n_left(p0) > res->n_left(p0))) {
            res = &e;
        }
    }

    // better what is there, if nothing has gone since
    const auto & st = streams[strm];

    return res && res->st.n_evicted == st.n_evicted && can_cut(st, p0) ? nullptr : res;
}

void lil_kv_cache_evict::keep(lil_evict_step & step) {
    auto & list = kept[step.strm];

    lil_evict_step cut = step;
    cut.n_new          = 0;

    lil_evict_kept e;
    e.st = streams[step.strm];
    advance(e.st, cut);

    e.st.in_prompt = false;
    e.st.just_kept = false;
    e.end          = e.st.pos_next;

    // The same prompt again: what was kept stays, and every further answer begins with it. The new one differs: the
    // last token attended to less, and its query's scores are counted twice
    for (auto & old : list) {
        const bool same = old.st.pos_next == e.end && old.end + 1 == e.end && old.st.last == e.st.last;

        if (same && e.st.back == e.end && e.st.last >= 0) {
            old.end   = e.end;
            step.keep = false;
            return;
        }
    }

    // those that the new one can stand for
    list.erase(std::remove_if(list.begin(), list.end(), [&](const auto & old) { return can_serve(e, old.end); }),
            list.end());

    if (list.size() == n_kept_max) {
        list.erase(list.begin());
    }

    const auto is_free = [&](uint32_t i) {
        return std::none_of(list.begin(), list.end(), [i](const auto & old) { return old.i_kept == i; });
    };
    while (!is_free(e.i_kept)) {
        e.i_kept++;
    }

    step.i_kept = e.i_kept;
    list.push_back(std::move(e));
}

void lil_kv_cache_evict::restore(uint32_t strm, const lil_evict_kept & e) {
    synchronize();
    free_cells(strm, 0);

    std::vector<uint8_t> buf;
    for_each_kept(strm, e, [&](const kept_tensor & kt, size_t o0, size_t o1, uint64_t n_bytes) {
        buf.resize(n_bytes);
        ggml_backend_tensor_get(kt.kept, buf.data(), o1, n_bytes);
        ggml_backend_tensor_set(kt.t, buf.data(), o0, n_bytes);
    });

    streams[strm] = e.st;
    set_cells(strm);

    n_restored++;
}

void lil_kv_cache_evict::trim(uint32_t strm, llama_pos p0) {
    auto & list = kept[strm];

    std::vector<lil_evict_kept> res;

    for (auto & e : list) {
        if (e.end > p0) {
            if (!can_serve(e, p0)) {
                continue;
            }
            e.end = p0;
        }

        // of two with the same end the one that has more
        if (!res.empty() && res.back().end == e.end) {
            if (res.back().n_left(e.end) >= e.n_left(e.end)) {
                continue;
            }
            res.pop_back();
        }
        res.push_back(std::move(e));
    }

    list = std::move(res);
}

void lil_kv_cache_evict::copy_kept(uint32_t s0, uint32_t s1) {
    kept[s1] = kept[s0];

    std::vector<uint8_t> buf;
    for (const auto & e : kept[s0]) {
        for_each_kept(s0, e, [&](const kept_tensor & kt, size_t o0, size_t o1, uint64_t n_bytes) {
            GGML_UNUSED(o0);

            buf.resize(n_bytes);
            ggml_backend_tensor_get(kt.kept, buf.data(), o1, n_bytes);
            ggml_backend_tensor_set(kt.kept, buf.data(), o1 - kept_offset(kt, s0, 0) + kept_offset(kt, s1, 0), n_bytes);
        });
    }
}

bool lil_kv_cache_evict::can_rm_swa(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    p1 = p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1;

    const auto [s0, s1] = get_streams(seq_id);

    for (uint32_t s = s0; s < s1; ++s) {
        const auto & st = streams[s];

        const llama_pos last = seq_pos_max(s);

        if (st.n_used == 0 || p0 <= st.pos_first || p0 > last || p1 <= last) {
            continue; // nothing, everything, or what this cache refuses
        }

        // a stream holds the sequence of its number
        if (swa.seq_pos_min(s) > std::max(st.pos_first, p0 - (llama_pos) hparams.n_swa + 1)) {
            return false;
        }
    }

    return true;
}

bool lil_can_seq_rm(llama_memory_i & attn, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * iswa = dynamic_cast<const llama_kv_cache_iswa *>(&attn);
    const auto * kv   = dynamic_cast<const lil_kv_cache_evict *>(iswa ? iswa->get_base() : &attn);

    return !kv || (kv->can_rm(seq_id, p0, p1) && (!iswa || kv->can_rm_swa(*iswa->get_swa(), seq_id, p0, p1)));
}

bool lil_can_seq_rm(
        llama_kv_cache & base, const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const auto * kv = dynamic_cast<const lil_kv_cache_evict *>(&base);

    return !kv || kv->can_rm_swa(swa, seq_id, p0, p1);
}
