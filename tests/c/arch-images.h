#pragma once

// An image in a text, for models with M-RoPE.

#include "arch-runs.h"

static bool has_images(const llama_model * model) {
    const auto rope = llama_model_rope_type(model);
    return rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
}

// An image as mtmd gives it: embeddings that share a position, row by row; returns the position behind it
static llama_pos decode_image(llama_context * ctx, llama_pos pos, int n_x, int n_y) {
    const int     n      = n_x * n_y;
    const int32_t n_embd = llama_model_n_embd(llama_get_model(ctx));

    llama_batch batch = llama_batch_init(n, n_embd, 1);

    std::vector<llama_pos> at(4 * n, 0); // time, row, column, nothing
    for (int i = 0; i < n; ++i) {
        at[i]         = pos;
        at[n + i]     = pos + i / n_x;
        at[2 * n + i] = pos + i % n_x;

        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = false;
        for (int32_t j = 0; j < n_embd; ++j) {
            batch.embd[i * n_embd + j] = std::sin(0.37f * (float) (i + 1) * (float) (j + 1));
        }
    }
    batch.n_tokens = n;

    llama_pos * own = batch.pos; // room for one dimension
    batch.pos       = at.data();

    const int32_t status = llama_decode(ctx, batch);

    batch.pos = own;
    llama_batch_free(batch);

    REQUIRE(status == 0, "llama_decode of an image: %d", status);

    return pos + std::max(n_x, n_y);
}

// tokens from a position on, together or one at a time; the logits of the last of each batch
static void decode_text(llama_context * ctx, llama_pos pos, int n, bool apart, int n_before, layer_check * check,
        logits_list & logits) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));

    llama_batch batch = llama_batch_init(n, 0, 1);

    for (int i = 0; i < n;) {
        const int n_part = apart ? 1 : n;

        for (int j = 0; j < n_part; ++j, ++i) {
            batch.token[j]     = (3 * i * i + 11 * i + 5) % tiny_arch::N_VOCAB;
            batch.pos[j]       = pos + i;
            batch.n_seq_id[j]  = 1;
            batch.seq_id[j][0] = 0;
            batch.logits[j]    = j + 1 == n_part;
        }
        batch.n_tokens = n_part;
        if (check) {
            check->begin(0, n_before + i - n_part, n_part);
        }

        REQUIRE(llama_decode(ctx, batch) == 0, "llama_decode failed at %d", (int) pos + i);

        const float * row = llama_get_logits_ith(ctx, -1);
        logits.emplace_back(row, row + n_vocab);
    }
    llama_batch_free(batch);
}

static const int N_TEXT  = 30; // before an image and behind it
static const int IMAGE_X = 12;
static const int IMAGE_Y = 6;
static const int N_IMAGE = 12 * 6; // more than a ubatch takes
static const int BEHIND  = N_TEXT + std::max(IMAGE_X, IMAGE_Y);

// Pages, windows and sinks go by the order of arrival, and a removal by position takes all tokens of an image. The
// logits of the steps behind the image, and behind a text in its place where it could be removed.
static logits_list run_image(llama_context * ctx, layer_check * check) {
    logits_list res;

    decode_text(ctx, 0, N_TEXT, false, 0, check, res);
    if (check) {
        check->begin(0, N_TEXT, N_IMAGE);
    }
    REQUIRE(decode_image(ctx, N_TEXT, IMAGE_X, IMAGE_Y) == BEHIND, "the position behind an image");
    decode_text(ctx, BEHIND, N_TEXT, false, N_TEXT + N_IMAGE, check, res);
    decode_text(ctx, BEHIND + N_TEXT, N_STEPS, true, 2 * N_TEXT + N_IMAGE, check, res);

    return res;
}

static logits_list replace_image(llama_context * ctx, layer_check * check) {
    logits_list res;

    if (!llama_memory_seq_rm(llama_get_memory(ctx), 0, N_TEXT, -1)) {
        return res; // a hybrid, or some of it was evicted
    }
    REQUIRE(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == N_TEXT - 1, "the image is not gone");
    if (check) {
        check->cut(0, N_TEXT);
    }
    decode_text(ctx, N_TEXT, 60, false, N_TEXT, check, res);
    decode_text(ctx, N_TEXT + 60, N_STEPS, true, N_TEXT + 60, check, res);

    return res;
}

// the tokens that an evicting method holds behind an image, of all that came
static void check_held(llama_context * ctx, const lil_sparse_params & params) {
    std::vector<llama_pos> came;
    for (int i = 0; i < 2 * N_TEXT + N_IMAGE + N_STEPS; ++i) {
        const bool before = i < N_TEXT;
        came.push_back(before ? i : i < N_TEXT + N_IMAGE ? N_TEXT : BEHIND + i - N_TEXT - N_IMAGE);
    }

    int n_layers = 0;
    for (int32_t il = 0; il < llama_model_n_layer(llama_get_model(ctx)); ++il) {
        std::vector<llama_pos> held(came.size());

        const int32_t n = lil_sparse_get_slots(ctx, 0, il, 0, held.data(), nullptr, (int32_t) held.size());
        if (n < 0) {
            continue;
        }
        n_layers++;

        REQUIRE(n <= (int32_t) params.budget && n + params.buffer >= params.budget, "%d tokens held", n); // R-KV: fewer
        held.resize(n);
        std::sort(held.begin(), held.end());

        REQUIRE(held.back() == came.back(), "the last token held is at %d", held.back());
        REQUIRE(std::includes(came.begin(), came.end(), held.begin(), held.end()), "tokens that never came");

        if (params.method == LIL_SPARSE_SINK) {
            std::vector<llama_pos> want(came.begin(), came.begin() + params.n_sink);
            want.insert(want.end(), came.end() - (params.budget - params.n_sink), came.end());
            REQUIRE(held == want, "not the first tokens and the last");
        }
    }
    REQUIRE(n_layers > 0, "no layer tells what it holds");
}

// within the budget as llama.cpp; beyond it each layer's attention, what is held, and a saved state
static void check_images(llama_model * model, lil_sparse_params params, const logits_list & with_image,
        const logits_list & without_image) {
    auto wide        = params;
    wide.budget      = 192;
    wide.fused_dense = LIL_FUSED_DENSE_OFF;

    context_ptr ctx(new_context(model, &wide, nullptr), llama_free);
    REQUIRE(ctx, "%s", lil_last_error());
    REQUIRE(max_diff(run_image(ctx.get(), nullptr), with_image) == 0.0, "logits behind an image");

    const auto replaced = replace_image(ctx.get(), nullptr);
    REQUIRE(replaced.size() == without_image.size() && max_diff(replaced, without_image) == 0.0,
            "logits where an image has gone");

    layer_check check(params);

    ctx.reset(new_context(model, &params, &check));
    REQUIRE(ctx, "%s", lil_last_error());
    check.watch(ctx.get());
    run_image(ctx.get(), &check);
    check.finish();

    lil_sparse_info info = {};
    REQUIRE(lil_sparse_get_info(ctx.get(), &info) && info.n_sparse == N_STEPS, "%d sparse steps behind an image",
            (int) info.n_sparse);
    if (lil_sparse_evicts(params.method)) {
        check_held(ctx.get(), params);
    }

    std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
    REQUIRE(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0) == state.size(), "state");
    context_ptr other(new_context(model, &params, nullptr), llama_free);
    REQUIRE(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0) == state.size(),
            "a state with an image is refused: %s", last_error.c_str());

    const llama_pos next = BEHIND + N_TEXT + N_STEPS;

    logits_list a;
    logits_list b;
    for (auto * c : { ctx.get(), other.get() }) { // the same tokens, as a prompt: a loaded state knows of no steps
        REQUIRE(llama_memory_seq_pos_max(llama_get_memory(c), 0) == next - 1, "position behind an image");
        const bool same = c == ctx.get();
        decode_text(c, next, 4, false, 2 * N_TEXT + N_IMAGE + N_STEPS, same ? &check : nullptr, same ? a : b);
    }
    REQUIRE(max_diff(a, b) <= 1e-3, "logits %g apart after a saved state", max_diff(a, b));

    const auto text = replace_image(ctx.get(), &check);
    check.finish();
    REQUIRE(text.empty() || !lil_sparse_evicts(params.method), "an image that was evicted in part was removed");
}
