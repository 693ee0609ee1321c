#include "lil-ops-cuda.h"

#include "lil-cuda-device.h"

#include <initializer_list>

//
// the table: functions that stand for the ops. Their nodes belong to the CUDA backend, which never calls them
//

#define LIL_CUDA_NODE(op) \
    static void lil_cuda_node_##op(ggml_tensor * dst, int ith, int nth, void * userdata) { \
        GGML_UNUSED(dst); \
        GGML_UNUSED(ith); \
        GGML_UNUSED(nth); \
        GGML_UNUSED(userdata); \
        GGML_ABORT("%s is an op of the CUDA backend, and was to be computed on the CPU", #op); \
    }

LIL_OPS(LIL_CUDA_NODE)

static const char * lil_cuda_check(const lil_ops_shape * s) {
    for (const ggml_type type : { s->type_k, s->type_v }) {
        if (!lil_cuda_is_kv_type(type)) {
            return "keys and values may be F16, BF16, F32, Q8_0 or Q4_0";
        }
    }
    if (s->n_embd_k > LIL_CUDA_MAX_EMBD || s->n_embd_v > LIL_CUDA_MAX_EMBD_V || s->n_embd_k % 8 != 0 ||
            s->n_embd_v % 8 != 0) {
        return "keys may have up to 576 channels and values up to 512, a multiple of 8";
    }
    if ((ggml_is_quantized(s->type_k) && s->n_embd_k % 32 != 0) ||
            (ggml_is_quantized(s->type_v) && s->n_embd_v % 32 != 0)) {
        return "heads of quantised keys or values must have a multiple of 32 channels";
    }
    if (s->n_head % s->n_head_kv != 0 || s->n_head / s->n_head_kv > LIL_CUDA_MAX_GROUP) {
        return "a KV head may have up to 128 query heads";
    }

    return nullptr;
}

const lil_ops * lil_ops_cuda(void) {
    static const lil_ops ops = []() {
        lil_ops res = {};

        res.name           = "CUDA";
        res.has_parts      = false;
        res.attn_n_work    = lil_cuda_attn_n_work;
        res.attn_kq_offset = lil_cuda_attn_kq_offset;
        res.check          = lil_cuda_check;

#define LIL_CUDA_ENTRY(op) res.op = lil_cuda_node_##op;
        LIL_OPS(LIL_CUDA_ENTRY)
#undef LIL_CUDA_ENTRY

        return res;
    }();

    return &ops;
}

//
// the dispatcher
//

// a node with its tensors as the kernels take them
struct lil_cuda_node {
    const ggml_tensor * t;

    lil_node_params params;

    explicit lil_cuda_node(const ggml_tensor * t) : t(t), params(lil_get_node_params(t)) {}

    bool is(ggml_custom_op_t op) const { return op == params.fun; }

    lil_cuda_tensor dst() const { return lil_cuda_get(t); }
    lil_cuda_tensor src(int i) const { return lil_cuda_get(t->src[i]); }

    // the last source of an op that takes learned sinks
    bool            takes_sinks(int i) const { return !t->src[i] || t->src[i]->type == GGML_TYPE_F32; }
    lil_cuda_tensor sinks(int i) const { return t->src[i] ? src(i) : lil_cuda_tensor{}; }

    // what page_scores and block_scores have behind their first three sources
    lil_cuda_dirty page_dirty() const { return t->src[3] ? lil_cuda_dirty{ src(3), src(4), {} } : lil_cuda_dirty{}; }
    lil_cuda_dirty block_dirty() const {
        return t->src[3] ? lil_cuda_dirty{ src(3), src(5), src(4) } : lil_cuda_dirty{};
    }

    const lil_select_layer & select() const { return *(const lil_select_layer *) params.userdata; }
    const lil_evict_layer &  evict() const { return *(const lil_evict_layer *) params.userdata; }

    // whether dst and the first sources are there, of such types
    bool has(std::initializer_list<ggml_type> types) const {
        int i = -1;
        for (const ggml_type type : types) {
            const ggml_tensor * s = i < 0 ? t : t->src[i];
            if (!s || (type != LIL_TYPE_ANY && s->type != type)) {
                return false;
            }
            i++;
        }
        return true;
    }

    // src[i] is attn's work, which tells nothing of heads: the node that it comes from does
    bool has_work(int i) const {
        const ggml_tensor * work = t->src[i];
        return work && work->op == GGML_OP_CUSTOM && lil_get_node_params(work).fun == lil_cuda_node_attn &&
                work->src[0] && work->src[2];
    }
    int64_t work_n_head(int i) const { return t->src[i]->src[0]->ne[1]; }
    int64_t work_n_embd_v(int i) const { return t->src[i]->src[2]->ne[0] / select().n_head_kv; }
};

static const ggml_type F32 = GGML_TYPE_F32;
static const ggml_type I32 = GGML_TYPE_I32;
static const ggml_type KV  = LIL_TYPE_ANY; // lil_cuda_*_supports() looks

// blocks in y and z
static bool lil_cuda_is_grid(int64_t n) {
    return n <= 65535;
}

// what a node runs with
struct lil_cuda_run {
    void *       scratch;
    int          n_sm;
    cudaStream_t stream;

    float *   f32() const { return (float *) scratch; }
    int32_t * i32() const { return (int32_t *) scratch; }
};

using node = lil_cuda_node;
using run  = lil_cuda_run;

// An op: whether its kernels take a node, their launch, and the words of 4 bytes of scratch that they want. One of each
// name of LIL_OPS follows
struct lil_cuda_op {
    bool (*supports)(const node & n);
    void (*compute)(const node & n, const run & r);
    size_t (*n_word)(const node & n, int n_sm) = [](const node &, int) -> size_t { return 0; };
};

//
// select
//

static const lil_cuda_op lil_cuda_op_attn = {
    [](const node & n) {
        return n.has({ F32, F32, KV, KV, I32, I32 }) &&
                lil_cuda_attn_supports(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4));
    },
    [](const node & n, const run & r) {
        lil_cuda_attn(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4), r.n_sm, r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_attn_join = {
    [](const node & n) {
        return n.has({ F32, F32, I32 }) && n.takes_sinks(2) && n.t->ne[0] <= LIL_CUDA_MAX_EMBD_V &&
                lil_cuda_is_grid(n.t->ne[2]);
    },
    [](const node & n, const run & r) {
        lil_cuda_attn_join(n.select(), n.dst(), n.src(0), n.src(1), n.sinks(2), r.n_sm, r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_page_bounds = {
    [](const node & n) {
        return n.has({ KV, KV, KV, I32 }) && lil_cuda_page_bounds_supports(n.select(), n.src(0), n.src(1), n.src(2));
    },
    [](const node & n, const run & r) { lil_cuda_page_bounds(n.select(), n.src(0), n.src(1), n.src(2), r.stream); },
};

static const lil_cuda_op lil_cuda_op_page_scores = {
    [](const node & n) {
        return n.has({ F32, F32, KV, I32 }) && (!n.t->src[3] || n.t->src[4]) &&
                lil_cuda_page_scores_supports(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.page_dirty());
    },
    [](const node & n, const run & r) {
        lil_cuda_page_scores(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.page_dirty(), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_page_select = {
    [](const node & n) { return n.has({ I32, F32, I32, I32, I32 }) && lil_cuda_is_grid(n.t->ne[2]); },
    [](const node & n, const run & r) {
        lil_cuda_page_select(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.src(3), r.stream);
    },
};

// of the two ops that read attn's logits
static bool lil_cuda_takes_work(const node & n) {
    return n.has({ I32, F32, I32, I32 }) && n.has_work(0) && lil_cuda_is_grid(n.t->ne[2]);
}

static const lil_cuda_op lil_cuda_op_tidal_select = {
    lil_cuda_takes_work,
    [](const node & n, const run & r) {
        lil_cuda_tidal_select(
                n.select(), n.dst(), n.src(0), n.work_n_embd_v(0), n.work_n_head(0), n.src(1), n.src(2), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_lessismore_select = {
    lil_cuda_takes_work,
    [](const node & n, const run & r) {
        lil_cuda_lessismore_select(n.select(), n.dst(), n.src(0), n.work_n_embd_v(0), n.work_n_head(0), n.src(1),
                n.src(2), r.i32(), r.stream);
    },
    [](const node & n, int) {
        return lil_cuda_lessismore_select_n_scratch(n.select(), n.work_n_head(0), n.src(1), n.src(2));
    },
};

static const lil_cuda_op lil_cuda_op_infllm_score = {
    [](const node & n) {
        return n.takes_sinks(4) && n.has({ F32, F32, F32, I32, I32 }) && n.has_work(1) &&
                lil_cuda_infllm_score_supports(n.select(), n.src(0), n.work_n_head(1));
    },
    [](const node & n, const run & r) {
        lil_cuda_infllm_score(n.select(), n.src(0), n.src(1), n.work_n_embd_v(1), n.work_n_head(1), n.src(2), n.src(3),
                n.sinks(4), r.n_sm, r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_infllm_score_prompt = {
    [](const node & n) {
        return n.takes_sinks(4) && n.has({ F32, F32, KV, I32, I32 }) &&
                lil_cuda_infllm_score_prompt_supports(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.src(3));
    },
    [](const node & n, const run & r) {
        lil_cuda_infllm_score_prompt(
                n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.src(3), n.sinks(4), r.f32(), r.n_sm, r.stream);
    },
    [](const node & n, int n_sm) {
        return lil_cuda_infllm_score_prompt_n_scratch(n.select(), n.src(0), n.src(2), n.src(3), n_sm);
    },
};

static const lil_cuda_op lil_cuda_op_infllm_score_add = {
    [](const node & n) {
        return n.has({ F32, F32, F32, I32, I32 }) && n.src(1).ne[2] == 1 && lil_cuda_is_grid(n.src(3).ne[1]);
    },
    [](const node & n, const run & r) {
        lil_cuda_infllm_score_add(n.select(), n.src(0), n.src(1), n.src(2), n.src(3), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_block_repr = {
    [](const node & n) {
        return n.has({ F32, F32, KV, F32, I32 }) &&
                lil_cuda_block_repr_supports(n.select(), n.src(0), n.src(1), n.src(2), n.src(3));
    },
    [](const node & n, const run & r) {
        lil_cuda_block_repr(n.select(), n.src(0), n.src(1), n.src(2), n.src(3), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_block_scores = {
    [](const node & n) {
        return n.has({ F32, F32, F32, I32 }) && (!n.t->src[3] || (n.t->src[4] && n.t->src[5])) &&
                lil_cuda_block_scores_supports(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.block_dirty());
    },
    [](const node & n, const run & r) {
        lil_cuda_block_scores(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.block_dirty(), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_block_select = {
    [](const node & n) { return n.has({ I32, F32, I32, I32 }) && lil_cuda_is_grid(n.t->ne[2]); },
    [](const node & n, const run & r) {
        lil_cuda_block_select(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_raas_stamp = {
    [](const node & n) { return n.has({ F32, F32, F32, I32, I32, I32 }) && lil_cuda_is_grid(n.t->ne[2]); },
    [](const node & n, const run & r) {
        lil_cuda_raas_stamp(n.select(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4), r.i32(), r.stream);
    },
    [](const node & n, int) { return lil_cuda_raas_stamp_n_scratch(n.select(), n.src(0), n.src(4)); },
};

static const lil_cuda_op lil_cuda_op_raas_select = {
    [](const node & n) { return n.has({ I32, F32, I32, I32, I32 }) && lil_cuda_is_grid(n.t->ne[2]); },
    [](const node & n, const run & r) {
        lil_cuda_raas_select(n.select(), n.dst(), n.src(0), n.src(1), n.src(2), n.src(3), r.i32(), r.stream);
    },
    [](const node & n, int) { return lil_cuda_raas_select_n_scratch(n.select(), n.src(1), n.src(3)); },
};

//
// evict
//

static const lil_cuda_op lil_cuda_op_evict_slots = {
    [](const node & n) { return n.has({ F32, F32, KV, KV, F32, I32 }) && lil_cuda_is_grid(n.src(4).ne[1]); },
    [](const node & n, const run & r) {
        lil_cuda_evict_slots(n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4), r.i32(), r.stream);
    },
    [](const node & n, int) { return lil_cuda_evict_slots_n_scratch(n.evict(), n.src(0), n.src(4)); },
};

static const lil_cuda_op lil_cuda_op_new_slots = {
    [](const node & n) { return n.has({ F32, F32, F32, I32 }) && lil_cuda_is_grid(n.src(2).ne[1]); },
    [](const node & n, const run & r) { lil_cuda_new_slots(n.evict(), n.src(0), n.src(1), n.src(2), r.stream); },
};

static const lil_cuda_op lil_cuda_op_score_step = {
    [](const node & n) {
        return n.takes_sinks(5) && n.has({ F32, F32, F32, KV, F32, I32 }) &&
                lil_cuda_score_step_supports(n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4));
    },
    [](const node & n, const run & r) {
        lil_cuda_score_step(
                n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4), n.sinks(5), r.f32(), r.n_sm, r.stream);
    },
    [](const node & n, int) { return lil_cuda_score_step_n_scratch(n.src(1), n.src(2), n.src(4)); },
};

static const lil_cuda_op lil_cuda_op_score_prompt = {
    [](const node & n) {
        return n.takes_sinks(3) && n.has({ F32, F32, KV, I32 }) &&
                lil_cuda_score_prompt_supports(n.evict(), n.dst(), n.src(0), n.src(1), n.src(2));
    },
    [](const node & n, const run & r) {
        lil_cuda_score_prompt(n.evict(), n.dst(), n.src(0), n.src(1), n.src(2), n.sinks(3), r.f32(), r.n_sm, r.stream);
    },
    [](const node & n, int n_sm) {
        return lil_cuda_score_prompt_n_scratch(n.evict(), n.dst(), n.src(0), n.src(2), n_sm);
    },
};

static const lil_cuda_op lil_cuda_op_score_add = {
    [](const node & n) {
        return n.has({ F32, F32, F32, F32, I32 }) && n.src(1).ne[2] == 1 && lil_cuda_is_grid(n.src(3).ne[1]);
    },
    [](const node & n, const run & r) {
        lil_cuda_score_add(n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), r.stream);
    },
};

static const lil_cuda_op lil_cuda_op_score_window = {
    [](const node & n) {
        return n.takes_sinks(5) && n.has({ F32, F32, F32, KV, F32, I32 }) &&
                lil_cuda_score_window_supports(n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4));
    },
    [](const node & n, const run & r) {
        lil_cuda_score_window(
                n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4), n.sinks(5), r.f32(), r.n_sm, r.stream);
    },
    [](const node & n, int n_sm) {
        return lil_cuda_score_window_n_scratch(n.evict(), n.src(1), n.src(2), n.src(4), n_sm);
    },
};

static const lil_cuda_op lil_cuda_op_rkv_score = {
    [](const node & n) {
        return n.takes_sinks(5) && n.has({ F32, F32, F32, KV, F32, I32 }) &&
                lil_cuda_rkv_score_supports(n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4));
    },
    [](const node & n, const run & r) {
        lil_cuda_rkv_score(n.evict(), n.src(0), n.src(1), n.src(2), n.src(3), n.src(4), n.sinks(5), r.f32(), r.stream);
    },
    [](const node & n, int) { return lil_cuda_rkv_score_n_scratch(n.evict(), n.src(1), n.src(2), n.src(4)); },
};

// null: the node is none of ours
static const lil_cuda_op * lil_cuda_find(const lil_cuda_node & n) {
#define LIL_CUDA_FIND(op) \
    if (n.is(lil_cuda_node_##op)) { \
        return &lil_cuda_op_##op; \
    }
    LIL_OPS(LIL_CUDA_FIND)
#undef LIL_CUDA_FIND

    return nullptr;
}

bool lil_cuda_supports(const ggml_tensor * t) {
    if (t->op != GGML_OP_CUSTOM) {
        return false;
    }

    const lil_cuda_node n(t);

    const auto * op = lil_cuda_find(n);

    return op && op->supports(n);
}

size_t lil_cuda_n_scratch(const ggml_tensor * t, int n_sm) {
    const lil_cuda_node n(t);

    const auto * op = lil_cuda_find(n);

    return op ? 4 * op->n_word(n, n_sm) : 0;
}

void lil_cuda_compute(const ggml_tensor * t, void * scratch, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_supports(t));

    const lil_cuda_node n(t);

    lil_cuda_find(n)->compute(n, { scratch, n_sm, stream });
}
