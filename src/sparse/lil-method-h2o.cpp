#include "lil-kv-cache-evict.h"

#include "lil-ops.h"

#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>

// H2O (arXiv 2306.14048): every KV head of every layer keeps the last `recent` tokens and those that attention has looked
// at most, prompt queries included.
//
// FlashAttention gives the output and hides the probabilities; they are computed again from q and K and added to the
// scores. Over B keys that reread costs little beside the model's weights.

namespace {

class lil_kv_cache_h2o;

// a step's numbers, so that graphs can be reused from step to step
class graph_input_h2o : public llm_graph_input_i {
public:
    explicit graph_input_h2o(const lil_kv_cache_h2o * kv) : kv(kv) {}

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

    // what the graph was built for
    std::vector<lil_evict_step> built;

    // fused form
    ggml_tensor * steps = nullptr; // I32 [LIL_STEP_COUNT, n_steps]

    // window: which row of the ring each of the last queries takes
    ggml_tensor * ring  = nullptr; // I32 [n_keep, n_steps]

    // portable form
    ggml_tensor * keep    = nullptr; // F32 [n_kv, 1, n_steps] 1 for the slots held before the step's tokens, else 0
    ggml_tensor * pos_new = nullptr; // F32 [n_kv, 1, n_steps] positions of the step's tokens, else 0
    ggml_tensor * protect = nullptr; // F32 [1, n_steps]       positions above this one stay

private:
    const lil_kv_cache_h2o * kv;
};

class lil_kv_cache_h2o : public lil_kv_cache_evict {
public:
    explicit lil_kv_cache_h2o(const args & a) : lil_kv_cache_evict(a) {
        for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
            score.push_back(new_side(ikv, "score", params.capacity, n_head_kv(ikv), n_stream));
            pos  .push_back(new_side(ikv, "pos",   params.capacity, n_head_kv(ikv), n_stream));

            if (is_window()) {
                const int64_t n_embd_q = layers[ikv].k->ne[0]/n_head_kv(ikv)*hparams.n_head(layers[ikv].il);

                win.push_back(new_side(ikv, "win", n_embd_q, LIL_H2O_WINDOW, n_stream));
            }
        }

        alloc_side();

        op_layers.resize(layers.size());
    }

    int32_t get_slots(llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * p, float * s, int32_t n) const override {
        synchronize();

        const uint32_t strm = seq_to_stream[seq_id];
        const uint32_t n_used = streams[strm].n_used;
        const size_t   ikv = map_layer_ids.at(il);

        std::vector<float> buf(n_used);

        get_head(pos[ikv], strm, i_head_kv, buf);
        for (int32_t i = 0; i < std::min(n, (int32_t) n_used); ++i) {
            p[i] = (llama_pos) buf[i];
        }

        if (s) {
            get_head(score[ikv], strm, i_head_kv, buf);
            std::copy_n(buf.begin(), std::min(n, (int32_t) n_used), s);
        }

        return n_used;
    }

    uint32_t graph_max_nodes() const override {
        return layers.size()*(32 + 32*n_stream);
    }

    void build_before_store(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) override {
        GGML_UNUSED(k_rot);

        const auto * inp = get_input(g, mctx);

        const size_t ikv = map_layer_ids.at(il);

        const bool decode = inp->built[0].n_new == 1;
        const bool evicts = std::any_of(inp->built.begin(), inp->built.end(), [](const auto & step) { return step.n_evict > 0; });

        if (fused) {
            if (has_window(*inp)) {
                ggml_tensor * srcs[] = { win[ikv], layers[ikv].k, pos[ikv], inp->steps };
                ggml_build_forward_expand(g.gf, ggml_custom_inplace(g.ctx0, score[ikv], srcs, 4, ops->h2o_score_window, GGML_N_TASKS_MAX, &op_layers[ikv]));
            }

            if (decode || evicts) {
                ggml_tensor * srcs[] = { layers[ikv].k, layers[ikv].v, score[ikv], inp->steps };
                ggml_build_forward_expand(g.gf, ggml_custom_inplace(g.ctx0, pos[ikv], srcs, 4, ops->h2o_evict, GGML_N_TASKS_MAX, &op_layers[ikv]));
            }
        } else {
            for (size_t i = 0; i < inp->built.size(); ++i) {
                if (inp->built[i].n_evict > 0) {
                    build_evict(g, *inp, i, ikv);
                }
            }
        }
    }

    ggml_tensor * build_attn(
             const llm_graph_context & g,
        const llama_kv_cache_context * mctx,
                         ggml_tensor * q,
                         ggml_tensor * k,
                         ggml_tensor * v,
                         ggml_tensor * kq_mask,
                               float   kq_scale,
                                 int   il) override {
        ggml_tensor * cur = lil_kv_cache_evict::build_attn(g, mctx, q, k, v, kq_mask, kq_scale, il);

        const auto * inp = get_input(g, mctx);

        const size_t ikv = map_layer_ids.at(il);

        if (fused) {
            build_score_fused(g, *inp, q, mctx->get_n_kv(), kq_scale, ikv);
        } else {
            build_score(g, *inp, q, k, kq_mask, kq_scale, ikv);
        }

        return cur;
    }

protected:
    uint32_t n_protect(bool decode) const override {
        return params.recent - (decode ? 1 : 0);
    }

    std::vector<side_tensor> get_side(size_t ikv) const override {
        std::vector<side_tensor> res = { { score[ikv], true }, { pos[ikv], true } };

        if (is_window()) {
            res.push_back({ win[ikv], false });
        }

        return res;
    }

    slot_change advance(lil_evict_stream & st, const lil_evict_step & step) const override {
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

        st.n_used     = step.base() + step.n_new;
        st.n_evicted += step.n_evict;
        st.pos_next   = step.pos + step.n_new;

        if (is_window()) {
            st.n_win -= step.n_win;
            if (step.n_new > 1) {
                st.n_win = std::min<uint32_t>(LIL_H2O_WINDOW, st.n_win + step.n_new);
            }
        }

        return res;
    }

    void remove_tail(uint32_t strm, llama_pos p0) override {
        auto & st = streams[strm];

        const uint32_t n_used  = st.n_used;
        const uint32_t n_after = n_used - (st.pos_next - p0);

        std::vector<float> p(n_used);
        std::vector<float> s(n_used);

        for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
            ggml_tensor * k = layers[ikv].k;
            ggml_tensor * v = layers[ikv].v;

            const uint32_t n_head = n_head_kv(ikv);

            const size_t k_size = ggml_row_size(k->type, k->ne[0]/n_head);
            const size_t v_size = ggml_row_size(v->type, v->ne[0]/n_head);

            for (uint32_t h = 0; h < n_head; ++h) {
                get_head(pos  [ikv], strm, h, p);
                get_head(score[ikv], strm, h, s);

                uint32_t src = n_used;
                for (uint32_t dst = 0; dst < n_after; ++dst) {
                    if (p[dst] < (float) p0) {
                        continue;
                    }

                    do {
                        --src;
                    } while (p[src] >= (float) p0);

                    move_row(k, strm, src, dst, h*k_size, k_size);
                    move_row(v, strm, src, dst, h*v_size, v_size);

                    p[dst] = p[src];
                    s[dst] = s[src];
                }

                set_head(pos  [ikv], strm, h, p);
                set_head(score[ikv], strm, h, s);
            }
        }

        free_cells(strm, n_after);

        st.n_used = n_after;
    }

private:
    friend class graph_input_h2o;

    // per cache layer
    std::vector<ggml_tensor *> score; // F32 [capacity, n_head_kv, n_stream] accumulated attention of each slot
    std::vector<ggml_tensor *> pos;   // F32 [capacity, n_head_kv, n_stream] position of each slot
    std::vector<ggml_tensor *> win;   // F32 [n_embd_head*n_head, LIL_H2O_WINDOW, n_stream] the last prompt queries (window)

    std::vector<lil_h2o_layer> op_layers;

    const lil_cpu_ops * ops = lil_get_cpu_ops();

    bool is_window() const {
        return params.prompt_scores == LIL_PROMPT_SCORES_WINDOW;
    }

    static bool has_window(const graph_input_h2o & inp) {
        return std::any_of(inp.built.begin(), inp.built.end(), [](const auto & step) { return step.n_win > 0; });
    }

    void get_head(const ggml_tensor * t, uint32_t strm, uint32_t h, std::vector<float> & dst) const {
        ggml_backend_tensor_get(t, dst.data(), strm*t->nb[2] + h*t->nb[1], dst.size()*sizeof(float));
    }

    void set_head(ggml_tensor * t, uint32_t strm, uint32_t h, const std::vector<float> & src) const {
        ggml_backend_tensor_set(t, src.data(), strm*t->nb[2] + h*t->nb[1], src.size()*sizeof(float));
    }

    const graph_input_h2o * get_input(const llm_graph_context & g, const llama_kv_cache_context * mctx) {
        for (const auto & inp : g.res->inputs) {
            if (const auto * res = dynamic_cast<const graph_input_h2o *>(inp.get())) {
                return res;
            }
        }

        auto inp = std::make_unique<graph_input_h2o>(this);

        inp->built = get_steps(g);

        const int64_t n_steps = inp->built.size();
        const int64_t n_new   = inp->built[0].n_new;
        const int64_t n_kv    = mctx->get_n_kv();

        const auto new_input = [&](const char * name, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2) {
            ggml_tensor * t = ggml_new_tensor_3d(g.ctx0, type, ne0, ne1, ne2);
            ggml_set_input(t);
            ggml_set_name(t, name);
            return t;
        };

        if (fused) {
            inp->steps = new_input("lil_steps", GGML_TYPE_I32, LIL_STEP_COUNT, n_steps, 1);

            if (is_window() && n_new > 1) {
                inp->ring = new_input("lil_ring", GGML_TYPE_I32, std::min<int64_t>(n_new, LIL_H2O_WINDOW), n_steps, 1);
            }
        } else {
            inp->keep    = new_input("lil_keep",    GGML_TYPE_F32, n_kv, 1, n_steps);
            inp->pos_new = new_input("lil_pos_new", GGML_TYPE_F32, n_kv, 1, n_steps);
            inp->protect = new_input("lil_protect", GGML_TYPE_F32, 1, n_steps, 1);
        }

        return static_cast<const graph_input_h2o *>(g.res->add_input(std::move(inp)));
    }

    //
    // fused form
    //

    void build_score_fused(const llm_graph_context & g, const graph_input_h2o & inp, ggml_tensor * q, int64_t n_kv, float kq_scale, size_t ikv) {
        auto & op = op_layers[ikv];

        op.n_head_kv = n_head_kv(ikv);
        op.n_part    = std::max(1, std::max(g.cparams.n_threads, g.cparams.n_threads_batch));
        op.scale     = kq_scale;
        op.softcap   = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;

        ggml_tensor * k = layers[ikv].k;

        const int64_t n_steps = inp.built.size();
        const int64_t n_new   = inp.built[0].n_new;

        if (n_new == 1) {
            ggml_tensor * srcs[] = { q, k, pos[ikv], inp.steps };
            ggml_build_forward_expand(g.gf, ggml_custom_inplace(g.ctx0, score[ikv], srcs, 4, ops->h2o_score, GGML_N_TASKS_MAX, &op));
            return;
        }

        if (is_window()) {
            // only keep the last queries; their slots' positions and scores begin as those of any token
            ggml_tensor * q_last = ggml_view_3d(g.ctx0, q, q->ne[0]*q->ne[1], inp.ring->ne[0], n_steps,
                    q->nb[2], n_new*q->nb[2], (n_new - inp.ring->ne[0])*q->nb[2]);
            ggml_tensor * dst    = ggml_view_3d(g.ctx0, win[ikv], win[ikv]->ne[0], win[ikv]->ne[1], n_steps,
                    win[ikv]->nb[1], win[ikv]->nb[2], inp.built[0].strm*win[ikv]->nb[2]);
            ggml_build_forward_expand(g.gf, ggml_set_rows(g.ctx0, dst, q_last, inp.ring));
        }

        ggml_tensor * part = nullptr;

        if (!is_window()) {
            ggml_tensor * srcs[] = { q, k, inp.steps };
            part = ggml_custom_4d(g.ctx0, GGML_TYPE_F32, n_kv, op.n_head_kv, op.n_part, n_steps, srcs, 3, ops->h2o_score_prompt, GGML_N_TASKS_MAX, &op);
        } else {
            part = ggml_fill(g.ctx0, ggml_new_tensor_4d(g.ctx0, GGML_TYPE_F32, n_kv, op.n_head_kv, op.n_part, n_steps), 0.0f);
        }

        ggml_tensor * srcs[] = { part, pos[ikv], inp.steps };
        ggml_build_forward_expand(g.gf, ggml_custom_inplace(g.ctx0, score[ikv], srcs, 3, ops->h2o_score_add, GGML_N_TASKS_MAX, &op));
    }

    //
    // portable form: ggml's own ops, on every backend. Of tokens with exactly equal scores the one in the lower slot goes
    //

    // one row of a slot and head each [ne0, capacity*n_head_kv]
    ggml_tensor * view_rows(const llm_graph_context & g, ggml_tensor * t, int64_t ne0, int64_t n_rows, uint32_t strm) const {
        return ggml_view_2d(g.ctx0, t, ne0, n_rows, ggml_row_size(t->type, ne0), strm*t->nb[2]);
    }

    void build_evict(const llm_graph_context & g, const graph_input_h2o & inp, size_t i_step, size_t ikv) const {
        auto * ctx0 = g.ctx0;

        const auto & step = inp.built[i_step];

        const int64_t n_before = step.n_before;
        const int64_t n_left   = step.base();
        const int64_t n_head   = n_head_kv(ikv);
        const int64_t n_slot   = params.capacity;

        const auto view = [&](ggml_tensor * t, int64_t n, int64_t i0) { // slots [i0, i0 + n) of a side tensor [n, n_head]
            return ggml_view_2d(ctx0, t, n, n_head, t->nb[1], step.strm*t->nb[2] + i0*t->nb[0]);
        };

        ggml_tensor * s = view(score[ikv], n_before, 0);
        ggml_tensor * p = view(pos  [ikv], n_before, 0);

        // protected tokens score above all others
        ggml_tensor * limit = ggml_view_2d(ctx0, inp.protect, 1, 1, inp.protect->nb[1], i_step*inp.protect->nb[1]);
        ggml_tensor * rank  = ggml_add(ctx0, ggml_scale(ctx0, ggml_step(ctx0, ggml_sub(ctx0, p, limit)), 1e30f), s); // [n_before, n_head]

        if (step.n_evict == 1) {
            // the last slot's token takes the place of the lowest
            ggml_tensor * hole = ggml_cast(ctx0, ggml_argmax(ctx0, ggml_scale(ctx0, rank, -1.0f)), GGML_TYPE_F32); // [n_head]
            ggml_tensor * head = ggml_arange(ctx0, 0.0f, (float) n_head, 1.0f);

            ggml_tensor * i_row  = ggml_cast(ctx0, ggml_add(ctx0, ggml_scale(ctx0, hole, (float) n_head), head), GGML_TYPE_I32); // slot*n_head + head
            ggml_tensor * i_side = ggml_cast(ctx0, ggml_add(ctx0, hole, ggml_scale(ctx0, head, (float) n_slot)), GGML_TYPE_I32); // head*n_slot + slot

            for (ggml_tensor * t : { layers[ikv].k, layers[ikv].v }) {
                const int64_t n_embd = t->ne[0]/n_head;

                ggml_tensor * last = ggml_view_2d(ctx0, t, n_embd, n_head, ggml_row_size(t->type, n_embd), step.strm*t->nb[2] + (n_before - 1)*t->nb[1]);

                ggml_build_forward_expand(g.gf, ggml_set_rows(ctx0, view_rows(g, t, n_embd, n_slot*n_head, step.strm), ggml_cast(ctx0, last, GGML_TYPE_F32), i_row));
            }

            for (ggml_tensor * t : { score[ikv], pos[ikv] }) {
                ggml_tensor * last = ggml_reshape_2d(ctx0, ggml_cont(ctx0, view(t, 1, n_before - 1)), 1, n_head);

                ggml_build_forward_expand(g.gf, ggml_set_rows(ctx0, view_rows(g, t, 1, n_slot*n_head, step.strm), last, i_side));
            }

            return;
        }

        // the tokens that stay move to the front
        ggml_tensor * stay  = ggml_top_k(ctx0, rank, n_left); // I32 [n_left, n_head]
        ggml_tensor * front = ggml_cast(ctx0, ggml_arange(ctx0, 0.0f, (float) n_left, 1.0f), GGML_TYPE_I32);

        // everything is read before anything is written
        std::vector<std::pair<ggml_tensor *, ggml_tensor *>> moves; // rows [ne0, n_left, n_head], their place

        for (ggml_tensor * t : { layers[ikv].k, layers[ikv].v }) {
            const int64_t n_embd = t->ne[0]/n_head;
            const size_t  nb_row = ggml_row_size(t->type, n_embd);

            ggml_tensor * rows = ggml_get_rows(ctx0, ggml_view_3d(ctx0, t, n_embd, n_before, n_head, t->nb[1], nb_row, step.strm*t->nb[2]), stay);
            ggml_build_forward_expand(g.gf, rows);

            moves.push_back({ rows, ggml_view_3d(ctx0, t, n_embd, n_left, n_head, t->nb[1], nb_row, step.strm*t->nb[2]) });
        }

        for (ggml_tensor * t : { score[ikv], pos[ikv] }) {
            ggml_tensor * rows = ggml_get_rows(ctx0, ggml_view_3d(ctx0, t, 1, n_before, n_head, t->nb[0], t->nb[1], step.strm*t->nb[2]), stay);
            ggml_build_forward_expand(g.gf, rows);

            moves.push_back({ rows, ggml_view_3d(ctx0, t, 1, n_left, n_head, t->nb[0], t->nb[1], step.strm*t->nb[2]) });
        }

        for (const auto & [rows, place] : moves) {
            ggml_build_forward_expand(g.gf, ggml_set_rows(ctx0, place, rows, front));
        }
    }

    void build_score(const llm_graph_context & g, const graph_input_h2o & inp, ggml_tensor * q, ggml_tensor * k, ggml_tensor * kq_mask, float kq_scale, size_t ikv) const {
        auto * ctx0 = g.ctx0;

        const int64_t n_steps = inp.built.size();
        const int64_t n_new   = inp.built[0].n_new;
        const int64_t n_kv    = k->ne[2];
        const int64_t n_head  = k->ne[1];

        q = ggml_view_4d(ctx0, q, q->ne[0], q->ne[1], n_new, n_steps, q->nb[1], q->nb[2], n_new*q->nb[2], 0);
        q = ggml_permute(ctx0, q, 0, 2, 1, 3);
        k = ggml_permute(ctx0, k, 0, 2, 1, 3);

        if (k->type == GGML_TYPE_F32) { // as FlashAttention reads it
            k = ggml_cast(ctx0, k, GGML_TYPE_F16);
        }

        ggml_tensor * kq = ggml_mul_mat(ctx0, k, q); // [n_kv, n_new, n_head_q, n_steps]
        ggml_prec_set_acc(kq, GGML_PREC_F32);

        if (hparams.attn_soft_cap) {
            const float cap = hparams.f_attn_logit_softcapping;

            kq = ggml_scale(ctx0, ggml_tanh(ctx0, ggml_scale(ctx0, kq, kq_scale/cap)), cap);
            kq_scale = 1.0f;
        }

        kq = ggml_soft_max_ext(ctx0, kq, kq_mask, kq_scale, 0.0f);

        // a group's queries, one after another, then their sum for each key
        kq = ggml_reshape_4d(ctx0, kq, n_kv, ggml_nelements(kq)/(n_kv*n_head*n_steps), n_head, n_steps);

        ggml_tensor * sum = ggml_sum_rows(ctx0, ggml_cont(ctx0, ggml_transpose(ctx0, kq)));
        sum = ggml_reshape_3d(ctx0, sum, n_kv, n_head, n_steps);

        // new slots begin at 0
        const auto add = [&](ggml_tensor * t, ggml_tensor * x) {
            ggml_tensor * dst = ggml_view_3d(ctx0, t, n_kv, n_head, n_steps, t->nb[1], t->nb[2], inp.built[0].strm*t->nb[2]);

            ggml_build_forward_expand(g.gf, ggml_cpy(ctx0, ggml_add(ctx0, ggml_mul(ctx0, dst, inp.keep), x), dst));
        };

        add(score[ikv], sum);
        add(pos  [ikv], inp.pos_new);
    }
};

void graph_input_h2o::set_input(const llama_ubatch * ubatch) {
    GGML_UNUSED(ubatch);

    const auto & cur = kv->cur.steps;

    if (steps) {
        std::vector<int32_t> data(LIL_STEP_COUNT*cur.size(), 0);

        for (size_t i = 0; i < cur.size(); ++i) {
            int32_t * dst = data.data() + i*LIL_STEP_COUNT;

            dst[LIL_STEP_STREAM]  = cur[i].strm;
            dst[LIL_STEP_BEFORE]  = cur[i].n_before;
            dst[LIL_STEP_EVICT]   = cur[i].n_evict;
            dst[LIL_STEP_PROTECT] = cur[i].pos - (llama_pos) cur[i].n_protect;
            dst[LIL_STEP_NEW]     = cur[i].n_new;
            dst[LIL_STEP_POS]     = cur[i].pos;
            dst[LIL_STEP_WIN]     = cur[i].n_win;
        }

        if (steps->buffer) {
            ggml_backend_tensor_set(steps, data.data(), 0, ggml_nbytes(steps));
        }
    }

    if (ring && ring->buffer) {
        std::vector<int32_t> data;

        for (const auto & step : cur) {
            for (int64_t i = 0; i < ring->ne[0]; ++i) {
                data.push_back((step.pos + (llama_pos) step.n_new - ring->ne[0] + i)%LIL_H2O_WINDOW);
            }
        }

        ggml_backend_tensor_set(ring, data.data(), 0, ggml_nbytes(ring));
    }

    if (keep) {
        std::vector<float> data_keep   (ggml_nelements(keep),    0.0f);
        std::vector<float> data_pos    (ggml_nelements(pos_new), 0.0f);
        std::vector<float> data_protect(ggml_nelements(protect), 0.0f);

        for (size_t i = 0; i < cur.size(); ++i) {
            std::fill_n(data_keep.begin() + i*keep->ne[0], cur[i].base(), 1.0f);

            for (uint32_t j = 0; j < cur[i].n_new; ++j) {
                data_pos[i*keep->ne[0] + cur[i].base() + j] = cur[i].pos + (llama_pos) j;
            }

            data_protect[i] = cur[i].pos - (llama_pos) cur[i].n_protect - 0.5f;
        }

        ggml_backend_tensor_set(keep,    data_keep.data(), 0, ggml_nbytes(keep));
        ggml_backend_tensor_set(pos_new, data_pos .data(), 0, ggml_nbytes(pos_new));

        if (protect->buffer) { // no step of this graph evicts
            ggml_backend_tensor_set(protect, data_protect.data(), 0, ggml_nbytes(protect));
        }
    }
}

bool graph_input_h2o::can_reuse(const llm_graph_params & params) {
    const auto * mctx = dynamic_cast<const llama_kv_cache_context *>(params.mctx);
    if (!mctx) {
        mctx = dynamic_cast<const llama_kv_cache_iswa_context *>(params.mctx)->get_base();
    }

    const auto & cur = kv->cur.steps;

    if (cur.size() != built.size()) {
        return false;
    }

    for (size_t i = 0; i < cur.size(); ++i) {
        if (cur[i].strm != built[i].strm || cur[i].n_new != built[i].n_new || (cur[i].n_win > 0) != (built[i].n_win > 0)) {
            return false;
        }

        // the fused eviction takes its numbers from the input, in a decode step; otherwise they shape the graph
        if (steps ? cur[i].n_new > 1 && (cur[i].n_evict > 0) != (built[i].n_evict > 0)
                  : cur[i].n_evict != built[i].n_evict || (cur[i].n_evict > 0 && cur[i].n_before != built[i].n_before)) {
            return false;
        }
    }

    return steps ? true : keep->ne[0] == mctx->get_n_kv();
}

}

lil_kv_cache_evict * lil_new_kv_cache_h2o(const lil_kv_cache_evict::args & a) {
    return new lil_kv_cache_h2o(a);
}
