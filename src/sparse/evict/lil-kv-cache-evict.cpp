#include "lil-kv-cache-evict.h"

#include "lil-graph-input.h"
#include "lil-kv-memory.h"

#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <tuple>
#include <numeric>
#include <stdexcept>

//
// lil_evict_stream
//

static bool follow_each_other(const llama_pos * pos, uint32_t n) {
    for (uint32_t i = 1; i < n; ++i) {
        if (pos[i] != pos[0] + (llama_pos) i) {
            return false;
        }
    }

    return true;
}

llama_pos lil_evict_stream::to_rank(llama_pos pos) const {
    return rank_pos.empty()
            ? pos
            : pos_first + (llama_pos) (std::lower_bound(rank_pos.begin(), rank_pos.end(), pos) - rank_pos.begin());
}

void lil_evict_stream::put(const llama_pos * pos, uint32_t n) {
    const llama_pos rank = pos_next - (llama_pos) n;

    if (rank_pos.empty()) {
        if (pos[0] == rank && follow_each_other(pos, n)) {
            return;
        }

        rank_pos.resize(rank - pos_first);
        std::iota(rank_pos.begin(), rank_pos.end(), pos_first);
    }

    rank_pos.insert(rank_pos.end(), pos, pos + n);
}

void lil_evict_stream::set_end(llama_pos rank) {
    pos_next = rank;
    rank_pos.resize(std::min<size_t>(rank_pos.size(), rank - pos_first));
}

//
// lil_kv_cache_evict
//

lil_kv_cache_evict::lil_kv_cache_evict(const args & a) :
    lil_kv_cache(a,
            {
                    /*.v_trans =*/false,
                    /*.unified =*/a.n_seq_max == 1,
                    /*.kv_size =*/a.params.capacity,
                    /*.n_pad   =*/1,
            }),
    n_ctx(a.kv_size) {
    streams.resize(n_stream);

    fused_dense = ops.choose_dense(params);
}

void lil_kv_cache_evict::move_row(
        ggml_tensor * t, uint32_t strm, uint32_t src, uint32_t dst, size_t offs, size_t n_bytes) const {
    std::vector<uint8_t> row(n_bytes);

    ggml_backend_tensor_get(t, row.data(), strm * t->nb[2] + src * t->nb[1] + offs, n_bytes);
    ggml_backend_tensor_set(t, row.data(), strm * t->nb[2] + dst * t->nb[1] + offs, n_bytes);
}

//
// planning
//

std::vector<lil_batch_piece> lil_kv_cache_evict::begin_batch(const llama_batch & batch, uint32_t n_ubatch) {
    record.begin(batch);

    return record.cut(batch, n_ubatch, n_stream > 1, 1);
}

bool lil_kv_cache_evict::plan(const lil_evict_stream & st, uint32_t strm, bool decode, const llama_pos * pos,
        uint32_t n_new, lil_evict_step & step) const {
    step.strm      = strm;
    step.decode    = decode;
    step.n_before  = st.n_used;
    step.n_new     = n_new;
    step.n_protect = n_protect(decode);
    step.pos       = st.n_used == 0 ? pos[0] : st.pos_next;
    step.pos_first = st.n_used == 0 ? pos[0] : st.pos_first;

    if (pos[0] < 0 || (uint64_t) step.pos + n_new > n_ctx) {
        return false;
    }

    const bool follow = hparams.n_pos_per_embd() == 1
            ? pos[0] == step.pos && follow_each_other(pos, n_new)
            : std::is_sorted(pos, pos + n_new) && (st.n_used == 0 || pos[0] >= st.to_pos(st.pos_next - 1));
    if (!follow) {
        LLAMA_LOG_ERROR("%s: positions %d to %d do not follow %d\n", __func__, pos[0], pos[n_new - 1],
                st.n_used == 0 ? -1 : st.to_pos(st.pos_next - 1));
        return false;
    }

    if (decode ? st.n_used + 1 > params.budget : st.n_used + n_new > params.capacity) {
        step.n_evict = st.n_used > n_left(decode) ? st.n_used - n_left(decode) : 0;
    }

    step.n_gone = st.n_evicted + step.n_evict;
    step.keep   = n_kept_max > 0 && decode && st.in_prompt && step.base() > 0;
    step.n_win  = n_win(st, decode, step.n_evict > 0);

    return step.base() + n_new <= params.capacity;
}

lil_kv_cache_evict::slot_info_vec_t lil_kv_cache_evict::prepare(const std::vector<llama_ubatch> & ubatches) {
    slot_info_vec_t res;

    std::map<uint32_t, lil_evict_stream> sim; // the streams as they will be, changed ubatch by ubatch

    for (const auto & ubatch : ubatches) {
        const uint32_t n_seqs   = ubatch.n_seqs_unq;
        const uint32_t n_tokens = ubatch.n_tokens / n_seqs;

        const bool decode = record.get_n_each(ubatch, 1) > 0;

        slot_info sinfo;
        sinfo.s0 = LLAMA_MAX_SEQ;
        sinfo.s1 = 0;
        sinfo.resize(n_seqs);

        for (uint32_t s = 0; s < n_seqs; ++s) {
            const uint32_t strm = seq_to_stream[ubatch.seq_id_unq[s]];

            auto & st = sim.try_emplace(strm, streams[strm]).first->second;

            lil_evict_step step;
            if (!plan(st, strm, decode, ubatch.pos + s * n_tokens, n_tokens, step)) {
                LLAMA_LOG_ERROR(
                        "%s: sequence %d: no room for %u tokens from position %d on (n_ctx = %u, capacity = %u)\n",
                        __func__, ubatch.seq_id_unq[s], n_tokens, step.pos, n_ctx, params.capacity);
                return {};
            }

            sinfo.s0 = std::min(sinfo.s0, strm);
            sinfo.s1 = std::max(sinfo.s1, strm);

            sinfo.strm[s] = strm;
            sinfo.idxs[s] = advance(st, step).taken;

            st.put(ubatch.pos + s * n_tokens, n_tokens);
            st.in_prompt = !decode;
        }

        res.push_back(std::move(sinfo));
    }

    return res;
}

void lil_kv_cache_evict::apply_ubatch(const slot_info & sinfo, const llama_ubatch & ubatch) {
    cur.reserve = false;
    cur.steps.clear();
    cur.slots.clear();
    cut.clear();

    const bool decode = record.get_n_each(ubatch, 1) > 0;

    uint64_t n_rows_layers = 0; // KV heads of all layers
    for (const auto & reader : readers) {
        n_rows_layers += n_head_kv(reader.ikv);
    }

    for (uint32_t s = 0; s < sinfo.n_stream(); ++s) {
        const uint32_t strm  = sinfo.strm[s];
        const uint32_t n_new = sinfo.size();

        auto & st    = streams[strm];
        auto & cells = v_cells[strm];

        lil_evict_step step;
        const bool     ok = plan(st, strm, decode, ubatch.pos + s * n_new, n_new, step);
        GGML_ASSERT(ok && "apply_ubatch() without prepare()");

        if (step.keep) {
            keep(step);
        } else if (st.just_kept && !decode) { // the prompt goes on
            kept[strm].pop_back();
        }

        slot_change change = advance(st, step);
        GGML_ASSERT(change.taken == sinfo.idxs[s]);

        st.put(ubatch.pos + s * n_new, n_new);
        st.in_prompt = !decode;
        st.just_kept = step.keep;
        st.last      = ubatch.token ? ubatch.token[(s + 1) * n_new - 1] : -1;
        st.back      = st.back == st.pos_next ? st.back : -1;

        for (const uint32_t i : change.freed) {
            cells.rm(i);
        }

        for (const auto & m : change.moved) {
            copy_cell(cells, m.src, m.dst);
            cells.rm(m.src);
        }

        n_evicted += step.n_evict;

        // of a prompt, which stays within the budget from now on. What a prompt's parts evict the next part takes
        if (decode && step.n_before >= std::max(st.n_used, params.budget) + LIL_RELEASE_CELLS) {
            cut.push_back(strm);
        }

        if (decode) {
            (step.n_gone > 0 ? n_sparse : n_dense)++;
            n_rows_read += st.n_used * n_rows_layers;
        }

        cur.steps.push_back(step);
        cur.slots.push_back(std::move(change));
    }

    record.put(ubatch);

    llama_kv_cache::apply_ubatch(sinfo, ubatch);
}

llama_memory_context_ptr lil_kv_cache_evict::init_full() {
    cur.reserve = true;

    return llama_kv_cache::init_full();
}

std::vector<lil_evict_step> lil_kv_cache_evict::get_steps(const llm_graph_context & g) const {
    if (!cur.reserve) {
        return cur.steps;
    }

    // the largest graph: a full cache
    std::vector<lil_evict_step> steps(n_stream);

    for (uint32_t s = 0; s < n_stream; ++s) {
        auto & step = steps[s];

        step.strm     = s;
        step.n_new    = std::max<uint32_t>(1, g.ubatch.n_tokens / n_stream);
        step.decode   = step.n_new == 1;
        step.n_before = step.decode ? std::min(params.budget, params.capacity)
                                    : params.capacity - std::min(step.n_new, params.capacity);
        step.n_evict  = step.decode ? std::max(step.n_before, n_left(true) + 1) - n_left(true) : 0;

        // of a prompt's part the one that evicts as much as it brings, so that a device which cannot is known at
        // construction
        if (!step.decode && (uint64_t) n_left(false) + 2 * step.n_new <= params.capacity) {
            step.n_before = n_left(false) + step.n_new;
            step.n_evict  = step.n_new;
        }

        step.n_protect = n_protect(step.decode);
        step.n_gone    = step.n_evict;
        step.pos       = step.n_before;
        step.keep      = n_kept_max > 0 && step.decode && step.base() > 0;
    }

    return steps;
}

//
// llama_memory_i
//

void lil_kv_cache_evict::clear(bool data) {
    llama_kv_cache::clear(data);

    for (auto & st : streams) {
        st = {};
    }
    for (auto & list : kept) {
        list.clear();
    }
    record.clear();
}

void lil_kv_cache_evict::copy_cell(llama_kv_cells & cells, uint32_t src, uint32_t dst) {
    cells.pos_set(dst, cells.pos_get(src));
    cells.ext_set(dst, cells.ext_get(src));
    cells.seq_add(dst, cells.seq_get(src));
}

void lil_kv_cache_evict::free_cells(uint32_t strm, uint32_t n) {
    auto & cells = v_cells[strm];

    for (uint32_t i = n; i < streams[strm].n_used; ++i) {
        cells.rm(i);
    }
}

void lil_kv_cache_evict::clear_stream(uint32_t strm) {
    free_cells(strm, 0);

    streams[strm] = {};
    kept[strm].clear();
}

void lil_kv_cache_evict::set_cells(uint32_t strm) {
    const auto & st = streams[strm];

    // where heads hold different tokens, any positions below pos_next do: see the class
    auto & cells = v_cells[strm];
    for (uint32_t i = 0; i < st.n_used; ++i) {
        cells.pos_set(i, st.to_pos(st.slot_pos.empty() ? st.pos_next - (llama_pos) (st.n_used - i) : st.slot_pos[i]));
        cells.seq_add(i, strm);
    }
}

std::pair<uint32_t, uint32_t> lil_kv_cache_evict::get_streams(llama_seq_id seq_id) const {
    GGML_ASSERT(seq_id == -1 || (seq_id >= 0 && (size_t) seq_id < seq_to_stream.size()));

    return seq_id == -1 ? std::make_pair(0u, n_stream)
                        : std::make_pair(seq_to_stream[seq_id], seq_to_stream[seq_id] + 1);
}

// Tokens were evicted for the tail that goes: what is left must not be much less than the method would hold there.
bool lil_kv_cache_evict::can_cut(const lil_evict_stream & st, llama_pos p0) const {
    if (st.n_evicted == 0) {
        return true;
    }
    if (p0 < st.pos_whole) {
        return false;
    }

    const uint32_t n_rest = st.n_used - (st.pos_next - p0);
    const uint32_t n_full = std::min<uint32_t>(p0 - st.pos_first, n_left(true) + 1); // B, or what a cut leaves

    return n_rest > 0 && n_rest + params.budget / 16 >= n_full;
}

bool lil_kv_cache_evict::can_rm_of(uint32_t strm, llama_pos p0, llama_pos p1) const {
    const auto & st = streams[strm];

    p0 = std::max(p0, st.pos_first);
    p1 = std::min(p1, st.pos_next);

    if (st.n_used == 0 || p0 >= p1) {
        return true; // nothing to remove
    }

    if (p1 < st.pos_next) {
        return false; // not the tail
    }

    return p0 == st.pos_first || can_cut(st, p0) || find_kept(strm, p0);
}

void lil_kv_cache_evict::do_cut(uint32_t strm, llama_pos p0) {
    auto & st = streams[strm];

    synchronize();
    remove_tail(strm, p0);

    // the scores that removed queries gave to the tokens kept stay with them; queries not counted yet go
    const uint32_t n_rm = st.pos_next - p0;

    st.n_win = st.n_win > n_rm ? st.n_win - n_rm : 0;
    st.set_end(p0);
    st.pos_whole = std::min(st.pos_whole, p0);
    st.n_evicted = p0 - st.pos_first - st.n_used;
}

void lil_kv_cache_evict::do_rm(uint32_t strm, llama_pos p0, llama_pos p1) {
    auto & st = streams[strm];

    if (st.n_used == 0 || p0 >= st.pos_next || p1 <= st.pos_first || p0 >= p1) {
        return;
    }

    if (p0 <= st.pos_first) {
        clear_stream(strm);
        return;
    }

    const auto * e = find_kept(strm, p0);
    if (e) {
        restore(strm, *e);
    }
    st.back = e && p0 + 1 == st.pos_next ? st.pos_next : -1;

    if (p0 < st.pos_next) {
        do_cut(strm, p0);
    }

    st.just_kept = false;
    trim(strm, p0);
}

// an interval as the calls of llama.h have it
static std::pair<llama_pos, llama_pos> get_interval(llama_pos p0, llama_pos p1) {
    return { std::max(p0, 0), p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1 };
}

bool lil_kv_cache_evict::can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    const auto [q0, q1] = get_interval(p0, p1);
    const auto [s0, s1] = get_streams(seq_id);

    for (uint32_t s = s0; s < s1; ++s) {
        if (!can_rm_of(s, streams[s].to_rank(q0), streams[s].to_rank(q1))) {
            return false;
        }
    }

    return true;
}

bool lil_kv_cache_evict::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (!can_rm(seq_id, p0, p1)) { // all or nothing
        return false;
    }

    std::tie(p0, p1) = get_interval(p0, p1);

    const auto [s0, s1] = get_streams(seq_id);

    for (uint32_t s = s0; s < s1; ++s) {
        do_rm(s, streams[s].to_rank(p0), streams[s].to_rank(p1));
    }
    record.remove(seq_id, p0, p1);

    return true;
}

void lil_kv_cache_evict::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    GGML_ASSERT(seq_id_src >= 0 && (size_t) seq_id_src < seq_to_stream.size());
    GGML_ASSERT(seq_id_dst >= 0 && (size_t) seq_id_dst < seq_to_stream.size());

    const uint32_t s0 = seq_to_stream[seq_id_src];
    const uint32_t s1 = seq_to_stream[seq_id_dst];

    if (s0 == s1) {
        return;
    }

    const auto & src = streams[s0];

    const llama_pos end = p1 < 0 ? src.pos_next : src.to_rank(p1);

    if ((p0 > 0 && p0 > src.pos_first) || (end < src.pos_next && !can_rm_of(s0, end, src.pos_next))) {
        LLAMA_LOG_ERROR(
                "%s: positions [%d, %d) of sequence %d cannot be copied: only a whole sequence, or one less a tail "
                "that is held whole\n",
                __func__, p0, p1, seq_id_src);
        return;
    }

    synchronize();
    clear_stream(s1);

    std::vector<uint8_t> buf;
    for_each_part(s0, src.n_used, [&](ggml_tensor * t, size_t offs, uint64_t n_bytes) {
        buf.resize(n_bytes);
        ggml_backend_tensor_get(t, buf.data(), offs, n_bytes);
        ggml_backend_tensor_set(t, buf.data(), offs - s0 * t->nb[2] + s1 * t->nb[2], n_bytes);
    });

    streams[s1] = src;
    set_cells(s1);
    copy_kept(s0, s1);

    record.forget(seq_id_dst);
    record.copy(seq_id_src, seq_id_dst, p0, p1);

    do_rm(s1, end, std::numeric_limits<llama_pos>::max());
}

void lil_kv_cache_evict::seq_keep(llama_seq_id seq_id) {
    GGML_ASSERT(seq_id >= 0 && (size_t) seq_id < seq_to_stream.size());

    for (uint32_t s = 0; s < n_stream; ++s) {
        if (s != seq_to_stream[seq_id]) {
            clear_stream(s);
        }
    }
    record.keep(seq_id);
}

void lil_kv_cache_evict::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    LLAMA_LOG_ERROR(
            "%s: seq_id = %d, [%d, %d) by %d: a bounded cache cannot shift positions (llama_memory_can_shift() is "
            "false); nothing was changed\n",
            __func__, seq_id, p0, p1, shift);
}

void lil_kv_cache_evict::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    LLAMA_LOG_ERROR(
            "%s: seq_id = %d, [%d, %d) by %d: a bounded cache cannot divide positions (llama_memory_can_shift() is "
            "false); nothing was changed\n",
            __func__, seq_id, p0, p1, d);
}

llama_pos lil_kv_cache_evict::seq_pos_min(llama_seq_id seq_id) const {
    GGML_ASSERT(seq_id >= 0 && (size_t) seq_id < seq_to_stream.size());

    const auto & st = streams[seq_to_stream[seq_id]];

    if (st.n_used == 0) {
        return -1;
    }
    if (st.n_evicted == 0) {
        return st.pos_first;
    }

    // from here on can_cut() is true
    llama_pos res = std::max(st.pos_whole, st.pos_next - (llama_pos) st.n_used + 1);
    if (st.n_evicted > params.budget / 16) {
        res = std::max(res, st.pos_first + (llama_pos) (n_left(true) + 1 + st.n_evicted - params.budget / 16));
    }

    return st.to_pos(std::min(res, st.pos_next - 1));
}

llama_pos lil_kv_cache_evict::seq_pos_max(llama_seq_id seq_id) const {
    GGML_ASSERT(seq_id >= 0 && (size_t) seq_id < seq_to_stream.size());

    const auto & st = streams[seq_to_stream[seq_id]];

    return st.n_used == 0 ? -1 : st.to_pos(st.pos_next - 1);
}

//
// lil
//

std::vector<llama_seq_id> lil_kv_cache_evict::fail_ubatch() {
    std::vector<llama_seq_id> res;

    for (const auto & step : cur.steps) {
        auto & st = streams[step.strm];

        if (step.n_evict > 0 || step.n_win > 0) {
            res.push_back(step.strm); // a stream holds the sequence of its number
            continue;
        }

        if (step.keep) { // perhaps half of it
            kept[step.strm].pop_back();
            st.in_prompt = true;
            st.just_kept = false;
        }

        // the new tokens are in the last slots of every head
        free_cells(step.strm, step.n_before);

        st.n_used = step.n_before;
        st.n_win  = st.n_win > step.n_new ? st.n_win - step.n_new : 0;
        st.set_end(step.pos);
        st.slot_pos.resize(std::min<size_t>(st.slot_pos.size(), st.n_used));
    }

    cur.steps.clear();
    cur.slots.clear();
    cut.clear();

    return res;
}

void lil_kv_cache_evict::ubatch_done() {
    if (!cut.empty()) {
        synchronize(); // rows move in the graph
        lil_release_cells(*this, cut);
        cut.clear();
    }
}

std::vector<ggml_tensor *> lil_kv_cache_evict::get_cell_side() const {
    std::vector<ggml_tensor *> res;

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (const auto & beside : get_side(ikv)) {
            if (beside.per_slot) {
                res.push_back(beside.t);
            }
        }
    }

    return res;
}

std::vector<const ggml_tensor *> lil_kv_cache_evict::get_beside(size_t ikv) const {
    std::vector<const ggml_tensor *> res;

    for (const auto & beside : get_side(ikv)) {
        res.push_back(beside.t);
    }
    for (const auto & kt : kept_tensors[ikv]) {
        res.push_back(kt.kept);
    }

    return res;
}

void lil_kv_cache_evict::get_info(lil_sparse_info & info) const {
    lil_kv_cache::get_info(info);

    info.n_evicted  = n_evicted;
    info.n_restored = n_restored;

    for (const auto & list : kept) {
        info.n_kept += list.size();
    }
}

ggml_tensor * lil_kv_cache_evict::build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx,
        ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) {
    GGML_UNUSED(mctx);

    built.insert(il);

    if (fused_dense && get_steps(g)[0].decode) {
        return build_slots(g, q, kq_scale, il);
    }

    return g.build_attn_mha(q, k, v, nullptr, kq_mask, sinks(map_layer_ids.at(il)), nullptr, 0, kq_scale, il);
}

//
// the attention of decode steps, over the slots in use
//

int64_t lil_kv_cache_evict::n_max(const std::vector<lil_evict_step> & steps) {
    uint32_t res = 0;
    for (const auto & step : steps) {
        res = std::max(res, step.base() + step.n_new);
    }

    return GGML_PAD(res, 256);
}

void lil_evict_slots_input::set_input(const llama_ubatch * ubatch) {
    GGML_UNUSED(ubatch);

    std::vector<int32_t> data_steps(ggml_nelements(steps), 0);
    std::vector<int32_t> data_list(ggml_nelements(list), 0);

    for (size_t i = 0; i < kv->cur.steps.size(); ++i) {
        const auto & step = kv->cur.steps[i];

        int32_t * dst = data_list.data() + i * list->ne[0];

        data_steps[i * LIL_SEL_COUNT + LIL_SEL_STREAM] = step.strm;

        dst[0] = step.base() + step.n_new;
        std::iota(dst + 1, dst + 1 + dst[0], 0);
    }

    ggml_backend_tensor_set(steps, data_steps.data(), 0, ggml_nbytes(steps));
    ggml_backend_tensor_set(list, data_list.data(), 0, ggml_nbytes(list));
}

bool lil_evict_slots_input::can_reuse(const llm_graph_params & params) {
    GGML_UNUSED(params);

    const auto & cur = kv->cur.steps;

    return (int64_t) cur.size() == list->ne[2] && cur[0].decode && 1 + lil_kv_cache_evict::n_max(cur) == list->ne[0];
}

ggml_tensor * lil_kv_cache_evict::build_slots(const llm_graph_context & g, ggml_tensor * q, float kq_scale, int il) {
    const size_t ikv = map_layer_ids.at(il);

    auto & layer = select_layers[ikv];

    if (!owns(get_reader(il)) && layer.scale != kq_scale) {
        lil_throw("layer %d reads the keys of layer %d with another scale", il, (int) layers[ikv].il);
    }
    layer.scale = kq_scale;

    auto * inp = lil_find_input<lil_evict_slots_input>(g);

    if (!inp) {
        const auto steps = get_steps(g);

        inp = lil_add_input(g, std::make_unique<lil_evict_slots_input>(this));

        inp->steps = lil_new_input(g.ctx0, "slot_steps", GGML_TYPE_I32, LIL_SEL_COUNT, steps.size());
        inp->list  = lil_new_input(g.ctx0, "slot_list", GGML_TYPE_I32, 1 + n_max(steps), 1, steps.size());
    }

    const int64_t n_embd_v = n_embd_head_v(ikv);
    const int64_t n_head   = q->ne[1];
    const int64_t n_steps  = inp->list->ne[2];
    const int64_t n_work   = ops[ikv].attn_n_work(n_embd_v, n_head, inp->list->ne[0] - 1, n_steps, false);

    ggml_tensor * srcs[] = { q, layers[ikv].k, values[ikv], inp->list, inp->steps };
    ggml_tensor * work =
            ggml_custom_4d(g.ctx0, GGML_TYPE_F32, n_work, 1, 1, 1, srcs, 5, ops[ikv].attn, GGML_N_TASKS_MAX, &layer);

    auto          join = with_sinks(ikv, { work, inp->list });
    ggml_tensor * cur  = ggml_custom_4d(g.ctx0, GGML_TYPE_F32, n_embd_v, n_head, n_steps, 1, join.data(), join.size(),
            ops[ikv].attn_join, GGML_N_TASKS_MAX, &layer);
    ggml_build_forward_expand(g.gf, cur);

    return ggml_reshape_2d(g.ctx0, cur, n_embd_v * n_head, n_steps);
}
