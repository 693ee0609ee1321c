#include "lil-ops-cuda.h"

#include "lil-cuda-device.h"

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

LIL_CUDA_NODE(attn)
LIL_CUDA_NODE(attn_join)
LIL_CUDA_NODE(page_bounds)
LIL_CUDA_NODE(page_scores)
LIL_CUDA_NODE(page_select)
LIL_CUDA_NODE(tidal_select)
LIL_CUDA_NODE(h2o_score)
LIL_CUDA_NODE(h2o_evict)
LIL_CUDA_NODE(new_slots)

static const char * lil_cuda_check(const lil_ops_shape * s) {
    for (const ggml_type type : { s->type_k, s->type_v }) {
        if (!lil_cuda_is_kv_type(type)) {
            return "keys and values may be F16, BF16, F32, Q8_0 or Q4_0";
        }
    }
    if (s->n_embd_k > LIL_CUDA_MAX_EMBD || s->n_embd_v > LIL_CUDA_MAX_EMBD || s->n_embd_k%8 != 0 || s->n_embd_v%8 != 0) {
        return "heads may have up to 256 channels, a multiple of 8";
    }
    if ((ggml_is_quantized(s->type_k) && s->n_embd_k%32 != 0) || (ggml_is_quantized(s->type_v) && s->n_embd_v%32 != 0)) {
        return "heads of quantised keys or values must have a multiple of 32 channels";
    }
    if (s->n_head%s->n_head_kv != 0 || s->n_head/s->n_head_kv > LIL_CUDA_MAX_GROUP) {
        return "a KV head may have up to 16 query heads";
    }

    return nullptr;
}

const lil_ops * lil_ops_cuda(void) {
    static const lil_ops ops = []() {
        lil_ops res = {}; // an op that is not named here has no kernel

        res.name           = "CUDA";
        res.has_parts      = false;
        res.attn_n_work    = lil_cuda_attn_n_work;
        res.attn_kq_offset = lil_cuda_attn_kq_offset;
        res.check          = lil_cuda_check;

        res.attn         = lil_cuda_node_attn;
        res.attn_join    = lil_cuda_node_attn_join;
        res.page_bounds  = lil_cuda_node_page_bounds;
        res.page_scores  = lil_cuda_node_page_scores;
        res.page_select  = lil_cuda_node_page_select;
        res.tidal_select = lil_cuda_node_tidal_select;
        res.h2o_score    = lil_cuda_node_h2o_score;
        res.h2o_evict    = lil_cuda_node_h2o_evict;
        res.new_slots    = lil_cuda_node_new_slots;

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

    bool is(ggml_custom_op_t op) const { return op && op == params.fun; }

    lil_cuda_tensor dst() const { return lil_cuda_get(t); }

    lil_cuda_tensor src(int i) const { return lil_cuda_get(t->src[i]); }

    bool has(std::initializer_list<ggml_type> types) const { // of src[0], ...
        int i = 0;
        for (const ggml_type type : types) {
            const ggml_tensor * s = t->src[i++];
            if (!s || (type != GGML_TYPE_COUNT && s->type != type)) {
                return false;
            }
        }
        return true;
    }

    const lil_select_layer & select() const { return *(const lil_select_layer *) params.userdata; }
    const lil_h2o_layer    & h2o   () const { return *(const lil_h2o_layer    *) params.userdata; }
};

static const ggml_type LIL_F32 = GGML_TYPE_F32;
static const ggml_type LIL_I32 = GGML_TYPE_I32;
static const ggml_type LIL_ANY = GGML_TYPE_COUNT; // K or V, or bounds: lil_cuda_*_supports() looks

bool lil_cuda_supports(const ggml_tensor * t) {
    if (t->op != GGML_OP_CUSTOM) {
        return false;
    }

    const lil_ops &     ops  = *lil_ops_cuda();
    const lil_cuda_node node = { t, lil_get_node_params(t) };

    if (node.is(ops.attn)) {
        return t->type == LIL_F32 && node.has({ LIL_F32, LIL_ANY, LIL_ANY, LIL_I32, LIL_I32 }) &&
            lil_cuda_attn_supports(node.select(), node.dst(), node.src(0), node.src(1), node.src(2), node.src(3), node.src(4));
    }
    if (node.is(ops.attn_join)) {
        return t->type == LIL_F32 && node.has({ LIL_F32, LIL_I32 }) && t->ne[0] <= LIL_CUDA_MAX_EMBD && t->ne[2] <= 65535;
    }
    if (node.is(ops.page_bounds)) {
        return node.has({ LIL_ANY, LIL_ANY, LIL_I32 }) && lil_cuda_page_bounds_supports(node.select(), node.src(0), node.src(1), node.src(2));
    }
    if (node.is(ops.page_scores)) {
        return t->type == LIL_F32 && node.has({ LIL_F32, LIL_ANY, LIL_I32 }) &&
            lil_cuda_page_scores_supports(node.select(), node.dst(), node.src(0), node.src(1), node.src(2));
    }
    if (node.is(ops.page_select)) {
        return t->type == LIL_I32 && node.has({ LIL_F32, LIL_I32, LIL_I32, LIL_I32 }) && t->ne[2] <= 65535;
    }
    if (node.is(ops.tidal_select)) {
        const ggml_tensor * work = t->src[0];

        // the work tells nothing of heads: the node that it comes from does
        return t->type == LIL_I32 && node.has({ LIL_F32, LIL_I32, LIL_I32 }) && t->ne[2] <= 65535 &&
            work->op == GGML_OP_CUSTOM && lil_get_node_params(work).fun == ops.attn;
    }
    if (node.is(ops.h2o_score)) {
        return node.has({ LIL_F32, LIL_F32, LIL_ANY, LIL_F32, LIL_I32 }) &&
            lil_cuda_h2o_score_supports(node.h2o(), node.src(0), node.src(1), node.src(2), node.src(3), node.src(4));
    }
    if (node.is(ops.h2o_evict)) {
        return node.has({ LIL_F32, LIL_ANY, LIL_ANY, LIL_F32, LIL_I32 }) && t->src[4]->ne[1] <= 65535;
    }
    if (node.is(ops.new_slots)) {
        return node.has({ LIL_F32, LIL_F32, LIL_I32 }) && t->src[2]->ne[1] <= 65535;
    }

    return false;
}

size_t lil_cuda_n_scratch(const ggml_tensor * t) {
    const lil_ops &     ops  = *lil_ops_cuda();
    const lil_cuda_node node = { t, lil_get_node_params(t) };

    if (node.is(ops.h2o_score)) {
        return lil_cuda_h2o_score_n_scratch(node.src(1), node.src(2), node.src(4))*sizeof(float);
    }
    if (node.is(ops.h2o_evict)) {
        return lil_cuda_h2o_evict_n_scratch(node.h2o(), node.src(0), node.src(4))*sizeof(int32_t);
    }

    return 0;
}

void lil_cuda_compute(const ggml_tensor * t, void * scratch, int n_sm, cudaStream_t stream) {
    GGML_ASSERT(lil_cuda_supports(t));

    const lil_ops &     ops  = *lil_ops_cuda();
    const lil_cuda_node node = { t, lil_get_node_params(t) };

    if (node.is(ops.attn)) {
        lil_cuda_attn(node.select(), node.dst(), node.src(0), node.src(1), node.src(2), node.src(3), node.src(4), n_sm, stream);
    } else if (node.is(ops.attn_join)) {
        lil_cuda_attn_join(node.select(), node.dst(), node.src(0), node.src(1), n_sm, stream);
    } else if (node.is(ops.page_bounds)) {
        lil_cuda_page_bounds(node.select(), node.src(0), node.src(1), node.src(2), stream);
    } else if (node.is(ops.page_scores)) {
        lil_cuda_page_scores(node.select(), node.dst(), node.src(0), node.src(1), node.src(2), stream);
    } else if (node.is(ops.page_select)) {
        lil_cuda_page_select(node.select(), node.dst(), node.src(0), node.src(1), node.src(2), node.src(3), stream);
    } else if (node.is(ops.tidal_select)) {
        const ggml_tensor * q = t->src[0]->src[0];
        const ggml_tensor * v = t->src[0]->src[2];

        lil_cuda_tidal_select(node.select(), node.dst(), node.src(0), v->ne[0]/node.select().n_head_kv, q->ne[1], node.src(1), node.src(2), stream);
    } else if (node.is(ops.h2o_score)) {
        lil_cuda_h2o_score(node.h2o(), node.src(0), node.src(1), node.src(2), node.src(3), node.src(4), (float *) scratch, n_sm, stream);
    } else if (node.is(ops.h2o_evict)) {
        lil_cuda_h2o_evict(node.h2o(), node.src(0), node.src(1), node.src(2), node.src(3), node.src(4), (int32_t *) scratch, stream);
    } else if (node.is(ops.new_slots)) {
        lil_cuda_new_slots(node.h2o(), node.src(0), node.src(1), node.src(2), stream);
    } else {
        GGML_ABORT("lil_cuda_supports() and lil_cuda_compute() disagree");
    }
}
