#include "lil-kv-cache-scored.h"

#include "lil-graph-input.h"
#include "lil-keys.h"

#include "llama-context.h"
#include "llama-model.h"

#include <algorithm>

lil_kv_cache_scored::lil_kv_cache_scored(const args & a, uint32_t n_ring, bool ring_stays) :
    lil_kv_cache_evict(a), n_ring(n_ring), ring_stays(ring_stays) {
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        score.push_back(new_side(ikv, "score", GGML_TYPE_F32, params.capacity, n_head_kv(ikv), n_stream));
        pos.push_back(new_side(ikv, "pos", GGML_TYPE_F32, params.capacity, n_head_kv(ikv), n_stream));

        if (n_ring > 0) {
            const int64_t n_embd_q = n_embd_head_k(ikv) * hparams.n_head(layers[ikv].il);

            ring.push_back(new_side(ikv, "ring", GGML_TYPE_F32, n_embd_q, n_ring, n_stream));
        }
    }

    alloc_side();
    alloc_kept();

    evict_layers.resize(readers.size());

    for (size_t ir = 0; ir < readers.size(); ++ir) {
        auto & op = evict_layers[ir];

        op           = {};
        op.n_head_kv = n_head_kv(readers[ir].ikv);
        op.softcap   = softcap();
        op.adds      = !owns(ir);

        if (op.adds && n_ring > 0) {
            lil_throw("layers of this model share keys and values, of which the last queries of one layer are kept: "
                      "H2O with prompt_scores = 0 (exact), TOVA and Sink can follow them");
        }
    }
}

int32_t lil_kv_cache_scored::get_slots(
        llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * p, float * s, int32_t n) const {
    synchronize();

    const uint32_t strm   = seq_to_stream[seq_id];
    const uint32_t n_used = streams[strm].n_used;
    const size_t   ikv    = map_layer_ids.at(il);

    std::vector<float> buf(n_used);

    get_head(pos[ikv], strm, i_head_kv, buf);
    for (int32_t i = 0; i < std::min(n, (int32_t) n_used); ++i) {
        p[i] = streams[strm].to_pos((llama_pos) buf[i]);
    }

    if (s) {
        get_scores(ikv, strm, i_head_kv, buf);
        std::copy_n(buf.begin(), std::min(n, (int32_t) n_used), s);
    }

    return n_used;
}

uint32_t lil_kv_cache_scored::graph_max_nodes() const {
    return readers.size() * (32 + 48 * n_stream);
}

//
// slots
//

void lil_kv_cache_scored::get_head(const ggml_tensor * t, uint32_t strm, uint32_t h, std::vector<float> & dst) const {
    ggml_backend_tensor_get(t, dst.data(), strm * t->nb[2] + h * t->nb[1], dst.size() * sizeof(float));
}

void lil_kv_cache_scored::set_head(ggml_tensor * t, uint32_t strm, uint32_t h, const std::vector<float> & src) const {
    ggml_backend_tensor_set(t, src.data(), strm * t->nb[2] + h * t->nb[1], src.size() * sizeof(float));
}

std::vector<lil_kv_cache_evict::side_tensor> lil_kv_cache_scored::get_side(size_t ikv) const {
    std::vector<side_tensor> res = { { score[ikv], true }, { pos[ikv], true } };

    if (n_ring > 0) {
        res.push_back({ ring[ikv], false, /*.changes =*/ring_stays });
    }

    return res;
}

lil_kv_cache_evict::slot_change lil_kv_cache_scored::advance(lil_evict_stream & st, const lil_evict_step & step) const {
    slot_change res;

    for (uint32_t i = step.base(); i < step.n_before; ++i) {
        res.freed.push_back(i);
    }
    for (uint32_t i = 0; i < step.n_new; ++i) {
        res.taken.push_back(step.base() + i);
    }

    if (st.n_used == 0) {
        st.pos_first = step.pos_first;
        st.pos_whole = step.pos_first;
    }
    if (step.n_evict > 0) {
        st.pos_whole = std::max(st.pos_whole, step.pos - (llama_pos) step.n_protect);
    }

    st.n_used = step.base() + step.n_new;
    st.n_evicted += step.n_evict;
    st.pos_next = step.pos + step.n_new;
    st.n_win    = std::min(n_ring, count_queries(st, step));

    return res;
}

void lil_kv_cache_scored::remove_tail(uint32_t strm, llama_pos p0) {
    auto & st = streams[strm];

    const uint32_t n_used  = st.n_used;
    const uint32_t n_after = n_used - std::min<uint32_t>(n_used, st.pos_next - p0);

    std::vector<float> p(n_used);
    std::vector<float> s(n_used);
    std::vector<float> rank(n_used);

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        const uint32_t n_head = n_head_kv(ikv);

        // before any head changes: a ranking may be that of all heads
        std::vector<std::vector<uint32_t>> order(n_head); // those that go first: the tail, then the lowest

        for (uint32_t h = 0; h < n_head; ++h) {
            get_head(pos[ikv], strm, h, p);
            get_scores(ikv, strm, h, rank);

            for (uint32_t i = 0; i < n_used; ++i) {
                order[h].push_back(i);
            }
            std::nth_element(order[h].begin(), order[h].begin() + (n_used - n_after), order[h].end(),
                    [&](uint32_t a, uint32_t b) {
                        const bool tail_a = p[a] >= (float) p0;
                        const bool tail_b = p[b] >= (float) p0;

                        return tail_a != tail_b ? tail_a : rank[a] != rank[b] ? rank[a] < rank[b] : p[a] < p[b];
                    });
        }

        for (uint32_t h = 0; h < n_head; ++h) {
            get_head(pos[ikv], strm, h, p);
            get_head(score[ikv], strm, h, s);

            std::vector<bool> goes(n_used, false);
            for (uint32_t i = 0; i < n_used - n_after; ++i) {
                goes[order[h][i]] = true;
            }

            uint32_t src = n_used;
            for (uint32_t dst = 0; dst < n_after; ++dst) {
                if (!goes[dst]) {
                    continue;
                }

                do {
                    --src;
                } while (goes[src]);

                for (ggml_tensor * t : get_stored(ikv)) {
                    const size_t size = ggml_row_size(t->type, t->ne[0] / n_head);

                    move_row(t, strm, src, dst, h * size, size);
                }

                p[dst] = p[src];
                s[dst] = s[src];
            }

            set_head(pos[ikv], strm, h, p);
            set_head(score[ikv], strm, h, s);
        }
    }

    free_cells(strm, n_after);

    st.n_used = n_after;
}

//
// graph
//

const lil_graph_input_scored * lil_kv_cache_scored::get_input(
        const llm_graph_context & g, const llama_kv_cache_context * mctx) {
    if (const auto * res = lil_find_input<lil_graph_input_scored>(g)) {
        return res;
    }

    auto inp = std::make_unique<lil_graph_input_scored>(this);

    inp->built = get_steps(g);

    const int64_t n_steps = inp->built.size();
    const int64_t n_new   = inp->built[0].n_new;
    const int64_t n_kv    = mctx->get_n_kv();

    if (store_queries(inp->built[0].decode)) {
        inp->ring = lil_new_input(g.ctx0, "ring", GGML_TYPE_I32, std::min<int64_t>(n_new, n_ring), n_steps, 1);
    }

    if (fused) {
        inp->steps = lil_new_input(g.ctx0, "steps", GGML_TYPE_I32, LIL_STEP_COUNT, n_steps, 1);
    } else {
        inp->keep    = lil_new_input(g.ctx0, "keep", GGML_TYPE_F32, n_kv, 1, n_steps);
        inp->pos_new = lil_new_input(g.ctx0, "pos_new", GGML_TYPE_F32, n_kv, 1, n_steps);
        inp->protect = lil_new_input(g.ctx0, "protect", GGML_TYPE_F32, 1, n_steps, 1);

        if (n_ring > 0) {
            inp->ring_pos    = lil_new_input(g.ctx0, "ring_pos", GGML_TYPE_F32, n_ring, n_steps, 1);
            inp->ring_weight = lil_new_input(g.ctx0, "ring_weight", GGML_TYPE_F32, n_ring, n_steps, 1);
        }
    }

    return lil_add_input(g, std::move(inp));
}

void lil_kv_cache_scored::build_before_store(
        const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) {
    GGML_UNUSED(k_rot);

    const auto * inp = get_input(g, mctx);

    const size_t ir = get_reader(il);

    if (!owns(ir)) { // the owner has decided
        return;
    }

    const layer_graph lg = { g, *inp, readers[ir].ikv, ir };

    const auto & steps = inp->built;

    if (std::any_of(steps.begin(), steps.end(), [this](const auto & step) { return need_rank(step); })) {
        build_rank(lg);
    }

    const bool decode = lg.decode();
    const bool evicts = std::any_of(steps.begin(), steps.end(), [](const auto & step) { return step.n_evict > 0; });

    if (fused) {
        if (decode || evicts) {
            build_inplace(lg, pos[lg.ikv], { layers[lg.ikv].k, values[lg.ikv], score[lg.ikv], inp->steps },
                    ops[lg.ikv].evict_slots);
        }
    } else {
        for (size_t i = 0; i < steps.size(); ++i) {
            if (steps[i].n_evict > 0) {
                build_evict(lg, i);
            }
        }
    }

    build_keep(g, lg.ikv);
}

ggml_tensor * lil_kv_cache_scored::build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx,
        ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) {
    ggml_tensor * cur = lil_kv_cache_evict::build_attn(g, mctx, q, k, v, kq_mask, kq_scale, il);

    const auto * inp = get_input(g, mctx);

    const size_t ir = get_reader(il);

    const layer_graph lg = { g, *inp, readers[ir].ikv, ir };

    auto & op = evict_layers[ir];

    op.n_score_part = n_score_part(g, lg.ikv);
    op.scale        = kq_scale;

    if (inp->ring) {
        build_store_queries(lg, q);
    }

    build_update(lg, { q, k, kq_mask, kq_scale });

    return cur;
}

void lil_kv_cache_scored::build_store_queries(const layer_graph & lg, ggml_tensor * q) const {
    ggml_tensor * t   = ring[lg.ikv];
    ggml_tensor * idx = lg.inp.ring;

    ggml_tensor * last = ggml_view_3d(lg.g.ctx0, q, q->ne[0] * q->ne[1], idx->ne[0], lg.n_steps(), q->nb[2],
            lg.n_new() * q->nb[2], (lg.n_new() - idx->ne[0]) * q->nb[2]);
    ggml_tensor * dst  = ggml_view_3d(
            lg.g.ctx0, t, t->ne[0], t->ne[1], lg.n_steps(), t->nb[1], t->nb[2], lg.inp.built[0].strm * t->nb[2]);

    ggml_build_forward_expand(lg.g.gf, ggml_set_rows(lg.g.ctx0, dst, last, idx));
}

void lil_kv_cache_scored::build_inplace(
        const layer_graph & lg, ggml_tensor * dst, std::vector<ggml_tensor *> args, ggml_custom_op_t op) {
    ggml_build_forward_expand(lg.g.gf,
            ggml_custom_inplace(lg.g.ctx0, dst, args.data(), args.size(), op, GGML_N_TASKS_MAX, &evict_layers[lg.ir]));
}

ggml_tensor * lil_kv_cache_scored::view_last_query(const layer_graph & lg, ggml_tensor * q) const {
    return ggml_view_3d(lg.g.ctx0, q, q->ne[0], q->ne[1], lg.n_steps(), q->nb[1], lg.n_new() * q->nb[2],
            (lg.n_new() - 1) * q->nb[2]);
}

//
// portable form: ggml's own ops, on every backend. Of tokens with exactly equal scores the one in the lower slot goes
//

ggml_tensor * lil_kv_cache_scored::view_slots(const layer_graph & lg, ggml_tensor * t, int64_t n, uint32_t strm) const {
    return ggml_view_2d(lg.g.ctx0, t, n, t->ne[1], t->nb[1], strm * t->nb[2]);
}

ggml_tensor * lil_kv_cache_scored::view_cells(const layer_graph & lg, ggml_tensor * t, int64_t n, uint32_t strm) const {
    return ggml_view_3d(lg.g.ctx0, t, 1, n, t->ne[1], t->nb[0], t->nb[1], strm * t->nb[2]);
}

ggml_tensor * lil_kv_cache_scored::view_heads(const layer_graph & lg, ggml_tensor * t, int64_t n, uint32_t strm) const {
    const int64_t n_head = n_head_kv(lg.ikv);
    const int64_t n_embd = t->ne[0] / n_head;

    return ggml_view_3d(lg.g.ctx0, t, n_embd, n, n_head, t->nb[1], ggml_row_size(t->type, n_embd), strm * t->nb[2]);
}

ggml_tensor * lil_kv_cache_scored::build_ranking(const layer_graph & lg, const lil_evict_step & step) const {
    return view_slots(lg, score[lg.ikv], step.n_before, step.strm);
}

void lil_kv_cache_scored::build_evict(const layer_graph & lg, size_t i_step) const {
    auto * ctx0 = lg.g.ctx0;
    auto * gf   = lg.g.gf;

    const size_t ikv  = lg.ikv;
    const auto & step = lg.inp.built[i_step];

    const int64_t n_before = step.n_before;
    const int64_t n_left   = step.base();
    const int64_t n_head   = n_head_kv(ikv);
    const int64_t n_slot   = params.capacity;

    ggml_tensor * s = build_ranking(lg, step);
    ggml_tensor * p = ggml_view_2d(ctx0, pos[ikv], n_before, s->ne[1], pos[ikv]->nb[1], step.strm * pos[ikv]->nb[2]);

    // protected tokens score above all others
    ggml_tensor * limit =
            ggml_view_2d(ctx0, lg.inp.protect, 1, 1, lg.inp.protect->nb[1], i_step * lg.inp.protect->nb[1]);
    // [n_before, n_head or 1]
    ggml_tensor * rank = ggml_add(ctx0, ggml_scale(ctx0, ggml_step(ctx0, ggml_sub(ctx0, p, limit)), 1e30f), s);

    if (step.n_evict == 1) {
        // one row of a slot and head each [ne0, capacity*n_head_kv]
        const auto view_rows = [&](ggml_tensor * t, int64_t ne0) {
            return ggml_view_2d(ctx0, t, ne0, n_slot * n_head, ggml_row_size(t->type, ne0), step.strm * t->nb[2]);
        };

        // the last slot's token takes the place of the lowest
        // [n_head or 1]
        ggml_tensor * hole = ggml_cast(ctx0, ggml_argmax(ctx0, ggml_scale(ctx0, rank, -1.0f)), GGML_TYPE_F32);
        ggml_tensor * head = ggml_arange(ctx0, 0.0f, (float) n_head, 1.0f);

        if (hole->ne[0] != n_head) {
            hole = ggml_repeat_4d(ctx0, hole, n_head, 1, 1, 1);
        }

        // slot*n_head + head
        ggml_tensor * i_row =
                ggml_cast(ctx0, ggml_add(ctx0, ggml_scale(ctx0, hole, (float) n_head), head), GGML_TYPE_I32);
        // head*n_slot + slot
        ggml_tensor * i_side =
                ggml_cast(ctx0, ggml_add(ctx0, hole, ggml_scale(ctx0, head, (float) n_slot)), GGML_TYPE_I32);

        // rows by number: ggml's Vulkan backend reads a view of quantised rows that begins anywhere as if it began
        // elsewhere
        ggml_tensor * i_last = ggml_cast(ctx0,
                ggml_arange(ctx0, (float) ((n_before - 1) * n_head), (float) (n_before * n_head), 1.0f), GGML_TYPE_I32);

        for (ggml_tensor * t : get_stored(ikv)) {
            ggml_tensor * rows = view_rows(t, t->ne[0] / n_head);

            ggml_build_forward_expand(gf, ggml_set_rows(ctx0, rows, ggml_get_rows(ctx0, rows, i_last), i_row));
        }

        for (ggml_tensor * t : { score[ikv], pos[ikv] }) {
            ggml_tensor * last =
                    ggml_view_2d(ctx0, t, 1, n_head, t->nb[1], step.strm * t->nb[2] + (n_before - 1) * t->nb[0]);

            ggml_build_forward_expand(gf,
                    ggml_set_rows(
                            ctx0, view_rows(t, 1), ggml_reshape_2d(ctx0, ggml_cont(ctx0, last), 1, n_head), i_side));
        }

        return;
    }

    // the tokens that stay move to the front
    ggml_tensor * stay  = ggml_top_k(ctx0, rank, n_left); // I32 [n_left, n_head or 1]
    ggml_tensor * front = ggml_cast(ctx0, ggml_arange(ctx0, 0.0f, (float) n_left, 1.0f), GGML_TYPE_I32);

    if (stay->ne[1] != n_head) {
        stay = ggml_cast(
                ctx0, ggml_repeat_4d(ctx0, ggml_cast(ctx0, stay, GGML_TYPE_F32), n_left, n_head, 1, 1), GGML_TYPE_I32);
    }

    // everything is read before anything is written
    std::vector<std::pair<ggml_tensor *, ggml_tensor *>> moves; // rows [ne0, n_left, n_head], their place

    for (ggml_tensor * t : get_stored(ikv)) {
        ggml_tensor * rows = ggml_get_rows(ctx0, view_heads(lg, t, n_before, step.strm), stay);
        ggml_build_forward_expand(gf, rows);

        moves.push_back({ rows, view_heads(lg, t, n_left, step.strm) });
    }

    for (ggml_tensor * t : { score[ikv], pos[ikv] }) {
        ggml_tensor * rows = ggml_get_rows(ctx0, view_cells(lg, t, n_before, step.strm), stay);
        ggml_build_forward_expand(gf, rows);

        moves.push_back({ rows, view_cells(lg, t, n_left, step.strm) });
    }

    for (const auto & [rows, place] : moves) {
        ggml_build_forward_expand(gf, ggml_set_rows(ctx0, place, rows, front));
    }
}

void lil_kv_cache_scored::build_add(const layer_graph & lg, ggml_tensor * t, ggml_tensor * x) const {
    auto * ctx0 = lg.g.ctx0;

    ggml_tensor * dst = ggml_view_3d(
            ctx0, t, lg.inp.keep->ne[0], t->ne[1], lg.n_steps(), t->nb[1], t->nb[2], lg.inp.built[0].strm * t->nb[2]);
    ggml_tensor * sum = evict_layers[lg.ir].adds ? dst : ggml_mul(ctx0, dst, lg.inp.keep);

    ggml_build_forward_expand(lg.g.gf, ggml_cpy(ctx0, x ? ggml_add(ctx0, sum, x) : sum, dst));
}

ggml_tensor * lil_kv_cache_scored::build_received(
        const layer_graph & lg, const layer_attn & attn, int64_t n_query) const {
    auto * ctx0 = lg.g.ctx0;

    ggml_tensor * q = attn.q;
    ggml_tensor * k = attn.k;

    const int64_t n_steps = lg.n_steps();
    const int64_t n_new   = lg.n_new();
    const int64_t n_kv    = k->ne[2];
    const int64_t n_head  = k->ne[1];
    const int64_t i0      = n_new - n_query;

    float scale = attn.scale;

    q = ggml_view_4d(
            ctx0, q, q->ne[0], q->ne[1], n_query, n_steps, q->nb[1], q->nb[2], n_new * q->nb[2], i0 * q->nb[2]);
    q = ggml_permute(ctx0, q, 0, 2, 1, 3);
    k = lil_build_keys(ctx0, ggml_permute(ctx0, k, 0, 2, 1, 3));

    ggml_tensor * kq = ggml_mul_mat(ctx0, k, q); // [n_kv, n_query, n_head_q, n_steps]
    ggml_prec_set_acc(kq, GGML_PREC_F32);

    if (hparams.attn_soft_cap) {
        const float cap = hparams.f_attn_logit_softcapping;

        kq    = ggml_scale(ctx0, ggml_tanh(ctx0, ggml_scale(ctx0, kq, scale / cap)), cap);
        scale = 1.0f;
    }

    ggml_tensor * mask = attn.kq_mask;
    if (i0 > 0) {
        mask = ggml_view_4d(ctx0, mask, mask->ne[0], n_query, mask->ne[2], mask->ne[3], mask->nb[1], mask->nb[2],
                mask->nb[3], i0 * mask->nb[1]);
        mask = ggml_cont(ctx0, mask);
    }

    kq = ggml_soft_max_ext(ctx0, kq, mask, scale, 0.0f);
    ggml_soft_max_add_sinks(kq, sinks(lg.ikv));

    // a group's queries, one after another, then their sum for each key
    kq = ggml_reshape_4d(ctx0, kq, n_kv, ggml_nelements(kq) / (n_kv * n_head * n_steps), n_head, n_steps);

    ggml_tensor * sum = ggml_sum_rows(ctx0, ggml_cont(ctx0, ggml_transpose(ctx0, kq)));

    return ggml_reshape_3d(ctx0, sum, n_kv, n_head, n_steps);
}

//
// input
//

void lil_graph_input_scored::set_input(const llama_ubatch * ubatch) {
    GGML_UNUSED(ubatch);

    const auto & cur = kv->cur.steps;

    // what a graph does not use has no buffer
    const auto set = [](ggml_tensor * t, const void * data) {
        if (t->buffer) {
            ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
        }
    };

    if (steps) {
        std::vector<int32_t> data(LIL_STEP_COUNT * cur.size(), 0);

        for (size_t i = 0; i < cur.size(); ++i) {
            int32_t * dst = data.data() + i * LIL_STEP_COUNT;

            dst[LIL_STEP_STREAM]  = cur[i].strm;
            dst[LIL_STEP_BEFORE]  = cur[i].n_before;
            dst[LIL_STEP_EVICT]   = cur[i].n_evict;
            dst[LIL_STEP_PROTECT] = cur[i].pos - (llama_pos) cur[i].n_protect;
            dst[LIL_STEP_NEW]     = cur[i].n_new;
            dst[LIL_STEP_POS]     = cur[i].pos;
            dst[LIL_STEP_WIN]     = cur[i].n_win;
        }

        set(steps, data.data());
    }

    if (ring) {
        std::vector<int32_t> data;

        for (const auto & step : cur) {
            for (int64_t i = 0; i < ring->ne[0]; ++i) {
                data.push_back((step.pos + (llama_pos) step.n_new - ring->ne[0] + i) % kv->n_ring);
            }
        }

        set(ring, data.data());
    }

    if (keep) {
        std::vector<float> data_keep(ggml_nelements(keep), 0.0f);
        std::vector<float> data_pos(ggml_nelements(pos_new), 0.0f);
        std::vector<float> data_protect(ggml_nelements(protect), 0.0f);

        for (size_t i = 0; i < cur.size(); ++i) {
            std::fill_n(data_keep.begin() + i * keep->ne[0], cur[i].base(), 1.0f);

            for (uint32_t j = 0; j < cur[i].n_new; ++j) {
                data_pos[i * keep->ne[0] + cur[i].base() + j] = cur[i].pos + (llama_pos) j;
            }

            data_protect[i] = cur[i].pos - (llama_pos) cur[i].n_protect - 0.5f;
        }

        set(keep, data_keep.data());
        set(pos_new, data_pos.data());
        set(protect, data_protect.data());
    }

    if (ring_pos) {
        std::vector<float> data_pos(ggml_nelements(ring_pos), 1e9f);
        std::vector<float> data_weight(ggml_nelements(ring_weight), 0.0f);

        for (size_t i = 0; i < cur.size(); ++i) {
            for (uint32_t j = 1; j <= cur[i].n_win; ++j) {
                const llama_pos p = cur[i].pos - (llama_pos) j;

                data_pos[i * kv->n_ring + p % kv->n_ring]    = p;
                data_weight[i * kv->n_ring + p % kv->n_ring] = 1.0f / cur[i].n_win;
            }
        }

        set(ring_pos, data_pos.data());
        set(ring_weight, data_weight.data());
    }
}

bool lil_graph_input_scored::can_reuse(const llm_graph_params & params) {
    const auto & cur = kv->cur.steps;

    if (cur.size() != built.size() || kv->keeps(cur) || kv->keeps(built)) {
        return false;
    }

    for (size_t i = 0; i < cur.size(); ++i) {
        if (cur[i].strm != built[i].strm || cur[i].decode != built[i].decode || cur[i].n_new != built[i].n_new ||
                kv->need_rank(cur[i]) != kv->need_rank(built[i])) {
            return false;
        }

        // the fused eviction takes its numbers from the input, in a decode step; otherwise they shape the graph
        if (steps ? !cur[i].decode && (cur[i].n_evict > 0) != (built[i].n_evict > 0)
                  : cur[i].n_evict != built[i].n_evict ||
                                (cur[i].n_evict > 0 && cur[i].n_before != built[i].n_before)) {
            return false;
        }
    }

    return steps ? true : keep->ne[0] == lil_get_kv_context(params.mctx)->get_n_kv();
}
