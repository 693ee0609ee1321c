#pragma once

// InfLLM's ops.

#include "device-ops.h"

// attention that was received, and streams that several sequences may share
struct scored_cells {
    int  n_head_kv = rand_int(1, 3);
    bool one       = rand_bool(); // all sequences are in one stream, some with the same cells
    int  n_cells;

    ggml_tensor * score;

    scored_cells(op_test_case & t, sequences & seq, int levels) : n_cells(7 * seq.n_max + 3) {
        score = t.tensor_f32(levels, 1.0f, n_cells, n_head_kv, one ? 1 : seq.n_steps + 1);

        for (int s = 0; s < seq.n_steps; ++s) {
            row_i32(seq.steps, s)[LIL_SEL_STREAM] = one ? 0 : seq.n_steps - s;

            if (one && s > 0 && rand_bool()) {
                for (int i = 0; i < seq.n_max; ++i) {
                    row_i32(seq.cells, 0, s)[1 + i] = row_i32(seq.cells, 0, 0)[1 + i];
                }
            }
        }
    }
};

static void test_infllm_score(int n_max) {
    op_test_case t;
    sequences    seq(t, n_max);
    scored_cells c(t, seq, 0);

    const int  n_embd  = 32;
    const int  n_group = rand_bool() ? rand_int(1, 9) : 20;
    const int  n_head  = c.n_head_kv * n_group;
    const bool shared  = rand_bool();

    // the lists that a step attends to: per KV head, or one
    ggml_tensor * list = t.tensor(GGML_TYPE_I32, 1 + n_max, shared ? 1 : c.n_head_kv, seq.n_steps);
    for (int s = 0; s < seq.n_steps; ++s) {
        for (int h = 0; h < list->ne[1]; ++h) {
            const auto ranks = rand_cells(rand_int(1, seq.n(s)), seq.n(s));

            row_i32(list, h, s)[0] = (int32_t) ranks.size();
            for (size_t i = 0; i < ranks.size(); ++i) {
                row_i32(list, h, s)[1 + i] = row_i32(seq.cells, 0, s)[1 + ranks[i]];
            }
        }
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = c.n_head_kv;
    layer.n_recent         = rand_bool() ? rand_int(1, 20) : std::max(1, row_i32(list, 0, 0)[0] + rand_int(-1, 1));
    layer.scale            = get_scale(n_embd);

    ggml_tensor * q    = t.tensor_f32(0, rand_bool() ? 1.0f : 20.0f, n_embd, n_head, seq.n_steps);
    ggml_tensor * k    = t.tensor_kv(GGML_TYPE_F16, n_embd * c.n_head_kv, c.n_cells, c.score->ne[2]);
    ggml_tensor * work = t.tensor_work(n_embd, n_head, n_max, seq.n_steps, true);

    char name[256];
    snprintf(name, sizeof(name), "infllm_score: heads %d*%d, tokens %d, window %d, shared %d, one stream %d",
            c.n_head_kv, n_group, n_max, layer.n_recent, shared, c.one);
    test_name = name;

    t.check_op(&lil_ops::attn, work, { q, k, k, list, seq.steps }, &layer, 2e-5);
    t.check_op(&lil_ops::infllm_score, t.inplace(c.score), t.with_sinks({ c.score, work, list, seq.steps }, n_head),
            &layer, 2e-5);
}

static void test_infllm_score_prompt(int n_embd, int n_group, ggml_type type_k, int n_max) {
    op_test_case t;
    sequences    seq(t, n_max);
    scored_cells c(t, seq, 0);

    int n_new = n_max;
    for (int s = 0; s < seq.n_steps; ++s) {
        n_new = std::min(n_new, seq.n(s));
    }
    n_new = rand_int(1, std::min(n_new, n_group <= 4 ? 40 : 10));

    for (int s = 0; s < seq.n_steps; ++s) {
        row_i32(seq.steps, s)[LIL_SEL_NEW] = n_new;
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = c.n_head_kv;
    layer.n_recent         = rand_bool() ? rand_int(1, 20) : n_max + rand_int(-1, 1) > 0 ? n_max + rand_int(0, 1) : 1;
    layer.scale            = get_scale(n_embd, true);
    layer.softcap          = rng() % 4 == 0 ? 5.0f : 0.0f;
    layer.n_score_part     = 1;

    char name[256];
    snprintf(name, sizeof(name),
            "infllm_score_prompt: n_embd %d, heads %d*%d, %s, tokens %d, new %d, window %d, one stream %d", n_embd,
            c.n_head_kv, n_group, ggml_type_name(type_k), n_max, n_new, layer.n_recent, c.one);
    test_name = name;

    ggml_tensor * q    = t.tensor_q(n_embd, c.n_head_kv * n_group, n_new * seq.n_steps);
    ggml_tensor * k    = t.tensor_kv(type_k, n_embd * c.n_head_kv, c.n_cells, c.score->ne[2], true);
    ggml_tensor * ref  = t.tensor(GGML_TYPE_F32, layer.n_recent + n_new, c.n_head_kv, 1, seq.n_steps);
    ggml_tensor * part = t.tensor(GGML_TYPE_F32, layer.n_recent + n_new, c.n_head_kv,
            device.ops->has_parts ? rand_int(1, 4) : 1, seq.n_steps);

    std::vector<int> n_sums; // from the first rank that some query's window holds
    for (int s = 0; s < seq.n_steps; ++s) {
        n_sums.push_back(seq.n(s) - std::max(0, seq.n(s) - n_new - layer.n_recent + 1));
    }

    t.check_parts(&lil_ops::infllm_score_prompt, ref, part,
            t.with_sinks({ q, k, seq.cells, seq.steps }, c.n_head_kv * n_group), &layer, n_sums,
            get_tol(2e-5, layer.softcap));

    // every part counts
    layer.n_score_part = (int) part->ne[2];

    t.check_op(&lil_ops::infllm_score_add, t.inplace(c.score), { c.score, part, seq.cells, seq.steps }, &layer, 1e-6,
            layer.n_score_part);
}

static void test_blocks(int n_embd, int n_group, ggml_type type_k) {
    const int n_head_kv = rand_int(1, 3);
    const int n_steps   = rand_int(1, 3);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_cells   = 200;
    const int n_blocks  = rand_int(1, 70);
    const int size      = rand_bool() ? rand_int(1, 40) : 16;
    const int levels    = LEVELS[rng() % 5];

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.n_repr           = rand_bool() ? rand_int(1, 4) : std::max(1, size + rand_int(-1, 1));

    char name[256];
    snprintf(name, sizeof(name), "blocks: n_embd %d, heads %d*%d, %s, steps %d, blocks %d of %d, repr %d, levels %d",
            n_embd, n_head_kv, n_group, ggml_type_name(type_k), n_steps, n_blocks, size, layer.n_repr, levels);
    test_name = name;

    op_test_case t;

    ggml_tensor * q      = t.tensor_f32(0, 4.0f, n_embd, n_head_kv * n_group, n_steps);
    ggml_tensor * k      = t.tensor_kv(type_k, n_embd * n_head_kv, n_cells, n_stream);
    ggml_tensor * score  = t.tensor_f32(levels, 1.0f, n_cells, n_head_kv, n_stream);
    ggml_tensor * repr   = t.tensor(GGML_TYPE_F32, n_embd * n_head_kv, n_blocks + 1, n_stream);
    ggml_tensor * dirty  = t.tensor(GGML_TYPE_I32, LIL_DIRTY_HEAD + size, n_blocks * n_steps);
    ggml_tensor * steps  = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    ggml_tensor * scores = t.tensor(GGML_TYPE_F32, n_blocks + 1, n_steps);

    for (int s = 0; s < n_steps; ++s) {
        row_i32(steps, s)[LIL_SEL_STREAM] = n_stream - 1 - s;
        row_i32(steps, s)[LIL_SEL_TABLE]  = s;
        row_i32(steps, s)[LIL_SEL_PAGES]  = s == 0 ? n_blocks : rand_int(0, n_blocks);
    }

    for (int i = 0; i < n_steps * n_blocks; ++i) {
        const auto cells = rand_cells(rand_bool() ? size : rand_int(1, size), n_cells);

        int32_t * entry         = row_i32(dirty, i);
        entry[LIL_DIRTY_STREAM] = row_i32(steps, i / n_blocks)[LIL_SEL_STREAM];
        entry[LIL_DIRTY_TABLE]  = i / n_blocks;
        entry[LIL_DIRTY_PAGE]   = i % n_blocks;
        entry[LIL_DIRTY_N]      = (int32_t) cells.size();
        std::copy(cells.begin(), cells.end(), entry + LIL_DIRTY_HEAD);
    }

    const double tol = 1e-4 * std::max(1, n_group / 16); // a score is a sum over all heads

    if (rand_bool()) {
        t.check_op(&lil_ops::block_repr, t.inplace(repr), { repr, k, score, dirty }, &layer, 1e-5);
        t.check_op(&lil_ops::block_scores, scores, { q, repr, steps }, &layer, tol);
    } else {
        t.check_op(&lil_ops::block_scores, scores, { q, repr, steps, k, score, dirty }, &layer, tol);
    }
}

static void test_block_select() {
    op_test_case t;
    sequences    seq(t, SIZES[rng() % 11]);

    const int levels = LEVELS[rng() % 5];

    lil_select_layer layer = {};
    layer.n_head_kv        = rand_int(1, 3);
    layer.n_sink           = rand_int(0, 4);
    layer.block            = rand_bool() ? rand_int(1, 5) : 16;

    for (int s = 0; s < seq.n_steps; ++s) {
        const int n_most = std::max(0, seq.n(s) - layer.n_sink) / layer.block;

        row_i32(seq.steps, s)[LIL_SEL_PAGES] = rand_bool() ? n_most : rand_int(0, n_most);
    }

    layer.n_pages = rand_int(1, rand_bool() ? 10 : 100);
    if (rand_bool()) { // a block more, as many, one fewer
        layer.n_pages = std::max(1, row_i32(seq.steps, 0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    char name[256];
    snprintf(name, sizeof(name), "block_select: tokens %d, first %d, blocks %d of %d, levels %d", seq.n_max,
            layer.n_sink, layer.n_pages, layer.block, levels);
    test_name = name;

    ggml_tensor * scores = t.tensor_f32(levels, 1.0f, seq.n_max, seq.n_steps);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    t.check_op(&lil_ops::block_select, list, { scores, seq.steps, seq.cells }, &layer, 0.0);
}

static void test_infllm_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : GROUPS) {
            if (is_wanted()) {
                test_infllm_score_prompt(n_embd, n_group, rand_type(n_embd), SIZES[rng() % 8]);
                test_blocks(n_embd, n_group, rand_type(n_embd));
            }
        }
    }
    for (int n_group : MLA_GROUPS) {
        if (is_wanted()) {
            test_infllm_score_prompt(MLA_EMBD, n_group, rand_type(MLA_EMBD), SIZES[rng() % 5]);
            test_blocks(MLA_EMBD, n_group, rand_type(MLA_EMBD));
        }
    }
}

static void test_infllm_odd() {
    test_infllm_score_prompt(4 * rand_int(1, 20), rand_int(1, 9), TYPES[rng() % 3], rand_int(1, 150));
    test_blocks(4 * rand_int(1, 20), rand_int(1, 20), TYPES[rng() % 3]);
}

static void test_infllm_steps() {
    test_infllm_score(SIZES[rng() % 10]);
    test_block_select();
}
