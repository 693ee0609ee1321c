#include "lil-kv-cache-evict.h"

#include "llama-io.h"

#include <cstring>
#include <functional>
#include <stdexcept>

// The state of an evict cache, as llama_state_* saves it:
//
//   header                            method and shapes, for refusing what does not fit
//   per stream (all, or one sequence's)
//     counts
//     per layer: K rows, V rows [n_used], side tensors (per slot: [n_used] of each KV head; others whole), each with its size
//
// All numbers in the machine's byte order, as the rest of llama.cpp's state.

static const uint32_t LIL_STATE_MAGIC   = 0x6c696c65; // "lile"
static const uint32_t LIL_STATE_VERSION = 2;

namespace {

struct state_header {
    uint32_t magic     = LIL_STATE_MAGIC;
    uint32_t version   = LIL_STATE_VERSION;
    uint32_t method    = 0;
    uint32_t budget    = 0;
    uint32_t n_sink    = 0;
    uint32_t recent    = 0;
    uint32_t positions = 0;
    uint32_t window    = 0;
    uint32_t buffer    = 0; // R-KV, as those below
    uint32_t n_obs     = 0;
    float    lambda    = 0.0f;
    float    threshold = 0.0f;
    uint32_t n_layer   = 0;
    uint32_t type_k    = 0;
    uint32_t type_v    = 0;
    uint32_t n_stream  = 0;
};

struct state_counts {
    uint32_t  n_used    = 0;
    uint32_t  n_evicted = 0;
    uint32_t  n_win     = 0;
    llama_pos pos_first = 0;
    llama_pos pos_next  = 0;
    llama_pos pos_whole = 0;
};

}

static state_header make_header(const lil_sparse_params & p, const llama_kv_cache & kv, uint32_t n_stream) {
    state_header h;

    h.method    = p.method;
    h.budget    = p.budget;
    h.n_sink    = p.n_sink;
    h.recent    = p.recent;
    h.positions = p.positions;
    h.window    = p.prompt_scores == LIL_PROMPT_SCORES_WINDOW;
    h.n_layer   = kv.get_layer_ids().size();
    h.type_k    = kv.type_k();
    h.type_v    = kv.type_v();
    h.n_stream  = n_stream;

    if (p.method == LIL_SPARSE_RKV) {
        h.buffer    = p.buffer;
        h.n_obs     = p.n_obs;
        h.lambda    = p.lambda;
        h.threshold = p.threshold;
    }

    return h;
}

void lil_kv_cache_evict::for_each_part(uint32_t strm, uint32_t n_used, const std::function<void(ggml_tensor *, size_t, uint64_t)> & f) const {
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (ggml_tensor * t : { layers[ikv].k, layers[ikv].v }) {
            f(t, strm*t->nb[2], n_used*t->nb[1]);
        }

        for (const auto & side : get_side(ikv)) {
            ggml_tensor * t = side.t;

            if (!side.per_slot) {
                f(t, strm*t->nb[2], t->nb[2]);
                continue;
            }

            for (int64_t h = 0; h < t->ne[1]; ++h) {
                f(t, strm*t->nb[2] + h*t->nb[1], n_used*t->nb[0]);
            }
        }
    }
}

void lil_kv_cache_evict::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    GGML_UNUSED(flags);

    const state_header h = make_header(params, *this, seq_id == -1 ? n_stream : 1);
    io.write(&h, sizeof(h));

    if (seq_id == -1) {
        for (uint32_t s = 0; s < n_stream; ++s) {
            state_write_stream(io, s);
        }
    } else {
        state_write_stream(io, seq_to_stream[seq_id]);
    }
}

void lil_kv_cache_evict::state_write_stream(llama_io_write_i & io, uint32_t strm) const {
    const auto & st = streams[strm];

    state_counts c;
    c.n_used    = st.n_used;
    c.n_evicted = st.n_evicted;
    c.n_win     = st.n_win;
    c.pos_first = st.pos_first;
    c.pos_next  = st.pos_next;
    c.pos_whole = st.pos_whole;
    io.write(&c, sizeof(c));

    const uint32_t n_slot_pos = st.slot_pos.size();
    io.write(&n_slot_pos, sizeof(n_slot_pos));
    io.write(st.slot_pos.data(), n_slot_pos*sizeof(llama_pos));

    if (st.n_used == 0) {
        return;
    }

    for_each_part(strm, st.n_used, [&](ggml_tensor * t, size_t offs, uint64_t n_bytes) {
        io.write(&n_bytes, sizeof(n_bytes));
        io.write_tensor(t, offs, n_bytes);
    });
}

void lil_kv_cache_evict::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    GGML_UNUSED(flags);

    synchronize();

    state_header h;
    io.read(&h, sizeof(h));

    if (h.magic != LIL_STATE_MAGIC || h.version != LIL_STATE_VERSION) {
        throw std::runtime_error("the state was not saved by a context with an evicting method of this version");
    }

    state_header want = make_header(params, *this, seq_id == -1 ? n_stream : 1);

    if (memcmp(&h, &want, sizeof(h)) != 0) {
        throw std::runtime_error("the state was saved with another method, budget, KV type or model than this context's");
    }

    if (seq_id == -1) {
        clear(false);
        for (uint32_t s = 0; s < n_stream; ++s) {
            state_read_stream(io, s);
        }
    } else {
        state_read_stream(io, seq_to_stream[seq_id]);
    }
}

void lil_kv_cache_evict::state_read_stream(llama_io_read_i & io, uint32_t strm) {
    clear_stream(strm);

    state_counts c;
    io.read(&c, sizeof(c));

    uint32_t n_slot_pos;
    io.read(&n_slot_pos, sizeof(n_slot_pos));

    if (c.n_used > params.capacity) {
        throw std::runtime_error("the state holds " + std::to_string(c.n_used) + " tokens, more than capacity = " + std::to_string(params.capacity));
    }
    if (c.pos_next > (int64_t) n_ctx || c.pos_next < c.pos_first || n_slot_pos > c.n_used || c.n_win > n_win_max()) {
        throw std::runtime_error("the state's positions do not fit n_ctx = " + std::to_string(n_ctx));
    }

    lil_evict_stream st;
    st.n_used    = c.n_used;
    st.n_evicted = c.n_evicted;
    st.n_win     = c.n_win;
    st.pos_first = c.pos_first;
    st.pos_next  = c.pos_next;
    st.pos_whole = c.pos_whole;
    st.slot_pos.resize(n_slot_pos);
    io.read(st.slot_pos.data(), n_slot_pos*sizeof(llama_pos));

    if (st.n_used == 0) {
        return;
    }

    for_each_part(strm, st.n_used, [&](ggml_tensor * t, size_t offs, uint64_t n_bytes) {
        uint64_t n_saved;
        io.read(&n_saved, sizeof(n_saved));
        if (n_saved != n_bytes) {
            throw std::runtime_error("the state's rows have another size than this model's");
        }
        io.read_tensor(t, offs, n_bytes);
    });

    // where heads hold different tokens, any positions below pos_next do: see the class
    auto & cells = v_cells[strm];
    for (uint32_t i = 0; i < st.n_used; ++i) {
        cells.pos_set(i, st.slot_pos.empty() ? st.pos_next - (llama_pos) (st.n_used - i) : st.slot_pos[i]);
        cells.seq_add(i, strm);
    }

    streams[strm] = std::move(st);
}
