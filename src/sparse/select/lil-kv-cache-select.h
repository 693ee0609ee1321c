#pragma once

#include "lil-kv-cache.h"
#include "lil-seq-index.h"

#include <functional>

// The cache of the select family: llama.cpp's own cache, of which a decode step reads a part.
//
// Beside K and V a method may keep
//   cell tensors   one value per cell and KV head (InfLLM's scores, RaaS's time stamps); they go where the cell goes:
//                  copies of sequences, saved states
//   page tensors   what can be computed from K and the cell tensors (Quest's bounds, InfLLM's representatives), one
//                  table per sequence; computed when a decode step needs them: for the pages that have changed since
//                  the last one
// An index per sequence (lil_seq_index) tells which cell holds its n-th token, and from which rank on metadata are old.
//
// A method builds the graph of one layer; lil_select_layer_graph is what it needs for that.

class lil_kv_cache_select;

// decode steps of a sequence that go through one graph at most
static constexpr uint32_t LIL_DRAFT_MAX = 8;

// What one ubatch does to a sequence: a part of a prompt, or a decode step. Several steps of a sequence in one ubatch
// (a draft) follow each other, and each is one of these.
struct lil_select_step {
    llama_seq_id seq_id = 0;

    bool     decode  = false; // a decode step; otherwise a part of a prompt
    uint32_t n_later = 0;     // steps of the sequence behind it in the ubatch
    uint32_t strm    = 0;     // stream of K and V
    uint32_t table   = 0;     // page metadata
    uint32_t n       = 0;     // T: tokens that it sees, the new ones included
    uint32_t n_new   = 0;
    uint32_t n_pages = 0; // pages (Quest, RaaS), blocks that may be chosen (InfLLM)
    uint32_t now     = 0; // decode steps of the sequence, this one included
    bool     sparse  = false;

    uint32_t n_valid = 0; // ranks whose metadata had been computed before

    std::vector<uint32_t> dirty; // pages whose metadata are to be computed, of all steps of the sequence

    llama_pos pos = 0; // of the last token

    const lil_seq_index * index = nullptr; // null: a graph whose size is being measured
};

// The inputs of a graph. Each is filled before a computation by the function that was given with it.
class lil_select_input : public llm_graph_input_i {
public:
    using fill_i32 = std::function<void(int32_t * dst)>;
    using fill_f32 = std::function<void(float * dst)>;

    explicit lil_select_input(const lil_kv_cache_select * kv) : kv(kv) {}

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

    ggml_tensor * add(ggml_context * ctx, const char * name, int64_t ne0, int64_t ne1, int64_t ne2, fill_i32 fill);
    ggml_tensor * add(ggml_context * ctx, const char * name, int64_t ne0, int64_t ne1, int64_t ne2, fill_f32 fill);

    // what shapes the graph
    std::vector<int64_t> key;

    // tensors by name, made where they are first asked for
    std::map<std::string, ggml_tensor *> tensors;

    // the steps that the graph was built for
    std::vector<lil_select_step> steps;

    // from layer to layer: the list (fused) or the rows of each step (portable) that a method keeps
    std::vector<ggml_tensor *> kept;

private:
    struct input {
        ggml_tensor * t;
        fill_i32      i32;
        fill_f32      f32;
    };

    std::vector<input> inputs;

    const lil_kv_cache_select * kv;
};

// one layer of a graph being built
struct lil_select_layer_graph {
    const llm_graph_context & g;

    ggml_context * ctx;

    lil_select_input * inp;

    const std::vector<lil_select_step> & steps;

    ggml_tensor * q; // [n_embd_head_k, n_head, n_tokens]
    ggml_tensor * k; // [n_embd_head_k, n_head_kv, n_kv, n_stream]
    ggml_tensor * v;
    ggml_tensor * kq_mask; // [n_kv, n_tokens/n_stream, 1, n_stream]

    float  kq_scale;
    int    il;
    size_t ikv; // whose keys and values it reads
    size_t ir;  // its number among the full-attention layers

    int64_t n_embd_k; // of a head
    int64_t n_embd_v;
    int64_t n_head;
    int64_t n_head_kv;
    int64_t n_kv;

    int64_t n_group() const { return n_head / n_head_kv; }

    void expand(ggml_tensor * t) const;
};

// What a step of the portable form reads: rows of K and V, viewed as [n_embd_head, n_cells*n_head_kv].
struct lil_select_rows {
    ggml_tensor * rows = nullptr; // I32 [n, n_head_kv] cell*n_head_kv + head
    ggml_tensor * mask = nullptr; // F16 [n, n_head_kv] or [n, 1], 0 or -inf; null: all are read
};

class lil_kv_cache_select : public lil_kv_cache {
public:
    explicit lil_kv_cache_select(const args & a);

    //
    // llama_memory_i
    //

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;

    llama_memory_context_ptr init_full() override;

    void clear(bool data) override;

    bool seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) override;
    void seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

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

    void build_before_store(
            const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) override;

    ggml_tensor * build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q,
            ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) override;

    uint32_t graph_max_nodes() const override;

    std::vector<lil_batch_piece> begin_batch(const llama_batch & batch, uint32_t n_ubatch) override;

    std::vector<llama_seq_id> fail_ubatch() override;

    std::vector<ggml_tensor *> get_cell_side() const override;

    void release_side(const std::vector<uint32_t> & streams) override;

    void get_info(lil_sparse_info & info) const override;

    uint32_t    get_budget() const override { return budget_made; }
    std::string set_budget(uint32_t budget) override;

    int32_t get_slots(llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * pos, float * score,
            int32_t n) const override;

protected:
    using layer_graph = lil_select_layer_graph;

    uint32_t n_pages_max = 0; // rows of a table of page tensors

    uint32_t n_dense_layers = 0; // the first ones, which attend to everything

    // lil_set_budget() has changed params.budget: sets what follows from it
    virtual void budget_changed() {}

    //
    // what a method says
    //

    // Whether batches of any kind are taken, as llama.cpp splits them. Those that are no decode step of each of their
    // sequences go through llama.cpp's attention, and the method hears nothing of them
    virtual bool takes_any_batch() const { return false; }

    // Decode steps of a sequence that one graph takes. More than one: a step leaves nothing behind that the next one
    // reads, but keys, values, and what page_ranks() of full pages give
    virtual uint32_t n_each_max() const { return 1; }

    // whether a layer attends to everything in every step
    virtual bool is_dense_layer(size_t ir) const {
        GGML_UNUSED(ir);
        return false;
    }

    // the pages or blocks of the first n tokens that have metadata, and the ranks [first, end) of one
    virtual uint32_t n_pages(const lil_seq_index & index, uint32_t n) const {
        GGML_UNUSED(index);
        GGML_UNUSED(n);
        return 0;
    }
    virtual std::pair<uint32_t, uint32_t> page_ranks(const lil_seq_index & index, uint32_t i) const {
        GGML_UNUSED(index);
        GGML_UNUSED(i);
        return { 0, 0 };
    }

    // Ranks whose metadata are final once a sequence has n tokens. Where it has become shorter, those behind are
    // computed again.
    virtual uint32_t n_final(uint32_t n) const { return n; }

    // tokens of a page at most
    virtual uint32_t page_size() const { return lil_seq_index::PAGE; }

    // what of a step shapes the graph, beyond what lil_kv_cache_select knows
    virtual int64_t graph_kind(const lil_select_step & step) const {
        GGML_UNUSED(step);
        return 0;
    }

    // dense steps need the metadata too
    virtual bool dense_needs_pages() const { return false; }

    // the current logits over the list are wanted after the attention of a layer
    virtual bool wants_kq(size_t ir) const {
        GGML_UNUSED(ir);
        return false;
    }

    // brings the metadata of a layer's dirty pages up to date, unless the scores do, see input_dirty_few()
    virtual void build_pages(const layer_graph & lg) { GGML_UNUSED(lg); }

    // fused: the list that a layer reads, see lil-ops.h
    virtual ggml_tensor * build_list(const layer_graph & lg) = 0;

    // portable: the rows that step i reads
    virtual lil_select_rows build_rows(const layer_graph & lg, size_t i) = 0;

    // portable: the attention of a sparse step i, [n_embd_v*n_head]; otherwise by build_rows()
    virtual ggml_tensor * build_step(const layer_graph & lg, size_t i);

    // after the attention of a ubatch that went through the fused op; work holds the logits if they were wanted
    virtual void build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) {
        GGML_UNUSED(lg);
        GGML_UNUSED(work);
        GGML_UNUSED(list);
    }

    // after the attention of a prompt, or of a dense step that went through llama.cpp's attention
    virtual void build_after_dense(const layer_graph & lg) { GGML_UNUSED(lg); }

    // the attention of a prompt, and of dense steps
    virtual ggml_tensor * build_prompt(const layer_graph & lg);

    // cell tensors F32 [n_cells, n_head_kv, n_stream]
    virtual std::vector<ggml_tensor *> get_cell_tensors(size_t ikv) const {
        GGML_UNUSED(ikv);
        return {};
    }

    // page tensors
    virtual std::vector<ggml_tensor *> get_page_tensors(size_t ikv) const {
        GGML_UNUSED(ikv);
        return {};
    }

    // KV rows that one KV head reads in a sparse step of a layer
    virtual uint32_t n_rows(const lil_select_step & step) const;

    // what is to be said of a sparse step that the method cannot serve well; empty: nothing
    virtual std::string check_step(const lil_select_step & step) const {
        GGML_UNUSED(step);
        return "";
    }

    // the score of a token, for lil_sparse_get_slots()
    virtual const ggml_tensor * get_score(size_t ikv) const {
        GGML_UNUSED(ikv);
        return nullptr;
    }

    //
    // for methods
    //

    uint32_t                         n_cells() const { return get_size(); }
    uint32_t                         n_tables() const { return n_seq_max; }
    std::vector<const ggml_tensor *> get_beside(size_t ikv) const override;

    // entries that lists, or the list of all tokens, have room for
    int64_t        n_list(const std::vector<lil_select_step> & steps) const;
    static int64_t n_max(const std::vector<lil_select_step> & steps);

    // the inputs of lil-ops.h
    ggml_tensor * input_steps(const layer_graph & lg) const;
    ggml_tensor * input_cells(const layer_graph & lg) const;
    // for attn: one list for all steps of a sequence, where the backend takes that
    ggml_tensor * input_cells_shared(const layer_graph & lg) const;
    ggml_tensor * input_pages(const layer_graph & lg) const;
    ggml_tensor * input_dirty(const layer_graph & lg) const;

    // The same where there is at most one dirty page for each step and one step of each sequence, as in every step but
    // drafts and the first ones after a prompt or an edit: the op that scores the pages computes its metadata, and
    // saves a launch. Otherwise null
    ggml_tensor * input_dirty_few(const layer_graph & lg) const;

    // rows of a graph's tables of pages
    static int64_t n_pages_graph(const std::vector<lil_select_step> & steps);

    // an input [ne0, ne1, n_steps] of this graph, or [ne0, n_steps] where ne1 is 0, made at its first use: fill() fills
    // a step's part. Ops read it as it is: each view of it would be copied to the device on its own
    template <typename T>
    ggml_tensor * input(const layer_graph & lg, const char * name, int64_t ne0, int64_t ne1,
            std::function<void(T *, const lil_select_step &)> fill) const;

    // the same; the parts of dense steps stay 0
    template <typename T>
    ggml_tensor * input_sparse(const layer_graph & lg, const char * name, int64_t ne0, int64_t ne1,
            std::function<void(T *, const lil_select_step &)> fill) const {
        return input<T>(lg, name, ne0, ne1, [fill](T * dst, const lil_select_step & step) {
            if (step.sparse) {
                fill(dst, step);
            }
        });
    }

    ggml_tensor * custom(const layer_graph & lg, ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3,
            std::vector<ggml_tensor *> srcs, ggml_custom_op_t op) const;
    void          custom_inplace(
            const layer_graph & lg, ggml_tensor * t, std::vector<ggml_tensor *> srcs, ggml_custom_op_t op) const;

    // portable
    // [n_embd_head_k, n_head, n_new], contiguous
    ggml_tensor * step_q(const layer_graph & lg, size_t i) const;
    // [n_embd_head_k, n_head_kv, n_kv]
    ggml_tensor * step_k(const layer_graph & lg, size_t i) const;
    ggml_tensor * row_view(const layer_graph & lg, ggml_tensor * t, uint32_t strm, int64_t ne0, int64_t n_rows) const;
    // F32 [n, n_head_kv] or [n, 1] -> I32 [n, n_head_kv]
    ggml_tensor * cells_to_rows(const layer_graph & lg, ggml_tensor * cells) const;
    // F32 [n_embd_head, n, n_head_kv]
    ggml_tensor * gather(const layer_graph & lg, ggml_tensor * t, uint32_t strm, ggml_tensor * rows) const;
    ggml_tensor * max_over(const layer_graph & lg, ggml_tensor * t) const; // [a, b, c] -> [a, 1, c]
    // llama.cpp's attention for one step
    ggml_tensor * build_dense_step(const layer_graph & lg, size_t i) const;

    // what step i reads, for lil_sparse_get_slots()
    // the mask of a portable step of n rows, with the sinks behind it
    ggml_tensor * add_sinks(const layer_graph & lg, ggml_tensor * mask, int64_t n) const;

    void remember(const layer_graph & lg, size_t i, const lil_select_rows & list);

    // the ubatch being computed, or (reserve) the graph whose size is being measured
    struct {
        bool reserve = true;

        std::vector<lil_select_step> steps;
    } cur;

private:
    friend class lil_select_input;

    uint32_t budget_made = 0; // of lil_init_from_model()

    bool simulating = false; // prepare() tries the ubatches out

    std::vector<lil_seq_index> index; // [n_seq_max]

    // the last decode graph: what each layer's steps read; null: everything
    struct read_lists {
        ggml_tensor *                list = nullptr; // fused
        std::vector<lil_select_rows> rows;           // portable [n_steps]
    };
    std::vector<read_lists> last; // [n_layer]

    std::vector<lil_select_step> get_steps(const llm_graph_context & g) const;
    std::vector<int64_t>         get_key(const std::vector<lil_select_step> & steps) const;

    // whether a ubatch goes another way than llama.cpp's attention
    bool uses_method(const std::vector<lil_select_step> & steps) const;

    // whether the method can follow the ubatches
    bool check_batches(const std::vector<llama_ubatch> & ubatches);

    void plan(lil_select_step & step) const;

    lil_select_input * get_input(const llm_graph_context & g);

    void for_each_seq(llama_seq_id seq_id, const std::function<void(lil_seq_index &)> & f);

    ggml_tensor * build_decode_fused(const layer_graph & lg);
    ggml_tensor * build_decode_portable(const layer_graph & lg);

    // reads a sequence's cells anew, and throws where its positions are none
    void check_positions(uint32_t seq_id);

    // the cells of a state, in the order in which they are written
    std::vector<uint32_t> state_cells(uint32_t strm, llama_seq_id seq_id) const;
};
