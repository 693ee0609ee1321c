#pragma once

#include "lil-kv-cache.h"

#include <algorithm>
#include <functional>

// The cache of the evict family: bounded, `capacity` slots per layer and sequence.
//
// New tokens take the same slot in every head. Eviction drops tokens per method and keeps the tokens held in the slots
// [0, n_used): the last ones move into the holes. Their order does not matter: RoPE is applied before a key is stored,
// and every token held is visible to a decode step. So every head of every layer holds the same number of tokens in the
// same slots, although not the same tokens, and one set of counts per sequence describes them all.
//
// llama_kv_cache's cells are kept such that its attention mask comes out right. Where heads hold different tokens, a
// cell's position is only an upper bound; what the cache answers to questions comes from lil_evict_stream.
//
// Every sequence is a stream of its own (llama_kv_cache's non-unified layout).

// What a sequence holds, the same in every layer and head. Its tokens go by rank: the position of the first one, and
// how many came between. In a text that is a token's position. Where positions have several dimensions, the tokens of
// an image share one, and others are left out.
struct lil_evict_stream {
    uint32_t  n_used    = 0; // slots [0, n_used) hold tokens
    uint32_t  n_evicted = 0; // tokens gone
    llama_pos pos_first = 0; // position of the first token the sequence began with
    llama_pos pos_next  = 0; // rank of the next token
    llama_pos pos_whole = 0; // every head holds every token from this position on

    // the last queries, kept beside the cache: those whose scores are not counted yet (H2O, window), or the last ones
    // (R-KV)
    uint32_t n_win = 0;

    bool in_prompt = false; // the last tokens that came are a prompt's
    bool just_kept = false; // the last token that came ended a prompt, which was kept

    llama_token last = -1; // the last token that came, -1: not known
    llama_pos   back = -1; // a kept end of this rank was restored but for its last token, and nothing else came since

    // Sink: the rank in each slot [n_used]
    std::vector<llama_pos> slot_pos;

    // the position of each rank from pos_first on [pos_next - pos_first]; empty: they are the same
    std::vector<llama_pos> rank_pos;

    llama_pos to_pos(llama_pos rank) const { return rank_pos.empty() ? rank : rank_pos[rank - pos_first]; }

    // of the first token at this position or behind it
    llama_pos to_rank(llama_pos pos) const;

    // the positions of the n tokens that came last
    void put(const llama_pos * pos, uint32_t n);

    // the tokens from this rank on have gone
    void set_end(llama_pos rank);
};

// what one ubatch does to a sequence: evict, then store
struct lil_evict_step {
    uint32_t  strm      = 0;
    bool      decode    = false; // a decode step; otherwise a part of a prompt
    uint32_t  n_before  = 0;     // slots used before
    uint32_t  n_evict   = 0;     // tokens to drop
    uint32_t  n_protect = 0;     // the last tokens that stay
    uint32_t  n_new     = 0;     // tokens stored
    uint32_t  n_gone    = 0;     // tokens gone so far, these included
    uint32_t  n_win     = 0;     // kept queries that are read before the eviction
    llama_pos pos       = 0;     // rank of the first new token
    llama_pos pos_first = 0;
    bool      keep      = false; // a prompt has ended: what is left of it is kept before the new token is stored
    uint32_t  i_kept    = 0;     // its place

    uint32_t base() const { return n_before - n_evict; } // slots used when the new tokens are stored
};

class lil_kv_cache_evict;

// the slots that decode steps attend to, for the op attn
class lil_evict_slots_input : public llm_graph_input_i {
public:
    explicit lil_evict_slots_input(const lil_kv_cache_evict * kv) : kv(kv) {}

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

    ggml_tensor * steps = nullptr; // I32 [LIL_SEL_COUNT, n_steps]
    ggml_tensor * list  = nullptr; // I32 [1 + n_max, 1, n_steps] how many slots, then their numbers

private:
    const lil_kv_cache_evict * kv;
};

// The end of a prompt that a removal can go back to: the sequence as it was cut for the first token of the answer. Its
// rows lie beside the cache.
struct lil_evict_kept {
    lil_evict_stream st;         // as the rows are
    llama_pos        end    = 0; // what removals have left of it: the tokens before this rank
    uint32_t         i_kept = 0; // place of the rows

    // slots that are left where the tokens from p0 on go
    uint32_t n_left(llama_pos p0) const { return st.n_used - std::min<uint32_t>(st.n_used, st.pos_next - p0); }
};

class lil_kv_cache_evict : public lil_kv_cache {
public:
    explicit lil_kv_cache_evict(const args & a);

    //
    // llama_memory_i
    //

    llama_memory_context_ptr init_full() override;

    bool get_can_shift() const override { return false; }

    void clear(bool data) override;

    bool seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) override;
    void seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id = -1, llama_state_seq_flags flags = 0) const override;
    void state_read(llama_io_read_i & io, llama_seq_id seq_id = -1, llama_state_seq_flags flags = 0) override;

    //
    // llama_kv_cache
    //

    slot_info_vec_t prepare(const std::vector<llama_ubatch> & ubatches) override;

    void apply_ubatch(const slot_info & sinfo, const llama_ubatch & ubatch) override;

    //
    // lil_sparse
    //

    void get_info(lil_sparse_info & info) const override;

    // Takes the ubatch's tokens back where it evicted nothing, and returns the sequences that it evicted from: some of
    // their layers did, others did not.
    std::vector<llama_seq_id> fail_ubatch() override;

    std::vector<lil_batch_piece> begin_batch(const llama_batch & batch, uint32_t n_ubatch) override;

    void ubatch_done() override;

    std::vector<ggml_tensor *> get_cell_side() const override;

    // whether seq_rm() would do it
    bool can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    // In a model with sliding windows: whether swa, the cache of those layers, still holds what the first token behind
    // such a removal sees.
    bool can_rm_swa(const llama_kv_cache & swa, llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

protected:
    struct slot_move {
        uint32_t src;
        uint32_t dst;
    };

    // what a step does to the slots, the same in every head
    struct slot_change {
        std::vector<uint32_t>  freed; // slots whose tokens go
        std::vector<slot_move> moved; // slots whose tokens move
        std::vector<uint32_t>  taken; // slots of the new tokens [n_new]
    };

    // a tensor beside K and V, one part per stream in its last dimension
    struct side_tensor {
        ggml_tensor * t;
        bool          per_slot; // [capacity, n_head_kv, n_stream]; otherwise the stream's part is saved whole
        // false: a sequence's part stays the same, or is not needed at the end of a prompt
        bool changes = true;
    };

    const uint32_t n_ctx; // positions per sequence

    std::vector<lil_evict_stream> streams; // [n_stream]

    // the ubatch being computed, or (reserve) the graph whose size is being measured
    struct {
        bool reserve = true;

        std::vector<lil_evict_step> steps; // streams s0, s0 + 1, ...
        std::vector<slot_change>    slots;
    } cur;

    // the steps of the graph being built
    std::vector<lil_evict_step> get_steps(const llm_graph_context & g) const;

    // the slots of a step, and its effect on the stream's counts and slots
    virtual slot_change advance(lil_evict_stream & st, const lil_evict_step & step) const = 0;

    // the last tokens that a step must not evict
    virtual uint32_t n_protect(bool decode) const = 0;

    // the tokens that an eviction leaves, before the step's own are stored
    virtual uint32_t n_left(bool decode) const { return params.budget - (decode ? 1 : 0); }

    // the kept queries that a step reads: those make it one that cannot be taken back
    virtual uint32_t n_win(const lil_evict_stream & st, bool decode, bool evicts) const {
        GGML_UNUSED(st);
        GGML_UNUSED(decode);
        GGML_UNUSED(evicts);

        return 0;
    }

    // the most queries that are kept
    virtual uint32_t n_win_max() const { return 0; }

    // Drops the tokens from rank p0 on, and keeps slots [0, n_used) in use. Where a head does not hold all of them,
    // which only the end of a prompt may ask for, others go in their place: every head holds the same number.
    virtual void remove_tail(uint32_t strm, llama_pos p0) = 0;

    // tensors beside layer ikv's keys and values
    virtual std::vector<side_tensor> get_side(size_t ikv) const = 0;

    std::vector<const ggml_tensor *> get_beside(size_t ikv) const override;

    // what ends of prompts are kept in; after alloc_side(), once all that get_side() names is there
    void alloc_kept();

    // a layer's part of keeping, between a step's eviction and its new token
    void build_keep(const llm_graph_context & g, size_t ikv) const;

    static bool keeps(const std::vector<lil_evict_step> & steps) {
        return std::any_of(steps.begin(), steps.end(), [](const auto & step) { return step.keep; });
    }

    // copies n_bytes at offset offs of slot src's row to slot dst's row
    void move_row(ggml_tensor * t, uint32_t strm, uint32_t src, uint32_t dst, size_t offs, size_t n_bytes) const;

    static void copy_cell(llama_kv_cells & cells, uint32_t src, uint32_t dst);

    // the cells of slots [n, n_used) become free
    void free_cells(uint32_t strm, uint32_t n);

    void clear_stream(uint32_t strm);

    ggml_tensor * build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q,
            ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) override;

private:
    friend class lil_evict_slots_input;

    // entries that the lists of a graph's steps have room for
    static int64_t n_max(const std::vector<lil_evict_step> & steps);

    ggml_tensor * build_slots(const llm_graph_context & g, ggml_tensor * q, float kq_scale, int il);

    uint64_t n_evicted = 0;

    std::vector<uint32_t> cut; // streams of which the ubatch being computed evicts much

    // false: the tokens do not fit, are more than n_ctx, or do not follow those before
    bool plan(const lil_evict_stream & st, uint32_t strm, bool decode, const llama_pos * pos, uint32_t n_new,
            lil_evict_step & step) const;

    // streams [s0, s1) of a sequence, or of all
    std::pair<uint32_t, uint32_t> get_streams(llama_seq_id seq_id) const;

    // whether enough is left of a sequence once the tokens of ranks [p0, pos_next) have gone
    bool can_cut(const lil_evict_stream & st, llama_pos p0) const;
    void do_cut(uint32_t strm, llama_pos p0);

    bool can_rm_of(uint32_t strm, llama_pos p0, llama_pos p1) const;
    void do_rm(uint32_t strm, llama_pos p0, llama_pos p1);

    void set_cells(uint32_t strm);

    //
    // ends of prompts, lil-kv-cache-evict-kept.cpp
    //

    enum kept_layout {
        KEPT_ROWS,  // K, V: a row per slot
        KEPT_SLOTS, // a number per slot and head
        KEPT_WHOLE,
    };

    struct kept_tensor {
        ggml_tensor * t;    // of the cache
        ggml_tensor * kept; // as t, with the slots that a cut leaves [.., .., n_kept_max*n_stream]
        kept_layout   layout;
    };

    uint32_t n_kept_max = 0; // per stream
    uint64_t n_restored = 0;

    std::vector<std::vector<kept_tensor>>    kept_tensors; // [n_layer]
    std::vector<std::vector<lil_evict_kept>> kept;         // [n_stream], by their ends

    size_t kept_offset(const kept_tensor & t, uint32_t strm, uint32_t i_kept) const {
        return (strm * n_kept_max + i_kept) * t.kept->nb[2];
    }

    // the parts of a kept end: f(tensor of the cache, its offset, kept tensor, its offset, bytes)
    void for_each_kept(uint32_t strm, const lil_evict_kept & e,
            const std::function<void(const kept_tensor &, size_t, size_t, uint64_t)> & f) const;

    uint64_t kept_size(uint32_t strm, const lil_evict_kept & e) const;

    // whether a removal of the tokens from p0 on can go back to it
    bool can_serve(const lil_evict_kept & e, llama_pos p0) const;

    // the one that serves best, or null
    const lil_evict_kept * find_kept(uint32_t strm, llama_pos p0) const;

    void keep(lil_evict_step & step);
    void restore(uint32_t strm, const lil_evict_kept & e);
    void trim(uint32_t strm, llama_pos p0);
    void copy_kept(uint32_t s0, uint32_t s1);

    void state_write_kept(llama_io_write_i & io, uint32_t strm) const;

    std::vector<lil_evict_kept> state_read_kept(llama_io_read_i & io, uint32_t strm, const lil_evict_stream & st);

    // the parts of a stream's tensors that hold its tokens: f(tensor, offset, bytes)
    void for_each_part(
            uint32_t strm, uint32_t n_used, const std::function<void(ggml_tensor *, size_t, uint64_t)> & f) const;

    void state_write_stream(llama_io_write_i & io, uint32_t strm) const;
    void state_read_stream(llama_io_read_i & io, uint32_t strm);

    // throws what is wrong with them; n_max: slots at most
    lil_evict_stream read_counts(llama_io_read_i & io, uint32_t n_max) const;
};
