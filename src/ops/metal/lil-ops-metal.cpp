#include "lil-ops-metal.h"

#include "lil-metal-plan.h"

// The functions are names: a node is told by its function, see lil_metal_plan. On a CPU they do not run.
#define LIL_METAL_OP(op) \
    static void lil_metal_##op(ggml_tensor * dst, int ith, int nth, void * userdata) { \
        GGML_UNUSED(ith); \
        GGML_UNUSED(nth); \
        GGML_UNUSED(userdata); \
        GGML_ABORT("lil: node '%s' (" #op ") is Metal's and was given to the CPU", dst->name); \
    }

LIL_OPS(LIL_METAL_OP)

// what no op can do
static const char * lil_metal_check(const lil_ops_shape * shape) {
    if (const char * err = lil_metal_check_head(shape->type_k, shape->n_embd_k)) {
        return err;
    }
    if (const char * err = lil_metal_check_head(shape->type_v, shape->n_embd_v)) {
        return err;
    }
    if (shape->n_embd_v > LIL_METAL_MAX_EMBD_V) {
        return "values of a head have more than 512 channels";
    }
    if (shape->n_head_kv * shape->n_embd_k * (int64_t) sizeof(float) > LIL_METAL_MAX_SHMEM) {
        return "a query for each KV head does not fit into the threadgroup memory";
    }
    return nullptr;
}

const lil_ops * lil_ops_metal(void) {
    static const lil_ops ops = [] {
        lil_ops res = {};

        res.name           = "Metal";
        res.has_parts      = true;
        res.attn_n_work    = lil_attn_n_work;
        res.attn_kq_offset = lil_attn_kq_offset;
        res.check          = lil_metal_check;

#define LIL_METAL_SET(op) res.op = lil_metal_##op;
        LIL_OPS(LIL_METAL_SET)

        return res;
    }();

    return &ops;
}

const char * lil_metal_plan(const ggml_tensor * node, lil_metal_launch & l) {
    static const struct {
        ggml_custom_op_t fun;
        lil_metal_plan_t plan;
    } PLANS[] = {
#define LIL_METAL_PLAN(op) { lil_metal_##op, lil_metal_plan_##op },
        LIL_OPS(LIL_METAL_PLAN)
    };

    l = {};

    l.type_k = -1;
    l.type_v = -1;

    if (node->op != GGML_OP_CUSTOM) {
        return "not one of our ops";
    }

    const lil_node_params params = lil_get_node_params(node);

    for (const auto & p : PLANS) {
        if (p.fun == params.fun) {
            l.buf[l.n_buf++] = node;
            for (int i = 0; i < GGML_MAX_SRC && node->src[i]; ++i) {
                l.buf[l.n_buf++] = node->src[i];
            }
            return p.plan(node, params.userdata, l);
        }
    }
    return "not one of our ops";
}
