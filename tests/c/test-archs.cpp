// Every architecture of the pinned llama.cpp, as a tiny random model: what a method does on it, or why it is refused.
//
//   test-archs PAGE [--write] [ARCH]
//   test-archs --save FOLDER ARCH...
//
// Full attention through our op against llama.cpp's; every method within the budget, bit for bit llama.cpp's; and
// beyond it: an evaluation callback sees the nodes of each layer's attention, and from their sources (queries, keys,
// values, sinks) the list that was chosen and the result are computed anew, from the definition, in F64. PAGE is
// docs/models.md: its table must say what was found; --write puts it there. Each architecture runs in a process of its
// own, since upstream aborts where metadata are missing.
//
// --save writes such models to FOLDER/tiny-ARCH.gguf, for other tests.

#undef NDEBUG

#include "tiny-arch.h"

#include "lil-ops.h"
#include "lil.h"

#include "llama-arch.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>

static const int BUDGET   = 48;
static const int N_PROMPT = 90;
static const int N_STEPS  = 12;
static const int PAGE     = 16;
static const int N_LONG   = 240; // one of each kind

struct failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

#define REQUIRE(x, ...) \
    do { \
        if (!(x)) { \
            char text[400]; \
            snprintf(text, sizeof(text), __VA_ARGS__); \
            throw failure(std::string(text) + " [" #x "]"); \
        } \
    } while (0)

//
// a step's attention, computed anew
//

static std::vector<uint8_t> get_bytes(const ggml_tensor * t) {
    std::vector<uint8_t> res(ggml_nbytes(t));
    ggml_backend_tensor_get(t, res.data(), 0, res.size());
    return res;
}

// F32, F16 rows as numbers, without the gaps between them (MLA's values lie in its keys): attention reads F16. Of a
// tensor of several streams the one of that number
static std::vector<float> get_floats(const ggml_tensor * t, int strm = 0) {
    const auto bytes = get_bytes(t);

    std::vector<float> res(t->ne[0] * t->ne[1]);
    for (int64_t i = 0; i < t->ne[1]; ++i) {
        const uint8_t * src = bytes.data() + (t->ne[2] > 1 ? strm : 0) * t->nb[2] + i * t->nb[1];
        float *         dst = res.data() + i * t->ne[0];

        if (t->type == GGML_TYPE_F32) {
            memcpy(dst, src, t->ne[0] * sizeof(float));
        } else {
            ggml_fp16_to_fp32_row((const ggml_fp16_t *) src, dst, t->ne[0]);
        }
    }
    return res;
}

struct layer_check {
    lil_sparse_method method    = LIL_SPARSE_NONE;
    int               n_steps   = 0; // attentions looked at
    int               n_lists   = 0; // of these, with a list that was chosen
    int               n_choices = 0; // TidalDecode, LessIsMore: lists looked at where they were chosen
    double            worst     = 0.0;

    int n_tokens = 0; // so far, in a decode step; 0: a prompt is computed, nothing is looked at

    std::string error;

    // of each attention the queries [n_embd, n_head] and the stream of its step, which are gone once its parts are
    // joined
    std::map<const ggml_tensor *, std::vector<float>> queries;
    std::map<const ggml_tensor *, int>                streams;
};

static double logit(const lil_select_layer & layer, const float * q, const float * k, int64_t n) {
    double x = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        x += (double) q[i] * k[i];
    }
    x *= layer.scale;
    return layer.softcap != 0.0f ? layer.softcap * std::tanh(x / layer.softcap) : x;
}

// Quest: the cells of the current page and of the best others. Scores within eps of the last one that is in are as good
static void check_quest(const lil_select_layer & layer, const std::vector<float> & q, const std::vector<float> & k,
        int64_t n_embd, int64_t n_group, int n, int h, const std::vector<int32_t> & list) {
    const int64_t n_head_kv = layer.n_head_kv;
    const int     n_pages   = (n + PAGE - 1) / PAGE;

    std::vector<double> score(n_pages, -INFINITY);
    for (int p = 0; p < n_pages; ++p) {
        for (int64_t g = 0; g < n_group; ++g) {
            double s = 0.0;
            for (int64_t i = 0; i < n_embd; ++i) {
                float lo = INFINITY;
                float hi = -INFINITY;
                for (int t = p * PAGE; t < std::min(n, (p + 1) * PAGE); ++t) {
                    const float x = k[(t * n_head_kv + h) * n_embd + i];

                    lo = std::min(lo, x);
                    hi = std::max(hi, x);
                }
                const float x = q[(h * n_group + g) * n_embd + i];
                s += std::max((double) x * lo, (double) x * hi);
            }
            score[p] = std::max(score[p], s);
        }
    }

    std::set<int> pages;
    for (const int32_t cell : list) {
        pages.insert(cell / PAGE);
    }
    REQUIRE((int) pages.size() == std::min(n_pages, BUDGET / PAGE) && pages.count(n_pages - 1), "%d pages of %d",
            (int) pages.size(), n_pages);

    double worst_in = INFINITY;
    double best_out = -INFINITY;
    for (int p = 0; p + 1 < n_pages; ++p) {
        (pages.count(p) ? worst_in : best_out) =
                pages.count(p) ? std::min(worst_in, score[p]) : std::max(best_out, score[p]);
    }
    REQUIRE(worst_in >= best_out - 2e-3 * std::max(1.0, std::fabs(best_out)), "page of score %g left out for one of %g",
            best_out, worst_in);
}

// TidalDecode: the current token and the best others
static void check_tidal(const lil_select_layer & layer, const std::vector<float> & q, const std::vector<float> & k,
        int64_t n_embd, int64_t n_group, int n, int h, const std::vector<int32_t> & list) {
    const int64_t n_head_kv = layer.n_head_kv;

    const std::set<int32_t> in(list.begin(), list.end());

    REQUIRE((int) in.size() == std::min(n, BUDGET) && in.count(n - 1), "%d tokens", (int) in.size());

    double worst_in = INFINITY;
    double best_out = -INFINITY;
    for (int t = 0; t + 1 < n; ++t) {
        double s = -INFINITY;
        for (int64_t g = 0; g < n_group; ++g) {
            s = std::max(s,
                    logit(layer, q.data() + (h * n_group + g) * n_embd, k.data() + (t * n_head_kv + h) * n_embd,
                            n_embd));
        }
        if (in.count(t)) {
            worst_in = std::min(worst_in, s);
        } else {
            best_out = std::max(best_out, s);
        }
    }
    REQUIRE(worst_in >= best_out - 1e-3 * std::max(1.0, std::fabs(best_out)),
            "token of logit %g left out for one of %g", best_out, worst_in);
}

// LessIsMore: the first tokens, the last, and between them the best by the smallest rank that a query head gives them,
// ties of ranks by head. A token's place is known within eps of its score: the worst place of one that is in must not
// lie behind the best place of one that is out.
static void check_lessismore(const lil_select_layer & layer, const std::vector<float> & q, const std::vector<float> & k,
        int64_t n_embd, int64_t n_head, int n, const std::vector<int32_t> & list) {
    const int n_group = (int) n_head / layer.n_head_kv;
    const int begin   = layer.n_sink;
    const int end     = n - layer.n_recent;

    const std::set<int32_t> in(list.begin(), list.end());

    REQUIRE((int) in.size() == std::min(n, BUDGET), "%d tokens", (int) in.size());
    for (int t = 0; t < n; ++t) {
        REQUIRE((t >= begin && t < end) || in.count(t), "token %d of %d is not in", t, n);
    }

    // the first place at least, and at most, of each token
    std::vector<int64_t> least(n, INT64_MAX);
    std::vector<int64_t> most(n, INT64_MAX);

    for (int h = 0; h < (int) n_head; ++h) {
        std::vector<double> x(n);
        for (int t = begin; t < end; ++t) {
            x[t] = logit(layer, q.data() + h * n_embd, k.data() + (t * layer.n_head_kv + h / n_group) * n_embd, n_embd);
        }
        for (int t = begin; t < end; ++t) {
            const double eps = 1e-3 * std::max(1.0, std::fabs(x[t]));

            const auto above = [&](double y) {
                return std::count_if(x.begin() + begin, x.begin() + end, [y](double other) { return other > y; });
            };
            least[t] = std::min<int64_t>(least[t], above(x[t] + eps) * n_head + h);
            most[t]  = std::min<int64_t>(most[t], above(x[t] - eps) * n_head + h);
        }
    }

    int64_t worst_in = -1;
    int64_t best_out = INT64_MAX;
    for (int t = begin; t < end; ++t) {
        if (in.count(t)) {
            worst_in = std::max(worst_in, least[t]);
        } else {
            best_out = std::min(best_out, most[t]);
        }
    }
    REQUIRE(worst_in <= best_out, "token of place %lld left out for one of %lld", (long long) best_out,
            (long long) worst_in);
}

// node: attn
static void keep_queries(layer_check & c, const ggml_tensor * node) {
    const ggml_tensor * t = node->src[0];

    // a view may have gaps
    std::vector<float> q(ggml_nelements(t));
    for (int64_t h = 0; h < t->ne[1]; ++h) {
        ggml_backend_tensor_get(t, q.data() + h * t->ne[0], h * t->nb[1], t->ne[0] * sizeof(float));
    }
    c.queries[node] = std::move(q);
    c.streams[node] = ((const int32_t *) get_bytes(node->src[4]).data())[LIL_SEL_STREAM];
}

// node: attn_join
static void check_attention(layer_check & c, const ggml_tensor * node) {
    const ggml_tensor * work  = node->src[0];
    const ggml_tensor * q_t   = work->src[0];
    const ggml_tensor * k_t   = work->src[1];
    const ggml_tensor * v_t   = work->src[2];
    const ggml_tensor * sinks = node->src[2];

    const auto & layer = *(const lil_select_layer *) lil_get_node_params(node).userdata;

    const int64_t n_head_kv = layer.n_head_kv;
    const int64_t n_head    = q_t->ne[1];
    const int64_t n_group   = n_head / n_head_kv;
    const int64_t n_embd_k  = q_t->ne[0];
    const int64_t n_embd_v  = node->ne[0];

    const auto & q = c.queries.at(work);

    const int strm = c.streams.at(work);

    const auto k    = get_floats(k_t, strm); // [n_embd_k, n_head_kv, cells]
    const auto v    = get_floats(v_t, strm);
    const auto out  = get_floats(node);
    const auto list = get_bytes(node->src[1]);
    const auto s    = sinks ? get_floats(sinks) : std::vector<float>();

    const int64_t n_k = k_t->ne[0] / n_head_kv;

    REQUIRE(n_k == n_embd_k, "keys of %d channels, queries of %d", (int) n_k, (int) n_embd_k);

    for (int64_t h = 0; h < n_head_kv; ++h) {
        const auto * row = (const int32_t *) (list.data() + (node->src[1]->ne[1] == 1 ? 0 : h) * node->src[1]->nb[1]);

        const std::vector<int32_t> cells(row + 1, row + 1 + row[0]);

        REQUIRE(std::set<int32_t>(cells.begin(), cells.end()).size() == cells.size(), "a cell twice");

        for (int64_t g = 0; g < n_group; ++g) {
            const int64_t i_head = h * n_group + g;

            std::vector<double> x;
            for (const int32_t cell : cells) {
                x.push_back(logit(
                        layer, q.data() + i_head * n_embd_k, k.data() + (cell * n_head_kv + h) * n_embd_k, n_embd_k));
            }

            double max = sinks ? s[i_head] : -INFINITY;
            for (const double y : x) {
                max = std::max(max, y);
            }
            double sum = sinks ? std::exp(s[i_head] - max) : 0.0;
            for (double & y : x) {
                y = std::exp(y - max);
                sum += y;
            }

            for (int64_t i = 0; i < n_embd_v; ++i) {
                double y = 0.0;
                for (size_t j = 0; j < cells.size(); ++j) {
                    y += x[j] / sum * v[(cells[j] * n_head_kv + h) * n_embd_v + i];
                }

                const double diff = std::fabs(y - out[i_head * n_embd_v + i]);

                c.worst = std::max(c.worst, diff);
                REQUIRE(diff <= 2e-3 * std::max(1.0, std::fabs(y)), "attention is %g, not %g",
                        out[i_head * n_embd_v + i], y);
            }
        }

        const int n = c.n_tokens;
        if ((int) cells.size() < n) {
            c.n_lists++;
            if (c.method == LIL_SPARSE_QUEST) {
                check_quest(layer, q, k, n_embd_k, n_group, n, (int) h, cells);
            }
        }
    }

    c.n_steps++;
}

// node: tidal_select, lessismore_select
static void check_choice(layer_check & c, const ggml_tensor * node) {
    const ggml_tensor * work = node->src[0];
    const ggml_tensor * q_t  = work->src[0];
    const ggml_tensor * k_t  = work->src[1];

    const auto & layer = *(const lil_select_layer *) lil_get_node_params(node).userdata;

    const int64_t n_embd  = q_t->ne[0];
    const int64_t n_group = q_t->ne[1] / layer.n_head_kv;

    const auto & q = c.queries.at(work);

    const auto k    = get_floats(k_t, c.streams.at(work));
    const auto list = get_bytes(node);

    c.n_choices++;

    if (c.method == LIL_SPARSE_LESSISMORE) {
        const auto * row = (const int32_t *) list.data();

        check_lessismore(layer, q, k, n_embd, q_t->ne[1], c.n_tokens, { row + 1, row + 1 + row[0] });
        return;
    }

    for (int64_t h = 0; h < layer.n_head_kv; ++h) {
        const auto * row = (const int32_t *) (list.data() + h * node->nb[1]);

        check_tidal(layer, q, k, n_embd, n_group, c.n_tokens, (int) h, { row + 1, row + 1 + row[0] });
    }
}

static bool on_node(ggml_tensor * node, bool ask, void * data) {
    auto & c = *(layer_check *) data;

    static const lil_ops * ops = lil_get_ops(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));

    if (node->op != GGML_OP_CUSTOM) {
        return !ask;
    }

    const auto fun = lil_get_node_params(node).fun;
    if (fun != ops->attn && fun != ops->attn_join && fun != ops->tidal_select && fun != ops->lessismore_select) {
        return !ask;
    }
    if (ask || !c.error.empty() || c.n_tokens == 0) {
        return true;
    }

    try {
        if (fun == ops->attn) {
            keep_queries(c, node);
        } else if (fun == ops->attn_join) {
            check_attention(c, node);
        } else {
            check_choice(c, node);
        }
    } catch (const failure & e) {
        c.error = e.what();
    }

    return true;
}

//
// contexts
//

static llama_context_params make_cparams(layer_check * check) {
    llama_context_params cparams = llama_context_default_params();

    cparams.n_ctx           = 256;
    cparams.n_ubatch        = 64;
    cparams.n_threads       = 1;
    cparams.n_threads_batch = 1;
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    cparams.kv_unified      = false;
    cparams.swa_full        = true;

    if (check) {
        cparams.cb_eval           = on_node;
        cparams.cb_eval_user_data = check;
    }

    return cparams;
}

static llama_context * new_context(
        llama_model * model, const lil_sparse_params * sparse, layer_check * check, uint32_t n_seq = 1) {
    auto cparams = make_cparams(check);

    cparams.n_ctx *= n_seq;
    cparams.n_seq_max = n_seq;

    return sparse ? lil_init_from_model(model, cparams, *sparse) : llama_init_from_model(model, cparams);
}

// a prompt, then steps; the logits of each step
static std::vector<std::vector<float>> run(llama_context * ctx, int n_prompt, int n_steps, layer_check * check) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));

    std::vector<std::vector<float>> res;

    llama_batch batch = llama_batch_init(n_prompt, 0, 1);

    for (int i = 0; i < n_prompt + n_steps;) {
        const int n = i < n_prompt ? n_prompt : 1;

        tiny_arch::put_text(batch, i, n);
        i += n;

        if (check) {
            check->n_tokens = n == 1 ? i : 0;
        }

        REQUIRE(llama_decode(ctx, batch) == 0, "llama_decode failed at %d", i);

        const float * logits = llama_get_logits_ith(ctx, -1);
        res.emplace_back(logits, logits + n_vocab);
        for (const float x : res.back()) {
            REQUIRE(std::isfinite(x), "a logit is %g", x);
        }
    }

    llama_batch_free(batch);

    return res;
}

// Hundreds of steps of two sequences in turn, with removals, copies and states in between. A cell is a token's rank all
// the while, since a stream of its own is filled from the front
static void run_long(llama_context * ctx, layer_check & check) {
    auto * memory = llama_get_memory(ctx);

    int n[2] = { 0, 0 }; // tokens of each

    llama_batch batch = llama_batch_init(64, 0, 1);

    const auto put = [&](int s, int n_new) {
        tiny_arch::put_text(batch, n[s], n_new, s);
        n[s] += n_new;

        check.n_tokens = n_new == 1 ? n[s] : 0;
        REQUIRE(llama_decode(ctx, batch) == 0, "llama_decode failed at %d of sequence %d", n[s] - n_new, s);
        REQUIRE(check.error.empty(), "token %d of sequence %d: %s", n[s], s, check.error.c_str());
    };

    put(0, 60);
    put(1, 37);

    for (int i = 0; i < N_LONG; ++i) {
        if (i % 50 == 49) { // a tail goes, where it can
            const int s = i / 50 % 2;
            if (llama_memory_seq_rm(memory, s, n[s] - 9, -1)) {
                n[s] -= 9;
            }
            put(s, 2);
        }
        if (i == 80 || i == 210) { // one becomes the other
            const int s = i == 80;
            REQUIRE(llama_memory_seq_rm(memory, s, -1, -1), "a whole sequence was not removed");
            llama_memory_seq_cp(memory, 1 - s, s, -1, -1);
            n[s] = n[1 - s];
            put(s, 2);
        }
        if (i == 130) {
            std::vector<uint8_t> state(llama_state_seq_get_size(ctx, 1));
            REQUIRE(llama_state_seq_get_data(ctx, state.data(), state.size(), 1) == state.size(), "a state");
            REQUIRE(llama_state_seq_set_data(ctx, state.data(), state.size(), 0) == state.size(),
                    "its state is refused");
            n[0] = n[1];
            put(0, 2);
        }
        put(i % 2, 1);
    }

    llama_batch_free(batch);
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
        std::vector<std::vector<float>> & logits) {
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
            check->n_tokens = apart ? n_before + i : 0;
        }

        REQUIRE(llama_decode(ctx, batch) == 0, "llama_decode failed at %d", (int) pos + i);

        const float * row = llama_get_logits_ith(ctx, -1);
        logits.emplace_back(row, row + n_vocab);
    }
    if (check) {
        check->n_tokens = 0;
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
static std::vector<std::vector<float>> run_image(llama_context * ctx, layer_check * check) {
    std::vector<std::vector<float>> res;

    decode_text(ctx, 0, N_TEXT, false, 0, check, res);
    REQUIRE(decode_image(ctx, N_TEXT, IMAGE_X, IMAGE_Y) == BEHIND, "the position behind an image");
    decode_text(ctx, BEHIND, N_TEXT, false, N_TEXT + N_IMAGE, check, res);
    decode_text(ctx, BEHIND + N_TEXT, N_STEPS, true, 2 * N_TEXT + N_IMAGE, check, res);

    return res;
}

static std::vector<std::vector<float>> replace_image(llama_context * ctx, layer_check * check) {
    std::vector<std::vector<float>> res;

    if (!llama_memory_seq_rm(llama_get_memory(ctx), 0, N_TEXT, -1)) {
        return res; // a hybrid, or some of it was evicted
    }
    REQUIRE(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == N_TEXT - 1, "the image is not gone");
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

static double max_diff(const std::vector<std::vector<float>> & a, const std::vector<std::vector<float>> & b) {
    double res = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        for (size_t j = 0; j < a[i].size(); ++j) {
            res = std::max(res, (double) std::fabs(a[i][j] - b[i][j]));
        }
    }
    return res;
}

// looked at for long, one of each kind
static const std::initializer_list<const char *> LONG = { "llama", "qwen35", "qwen2vl", "deepseek2", "kimi-linear",
    "gpt-oss", "gemma4", "lfm2" };

using context_ptr = std::unique_ptr<llama_context, decltype(&llama_free)>;

//
// one architecture
//

struct row {
    std::string kind;   // what its attention is
    std::string evict;  // "yes", or why not
    std::string select; // the same
    std::string dense;  // the op for full attention
    int         layers = 0;

    std::string text() const {
        return kind + "\n" + evict + "\n" + select + "\n" + dense + "\n" + std::to_string(layers) + "\n";
    }
};

static std::string last_error; // of upstream's log

static void on_log(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        last_error += text;
    }
}

static std::string one_line(std::string s) {
    std::replace(s.begin(), s.end(), '\n', ' ');
    return s;
}

// of a token's position
static int n_dims(const llama_model * model) {
    const auto rope = llama_model_rope_type(model);
    return rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE ? 4 : 1;
}

static std::string describe_kind(const llama_model * model, const std::string & arch) {
    std::string res;

    const auto add = [&](bool is, const char * what) {
        if (is) {
            res += (res.empty() ? "" : ", ") + std::string(what);
        }
    };
    add(llama_model_is_hybrid(model), "hybrid");
    add(llama_model_is_recurrent(model), "recurrent");
    add(llama_model_n_swa(model) > 0, "sliding windows");

    char buf[16];
    add(llama_model_meta_val_str(model, (arch + ".attention.key_length_mla").c_str(), buf, sizeof(buf)) > 0, "MLA");

    add(n_dims(model) > 1, "M-RoPE");

    return res;
}

// Layers that share keys: before anything was evicted a KV head's scores add up to 1 for each query head of its group,
// each query and each layer that reads it.
static void check_shared_scores(llama_context * ctx, int n_queries) {
    const auto * model   = llama_get_model(ctx);
    const int    n_group = llama_model_n_head(model) / llama_model_n_head_kv(model);

    double most = 0.0;

    for (int32_t il = 0; il < llama_model_n_layer(model); ++il) {
        std::vector<llama_pos> pos(n_queries);
        std::vector<float>     score(n_queries);

        if (lil_sparse_get_slots(ctx, 0, il, 0, pos.data(), score.data(), n_queries) != n_queries) {
            continue;
        }

        double sum = 0.0;
        for (const float x : score) {
            sum += x;
        }
        const double n_layers = sum / n_queries / n_group;

        REQUIRE(std::fabs(n_layers - std::round(n_layers)) < 1e-3, "layer %d: the scores of %g layers", il, n_layers);
        most = std::max(most, n_layers);
    }

    REQUIRE(most > 1.5, "no layer has the scores of another: %g", most);
}

// within the budget as llama.cpp; beyond it each layer's attention, what is held, and a saved state
static void check_images(llama_model * model, lil_sparse_params params, bool fused,
        const std::vector<std::vector<float>> & with_image, const std::vector<std::vector<float>> & without_image) {
    const char * name = lil_sparse_get_name(params.method);

    auto wide        = params;
    wide.budget      = 192;
    wide.fused_dense = LIL_FUSED_DENSE_OFF;

    context_ptr ctx(new_context(model, &wide, nullptr), llama_free);
    REQUIRE(ctx, "%s: %s", name, lil_last_error());
    REQUIRE(max_diff(run_image(ctx.get(), nullptr), with_image) == 0.0, "%s: logits behind an image", name);

    const auto replaced = replace_image(ctx.get(), nullptr);
    REQUIRE(replaced.size() == without_image.size() && max_diff(replaced, without_image) == 0.0,
            "%s: logits where an image has gone", name);

    layer_check check;
    check.method = params.method;

    ctx.reset(new_context(model, &params, &check));
    REQUIRE(ctx, "%s: %s", name, lil_last_error());
    run_image(ctx.get(), &check);
    REQUIRE(check.error.empty(), "%s, fused %d, an image: %s", name, fused, check.error.c_str());

    lil_sparse_info info = {};
    REQUIRE(lil_sparse_get_info(ctx.get(), &info) && info.n_sparse == N_STEPS, "%s: %d sparse steps behind an image",
            name, (int) info.n_sparse);
    if (lil_sparse_evicts(params.method)) {
        check_held(ctx.get(), params);
    }

    std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
    REQUIRE(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0) == state.size(), "%s: state", name);
    context_ptr other(new_context(model, &params, nullptr), llama_free);
    REQUIRE(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0) == state.size(),
            "%s: a state with an image is refused: %s", name, last_error.c_str());

    const llama_pos next = BEHIND + N_TEXT + N_STEPS;

    std::vector<std::vector<float>> a;
    std::vector<std::vector<float>> b;
    for (auto * c : { ctx.get(), other.get() }) { // the same tokens, as a prompt: a loaded state knows of no steps
        REQUIRE(llama_memory_seq_pos_max(llama_get_memory(c), 0) == next - 1, "%s: position behind an image", name);
        decode_text(c, next, 4, false, 0, nullptr, c == ctx.get() ? a : b);
    }
    REQUIRE(max_diff(a, b) <= 1e-3, "%s: logits %g apart after a saved state", name, max_diff(a, b));

    const auto text = replace_image(ctx.get(), &check);
    REQUIRE(check.error.empty() && (text.empty() || !lil_sparse_evicts(params.method)), "%s, fused %d: %s", name, fused,
            check.error.c_str());
}

static row look(const std::string & arch) {
    row res;

    llama_log_set(on_log, nullptr);

    llama_model * model = tiny_arch::make(arch);
    REQUIRE(model, "no model: %s", last_error.c_str());

    if (llama_model_has_encoder(model) || !llama_model_has_decoder(model)) {
        res.kind = "encoder";
        return res;
    }

    context_ptr stock(new_context(model, nullptr, nullptr), llama_free);
    REQUIRE(stock, "no context: %s", last_error.c_str());

    if (!llama_get_memory(stock.get())) {
        res.kind = "no KV cache";
        return res;
    }

    res.kind = describe_kind(model, arch);

    const auto within = run(stock.get(), 20, 8, nullptr);
    llama_memory_clear(llama_get_memory(stock.get()), true);
    const auto beyond = run(stock.get(), N_PROMPT, N_STEPS, nullptr);

    // What rounding makes of these weights: the same without FlashAttention. In a model that amplifies it, two right
    // implementations differ by this much
    double rounding = 0.0;
    {
        llama_context_params cparams = make_cparams(nullptr);
        cparams.flash_attn_type      = LLAMA_FLASH_ATTN_TYPE_DISABLED;

        context_ptr ctx(llama_init_from_model(model, cparams), llama_free);
        if (ctx) {
            rounding = 4.0 * max_diff(run(ctx.get(), N_PROMPT, N_STEPS, nullptr), beyond);
        }
    }
    const double eps = std::max(0.05, rounding);

    const bool images = n_dims(model) > 1;

    std::vector<std::vector<float>> with_image;
    std::vector<std::vector<float>> without_image;
    if (images) {
        llama_memory_clear(llama_get_memory(stock.get()), true);
        with_image    = run_image(stock.get(), nullptr);
        without_image = replace_image(stock.get(), nullptr);
    }

    // full attention through our op
    {
        auto params        = lil_sparse_default_params(LIL_SPARSE_NONE);
        params.fused_dense = LIL_FUSED_DENSE_ON;

        layer_check check;
        check.method = LIL_SPARSE_DENSE;

        context_ptr ctx(new_context(model, &params, &check), llama_free);
        if (ctx) {
            const double diff = max_diff(run(ctx.get(), N_PROMPT, N_STEPS, &check), beyond);

            REQUIRE(check.error.empty(), "full attention: %s", check.error.c_str());
            REQUIRE(check.n_steps > 0 && diff <= eps, "full attention: logits %g apart (%g), %d attentions", diff, eps,
                    check.n_steps);
            res.dense = "yes";
        } else {
            res.dense = lil_last_error();
        }
    }

    for (int i = LIL_SPARSE_NONE + 1; lil_sparse_get_name((lil_sparse_method) i); ++i) {
        const auto method = (lil_sparse_method) i;
        const auto name   = lil_sparse_get_name(method);

        if (method == LIL_SPARSE_DENSE || method == LIL_SPARSE_PROBE) {
            continue;
        }

        auto & said = lil_sparse_evicts(method) ? res.evict : res.select;

        std::vector<std::vector<float>> fused; // logits beyond the budget

        for (const auto form : { LIL_FORM_FUSED, LIL_FORM_PORTABLE }) {
            auto params        = lil_sparse_default_params(method);
            params.budget      = BUDGET;
            params.form        = form;
            params.fused_dense = LIL_FUSED_DENSE_OFF;
            params.buffer      = 8;

            if (form == LIL_FORM_PORTABLE && (method == LIL_SPARSE_RAAS)) {
                continue; // has none
            }

            context_ptr ctx(new_context(model, &params, nullptr), llama_free);
            if (!ctx) {
                const std::string why = one_line(lil_last_error());
                if (method == LIL_SPARSE_RKV && why.find("share keys and values") != std::string::npos) {
                    continue; // the others of its family follow them
                }
                REQUIRE(said.empty() || said == why, "%s: %s, but others of its family: %s", name, why.c_str(),
                        said.c_str());
                said = why;
                continue;
            }

            const double diff = max_diff(run(ctx.get(), 20, 8, nullptr), within);
            REQUIRE(diff == 0.0, "%s, form %d: logits within the budget %g apart from llama.cpp's", name, form, diff);

            if (method == LIL_SPARSE_H2O && tiny_arch::is_one_of(arch, { "gemma3n", "gemma4" })) {
                check_shared_scores(ctx.get(), 20 + 8);
            }

            lil_sparse_info info = {};
            REQUIRE(lil_sparse_get_info(ctx.get(), &info), "%s: no info", name);
            REQUIRE(info.n_sparse == 0 && info.n_dense == 7 + 1, "%s: %d sparse and %d dense steps within the budget",
                    name, (int) info.n_sparse, (int) info.n_dense);
            res.layers = info.n_layer;

            // beyond
            if (form == LIL_FORM_FUSED) {
                params.fused_dense = LIL_FUSED_DENSE_AUTO;
            }
            layer_check check;
            check.method = method;

            ctx.reset(new_context(model, &params, &check));
            REQUIRE(ctx, "%s: %s", name, lil_last_error());
            const auto logits = run(ctx.get(), N_PROMPT, N_STEPS, &check);

            if (form == LIL_FORM_FUSED) {
                fused = logits;
            } else if (!fused.empty()) { // a near tie makes a leap: not in most of the steps
                std::vector<double> diffs;
                for (size_t j = 0; j < logits.size(); ++j) {
                    diffs.push_back(max_diff({ logits[j] }, { fused[j] }));
                }
                std::nth_element(diffs.begin(), diffs.begin() + diffs.size() / 2, diffs.end());
                REQUIRE(diffs[diffs.size() / 2] <= std::max(0.008, rounding), "%s: logits of the two forms %g apart",
                        name, diffs[diffs.size() / 2]);
            }

            REQUIRE(lil_sparse_get_info(ctx.get(), &info), "%s: no info", name);
            REQUIRE(info.n_sparse == N_STEPS, "%s: %d sparse steps of %d", name, (int) info.n_sparse, N_STEPS);
            REQUIRE(check.error.empty(), "%s, form %d: %s", name, form, check.error.c_str());
            if (form == LIL_FORM_FUSED && !lil_sparse_evicts(method)) {
                REQUIRE(check.n_steps == (int) (N_STEPS * info.n_layer), "%s: %d attentions in %d layers", name,
                        check.n_steps, (int) info.n_layer);
            }

            if (form == LIL_FORM_FUSED && tiny_arch::is_one_of(arch, LONG)) {
                layer_check far;
                far.method = method;

                context_ptr two(new_context(model, &params, &far, 2), llama_free);
                REQUIRE(two, "%s: %s", name, lil_last_error());
                run_long(two.get(), far);
                REQUIRE(lil_sparse_get_info(two.get(), &info) && info.n_sparse > N_LONG / 2, "%s: %d sparse steps",
                        name, (int) info.n_sparse);
                const bool chooses = method == LIL_SPARSE_TIDAL || method == LIL_SPARSE_LESSISMORE;
                REQUIRE(!chooses || far.n_choices > N_LONG, "%s: %d choices", name, far.n_choices);
            }

            if (method == LIL_SPARSE_INFLLM && form == LIL_FORM_PORTABLE && tiny_arch::is_one_of(arch, LONG)) {
                params.positions = LIL_POSITIONS_CLIPPED;
                context_ptr clipped(new_context(model, &params, nullptr), llama_free);
                if (clipped) {
                    REQUIRE(max_diff(run(clipped.get(), 20, 8, nullptr), within) == 0.0, "clipped: within the budget");
                    llama_memory_clear(llama_get_memory(clipped.get()), true);

                    const double far = max_diff(run(clipped.get(), N_PROMPT, N_STEPS, nullptr), beyond);
                    REQUIRE(far > 0.0 && far < 10.0, "clipped: logits %g from full attention's", far);
                } else {
                    REQUIRE(strstr(lil_last_error(), "ordinary RoPE"), "clipped: %s", lil_last_error());
                }
                params.positions = LIL_POSITIONS_ABSOLUTE;
            }

            if (images) {
                check_images(model, params, form == LIL_FORM_FUSED, with_image, without_image);
            }

            // its state, in another context
            std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
            REQUIRE(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0) == state.size(), "%s: state",
                    name);
            context_ptr other(new_context(model, &params, nullptr), llama_free);
            REQUIRE(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0) == state.size(),
                    "%s: its state is refused: %s", name, lil_last_error());
            REQUIRE(llama_memory_seq_pos_max(llama_get_memory(other.get()), 0) == N_PROMPT + N_STEPS - 1,
                    "%s: position after its state", name);

            said = "yes";
        }
    }

    llama_model_free(model);

    return res;
}

//
// the page
//

// what is not looked at, and why
static const std::map<std::string, std::string> LEFT_OUT = {
    { "clip", "no language model" },
    { "gptj", "llama.cpp has the name only" },
    { "bert", "encoder" },
    { "nomic-bert", "encoder" },
    { "nomic-bert-moe", "encoder" },
    { "jina-bert-v2", "encoder" },
    { "jina-bert-v3", "encoder" },
    { "wavtokenizer-dec", "no language model" },
    { "rwkv6", "recurrent, without attention" },
    { "rwkv6qwen2", "recurrent, without attention" },
    { "rwkv7", "recurrent, without attention" },
    { "arwkv7", "recurrent, without attention" },
    { "gemma4-assistant", "a draft model, which reads another model's cache" },
    { "eagle3", "a draft model" },
    { "dflash", "a draft model" },
    { "qwen4exp", "its attention chooses tokens by a trained indexer" },
    { "deepseek4", "its attention chooses tokens by a trained indexer" },
    { "dots3note", "its attention chooses tokens by a trained indexer" },
    { "glm5-next", "its attention chooses tokens by a trained indexer" },
    { "hy_v4", "not tried: no tiny model could be made" },
    { "kimi-k3", "not tried: no tiny model could be made" },
    { "chameleon", "not tried: no tiny model could be made" },
    { "plm", "not tried: no tiny model could be made" },
    { "graniteswitch", "not tried: no tiny model could be made" },
    { "qwen3tts", "not tried: no tiny model could be made" },
};

static const char * const BEGIN = "<!-- test-archs: begin -->\n";
static const char * const END   = "<!-- test-archs: end -->\n";

static std::string shorten(const std::string & arch, const std::string & why) {
    const std::string prefix = "the architecture " + arch + " is not covered: ";

    return why.compare(0, prefix.size(), prefix) == 0 ? why.substr(prefix.size()) : why;
}

static std::string make_line(const std::string & arch, const row & r) {
    if (r.evict.empty() && r.select.empty()) {
        const bool tried = r.kind.compare(0, 3, "not") != 0;
        return "| " + arch + " | | " + (tried ? "refused: " : "") + r.kind + " | | |\n";
    }
    if (r.evict != "yes" && r.evict == r.select) {
        return "| " + arch + " | " + r.kind + " | refused: " + shorten(arch, r.evict) + " | | |\n";
    }

    const auto cell = [&](const std::string & s) { return s == "yes" ? s : "refused: " + shorten(arch, s); };

    return "| " + arch + " | " + r.kind + " | " + cell(r.evict) + " | " + cell(r.select) + " | " + cell(r.dense) +
            " |\n";
}

// what a process of its own finds
static std::vector<std::string> look_apart(const std::string & arch) {
    int fds[2];
    if (pipe(fds) != 0) {
        return { "failed", "no pipe" };
    }
    fflush(stdout);

    const pid_t pid = fork();
    if (pid == 0) {
        std::string text;
        try {
            text = "ok\n" + look(arch).text();
        } catch (const std::exception & e) {
            text = "failed\n" + one_line(e.what()) + "\n";
        }
        _exit(write(fds[1], text.data(), text.size()) == (ssize_t) text.size() ? 0 : 1);
    }
    close(fds[1]);

    std::string text;
    char        buf[4096];
    for (ssize_t n; (n = read(fds[0], buf, sizeof(buf))) > 0;) {
        text.append(buf, n);
    }
    close(fds[0]);

    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) {
        return { "failed", "signal " + std::to_string(WTERMSIG(status)) };
    }

    std::vector<std::string> res;
    std::istringstream       in(text);
    for (std::string line; std::getline(in, line);) {
        res.push_back(line);
    }
    res.resize(6);

    return res;
}

static int save(const std::string & folder, char ** archs) {
    for (; *archs; ++archs) {
        llama_model * model = tiny_arch::make(*archs);
        if (!model) {
            fprintf(stderr, "%s: no model\n", *archs);
            return 1;
        }
        llama_model_save_to_file(model, (folder + "/tiny-" + *archs + ".gguf").c_str());
        llama_model_free(model);
    }
    return 0;
}

int main(int argc, char ** argv) {
    if (argc > 2 && strcmp(argv[1], "--save") == 0) {
        return save(argv[2], argv + 3);
    }

    const char * page  = nullptr;
    const char * only  = nullptr;
    bool         write = false;

    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--write") == 0) {
            write = true;
        } else {
            (page ? only : page) = argv[i];
        }
    }
    if (!page) {
        fprintf(stderr, "usage: %s PAGE [--write] [ARCH]\n       %s --save FOLDER ARCH...\n", argv[0], argv[0]);
        return 2;
    }

    std::string table =
            "| architecture | attention | evict | select | full attention through our op |\n|---|---|---|---|---|\n";
    int n_failed = 0;

    for (int a = 0; a < LLM_ARCH_UNKNOWN; ++a) {
        const std::string arch = llm_arch_name((llm_arch) a);

        if (only && arch != only) {
            continue;
        }

        row r;

        const auto left_out = LEFT_OUT.find(arch);
        if (left_out != LEFT_OUT.end()) {
            r.kind = left_out->second;
        } else {
            const auto found = look_apart(arch);

            if (found[0] != "ok") {
                fprintf(stderr, "%s: %s\n", arch.c_str(), found[1].c_str());
                n_failed++;
                continue;
            }
            r = { found[1], found[2], found[3], found[4], atoi(found[5].c_str()) };
        }

        table += make_line(arch, r);
    }

    if (only) {
        printf("%s", table.c_str());
        return n_failed > 0;
    }

    std::ifstream     in(page);
    std::stringstream buf;
    buf << in.rdbuf();
    const std::string text = buf.str();

    const size_t i0 = text.find(BEGIN);
    const size_t i1 = text.find(END);
    if (i0 == std::string::npos || i1 == std::string::npos) {
        fprintf(stderr, "%s: needs the lines %s and %s\n", page, BEGIN, END);
        return 1;
    }

    const std::string now = text.substr(0, i0) + BEGIN + "\n" + table + "\n" + text.substr(i1);

    if (write) {
        std::ofstream(page) << now;
    } else if (now != text) {
        fprintf(stderr, "%s is out of date; put the table there with: test-archs %s --write\n%s", page, page,
                table.c_str());
        n_failed++;
    }

    printf("test-archs: %s\n", n_failed == 0 ? "ok" : "failed");

    return n_failed > 0;
}
