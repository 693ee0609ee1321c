#include "lil-kv-memory.h"

#include "lil-hooks.h"
#include "lil-kv-buffer.h"
#include "lil-os-memory.h"
#include "lil-sparse.h"

#include "llama-kv-cache-dsa.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache-msa.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"

#include <algorithm>
#include <exception>
#include <cstring>
#include <functional>
#include <set>

// the caches with cells that a memory consists of, as far as what lies in a cell without a token is of no use to it
static void for_each_kv(llama_memory_i * memory, const std::function<void(llama_kv_cache &)> & f) {
    if (auto * hybrid = dynamic_cast<llama_memory_hybrid *>(memory)) {
        memory = hybrid->get_mem_attn();
    } else if (auto * hybrid_iswa = dynamic_cast<llama_memory_hybrid_iswa *>(memory)) {
        memory = hybrid_iswa->get_mem_attn();
    }

    if (auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        f(*iswa->get_base());
        f(*iswa->get_swa());
    } else if (auto * msa = dynamic_cast<llama_kv_cache_msa *>(memory)) {
        f(*msa->get_base());
        f(*msa->get_idx());
    } else if (auto * dsa = dynamic_cast<llama_kv_cache_dsa *>(memory)) {
        f(*dsa->get_mla());
        f(*dsa->get_lid());
    } else if (auto * kv = dynamic_cast<llama_kv_cache *>(memory)) {
        f(*kv);
    }
}

namespace {

// how the cells of a stream lie in a tensor
struct layout {
    ggml_tensor * t;

    size_t n_rows; // of a stream
    size_t nb_row; // bytes of a row
    size_t nb_cell;

    // a row for each cell
    static layout cells_in_rows(ggml_tensor * t) { return { t, 1, t->nb[2], t->nb[1] }; }

    // a column for each of n_cells
    static layout cells_in_columns(ggml_tensor * t, size_t n_cells) {
        return { t, t->nb[2] / (n_cells * t->nb[0]), n_cells * t->nb[0], t->nb[0] };
    }

    // f(offset, bytes) for each part of the tensor that holds cells [begin, end) of a stream
    template <typename F>
    void for_each_part(uint32_t strm, uint32_t begin, uint32_t end, const F & f) const {
        for (size_t i = 0; i < n_rows; ++i) {
            f(strm * t->nb[2] + i * nb_row + begin * nb_cell, (end - begin) * nb_cell);
        }
    }
};

}

// what a class derived from it may see, of any cache
struct kv_access : llama_kv_cache {
    static auto & get_layers(const llama_kv_cache & kv) { return kv.*&kv_access::layers; }
    static bool   get_v_trans(const llama_kv_cache & kv) { return kv.*&kv_access::v_trans; }
    static auto & get_cells(const llama_kv_cache & kv) { return *(kv.*&kv_access::v_cells_impl); }
    static bool   is_shared(const llama_kv_cache & kv) { return kv.*&kv_access::other != nullptr; }
    static auto & get_copies(const llama_kv_cache & kv) { return kv.*&kv_access::sc_info; }
    static auto & get_buffers(const llama_kv_cache & kv) { return kv.*&kv_access::ctxs_bufs; }
};

// of keys and values
static std::vector<layout> get_layouts(const llama_kv_cache & kv) {
    std::vector<layout> res;

    for (const auto & layer : kv_access::get_layers(kv)) {
        res.push_back(layout::cells_in_rows(layer.k));
        if (layer.v) {
            res.push_back(kv_access::get_v_trans(kv) ? layout::cells_in_columns(layer.v, kv.get_size())
                                                     : layout::cells_in_rows(layer.v));
        }
    }

    return res;
}

void lil_release_cells(llama_kv_cache & kv, const std::vector<uint32_t> & streams) {
    auto layouts = get_layouts(kv);

    if (auto * sparse = kv.get_sparse()) {
        for (ggml_tensor * t : sparse->get_cell_side()) {
            layouts.push_back(layout::cells_in_columns(t, kv.get_size()));
        }
        sparse->release_side(streams);
    }

    for (const uint32_t strm : streams) {
        const auto & cells = kv_access::get_cells(kv)[strm];

        for (uint32_t begin = 0, end; begin < cells.size(); begin = end + 1) {
            end = begin;
            while (end < cells.size() && cells.is_empty(end)) {
                ++end;
            }
            if (end - begin < LIL_RELEASE_CELLS) {
                continue;
            }
            for (const auto & l : layouts) {
                if (lil_is_kv_buffer(l.t->buffer)) {
                    l.for_each_part(strm, begin, end, [&](size_t offset, size_t n) { lil_discard(l.t, offset, n); });
                }
            }
        }
    }
}

// the cells of each stream that hold tokens; empty where nothing may be given back
static std::vector<uint32_t> get_used(const llama_kv_cache & kv) {
    std::vector<uint32_t> res;

    if (!kv_access::is_shared(kv) && kv_access::get_copies(kv).empty()) {
        for (const auto & cells : kv_access::get_cells(kv)) {
            res.push_back(cells.get_used());
        }
    }

    return res;
}

//
// hooks
//

lil_removal::lil_removal(llama_memory_i * memory, llama_seq_id seq_id) :
    memory(memory), seq_id(seq_id), n_exceptions(std::uncaught_exceptions()) {
    for_each_kv(memory, [this](llama_kv_cache & kv) { before.emplace_back(&kv, get_used(kv)); });
}

lil_removal::~lil_removal() {
    if (std::uncaught_exceptions() > n_exceptions) {
        memory->seq_rm(seq_id, -1, -1);
    }

    for (const auto & [kv, used] : before) {
        const auto now = get_used(*kv);

        std::vector<uint32_t> streams;
        for (uint32_t s = 0; s < std::min(used.size(), now.size()); ++s) {
            if (used[s] >= now[s] + LIL_RELEASE_CELLS) {
                streams.push_back(s);
            }
        }

        if (!streams.empty()) {
            lil_release_cells(*kv, streams);
        }
    }
}

bool lil_copy_streams(llama_kv_cache & kv, const llama_kv_cache::stream_copy_info & sc_info) {
    const auto layouts = get_layouts(kv);

    if (std::any_of(layouts.begin(), layouts.end(), [](const auto & l) { return !lil_is_kv_buffer(l.t->buffer); })) {
        return false;
    }

    // a stream that is copied on may have lost its tokens meanwhile
    uint32_t n = 0;
    for (const auto & cells : kv_access::get_cells(kv)) {
        n = std::max(n, cells.used_max_p1());
    }

    for (size_t i = 0; i < sc_info.ssrc.size(); ++i) {
        for (const auto & l : layouts) {
            l.for_each_part(sc_info.ssrc[i], 0, n, [&](size_t offset, size_t n_bytes) {
                const char * src = (const char *) l.t->data + offset;
                memcpy((char *) l.t->data + offset - sc_info.ssrc[i] * l.t->nb[2] + sc_info.sdst[i] * l.t->nb[2], src,
                        n_bytes);
            });
        }
    }

    // what was removed while the copies were waiting, and what the streams held before
    std::set<uint32_t> streams(sc_info.ssrc.begin(), sc_info.ssrc.end());
    streams.insert(sc_info.sdst.begin(), sc_info.sdst.end());

    lil_release_cells(kv, { streams.begin(), streams.end() });

    return true;
}

void lil_ubatch_done(llama_kv_cache & kv) {
    if (auto * sparse = kv.get_sparse()) {
        sparse->ubatch_done();
    }
}

//
// public API
//

lil_memory_info lil_get_memory_info(llama_memory_i * memory) {
    lil_memory_info res = {};

    for (const auto & [_, size] : memory->memory_breakdown()) {
        res.kv_bytes += size;
    }
    res.kv_resident = res.kv_bytes;

    for_each_kv(memory, [&](llama_kv_cache & kv) {
        for (const auto & [_, buf] : kv_access::get_buffers(kv)) {
            res.kv_resident -= ggml_backend_buffer_get_size(buf.get()) - lil_get_resident(buf.get());
        }
    });

    const uint64_t available = lil_os_available();
    res.available            = available == UINT64_MAX ? 0 : available;

    return res;
}
