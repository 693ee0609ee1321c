#pragma once

// Pages, and the choice of pages and tokens.

#include "device-ops.h"

static void test_pages(int n_embd, int n_group, ggml_type type_k, ggml_type type_b) {
    const int n_head_kv = rand_int(1, 3);
    const int n_steps   = rand_int(1, 3);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_cells   = 100;
    const int n_pages   = rand_int(1, 150);
    const int page_size = rand_int(1, 20);

    char name[256];
    snprintf(name, sizeof(name), "pages: n_embd %d, heads %d*%d, %s, bounds %s, steps %d, pages %d of %d", n_embd,
            n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_b), n_steps, n_pages, page_size);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;

    op_test_case t;

    ggml_tensor * q      = t.tensor_f32(0, 4.0f, n_embd, n_head_kv * n_group, n_steps);
    ggml_tensor * k      = t.tensor_kv(type_k, n_embd * n_head_kv, n_cells, n_stream);
    ggml_tensor * bounds = t.tensor(type_b, 2 * n_embd, n_head_kv, n_pages + 1, n_stream);
    ggml_tensor * dirty  = t.tensor(GGML_TYPE_I32, LIL_DIRTY_HEAD + page_size, n_pages * n_steps);
    ggml_tensor * steps  = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    ggml_tensor * scores = t.tensor(GGML_TYPE_F32, n_pages + 1, n_head_kv, n_steps);

    for (int s = 0; s < n_steps; ++s) {
        row_i32(steps, s)[LIL_SEL_STREAM] = n_stream - 1 - s;
        row_i32(steps, s)[LIL_SEL_TABLE]  = s;
        row_i32(steps, s)[LIL_SEL_PAGES]  = s == 0 ? n_pages : rand_int(0, n_pages);
    }

    for (int i = 0; i < n_steps * n_pages; ++i) {
        const auto cells = rand_cells(rand_int(1, page_size), n_cells);

        int32_t * entry         = row_i32(dirty, i);
        entry[LIL_DIRTY_STREAM] = row_i32(steps, i / n_pages)[LIL_SEL_STREAM];
        entry[LIL_DIRTY_TABLE]  = i / n_pages;
        entry[LIL_DIRTY_PAGE]   = i % n_pages;
        entry[LIL_DIRTY_N]      = (int32_t) cells.size();
        std::copy(cells.begin(), cells.end(), entry + LIL_DIRTY_HEAD);
    }

    if (rand_bool()) {
        t.check_op(&lil_ops::page_bounds, t.inplace(bounds), { bounds, k, dirty }, &layer, 0.0);
        t.check_op(&lil_ops::page_scores, scores, { q, bounds, steps }, &layer, 2e-5);
    } else {
        t.check_op(&lil_ops::page_scores, scores, { q, bounds, steps, k, dirty }, &layer, 2e-5);
    }
}

// pages of any sizes, of 1, or of 16
static ggml_tensor * make_pages(op_test_case & t, sequences & seq) {
    ggml_tensor * pages = t.tensor(GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);

    for (int s = 0; s < seq.n_steps; ++s) {
        const int size = rand_bool() ? 0 : rand_bool() ? 1 : 16;

        int n = 0;
        for (int r = 0; r < seq.n(s); r += size ? size : rand_int(1, 20)) {
            row_i32(pages, s)[n++] = r;
        }
        row_i32(pages, s)[n]                 = seq.n(s);
        row_i32(seq.steps, s)[LIL_SEL_PAGES] = n;
    }

    return pages;
}

static void test_page_select() {
    op_test_case t;
    sequences    seq(t, SIZES[rng() % 11]);

    const int n_head_kv = rand_int(1, 3);
    const int levels    = LEVELS[rng() % 5];

    ggml_tensor * scores = t.tensor_f32(levels, 1.0f, seq.n_max, n_head_kv, seq.n_steps);
    ggml_tensor * pages  = make_pages(t, seq);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.first_page       = rand_bool();
    layer.n_pages          = rand_int(1 + layer.first_page, rand_bool() ? 10 : 100);
    if (rand_bool()) { // a page more, as many, one fewer
        layer.n_pages = std::max(1 + layer.first_page, row_i32(seq.steps, 0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    char name[256];
    snprintf(name, sizeof(name), "page_select: heads %d, tokens %d, pages %d, first %d, levels %d", n_head_kv,
            seq.n_max, layer.n_pages, layer.first_page, levels);
    test_name = name;

    t.check_op(&lil_ops::page_select, list, { scores, seq.steps, seq.cells, pages }, &layer, 0.0);
}

static void test_raas() {
    op_test_case t;
    sequences    seq(t, SIZES[rng() % 11]);

    const int  n_head_kv = rand_int(1, 3);
    const int  levels    = LEVELS[rng() % 5];
    const bool one       = rand_bool(); // all sequences are in one stream, some with the same cells

    ggml_tensor * pages  = make_pages(t, seq);
    ggml_tensor * scores = t.tensor_f32(levels, 1.0f, seq.n_max, n_head_kv, seq.n_steps);
    ggml_tensor * stamp  = t.tensor_f32(20, 1.0f, 7 * seq.n_max + 3, n_head_kv, one ? 1 : seq.n_steps);
    ggml_tensor * list   = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    for (int64_t i = 0; i < ggml_nelements(stamp); ++i) {
        if (rng() % 3 == 0) {
            ((float *) stamp->data)[i] = LIL_RAAS_NEVER;
        }
    }

    for (int s = 0; s < seq.n_steps; ++s) {
        row_i32(seq.steps, s)[LIL_SEL_STREAM] = one ? 0 : seq.n_steps - 1 - s;
        row_i32(seq.steps, s)[LIL_SEL_NOW]    = rand_int(1, 20);

        if (one && s > 0 && rand_bool()) {
            for (int i = 0; i < seq.n_max; ++i) {
                row_i32(seq.cells, 0, s)[1 + i] = row_i32(seq.cells, 0, 0)[1 + i];
            }
        }
    }

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.n_pages          = rand_int(1, rand_bool() ? 10 : 100);
    layer.ratio            = rand_int(1, 10) / 10.0f;
    if (rand_bool()) { // a page more, as many, one fewer
        layer.n_pages = std::max(1, row_i32(seq.steps, 0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    char name[256];
    snprintf(name, sizeof(name), "raas: heads %d, tokens %d, pages %d, ratio %g, levels %d", n_head_kv, seq.n_max,
            layer.n_pages, layer.ratio, levels);
    test_name = name;

    t.check_op(&lil_ops::raas_stamp, t.inplace(stamp), { stamp, scores, seq.steps, seq.cells, pages }, &layer, 0.0);
    t.check_op(&lil_ops::raas_select, list, { stamp, seq.steps, seq.cells, pages }, &layer, 0.0);
}

static void test_token_select() {
    op_test_case t;
    sequences    seq(t, SIZES[rng() % 11]);

    const int n_head_kv = rand_int(1, 3);
    const int n_group   = rand_bool() ? 1 : rand_bool() ? rand_int(2, 7) : 20;
    const int n_head    = n_head_kv * n_group;
    const int n_embd_v  = 4 * rand_int(1, 5);
    const int levels    = LEVELS[rng() % 5];

    ggml_tensor * work =
            t.tensor_logits(levels, rand_bool() ? 1.0f : 20.0f, n_embd_v, n_head, n_head_kv, seq.cells, seq.steps);
    ggml_tensor * list = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    lil_select_layer layer = {};
    layer.n_head_kv        = n_head_kv;
    layer.budget = rand_bool() ? std::max(1, seq.n(0) + rand_int(-1, 1)) : rand_int(2, rand_bool() ? 100 : 1500);

    char name[256];
    snprintf(name, sizeof(name), "tidal_select: heads %d*%d, tokens %d, budget %d, levels %d", n_head_kv, n_group,
            seq.n_max, layer.budget, levels);
    test_name = name;

    t.check_op(&lil_ops::tidal_select, list, { work, seq.steps, seq.cells }, &layer, 0.0);

    // heads that agree, more or less
    const int one_of = rand_bool() ? 0 : rand_int(1, 20);

    for (int s = 0; s < seq.n_steps && one_of > 0; ++s) {
        float * x = t.get_logits(work) + (int64_t) s * n_head * seq.n_max;
        for (int i = seq.n_max; i < n_head * seq.n_max; ++i) {
            x[i] = rng() % one_of == 0 ? x[i] : x[i % seq.n_max];
        }
    }

    layer.n_sink   = rand_int(0, 4);
    layer.n_recent = rand_int(1, 30);
    layer.budget   = std::max(layer.n_sink + layer.n_recent + 1,
            rand_bool() ? seq.n(0) + rand_int(-1, 1) : rand_int(2, rand_bool() ? 100 : 1500));

    ggml_tensor * one = t.tensor(GGML_TYPE_I32, 1 + seq.n_max, 1, seq.n_steps);

    snprintf(name, sizeof(name), "lessismore_select: heads %d*%d, tokens %d, budget %d, levels %d", n_head_kv, n_group,
            seq.n_max, layer.budget, levels);
    test_name = name;

    t.check_op(&lil_ops::lessismore_select, one, { work, seq.steps, seq.cells }, &layer, 0.0);
}

static void test_pages_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : GROUPS) {
            const ggml_type type_k = rand_type(n_embd);

            if (is_wanted()) {
                test_pages(n_embd, n_group, type_k,
                        type_k == GGML_TYPE_F16 || (type_k == GGML_TYPE_F32 && rand_bool()) ? GGML_TYPE_F16
                                                                                            : GGML_TYPE_F32);
            }
        }
    }
    for (int n_group : MLA_GROUPS) {
        if (is_wanted()) {
            test_pages(MLA_EMBD, n_group, GGML_TYPE_F16, GGML_TYPE_F16);
            test_pages(MLA_EMBD, n_group, rand_type(MLA_EMBD), GGML_TYPE_F32);
        }
    }
}

static void test_pages_odd() {
    test_pages(4 * rand_int(1, 20), rand_int(1, 20), TYPES[rng() % 2], GGML_TYPE_F16);
}
