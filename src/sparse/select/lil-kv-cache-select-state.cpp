#include "lil-kv-cache-select.h"

#include "lil-state-io.h"

#include "llama-impl.h"

#include <algorithm>
#include <stdexcept>

// The state of a select cache: llama.cpp's own, and behind it, where the method keeps cell tensors
//
//   header        method and shapes, for refusing what does not fit, and how many sequences follow
//   per sequence  decode steps
//   per stream    per layer and cell tensor: the values [n_head_kv][cells], cells in the order of llama.cpp's state
//
// A method without cell tensors adds nothing: its states and the stock cache's can be exchanged. Page tensors are
// computed again.

static const uint32_t LIL_STATE_MAGIC   = 0x6c696c73; // "lils"
static const uint32_t LIL_STATE_VERSION = 2;

namespace {

struct state_header {
    uint32_t magic   = LIL_STATE_MAGIC;
    uint32_t version = LIL_STATE_VERSION;
    uint32_t method  = 0;
    uint32_t n_layer = 0;
    uint32_t n_seq   = 0;
};

}

std::vector<uint32_t> lil_kv_cache_select::state_cells(uint32_t strm, llama_seq_id seq_id) const {
    std::vector<uint32_t> res;

    const auto & cells = v_cells[strm];

    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && (seq_id == -1 || cells.seq_has(i, seq_id))) {
            res.push_back(i);
        }
    }

    return res;
}

void lil_kv_cache_select::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    llama_kv_cache::state_write(io, seq_id, flags);

    if (get_cell_tensors(0).empty()) {
        return;
    }

    state_header header;
    header.method  = params.method;
    header.n_layer = layers.size();
    header.n_seq   = seq_id == -1 ? n_seq_max : 1;
    io.write(&header, sizeof(header));

    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_id == -1 || (uint32_t) seq_id == s) {
            io.write(&index[s].n_steps, sizeof(index[s].n_steps));
        }
    }

    for (uint32_t strm = 0; strm < n_stream; ++strm) {
        const auto cells = state_cells(strm, seq_id);

        for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
            for (const ggml_tensor * t : get_cell_tensors(ikv)) {
                std::vector<float> plane(t->ne[0] * t->ne[1]);
                ggml_backend_tensor_get(t, plane.data(), strm * t->nb[2], plane.size() * sizeof(float));

                std::vector<float> data;
                for (int64_t h = 0; h < t->ne[1]; ++h) {
                    for (const uint32_t cell : cells) {
                        data.push_back(plane[h * t->ne[0] + cell]);
                    }
                }

                lil_write(io, data);
            }
        }
    }
}

// where pages go by position, one has room for as many tokens as it has positions
void lil_kv_cache_select::check_positions(uint32_t seq_id) {
    index[seq_id].read(v_cells[seq_to_stream[seq_id]], seq_id);

    for (uint32_t r = 0; r < index[seq_id].size(); ++r) {
        const llama_pos p = index[seq_id].pos(r);

        if (p < 0 || (hparams.n_pos_per_embd() == 1 && r > 0 && p == index[seq_id].pos(r - 1))) {
            throw std::runtime_error(
                    format("the state has position %d in sequence %u%s", p, seq_id, p < 0 ? "" : " twice"));
        }
    }
}

void lil_kv_cache_select::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    // whatever happens, cells may have changed
    for_each_seq(seq_id, [](auto & idx) { idx.invalidate(0); });
    record.forget(seq_id);

    slot_info_vec_t sinfos;
    state_read_sinfo(io, seq_id, flags, &sinfos, nullptr);

    for_each_seq(seq_id, [](auto & idx) { idx.invalidate(0); });

    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_id == -1 || (uint32_t) seq_id == s) {
            check_positions(s);
        }
    }

    if (get_cell_tensors(0).empty()) {
        return;
    }

    try {
        state_header header;
        io.read(&header, sizeof(header));

        if (header.magic != LIL_STATE_MAGIC || header.version != LIL_STATE_VERSION ||
                header.method != (uint32_t) params.method || header.n_layer != layers.size()) {
            throw std::runtime_error("the state was saved by another method");
        }

        if (header.n_seq > LLAMA_MAX_SEQ || (seq_id != -1 && header.n_seq != 1)) {
            throw std::runtime_error(
                    "the state holds " + std::to_string(header.n_seq) + " sequences, one was asked for");
        }

        // A state of more sequences has been read: those that this context lacks are empty. Of fewer: its others are
        std::vector<uint32_t> n_steps(std::max(header.n_seq, n_seq_max), 0);
        io.read(n_steps.data(), header.n_seq * sizeof(uint32_t));

        const uint32_t * next = n_steps.data();
        for_each_seq(seq_id, [&](auto & idx) { idx.n_steps = *next++; });

        for (uint32_t s = 0; s < n_stream; ++s) {
            if (sinfos[s].empty()) {
                continue;
            }

            const uint32_t strm  = seq_id == -1 ? s : seq_to_stream[seq_id];
            const auto &   cells = sinfos[s].idxs[0];

            for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
                for (ggml_tensor * t : get_cell_tensors(ikv)) {
                    std::vector<float> plane(t->ne[0] * t->ne[1]);
                    ggml_backend_tensor_get(t, plane.data(), strm * t->nb[2], plane.size() * sizeof(float));

                    std::vector<float> data(cells.size() * t->ne[1]);
                    lil_read(io, data);

                    // what lies behind takes no memory
                    const size_t n_max = *std::max_element(cells.begin(), cells.end()) + 1;

                    for (int64_t h = 0; h < t->ne[1]; ++h) {
                        for (size_t i = 0; i < cells.size(); ++i) {
                            plane[h * t->ne[0] + cells[i]] = data[h * cells.size() + i];
                        }
                        ggml_backend_tensor_set(
                                t, &plane[h * t->ne[0]], strm * t->nb[2] + h * t->nb[1], n_max * sizeof(float));
                    }
                }
            }
        }
    } catch (...) {
        state_clear(seq_id);
        throw;
    }
}
