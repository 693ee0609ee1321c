#include "lil-kv-cache-evict.h"

#include "lil-graph-input.h"
#include "lil-rope.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>

// Sink (StreamingLLM, arXiv 2309.17453): the first n_sink tokens and the last B - n_sink, for all heads and layers
// alike.
//
// Since every head holds the same tokens, the cells describe the cache exactly, and a decode step costs nothing beyond
// its attention: the new token takes the slot of the one that leaves.
//
// positions = cache: keys take the position of their slot. The query's distance to the tokens of the window is the same
// under either rule, so the window keeps its RoPE positions, and only the sinks move: by the number of tokens gone.
// They are turned from a copy in F32, so that no rounding accumulates.

namespace {

// what changes from step to step
class graph_input_sink : public llm_graph_input_i {
public:
    // of one stream whose sinks move
    struct turn {
        uint32_t strm;
        bool     capture; // the first eviction: take the copy from the cache

        bool operator==(const turn & other) const { return strm == other.strm && capture == other.capture; }
    };

    explicit graph_input_sink(std::function<bool(graph_input_sink & self, bool set)> update) :
        update(std::move(update)) {}

    void set_input(const llama_ubatch * ubatch) override {
        GGML_UNUSED(ubatch);
        update(*this, true);
    }

    bool can_reuse(const llm_graph_params & params) override {
        GGML_UNUSED(params);
        return update(*this, false);
    }

    ggml_tensor * move_src = nullptr; // I32 [n_moves] rows of all streams
    ggml_tensor * move_dst = nullptr; // I32 [n_moves]

    std::vector<turn> turns;

    bool keeps = false; // the graph keeps the end of a prompt

    ggml_tensor * turn_pos = nullptr; // I32 [n_sink, n_turns]
    ggml_tensor * turn_dst = nullptr; // I32 [n_sink, n_turns] rows of all streams

private:
    // set: fill the tensors; otherwise: whether the graph fits the step
    std::function<bool(graph_input_sink & self, bool set)> update;
};

class lil_kv_cache_sink : public lil_kv_cache_evict {
public:
    explicit lil_kv_cache_sink(const args & a) : lil_kv_cache_evict(a) {
        if (params.positions == LIL_POSITIONS_CACHE && params.n_sink > 0) {
            sink_k.resize(layers.size(), nullptr);
            for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
                if (hparams.has_rope(layers[ikv].il)) {
                    sink_k[ikv] = new_side(ikv, "sink_k", GGML_TYPE_F32, layers[ikv].k->ne[0], params.n_sink, n_stream);
                }
            }

            alloc_side();
        }

        alloc_kept();
    }

    int32_t get_slots(llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * pos, float * score,
            int32_t n) const override {
        GGML_UNUSED(il);
        GGML_UNUSED(i_head_kv);

        const auto & st = streams[seq_to_stream[seq_id]];

        for (int32_t i = 0; i < std::min(n, (int32_t) st.n_used); ++i) {
            pos[i] = st.to_pos(st.slot_pos[i]);
            if (score) {
                score[i] = 0.0f;
            }
        }

        return st.n_used;
    }

    uint32_t graph_max_nodes() const override { return layers.size() * (8 + 18 * n_stream); }

protected:
    uint32_t n_protect(bool decode) const override { return params.budget - params.n_sink - (decode ? 1 : 0); }

    std::vector<side_tensor> get_side(size_t ikv) const override {
        if (sink_k.empty() || !sink_k[ikv]) {
            return {};
        }
        return { { sink_k[ikv], false, /*.changes =*/false } };
    }

    slot_change advance(lil_evict_stream & st, const lil_evict_step & step) const override {
        slot_change res;

        if (st.n_used == 0) {
            st.pos_first = step.pos_first;
        }

        // the oldest tokens behind the sinks go
        const llama_pos p0 = st.n_evicted > 0 ? st.pos_whole : st.pos_first + (llama_pos) params.n_sink;
        const llama_pos p1 = p0 + (llama_pos) step.n_evict;

        const uint32_t n_after = step.base() + step.n_new;

        // tokens below it fill the holes: what is kept of a prompt has none
        const uint32_t n_fill = step.keep ? step.base() : n_after;

        std::vector<uint32_t> holes; // below n_fill, ascending
        for (uint32_t i = 0; step.n_evict > 0 && i < st.n_used; ++i) {
            if (st.slot_pos[i] >= p0 && st.slot_pos[i] < p1) {
                res.freed.push_back(i);
                if (i < n_fill) {
                    holes.push_back(i);
                }
                st.slot_pos[i] = -1;
            }
        }
        GGML_ASSERT(res.freed.size() == step.n_evict);

        size_t i_hole = 0;
        for (uint32_t i = n_fill; i < st.n_used; ++i) {
            if (st.slot_pos[i] >= 0) {
                st.slot_pos[holes[i_hole]] = st.slot_pos[i];
                res.moved.push_back({ i, holes[i_hole++] });
            }
        }

        uint32_t next = step.keep ? n_fill : st.n_used; // the first slot that is free
        st.slot_pos.resize(n_after);

        for (uint32_t i = 0; i < step.n_new; ++i) {
            const uint32_t slot = i_hole < holes.size() ? holes[i_hole++] : next++;

            st.slot_pos[slot] = step.pos + i;
            res.taken.push_back(slot);
        }

        st.n_used = n_after;
        st.n_evicted += step.n_evict;
        st.pos_next  = step.pos + step.n_new;
        st.pos_whole = st.n_evicted > 0 ? p1 : st.pos_first;

        return res;
    }

    void remove_tail(uint32_t strm, llama_pos p0) override {
        auto & st    = streams[strm];
        auto & cells = v_cells[strm];

        const uint32_t n_after =
                std::count_if(st.slot_pos.begin(), st.slot_pos.end(), [p0](llama_pos p) { return p < p0; });

        uint32_t src = st.n_used;
        for (uint32_t dst = 0; dst < n_after; ++dst) {
            if (st.slot_pos[dst] < p0) {
                continue;
            }

            do {
                --src;
            } while (st.slot_pos[src] >= p0);

            for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
                for (ggml_tensor * t : get_stored(ikv)) {
                    move_row(t, strm, src, dst, 0, t->nb[1]);
                }
            }

            cells.rm(dst);
            copy_cell(cells, src, dst);

            st.slot_pos[dst] = st.slot_pos[src];
        }

        free_cells(strm, n_after);

        st.n_used = n_after;
        st.slot_pos.resize(n_after);
    }

    void build_before_store(
            const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) override {
        GGML_UNUSED(mctx);

        if (!owns(get_reader(il))) { // the owner has decided
            return;
        }

        const auto * inp = get_input(g);

        const size_t ikv = map_layer_ids.at(il);

        auto * ctx0 = g.ctx0;

        ggml_tensor * k = layers[ikv].k;

        // rows of all streams
        const auto all_rows = [ctx0](ggml_tensor * t) {
            return ggml_reshape_2d(ctx0, t, t->ne[0], t->ne[1] * t->ne[2]);
        };
        ggml_tensor * k_rows = all_rows(k);

        if (inp->move_src) {
            for (ggml_tensor * t : get_stored(ikv)) {
                ggml_tensor * rows  = all_rows(t);
                ggml_tensor * moved = ggml_get_rows(ctx0, rows, inp->move_src); // F32 [n_embd_gqa, n_moves]
                ggml_build_forward_expand(g.gf, ggml_set_rows(ctx0, rows, moved, inp->move_dst));
            }
        }

        for (size_t i = 0; i < inp->turns.size() && sink_k[ikv]; ++i) {
            const auto & turn = inp->turns[i];

            const int64_t n_sink = params.n_sink;
            const int64_t n_head = n_head_kv(ikv);
            const int64_t n_embd = k->ne[0] / n_head;

            ggml_tensor * copy = ggml_view_2d(
                    ctx0, sink_k[ikv], k->ne[0], n_sink, sink_k[ikv]->nb[1], turn.strm * sink_k[ikv]->nb[2]);

            if (turn.capture) {
                ggml_tensor * cur = ggml_cast(
                        ctx0, ggml_view_2d(ctx0, k, k->ne[0], n_sink, k->nb[1], turn.strm * k->nb[2]), GGML_TYPE_F32);
                if (k_rot) {
                    // is its own inverse
                    cur = llama_mul_mat_hadamard(ctx0, ggml_reshape_3d(ctx0, cur, n_embd, n_head, n_sink), k_rot);
                    cur = ggml_reshape_2d(ctx0, cur, k->ne[0], n_sink);
                }
                copy = ggml_cpy(ctx0, cur, copy);
                ggml_build_forward_expand(g.gf, copy);
            }

            ggml_tensor * pos = ggml_view_1d(ctx0, inp->turn_pos, n_sink, i * inp->turn_pos->nb[1]);
            ggml_tensor * dst = ggml_view_1d(ctx0, inp->turn_dst, n_sink, i * inp->turn_dst->nb[1]);

            ggml_tensor * cur =
                    lil_build_turn(g, model, hparams, ggml_reshape_3d(ctx0, copy, n_embd, n_head, n_sink), pos, il);
            if (k_rot) {
                cur = llama_mul_mat_hadamard(ctx0, cur, k_rot);
            }

            ggml_build_forward_expand(
                    g.gf, ggml_set_rows(ctx0, k_rows, ggml_reshape_2d(ctx0, cur, k->ne[0], n_sink), dst));
        }

        build_keep(g, ikv);
    }

private:
    // positions = cache: the sinks' keys as they were first stored, F32 [n_embd_k_gqa, n_sink, n_stream], per cache
    // layer
    std::vector<ggml_tensor *> sink_k;

    bool turns_sinks() const { return !sink_k.empty(); }

    std::vector<graph_input_sink::turn> get_turns(const std::vector<lil_evict_step> & steps) const {
        std::vector<graph_input_sink::turn> res;

        for (const auto & step : steps) {
            if (turns_sinks() && step.n_gone > 0) {
                res.push_back({ step.strm, step.n_gone == step.n_evict });
            }
        }

        return res;
    }

    size_t get_n_moves() const {
        size_t res = 0;

        for (const auto & change : cur.slots) {
            res += cur.reserve ? 0 : change.moved.size();
        }

        return res;
    }

    const graph_input_sink * get_input(const llm_graph_context & g) {
        if (const auto * res = lil_find_input<graph_input_sink>(g)) {
            return res;
        }

        auto inp = std::make_unique<graph_input_sink>([this](graph_input_sink & self, bool set) {
            return set ? (set_input(self), true)
                       : get_n_moves() == 0 && !self.move_src && !self.keeps && !keeps(cur.steps) &&
                            self.turns == get_turns(cur.steps);
        });

        if (const size_t n_moves = get_n_moves()) {
            inp->move_src = lil_new_input(g.ctx0, "move_src", GGML_TYPE_I32, n_moves, 1);
            inp->move_dst = lil_new_input(g.ctx0, "move_dst", GGML_TYPE_I32, n_moves, 1);
        }

        inp->turns = get_turns(get_steps(g));
        inp->keeps = keeps(get_steps(g));

        if (!inp->turns.empty()) {
            inp->turn_pos = lil_new_input(g.ctx0, "turn_pos", GGML_TYPE_I32, params.n_sink, inp->turns.size());
            inp->turn_dst = lil_new_input(g.ctx0, "turn_dst", GGML_TYPE_I32, params.n_sink, inp->turns.size());
        }

        return lil_add_input(g, std::move(inp));
    }

    void set_input(graph_input_sink & inp) const {
        if (inp.move_src) {
            std::vector<int32_t> src;
            std::vector<int32_t> dst;

            for (size_t s = 0; s < cur.slots.size(); ++s) {
                for (const auto & m : cur.slots[s].moved) {
                    src.push_back(cur.steps[s].strm * get_size() + m.src);
                    dst.push_back(cur.steps[s].strm * get_size() + m.dst);
                }
            }

            ggml_backend_tensor_set(inp.move_src, src.data(), 0, ggml_nbytes(inp.move_src));
            ggml_backend_tensor_set(inp.move_dst, dst.data(), 0, ggml_nbytes(inp.move_dst));
        }

        if (inp.turn_pos) {
            std::vector<int32_t> pos;
            std::vector<int32_t> dst;

            for (const auto & step : cur.steps) {
                for (uint32_t i = 0; step.n_gone > 0 && i < params.n_sink; ++i) {
                    pos.push_back(step.n_gone);
                    dst.push_back(step.strm * get_size() + i); // the sinks never leave the first slots
                }
            }

            ggml_backend_tensor_set(inp.turn_pos, pos.data(), 0, ggml_nbytes(inp.turn_pos));
            ggml_backend_tensor_set(inp.turn_dst, dst.data(), 0, ggml_nbytes(inp.turn_dst));
        }
    }
};

}

static std::string check(const lil_sparse_params & p) {
    if (p.budget < (uint64_t) p.n_sink + 1) {
        return format("budget = %u is too small for n_sink = %u: at least n_sink + 1 = %llu", p.budget, p.n_sink,
                p.n_sink + 1ull);
    }

    return "";
}

// the same nodes in both forms
static lil_needs needs(const lil_sparse_params &) {
    return {};
}

const lil_method lil_method_sink = {
    LIL_SPARSE_SINK,
    /*.evicts =*/true,
    check,
    needs,
    [](const lil_cache_args & a) -> llama_kv_cache * { return new lil_kv_cache_sink(a); },
    LIL_EVICT_OPTIONS "n_sink positions",
    /*.positions =*/LIL_POSITIONS_CACHE,
};
