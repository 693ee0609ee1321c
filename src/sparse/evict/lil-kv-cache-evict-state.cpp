#include "lil-kv-cache-evict.h"

#include "lil-hooks.h"
#include "lil-state-io.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <stdexcept>

// The state of an evict cache, as llama_state_* saves it:
//
//   header                            method and shapes, for refusing what does not fit
//   per stream (all, or one sequence's)
//     counts
//     per layer: K rows, V rows [n_used], side tensors (per slot: [n_used] of each KV head; others whole), each with
//       its size
//     how many ends of prompts are kept, and per end: counts, how much of it is left, and with their size in sum: the
//       same per layer
//
// All numbers in the machine's byte order, as the rest of llama.cpp's state.

static const uint32_t LIL_STATE_MAGIC   = 0x6c696c65; // "lile"
static const uint32_t LIL_STATE_VERSION = 4;

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
    uint32_t  in_prompt = 0;
};

}

static state_header make_header(
        const lil_sparse_params & p, const llama_kv_cache & kv, ggml_type type_v, uint32_t n_stream) {
    state_header h;

    h.method    = p.method;
    h.budget    = p.budget;
    h.n_sink    = p.n_sink;
    h.recent    = p.recent;
    h.positions = p.positions;
    h.window    = p.prompt_scores == LIL_PROMPT_SCORES_WINDOW;
    h.n_layer   = kv.get_layer_ids().size();
    h.type_k    = kv.type_k();
    h.type_v    = type_v;
    h.n_stream  = n_stream;

    if (p.method == LIL_SPARSE_RKV) {
        h.buffer    = p.buffer;
        h.n_obs     = p.n_obs;
        h.lambda    = p.lambda;
        h.threshold = p.threshold;
    }

    return h;
}

bool lil_in_state(const llama_kv_cache & attn, llama_state_seq_flags flags) {
    return (flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == 0 || dynamic_cast<const lil_kv_cache_evict *>(&attn);
}

void lil_kv_cache_evict::for_each_part(
        uint32_t strm, uint32_t n_used, const std::function<void(ggml_tensor *, size_t, uint64_t)> & f) const {
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (ggml_tensor * t : get_stored(ikv)) {
            f(t, strm * t->nb[2], n_used * t->nb[1]);
        }

        for (const auto & side : get_side(ikv)) {
            ggml_tensor * t = side.t;

            if (!side.per_slot) {
                f(t, strm * t->nb[2], t->nb[2]);
                continue;
            }

            for (int64_t h = 0; h < t->ne[1]; ++h) {
                f(t, strm * t->nb[2] + h * t->nb[1], n_used * t->nb[0]);
            }
        }
    }
}

void lil_kv_cache_evict::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    GGML_UNUSED(flags);

    const state_header h = make_header(params, *this, values[0]->type, seq_id == -1 ? n_stream : 1);
    io.write(&h, sizeof(h));

    if (seq_id == -1) {
        for (uint32_t s = 0; s < n_stream; ++s) {
            state_write_stream(io, s);
        }
    } else {
        state_write_stream(io, seq_to_stream[seq_id]);
    }
}

static void write_counts(llama_io_write_i & io, const lil_evict_stream & st) {
    state_counts c;
    c.n_used    = st.n_used;
    c.n_evicted = st.n_evicted;
    c.n_win     = st.n_win;
    c.pos_first = st.pos_first;
    c.pos_next  = st.pos_next;
    c.pos_whole = st.pos_whole;
    c.in_prompt = st.in_prompt;
    io.write(&c, sizeof(c));

    for (const auto * list : { &st.slot_pos, &st.rank_pos }) {
        const uint32_t n = list->size();
        io.write(&n, sizeof(n));
        lil_write(io, *list);
    }
}

void lil_kv_cache_evict::state_write_stream(llama_io_write_i & io, uint32_t strm) const {
    const auto & st = streams[strm];

    write_counts(io, st);

    if (st.n_used == 0) {
        return;
    }

    for_each_part(strm, st.n_used, [&](ggml_tensor * t, size_t offs, uint64_t n_bytes) {
        io.write(&n_bytes, sizeof(n_bytes));
        io.write_tensor(t, offs, n_bytes);
    });

    state_write_kept(io, strm);
}

void lil_kv_cache_evict::state_write_kept(llama_io_write_i & io, uint32_t strm) const {
    const uint32_t n = kept[strm].size();
    io.write(&n, sizeof(n));

    for (const auto & e : kept[strm]) {
        write_counts(io, e.st);
        io.write(&e.end, sizeof(e.end));

        const uint64_t n_all = kept_size(strm, e);
        io.write(&n_all, sizeof(n_all));

        for_each_kept(strm, e, [&](const kept_tensor & kt, size_t o0, size_t o1, uint64_t n_bytes) {
            GGML_UNUSED(o0);

            io.write_tensor(kt.kept, o1, n_bytes);
        });
    }
}

void lil_kv_cache_evict::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    GGML_UNUSED(flags);

    synchronize();

    record.forget(seq_id);

    state_header h;
    io.read(&h, sizeof(h));

    if (h.magic != LIL_STATE_MAGIC || h.version != LIL_STATE_VERSION) {
        throw std::runtime_error("the state was not saved by a context with an evicting method of this version");
    }

    state_header want = make_header(params, *this, values[0]->type, seq_id == -1 ? n_stream : 1);

    if (memcmp(&h, &want, sizeof(h)) != 0) {
        throw std::runtime_error(
                "the state was saved with another method, budget, KV type or model than this context's");
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

// what a sequence can be, n_max slots at most
lil_evict_stream lil_kv_cache_evict::read_counts(llama_io_read_i & io, uint32_t n_max) const {
    state_counts c;
    io.read(&c, sizeof(c));

    uint32_t n_slot_pos;
    io.read(&n_slot_pos, sizeof(n_slot_pos));

    const bool has_slot_pos = params.method == LIL_SPARSE_SINK;

    if (c.n_used > n_max) {
        lil_throw("the state holds %u tokens, more than the %u slots of this context", c.n_used, n_max);
    }
    if (c.pos_first < 0 || c.pos_next < c.pos_first || c.pos_next > (int64_t) n_ctx) {
        lil_throw("the state's positions [%d, %d) do not fit n_ctx = %u", c.pos_first, c.pos_next, n_ctx);
    }

    const uint32_t n_tokens = c.pos_next - c.pos_first;

    if (c.n_used > n_tokens || c.n_evicted != n_tokens - c.n_used || (c.n_used == 0 && n_tokens > 0)) {
        lil_throw("the state is damaged: %u tokens held and %u evicted at positions [%d, %d)", c.n_used, c.n_evicted,
                c.pos_first, c.pos_next);
    }
    if (c.pos_whole < c.pos_first || c.pos_whole > c.pos_next || c.n_win > std::min(n_win_max(), n_tokens)) {
        lil_throw("the state is damaged: whole from position %d on, %u queries, at positions [%d, %d)", c.pos_whole,
                c.n_win, c.pos_first, c.pos_next);
    }
    if (n_slot_pos != (has_slot_pos ? c.n_used : 0)) {
        lil_throw("the state is damaged: positions of %u slots, %u tokens held", n_slot_pos, c.n_used);
    }

    lil_evict_stream st;
    st.n_used    = c.n_used;
    st.n_evicted = c.n_evicted;
    st.n_win     = c.n_win;
    st.pos_first = c.pos_first;
    st.pos_next  = c.pos_next;
    st.pos_whole = c.pos_whole;
    st.in_prompt = c.in_prompt != 0;
    st.slot_pos.resize(n_slot_pos);
    lil_read(io, st.slot_pos);

    uint32_t n_rank_pos;
    io.read(&n_rank_pos, sizeof(n_rank_pos));

    if (n_rank_pos != 0 && (n_rank_pos != n_tokens || hparams.n_pos_per_embd() == 1)) {
        lil_throw("the state is damaged: positions of %u tokens, not %u", n_rank_pos, n_tokens);
    }
    st.rank_pos.resize(n_rank_pos);
    lil_read(io, st.rank_pos);

    if (!std::is_sorted(st.rank_pos.begin(), st.rank_pos.end()) || (n_rank_pos > 0 && st.rank_pos[0] != st.pos_first)) {
        lil_throw("the state is damaged: the positions of its tokens do not follow each other");
    }

    // the first tokens, each in the slot of its number, and all from pos_whole on
    const uint32_t  n_sink = st.n_evicted > 0 ? std::min(params.n_sink, st.n_used) : 0;
    const llama_pos p_rest = st.n_evicted > 0 ? st.pos_whole : st.pos_first;

    std::set<llama_pos> rest(st.slot_pos.begin() + (has_slot_pos ? n_sink : 0), st.slot_pos.end());

    bool ok = !has_slot_pos ||
            (rest.size() == st.n_used - n_sink && st.n_used - n_sink == uint32_t(st.pos_next - p_rest));
    for (const llama_pos p : rest) {
        ok = ok && p >= p_rest && p < st.pos_next;
    }
    for (uint32_t i = 0; has_slot_pos && i < n_sink; ++i) {
        ok = ok && st.slot_pos[i] == st.pos_first + (llama_pos) i;
    }
    if (!ok) {
        lil_throw("the state is damaged: its slots do not hold the first %u tokens and those from position %d on",
                n_sink, p_rest);
    }

    return st;
}

static void check_size(llama_io_read_i & io, uint64_t n_bytes) {
    uint64_t n_saved;
    io.read(&n_saved, sizeof(n_saved));

    if (n_saved != n_bytes) {
        throw std::runtime_error("the state's rows have another size than this model's");
    }
}

static void skip(llama_io_read_i & io) {
    uint64_t n_bytes;
    io.read(&n_bytes, sizeof(n_bytes));

    std::vector<uint8_t> buf(1024 * 1024);
    for (uint64_t i = 0; i < n_bytes; i += buf.size()) {
        io.read(buf.data(), std::min<uint64_t>(buf.size(), n_bytes - i));
    }
}

void lil_kv_cache_evict::state_read_stream(llama_io_read_i & io, uint32_t strm) {
    clear_stream(strm);

    lil_evict_stream st = read_counts(io, params.capacity);

    if (st.n_used == 0) {
        return;
    }

    for_each_part(strm, st.n_used, [&](ggml_tensor * t, size_t offs, uint64_t n_bytes) {
        check_size(io, n_bytes);
        io.read_tensor(t, offs, n_bytes);
    });

    auto list = state_read_kept(io, strm, st);

    streams[strm] = std::move(st);
    kept[strm]    = std::move(list);

    set_cells(strm);
}

std::vector<lil_evict_kept> lil_kv_cache_evict::state_read_kept(
        llama_io_read_i & io, uint32_t strm, const lil_evict_stream & st) {
    std::vector<lil_evict_kept> res;

    uint32_t n;
    io.read(&n, sizeof(n));

    for (uint32_t i = 0; i < n; ++i) {
        lil_evict_kept e;
        e.st = read_counts(io, params.budget);
        io.read(&e.end, sizeof(e.end));

        const bool ok = e.st.n_used > 0 && e.st.n_used < params.budget && e.st.pos_first == st.pos_first &&
                e.end <= std::min(e.st.pos_next, st.pos_next) && can_serve(e, e.end) &&
                (res.empty() || res.back().end < e.end);
        if (!ok) {
            lil_throw("the state is damaged: an end of a prompt at %d of a sequence at [%d, %d)", e.end, st.pos_first,
                    st.pos_next);
        }

        if (n - i > n_kept_max) { // a context that keeps fewer takes the last ones
            skip(io);
            continue;
        }

        e.i_kept = res.size();

        check_size(io, kept_size(strm, e));
        for_each_kept(strm, e, [&](const kept_tensor & kt, size_t o0, size_t o1, uint64_t n_bytes) {
            GGML_UNUSED(o0);

            io.read_tensor(kt.kept, o1, n_bytes);
        });

        res.push_back(std::move(e));
    }

    return res;
}
