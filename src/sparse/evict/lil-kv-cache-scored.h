#pragma once

#include "lil-kv-cache-evict.h"

#include "lil-ops.h"

class lil_kv_cache_scored;

// a step's numbers, so that graphs can be reused from step to step
class lil_graph_input_scored : public llm_graph_input_i {
public:
    explicit lil_graph_input_scored(const lil_kv_cache_scored * kv) : kv(kv) {}

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

    // what the graph was built for
    std::vector<lil_evict_step> built;

    // fused form
    ggml_tensor * steps = nullptr; // I32 [LIL_STEP_COUNT, n_steps]

    // where queries are kept: which row of the ring each of the ubatch's last ones takes
    ggml_tensor * ring = nullptr; // I32 [n_keep, n_steps]

    // portable form
    ggml_tensor * keep    = nullptr; // F32 [n_kv, 1, n_steps] 1 for the slots held before the step's tokens, else 0
    ggml_tensor * pos_new = nullptr; // F32 [n_kv, 1, n_steps] positions of the step's tokens, else 0
    ggml_tensor * protect = nullptr; // F32 [1, n_steps]       positions above this one stay
    // F32 [n_ring, n_steps]  position of each kept query, above all others where none is
    ggml_tensor * ring_pos    = nullptr;
    ggml_tensor * ring_weight = nullptr; // F32 [n_ring, n_steps]  1/n_win for each kept query, 0 where none is

private:
    const lil_kv_cache_scored * kv;
};

// The cache of the methods that rank tokens: every slot of every KV head has a score and a position beside K and V, and
// an eviction drops the lowest scores. A method may keep the last queries too, in a ring: position p in row p % n_ring.
//
// FlashAttention gives the output and hides the probabilities; what a method needs of them is computed again from q and
// K. Over B keys that reread costs little beside the model's weights.
//
// A method says, beyond what lil_kv_cache_evict asks of it,
//
//   build_update()   what a ubatch does to the scores. New slots need their positions and scores here
//   build_rank()     what is computed before an eviction, for the steps that need_rank()
//   build_ranking()  portable form: what an eviction goes by, if not by the scores of each head
//   store_queries()  whether a ubatch's queries are kept
//   count_queries()  how many are, after a step
class lil_kv_cache_scored : public lil_kv_cache_evict {
public:
    // n_ring: queries kept, at most; 0: none. ring_stays: those of a prompt are still needed once its scores are
    // counted
    lil_kv_cache_scored(const args & a, uint32_t n_ring, bool ring_stays = false);

    int32_t get_slots(
            llama_seq_id seq_id, int32_t il, int32_t i_head_kv, llama_pos * p, float * s, int32_t n) const override;

    uint32_t graph_max_nodes() const override;

    void build_before_store(
            const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * k_rot, int il) override;

    ggml_tensor * build_attn(const llm_graph_context & g, const llama_kv_cache_context * mctx, ggml_tensor * q,
            ggml_tensor * k, ggml_tensor * v, ggml_tensor * kq_mask, float kq_scale, int il) override;

protected:
    friend class lil_graph_input_scored;

    // a layer's part of the graph
    struct layer_graph {
        const llm_graph_context &      g;
        const lil_graph_input_scored & inp;

        size_t ikv; // whose keys and values it reads
        size_t ir;  // its number among the layers

        int64_t n_steps() const { return inp.built.size(); }
        int64_t n_new() const { return inp.built[0].n_new; }
        bool    decode() const { return inp.built[0].decode; }
    };

    // what attention has of it
    struct layer_attn {
        ggml_tensor * q;       // [n_embd_head, n_head,    n_tokens]
        ggml_tensor * k;       // [n_embd_head, n_head_kv, n_kv, n_stream]
        ggml_tensor * kq_mask; // [n_kv, n_new, 1, n_stream]
        float         scale;
    };

    //
    // what a method says
    //

    virtual void build_update(const layer_graph & lg, const layer_attn & attn) = 0;

    virtual bool need_rank(const lil_evict_step & step) const {
        GGML_UNUSED(step);
        return false;
    }
    virtual void build_rank(const layer_graph & lg) { GGML_UNUSED(lg); }

    // [n_before, n_head_kv], or [n_before, 1] where all heads drop the same
    virtual ggml_tensor * build_ranking(const layer_graph & lg, const lil_evict_step & step) const;

    virtual bool store_queries(bool decode) const {
        GGML_UNUSED(decode);
        return false;
    }
    virtual uint32_t count_queries(const lil_evict_stream & st, const lil_evict_step & step) const {
        GGML_UNUSED(step);
        return st.n_win;
    }

    // the scores that get_slots() reports [n_used]
    virtual void get_scores(size_t ikv, uint32_t strm, uint32_t h, std::vector<float> & dst) const {
        get_head(score[ikv], strm, h, dst);
    }

    //
    // lil_kv_cache_evict
    //

    uint32_t n_win_max() const override { return n_ring; }

    std::vector<side_tensor> get_side(size_t ikv) const override;

    slot_change advance(lil_evict_stream & st, const lil_evict_step & step) const override;

    void remove_tail(uint32_t strm, llama_pos p0) override;

    //
    // for the methods
    //

    const uint32_t n_ring;
    const bool     ring_stays;

    // per cache layer
    std::vector<ggml_tensor *> score; // F32 [capacity, n_head_kv, n_stream]
    std::vector<ggml_tensor *> pos;   // F32 [capacity, n_head_kv, n_stream] position of each slot
    std::vector<ggml_tensor *> ring;  // F32 [n_embd_head*n_head, n_ring, n_stream] the last queries

    // by layer that attends; filled at construction, scale and n_score_part when a graph is built
    std::vector<lil_evict_layer> evict_layers;

    void get_head(const ggml_tensor * t, uint32_t strm, uint32_t h, std::vector<float> & dst) const;
    void set_head(ggml_tensor * t, uint32_t strm, uint32_t h, const std::vector<float> & src) const;

    // a fused op that changes a side tensor
    void build_inplace(const layer_graph & lg, ggml_tensor * dst, std::vector<ggml_tensor *> srcs, ggml_custom_op_t op);

    // slots [0, n) of a side tensor in a stream [n, n_head_kv], or one element a row, for get_rows and set_rows [1, n,
    // n_head_kv]
    ggml_tensor * view_slots(const layer_graph & lg, ggml_tensor * t, int64_t n, uint32_t strm) const;
    ggml_tensor * view_cells(const layer_graph & lg, ggml_tensor * t, int64_t n, uint32_t strm) const;

    // slots [0, n) of K or V in a stream [n_embd_head, n, n_head_kv]
    ggml_tensor * view_heads(const layer_graph & lg, ggml_tensor * t, int64_t n, uint32_t strm) const;

    // portable form: t = t + x, where the slots of new tokens count as 0, unless the layer adds to what is there. x
    // [n_kv, n_head_kv or 1, n_steps] or null
    void build_add(const layer_graph & lg, ggml_tensor * t, ggml_tensor * x) const;

    // portable form: the softmax of the last n_query queries, summed over them and over each group [n_kv, n_head_kv,
    // n_steps]
    ggml_tensor * build_received(const layer_graph & lg, const layer_attn & attn, int64_t n_query) const;

    // the last query of each step [n_embd_head, n_head, n_steps]
    ggml_tensor * view_last_query(const layer_graph & lg, ggml_tensor * q) const;

private:
    const lil_graph_input_scored * get_input(const llm_graph_context & g, const llama_kv_cache_context * mctx);

    void build_store_queries(const layer_graph & lg, ggml_tensor * q) const;

    // portable form: one step's eviction
    void build_evict(const layer_graph & lg, size_t i_step) const;
};
