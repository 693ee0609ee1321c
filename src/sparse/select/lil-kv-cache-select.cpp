#include "lil-kv-cache-select.h"

#include "lil-kv-buffer.h"

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

// see lil_sparse_params::dense_layers
static uint32_t get_n_dense_layers(const lil_sparse_params & params, uint32_t n_layer) {
    if (!lil_find_method(params.method)->has_dense_layers) {
        return 0;
    }
    if (params.dense_layers >= 0) {
        return params.dense_layers;
    }

    return n_layer >= 16 ? 2 : n_layer >= 8 ? 1 : 0;
}

lil_kv_cache_select::lil_kv_cache_select(const args & a) :
    lil_kv_cache(a, { a.v_trans, a.unified, a.kv_size, a.n_pad }) {
    index.resize(n_seq_max, lil_seq_index(/*.by_rank =*/hparams.n_pos_per_embd() > 1));
    last.resize(readers.size());

    budget_made    = params.budget;
    n_dense_layers = get_n_dense_layers(params, readers.size());

    if (n_dense_layers > 0 && n_dense_layers >= readers.size()) {
        lil_throw("dense_layers = %u: less than the %u full-attention layers of this model", n_dense_layers,
                (uint32_t) readers.size());
    }

    // as many pages as full ones need, and some more for those that edits have left partly filled
    n_pages_max = GGML_PAD(get_size() / lil_seq_index::PAGE + get_size() / 64 + 16, 16);

    if (params.fused_dense == LIL_FUSED_DENSE_ON && !fused) {
        lil_throw("fused_dense = 1 (on) needs the fused form, and %s", ops.why_not().c_str());
    }

    fused_dense = fused && ops.choose_dense(params);

    for (size_t ikv = 0; ikv < layers.size() && !fused; ++ikv) {
        if ((uint64_t) get_size() * n_head_kv(ikv) > (1u << 24)) { // row numbers are computed in F32
            lil_throw("n_ctx = %u: at most %u with the portable form and %u KV heads", get_size(),
                    (1u << 24) / n_head_kv(ikv), n_head_kv(ikv));
        }
    }
}

//
// planning
//

// batches whose sequences have equally many tokens each; see plan()
llama_memory_context_ptr lil_kv_cache_select::init_batch(
        llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    if (takes_any_batch()) {
        return llama_kv_cache::init_batch(balloc, n_ubatch, embd_all);
    }

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

std::vector<lil_batch_piece> lil_kv_cache_select::begin_batch(const llama_batch & batch, uint32_t n_ubatch) {
    record.begin(batch);

    if (takes_any_batch()) { // in a mixture its steps are dense as everything is
        return {};
    }

    return record.cut(batch, n_ubatch, n_stream > 1, n_each_max());
}

// one token of each sequence, which no other sequence sees
static bool is_one_each(const llama_ubatch & ubatch) {
    std::set<llama_seq_id> seen;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        if ((ubatch.n_tokens > 1 && ubatch.n_seq_id[i] != 1) || !seen.insert(ubatch.seq_id[i][0]).second) {
            return false;
        }
    }

    return ubatch.n_tokens > 0;
}

// sequence sets of a ubatch, each with n_tokens/n_groups tokens in a row; 0: a mixture
static uint32_t get_n_groups(const llama_ubatch & ubatch) {
    return is_one_each(ubatch) ? ubatch.n_tokens : ubatch.equal_seqs() ? ubatch.n_seqs : ubatch.n_seqs_unq == 1 ? 1 : 0;
}

lil_kv_cache_select::slot_info_vec_t lil_kv_cache_select::prepare(const std::vector<llama_ubatch> & ubatches) {
    if (!takes_any_batch() && !check_batches(ubatches)) {
        return {};
    }

    simulating = true;
    auto res   = llama_kv_cache::prepare(ubatches);
    simulating = false;

    return res;
}

bool lil_kv_cache_select::check_batches(const std::vector<llama_ubatch> & ubatches) {
    // tokens that will come, per sequence
    std::vector<uint32_t> n_new(n_seq_max, 0);

    for (const auto & ubatch : ubatches) {
        if (get_n_groups(ubatch) == 0) {
            return false; // the caller splits it in another way
        }

        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
                n_new[ubatch.seq_id[i][s]]++;
            }
        }
    }

    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (n_new[s] > 0 && index[s].is_stale()) { // shifted, or loaded: its pages are counted below
            index[s].read(v_cells[seq_to_stream[s]], s);
        }

        const uint32_t n_pages = index[s].get_pages().size() + (n_new[s] > 0 ? n_new[s] / lil_seq_index::PAGE + 2 : 0);

        if (n_pages > n_pages_max) {
            LLAMA_LOG_ERROR(
                    "%s: sequence %u: its tokens lie on %u pages of %d positions, there is room for %u; positions "
                    "with many gaps need a larger n_ctx\n",
                    __func__, s, n_pages, (int) lil_seq_index::PAGE, n_pages_max);
            return false;
        }
    }

    return true;
}

void lil_kv_cache_select::plan(lil_select_step & step) const {
    const auto & idx = *step.index;

    step.n       = idx.size() - step.n_later;
    step.n_valid = idx.n_valid;
    step.now     = idx.n_steps;
    step.pos     = idx.pos(step.n - 1);
    step.sparse =
            step.decode && params.method != LIL_SPARSE_DENSE && step.n > params.budget && step.n >= params.min_ctx;

    if (!step.decode || !(step.sparse || dense_needs_pages())) {
        return;
    }

    step.n_pages = n_pages(idx, step.n);

    if (step.n_later > 0) { // the last one's are all
        return;
    }

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
    const auto cell_of = [&](uint32_t i) { return sinfo.idxs[i / sinfo.size()][i % sinfo.size()]; };

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
            index[ubatch.seq_id[i][s]].append(cell_of(i), ubatch.pos[i]);
        }
    }

    cur.reserve = false;
    cur.steps.clear();

    const uint32_t n_each = record.get_n_each(ubatch, n_each_max());
    const bool     decode = n_each > 0;

    record.put(ubatch);

    // sequences, or sets of them
    const uint32_t n_groups = decode ? ubatch.n_tokens / n_each : get_n_groups(ubatch);

    if (n_groups == 0 || (takes_any_batch() && !decode)) { // no decode step, and nothing to know of it
        lil_select_step step;
        step.n_new = ubatch.n_tokens;

        cur.steps.push_back(std::move(step));
        return;
    }

    const uint32_t n_group = ubatch.n_tokens / n_groups;
    const uint32_t n_new   = decode ? 1 : n_group;

    for (uint32_t i = 0; i < ubatch.n_tokens; i += n_new) {
        const llama_seq_id seq_id = ubatch.seq_id[i][0];

        auto & idx = index[seq_id];
        if (idx.is_stale()) {
            idx.read(v_cells[seq_to_stream[seq_id]], seq_id);
        }
        if (decode) {
            idx.n_steps++;
        }
        if (i % n_group == 0) {
            idx.n_valid = std::min(idx.n_valid, n_final(idx.size() - n_group));
        }

        lil_select_step step;
        step.seq_id = seq_id;
        step.decode = decode;
        step.strm   = seq_to_stream[seq_id];
        step.table  = seq_id;
        step.n_new  = n_new;
        step.index  = &idx;

        step.n_later = n_group - n_new - i % n_group;

        plan(step);

        if (!step.dirty.empty()) {
            idx.n_valid = page_ranks(idx, step.n_pages - 1).second;
        }

        if (decode) {
            (step.sparse ? n_sparse : n_dense)++;

            for (size_t ir = 0; ir < readers.size(); ++ir) {
                n_rows_read +=
                        n_head_kv(readers[ir].ikv) * (step.sparse && !is_dense_layer(ir) ? n_rows(step) : step.n);
            }
        }

        if (step.sparse && warning.empty()) {
            warning = check_step(step);
            if (!warning.empty()) {
                LLAMA_LOG_WARN("%s: %s\n", __func__, warning.c_str());
            }
        }

        cur.steps.push_back(std::move(step));
    }
}

std::vector<llama_seq_id> lil_kv_cache_select::fail_ubatch() {
    // llama.cpp removes the ubatch's tokens itself
    for (const auto & step : cur.steps) {
        if (!step.index) {
            continue;
        }

        auto & idx = index[step.seq_id];

        idx.n_valid = std::min(idx.n_valid, step.n_valid);
        if (step.decode) {
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
        step.n_new   = std::max<uint32_t>(1, g.ubatch.n_tokens / n_groups);
        step.decode  = step.n_new == 1;
        step.sparse  = step.decode && params.method != LIL_SPARSE_DENSE && step.n > params.budget;
        step.n_pages = n_pages_max;
        step.pos     = step.n - 1;

        if (step.sparse || dense_needs_pages()) {
            step.dirty = { 0 };
        }
    }

    return steps;
}

bool lil_kv_cache_select::uses_method(const std::vector<lil_select_step> & steps) const {
    return steps[0].decode &&
            (fused_dense || std::any_of(steps.begin(), steps.end(), [](const auto & step) { return step.sparse; }));
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
        (int64_t) steps.size(),
        steps[0].n_new,
        steps[0].decode,
        steps[0].n_later,
        uses_method(steps),
        n_max(steps),
        n_list(steps),
        n_pages_graph(steps),
        params.budget,
    };

    size_t n_dirty = 0;
    bool   sparse  = false;

    for (const auto & step : steps) {
        n_dirty += step.dirty.size();
        sparse = sparse || step.sparse;

        if (!fused) { // the portable form builds each step on its own
            key.insert(
                    key.end(), { step.strm, step.table, step.sparse, (int64_t) step.dirty.size(), graph_kind(step) });
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
    record.clear();
}

bool lil_kv_cache_select::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const bool res = llama_kv_cache::seq_rm(seq_id, p0, p1);

    if (res && !simulating) {
        const llama_pos end = p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1;

        for_each_seq(seq_id, [&](auto & idx) { idx.remove(std::max(p0, 0), end); });
        record.remove(seq_id, p0, p1);
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

    if (s0 != s1) { // the copy takes the place of what the stream held
        record.forget(seq_id_dst);
    }
    record.copy(seq_id_src, seq_id_dst, p0, p1);

    index[seq_id_dst].invalidate(0);
    index[seq_id_dst].n_steps = index[seq_id_src].n_steps;

    if (s0 == s1) {
        return;
    }

    // llama.cpp copies the stream's keys and values at its next update
    synchronize();

    std::vector<uint8_t> buf(v_cells[s1].used_max_p1() * sizeof(float)); // what lies behind takes no memory
    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (ggml_tensor * t : get_cell_tensors(ikv)) {
            for (int64_t h = 0; h < t->ne[1]; ++h) {
                ggml_backend_tensor_get(t, buf.data(), s0 * t->nb[2] + h * t->nb[1], buf.size());
                ggml_backend_tensor_set(t, buf.data(), s1 * t->nb[2] + h * t->nb[1], buf.size());
            }
        }
    }
}

void lil_kv_cache_select::seq_keep(llama_seq_id seq_id) {
    llama_kv_cache::seq_keep(seq_id);

    // as llama.cpp does: within the stream of the sequence
    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (s != (uint32_t) seq_id && seq_to_stream[s] == seq_to_stream[seq_id]) {
            index[s].clear();
            record.forget(s);
        }
    }
}

void lil_kv_cache_select::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    llama_kv_cache::seq_add(seq_id, p0, p1, shift);

    // a cell's position is that of every sequence that shares it
    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_to_stream[s] == seq_to_stream[seq_id]) {
            index[s].invalidate(std::max(0, std::min(p0, p0 + shift)));

            if (s == (uint32_t) seq_id) {
                record.shift(s, p0, p1, shift);
            } else {
                record.forget(s);
            }
        }
    }
}

void lil_kv_cache_select::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    llama_kv_cache::seq_div(seq_id, p0, p1, d);

    for (uint32_t s = 0; s < n_seq_max; ++s) {
        if (seq_to_stream[s] == seq_to_stream[seq_id]) {
            index[s].invalidate(0);
            record.forget(s);
        }
    }
}

uint32_t lil_kv_cache_select::graph_max_nodes() const {
    return readers.size() * (64 + 128 * n_seq_max);
}

//
// lil
//

std::string lil_kv_cache_select::set_budget(uint32_t budget) {
    if (params.method == LIL_SPARSE_DENSE || params.method == LIL_SPARSE_PROBE) {
        return "full attention has none";
    }

    auto asked   = params;
    asked.budget = budget == 0 ? budget_made : std::min(budget, get_size());

    const std::string err = asked.budget == params.budget ? "" : lil_check_params(asked);
    if (!err.empty() || asked.budget == params.budget) {
        return err;
    }

    synchronize(); // a computation in progress reads the constants

    params.budget = asked.budget;
    for (auto & layer : select_layers) {
        layer.budget = params.budget;
    }
    budget_changed();

    return "";
}

std::vector<ggml_tensor *> lil_kv_cache_select::get_cell_side() const {
    std::vector<ggml_tensor *> res;

    for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
        for (ggml_tensor * t : get_cell_tensors(ikv)) {
            res.push_back(t);
        }
    }

    return res;
}

void lil_kv_cache_select::release_side(const std::vector<uint32_t> & streams) {
    for (uint32_t s = 0; s < n_seq_max; ++s) {
        const auto & idx = index[s];

        if (idx.is_stale() || std::find(streams.begin(), streams.end(), seq_to_stream[s]) == streams.end()) {
            continue;
        }

        for (size_t ikv = 0; ikv < layers.size(); ++ikv) {
            for (const ggml_tensor * t : get_page_tensors(ikv)) {
                if (!lil_is_kv_buffer(t->buffer)) {
                    continue;
                }
                const size_t nb_table = ggml_nbytes(t) / n_tables();
                const size_t nb_held  = nb_table / n_pages_max * n_pages(idx, idx.size());

                lil_discard(t, s * nb_table + nb_held, nb_table - nb_held);
            }
        }
    }
}

std::vector<const ggml_tensor *> lil_kv_cache_select::get_beside(size_t ikv) const {
    std::vector<const ggml_tensor *> res;

    for (const auto & tensors : { get_cell_tensors(ikv), get_page_tensors(ikv) }) {
        res.insert(res.end(), tensors.begin(), tensors.end());
    }

    return res;
}

void lil_kv_cache_select::get_info(lil_sparse_info & info) const {
    lil_kv_cache::get_info(info);

    info.reselect       = params.reselect;
    info.n_dense_layers = n_dense_layers;
}

int32_t lil_kv_cache_select::get_slots(
        llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * pos, float * score, int32_t n) const {
    synchronize();

    const auto & idx   = index[seq_id];
    const size_t ikv   = map_layer_ids.at(il);
    const auto & lists = last[get_reader(il)];

    std::vector<int32_t> cells;

    const auto step = std::find_if(
            cur.steps.begin(), cur.steps.end(), [&](const auto & s) { return s.seq_id == seq_id && s.n_later == 0; });

    if (!idx.is_stale() && step != cur.steps.end() && step->sparse && lists.list) {
        const ggml_tensor * t = lists.list;

        const size_t i      = step - cur.steps.begin();
        const size_t offset = i * t->nb[2] + (t->ne[1] > 1 ? i_head_kv : 0) * t->nb[1];

        std::vector<int32_t> data(t->ne[0]);
        ggml_backend_tensor_get(t, data.data(), offset, data.size() * sizeof(int32_t));

        cells.assign(data.begin() + 1, data.begin() + 1 + data[0]);
    } else if (!idx.is_stale() && step != cur.steps.end() && step->sparse && !lists.rows.empty() &&
            lists.rows[step - cur.steps.begin()].rows) {
        const auto & rows = lists.rows[step - cur.steps.begin()];

        std::vector<int32_t> data(rows.rows->ne[0]);
        ggml_backend_tensor_get(rows.rows, data.data(), i_head_kv * rows.rows->nb[1], data.size() * sizeof(int32_t));

        std::vector<ggml_fp16_t> mask(data.size(), ggml_fp32_to_fp16(0.0f));
        if (rows.mask) {
            ggml_backend_tensor_get(rows.mask, mask.data(), (rows.mask->ne[1] > 1 ? i_head_kv : 0) * rows.mask->nb[1],
                    mask.size() * sizeof(ggml_fp16_t));
        }

        for (size_t i = 0; i < data.size(); ++i) {
            if (ggml_fp16_to_fp32(mask[i]) == 0.0f) {
                cells.push_back(data[i] / n_head_kv(ikv));
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
                ggml_backend_tensor_get(t, score + i,
                        seq_to_stream[seq_id] * t->nb[2] + i_head_kv * t->nb[1] + cells[i] * t->nb[0], sizeof(float));
            }
        }
    }

    return cells.size();
}
