#pragma once

// Attention over a list.

#include "device-ops.h"

static void test_attn(int n_embd, int n_embd_v, int n_group, ggml_type type_k, ggml_type type_v, int n_list,
        bool shared, bool kq, float softcap) {
    const int n_head_kv = rand_int(1, 2);
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_max     = n_list + (rand_bool() ? rand_int(0, 300) : 0);
    const int n_cells   = n_list + rand_int(0, 50);

    char name[256];
    snprintf(name, sizeof(name),
            "attn: n_embd %d/%d, heads %d*%d, %s/%s, list %d of %d, steps %d, shared %d, kq %d, softcap %g", n_embd,
            n_embd_v, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_v), n_list, n_max, n_steps,
            shared, kq, softcap);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.scale            = 1.0f / sqrtf((float) n_embd);
    layer.softcap          = softcap;

    op_test_case t;

    ggml_tensor * q     = t.tensor_f32(0, 4.0f, n_embd, n_head, n_steps);
    ggml_tensor * k     = t.tensor_kv(type_k, n_embd * n_head_kv, n_cells, n_stream);
    ggml_tensor * v     = t.tensor_kv(type_v, n_embd_v * n_head_kv, n_cells, n_stream);
    ggml_tensor * list  = t.tensor(GGML_TYPE_I32, 1 + n_max, shared ? 1 : n_head_kv, n_steps);
    ggml_tensor * steps = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    ggml_tensor * work  = t.tensor_work(n_embd_v, n_head, n_max, n_steps, kq);
    ggml_tensor * out   = t.tensor(GGML_TYPE_F32, n_embd_v, n_head, n_steps);

    // the first list has n_list entries, the others at most as many
    for (int s = 0; s < n_steps; ++s) {
        for (int h = 0; h < list->ne[1]; ++h) {
            const auto cells = rand_cells(s == 0 && h == 0 ? n_list : rand_int(1, n_list), n_cells);

            row_i32(list, h, s)[0] = (int32_t) cells.size();
            std::copy(cells.begin(), cells.end(), row_i32(list, h, s) + 1);
        }
        row_i32(steps, s)[LIL_SEL_STREAM] = n_stream - 1 - s;
    }

    t.check_op(&lil_ops::attn, work, { q, k, v, list, steps }, &layer, get_tol(2e-5, softcap));
    t.check_op(&lil_ops::attn_join, out, t.with_sinks({ work, list }, n_head), &layer, get_tol(2e-5, softcap));
}

static void test_attn_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : GROUPS) {
            for (int n_list : { 1, 15, 16, 17, 255, 256, 257, 600 }) {
                const int n_embd_v = rng() % 4 == 0 ? 32 * rand_int(1, 5) : n_embd;

                if (is_wanted()) {
                    test_attn(n_embd, n_embd_v, n_group, rand_type(n_embd), rand_type(n_embd_v), n_list, rand_bool(),
                            rand_bool(), rng() % 4 == 0 ? 5.0f : 0.0f);
                }
            }
        }
    }
    for (int n_group : MLA_GROUPS) {
        for (int n_list : { 17, 257 }) {
            if (is_wanted()) {
                test_attn(MLA_EMBD, MLA_EMBD_V, n_group, rand_type(MLA_EMBD), rand_type(MLA_EMBD_V), n_list, true,
                        rand_bool(), 0.0f);
            }
        }
    }
}

static void test_attn_odd() {
    test_attn(4 * rand_int(1, 20), 4 * rand_int(1, 20), rand_int(1, 20), TYPES[rng() % 3], TYPES[rng() % 3],
            rand_int(1, 300), rand_bool(), rand_bool(), 0.0f);
}
