// Graphs of our ops through the patched ggml-metal: its table of ops, its reordering, its encoding with barriers,
// everything but the Objective-C files, whose functions the emulated device has (emu-metal-device.h). Against the CPU's
// ops.
//
//   test-metal-graph [seed]

#include "metal-ops-common.h"

#include "ggml-alloc.h"
#include "ggml-cpp.h"
#include "ggml-metal-common.h"
#include "ggml-metal-fusion.h"
#include "ggml-metal-ops.h"
#include "ggml-metal.h"

// what ggml-metal's .m files define and a graph of our ops needs besides
extern "C" {

ggml_metal_device_t ggml_metal_device_init(int, int) {
    return emu_metal_device();
}

void ggml_metal_device_free(ggml_metal_device_t) {}

ggml_metal_library_t ggml_metal_device_get_library(ggml_metal_device_t) {
    return nullptr;
}

bool ggml_metal_device_supports_op(ggml_metal_device_t dev, const ggml_tensor * op) {
    return op->op == GGML_OP_CUSTOM && lil_metal_supports(dev, op);
}

ggml_metal_encoder_t ggml_metal_encoder_init(ggml_metal_cmd_buf_t, bool) {
    return emu_metal_encoder();
}

void ggml_metal_encoder_end_encoding(ggml_metal_encoder_t) {}
void ggml_metal_encoder_free(ggml_metal_encoder_t) {}
}

// a step of H2O and one of Quest, in two layers each
struct step_graph {
    static constexpr int n_embd    = 64;
    static constexpr int n_head_kv = 2;
    static constexpr int n_head    = 4;
    static constexpr int n_cells   = 300;
    static constexpr int n_layer   = 2;
    static constexpr int n_pages   = 19; // of 16, the last one has fewer

    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buffer;
    ggml_cgraph *           gf;

    lil_evict_layer  h2o   = {};
    lil_select_layer quest = {};

    std::vector<ggml_tensor *> leafs;
    std::vector<ggml_tensor *> nodes;

    explicit step_graph(const lil_ops & ops) :
        ctx(ggml_init({ 128 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true })) {
        h2o.n_head_kv = quest.n_head_kv = n_head_kv;
        h2o.scale = quest.scale = 0.125f;
        h2o.n_score_part        = 1;
        quest.n_pages           = 5;

        gf = ggml_new_graph(ctx.get());

        for (int il = 0; il < n_layer; ++il) {
            ggml_tensor * k     = leaf(GGML_TYPE_F16, n_embd * n_head_kv, n_cells, 1);
            ggml_tensor * v     = leaf(GGML_TYPE_F16, n_embd * n_head_kv, n_cells, 1);
            ggml_tensor * score = leaf(GGML_TYPE_F32, n_cells, n_head_kv, 1);
            ggml_tensor * pos   = leaf(GGML_TYPE_F32, n_cells, n_head_kv, 1);
            ggml_tensor * q     = leaf(GGML_TYPE_F32, n_embd, n_head, 1);
            ggml_tensor * steps = leaf(GGML_TYPE_I32, LIL_STEP_COUNT, 1);

            inplace(pos, { k, v, score, steps }, ops.evict_slots, &h2o);
            inplace(score, { q, k, pos, steps }, ops.score_step, &h2o);
        }

        ggml_tensor * steps = leaf(GGML_TYPE_I32, LIL_SEL_COUNT, 1);
        ggml_tensor * cells = leaf(GGML_TYPE_I32, 1 + n_cells, 1, 1);
        ggml_tensor * pages = leaf(GGML_TYPE_I32, n_pages + 1, 1);
        ggml_tensor * dirty = leaf(GGML_TYPE_I32, LIL_DIRTY_HEAD + 16, n_pages);

        // op by op, so that the two layers' nodes, which need nothing of each other, stand side by side
        ggml_tensor * q[n_layer];
        ggml_tensor * k[n_layer];
        ggml_tensor * v[n_layer];
        ggml_tensor * bounds[n_layer];
        ggml_tensor * last[n_layer];
        ggml_tensor * list[n_layer];

        for (int il = 0; il < n_layer; ++il) {
            q[il]      = leaf(GGML_TYPE_F32, n_embd, n_head, 1);
            k[il]      = leaf(GGML_TYPE_Q8_0, n_embd * n_head_kv, n_cells, 1);
            v[il]      = leaf(GGML_TYPE_F16, n_embd * n_head_kv, n_cells, 1);
            bounds[il] = leaf(GGML_TYPE_F32, 2 * n_embd, n_head_kv, n_pages, 1);
        }
        for (int il = 0; il < n_layer; ++il) {
            inplace(bounds[il], { k[il], dirty }, ops.page_bounds, &quest);
        }
        for (int il = 0; il < n_layer; ++il) {
            last[il] = add(GGML_TYPE_F32, n_pages, n_head_kv, 1, { q[il], bounds[il], steps }, ops.page_scores, &quest);
        }
        for (int il = 0; il < n_layer; ++il) {
            list[il] = add(GGML_TYPE_I32, 1 + n_cells, n_head_kv, 1, { last[il], steps, cells, pages }, ops.page_select,
                    &quest);
        }
        for (int il = 0; il < n_layer; ++il) {
            last[il] = add(GGML_TYPE_F32, ops.attn_n_work(n_embd, n_head, n_cells, 1, false), 1, 1,
                    { q[il], k[il], v[il], list[il], steps }, ops.attn, &quest);
        }
        for (int il = 0; il < n_layer; ++il) {
            add(GGML_TYPE_F32, n_embd, n_head, 1, { last[il], list[il] }, ops.attn_join, &quest);
        }

        buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), ggml_backend_cpu_buffer_type()));
        CHECK(buffer);
        ggml_backend_buffer_clear(buffer.get(), 0xFF);

        fill();
        fill_inputs(steps, cells, pages, dirty);
    }

    ggml_tensor * leaf(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2 = 1, int64_t ne3 = 1) {
        leafs.push_back(ggml_new_tensor_4d(ctx.get(), type, ne0, ne1, ne2, ne3));
        return leafs.back();
    }

    ggml_tensor * add_node(ggml_tensor * node) {
        ggml_build_forward_expand(gf, node);
        nodes.push_back(node);
        return node;
    }

    ggml_tensor * add(ggml_type type, int64_t ne0, int64_t ne1, int64_t ne2, std::vector<ggml_tensor *> src,
            ggml_custom_op_t op, void * layer) {
        leaf(GGML_TYPE_F32, 64, 1); // ggml-metal takes neighbours in memory for the same

        return add_node(ggml_custom_4d(ctx.get(), type, ne0, ne1, ne2, 1, src.data(), (int) src.size(), op, 1, layer));
    }

    void inplace(ggml_tensor * t, std::vector<ggml_tensor *> src, ggml_custom_op_t op, void * layer) {
        add_node(ggml_custom_inplace(ctx.get(), t, src.data(), (int) src.size(), op, 1, layer));
    }

    // random floats in all leafs
    void fill() {
        std::mt19937 r(seed);
        for (ggml_tensor * t : leafs) {
            std::vector<float> x(ggml_nelements(t));
            for (float & f : x) {
                f = (float) r() / (float) r.max() * 4.0f - 2.0f;
            }
            if (t->type == GGML_TYPE_F32) {
                memcpy(t->data, x.data(), ggml_nbytes(t));
            } else if (t->type != GGML_TYPE_I32) {
                ggml_quantize_chunk(t->type, x.data(), t->data, 0, ggml_nrows(t), t->ne[0], nullptr);
            }
        }
    }

    void fill_inputs(ggml_tensor * steps, ggml_tensor * cells, ggml_tensor * pages, ggml_tensor * dirty) {
        for (int il = 0; il < n_layer; ++il) {
            float *   pos  = (float *) leafs[6 * il + 3]->data;
            int32_t * step = (int32_t *) leafs[6 * il + 5]->data;

            for (int i = 0; i < n_cells * n_head_kv; ++i) {
                pos[i] = (float) (i % n_cells);
            }
            memset(step, 0, LIL_STEP_COUNT * sizeof(int32_t));
            step[LIL_STEP_BEFORE]  = n_cells - 10;
            step[LIL_STEP_EVICT]   = 3 + il;
            step[LIL_STEP_PROTECT] = n_cells - 20;
            step[LIL_STEP_NEW]     = 1;
            step[LIL_STEP_POS]     = n_cells - 10;
        }

        int32_t * step = (int32_t *) steps->data;
        memset(step, 0, LIL_SEL_COUNT * sizeof(int32_t));
        step[LIL_SEL_SPARSE] = 1;
        step[LIL_SEL_N]      = n_cells;
        step[LIL_SEL_NEW]    = 1;
        step[LIL_SEL_PAGES]  = n_pages;

        ((int32_t *) cells->data)[0] = n_cells;
        for (int i = 0; i < n_cells; ++i) {
            ((int32_t *) cells->data)[1 + i] = i;
        }
        for (int p = 0; p < n_pages; ++p) {
            ((int32_t *) pages->data)[p] = 16 * p;

            int32_t * entry         = row_i32(dirty, p);
            entry[LIL_DIRTY_STREAM] = 0;
            entry[LIL_DIRTY_TABLE]  = 0;
            entry[LIL_DIRTY_PAGE]   = p;
            entry[LIL_DIRTY_N]      = std::min(16, n_cells - 16 * p);
            for (int i = 0; i < 16; ++i) {
                entry[LIL_DIRTY_HEAD + i] = 16 * p + i;
            }
        }
        ((int32_t *) pages->data)[n_pages] = n_cells;
    }
};

static void test_graph(bool reorder) {
    test_name = std::string("graph") + (reorder ? ", reordered" : "");

    step_graph cpu(*ops);
    step_graph gpu(*metal);

    for (ggml_tensor * node : cpu.nodes) {
        const auto params = lil_get_node_params(node);
        params.fun(node, 0, 1, params.userdata);
    }

    if (reorder) {
        ggml_graph_optimize(gpu.gf);
    }

    auto & state = emu_metal_get();
    state.log.clear();
    state.n_threads = 1024;

    ggml_metal_fusion_info * fusion = ggml_metal_fusion_info_init(true, 0);

    ggml_metal_op_t op = ggml_metal_op_init(
            emu_metal_device(), nullptr, gpu.gf, fusion, 0, ggml_graph_n_nodes(gpu.gf), true, false, 0);
    CHECK(ggml_metal_op_n_nodes(op) == (int) gpu.nodes.size());
    for (int i = 0; i < ggml_metal_op_n_nodes(op);) {
        i += ggml_metal_op_encode(op, i);
    }
    ggml_metal_op_free(op);
    ggml_metal_fusion_info_free(fusion);

    const auto bytes = [](const ggml_tensor * t) {
        return std::vector<char>((const char *) t->data, (const char *) t->data + ggml_nbytes(t));
    };

    for (size_t i = 0; i < cpu.leafs.size(); ++i) {
        compare(cpu.leafs[i], bytes(gpu.leafs[i]), bytes(cpu.leafs[i]), 2e-5);
    }
    for (size_t i = 0; i < cpu.nodes.size(); ++i) {
        if (lil_get_node_params(cpu.nodes[i]).fun != ops->attn) { // its partial results are the backend's own matter
            compare(cpu.nodes[i], bytes(gpu.nodes[i]), bytes(cpu.nodes[i]), 2e-5);
        }
    }

    // what writes to its sources has a barrier on both sides, and so has what reads the result of another
    const auto & log = state.log;

    const auto find = [&](const char * name, int nth) {
        for (size_t i = 0; i < log.size(); ++i) {
            if (log[i] == name && nth-- == 0) {
                return i;
            }
        }
        CHECK(!"a kernel of that name");
        return (size_t) 0;
    };
    const auto has_barrier = [&](size_t a, size_t b) {
        return std::find(log.begin() + a, log.begin() + b, "barrier") != log.begin() + b;
    };

    for (int il = 0; il < step_graph::n_layer; ++il) {
        for (const size_t i : { find("kernel_lil_evict_slots", il), find("kernel_lil_score_step_2", il) }) {
            CHECK(log[i - 1] == "barrier" && log[i + 1] == "barrier");
        }
        CHECK(has_barrier(find("kernel_lil_page_bounds", il), find("kernel_lil_page_scores_2", il)));
        CHECK(has_barrier(find("kernel_lil_page_scores_2", il), find("kernel_lil_page_select", il)));
        CHECK(has_barrier(find("kernel_lil_page_select", il), find("kernel_lil_attn_2", il)));
        CHECK(has_barrier(find("kernel_lil_attn_2", il), find("kernel_lil_attn_join", il)));
    }

    // what needs nothing of each other runs side by side
    for (const char * name : { "kernel_lil_page_bounds", "kernel_lil_page_scores_2", "kernel_lil_page_select",
                 "kernel_lil_attn_2", "kernel_lil_attn_join" }) {
        CHECK(!has_barrier(find(name, 0), find(name, 1)));
    }
}

int main(int argc, char ** argv) {
    test_init(argc, argv);

    // the table that the backend hands out
    ggml_backend_reg_t reg = ggml_backend_metal_reg();
    CHECK(lil_ops_metal == (lil_get_ops_t) ggml_backend_reg_get_proc_address(reg, "lil_ops"));

    int n_tests = 1;

    for (const bool reorder : { false, true }) {
        test_graph(reorder);
        n_tests++;
    }

    printf("test-metal-graph: %d cases, seed %u: ok\n", n_tests, seed);

    return 0;
}
