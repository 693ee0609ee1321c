// The methods with layers offloaded to an emulated GPU (emu-gpu.h): which form runs, what it computes against the same
// form on the CPU, where every node of the graph runs, and what crosses between device and host. Guardian, where the
// device samples.
//
//   test-emu-gpu model.gguf
//
// It tests all that CUDA (with LIL_EMU_METAL: Metal) needs but ggml-cuda (ggml-metal) and the hardware: the table of
// ops, the choice of a form, the caches' tensors, the graph as the scheduler splits it, the dispatcher, the kernels'
// logic. What runs on real hardware it does not show.

#include "emu-gpu.h"

#include "sparse-common.h"

#include <csignal>

#include <sys/wait.h>
#include <unistd.h>

static llama_model * model_cpu;
static llama_model * model_gpu;  // all layers on the device
static llama_model * model_half; // the last half of them

static const lil_sparse_method METHODS[] = {
    LIL_SPARSE_SINK,
    LIL_SPARSE_H2O,
    LIL_SPARSE_TOVA,
    LIL_SPARSE_RKV,
    LIL_SPARSE_QUEST,
    LIL_SPARSE_INFLLM,
    LIL_SPARSE_TIDAL,
    LIL_SPARSE_LESSISMORE,
    LIL_SPARSE_RAAS,
    LIL_SPARSE_DENSE,
};

static bool evicts(lil_sparse_method method) {
    return lil_sparse_evicts(method);
}

// an op that every decode step of every layer has; null: none
static const char * get_op_of_steps(lil_sparse_method method) {
    return method == LIL_SPARSE_SINK ? nullptr : evicts(method) ? "evict_slots" : "attn_join";
}

static options make_method(lil_sparse_method method) {
    options o = make_options(method, 48);

    o.n_ctx    = 512;
    o.n_ubatch = 64;

    o.sparse.buffer      = 9;
    o.sparse.n_obs       = 5;
    o.sparse.reselect    = method == LIL_SPARSE_TIDAL || method == LIL_SPARSE_LESSISMORE ? 4 : 0;
    o.sparse.fused_dense = method == LIL_SPARSE_DENSE;

    return o;
}

static llama_context * make_context(llama_model * m, const options & o) {
    return lil_init_from_model(m, make_cparams(o), o.sparse);
}

// a context that must be refused for a reason that holds each of `words`
static void check_refused(llama_model * m, const options & o, const std::vector<std::string> & words) {
    llama_context * ctx = make_context(m, o);
    CHECK(!ctx);
    for (const auto & word : words) {
        if (!strstr(lil_last_error(), word.c_str())) {
            fprintf(stderr, "%s: not in the message: %s\n", test_name, word.c_str());
            CHECK(false);
        }
    }
}

static float rms(const std::vector<float> & a) {
    double res = 0.0;
    for (const float x : a) {
        res += (double) x * x;
    }
    return (float) std::sqrt(res / a.size());
}

//
// tests
//

// where the nodes of a graph run
struct placement {
    int n_gpu = 0;
    int n_cpu = 0;

    std::set<std::string> on_cpu;
};

static bool place_node(ggml_tensor * t, bool ask, void * data) {
    auto * p = (placement *) data;

    if (ask && !emu_gpu_is_view(t)) {
        if (emu_gpu_get_buft(t) == emu_gpu_buft()) {
            p->n_gpu++;
        } else {
            p->n_cpu++;
            p->on_cpu.insert(std::string(ggml_op_name(t->op)) + " " + t->name);
        }
    }

    return false;
}

// both contexts compute the same text; what they hold and their logits agree, as far as rounding lets them: what
// differs in the last bit may round to another F16 where keys and values are stored, and gemma3 makes most of that.
// Once a near tie was decided in two ways the logits are those of two texts: they are compared up to there
static void compare(
        llama_context * a, llama_context * b, llama_pos n_prompt, llama_pos n_end, llama_seq_id seq_id = 0) {
    for (llama_context * ctx : { a, b }) {
        CHECK(decode_text(ctx, 0, n_prompt, seq_id) == 0);
    }

    double jaccard = 0.0;
    int    n_sets  = 0;
    float  worst   = 0.0f;

    std::vector<float> diffs;

    bool same = true;

    for (llama_pos p = n_prompt; p <= n_end; ++p) {
        const auto x = get_logits(a);
        const auto y = get_logits(b);

        if (same) {
            diffs.push_back(max_diff(x, y) / rms(x));
            worst = std::max(worst, diffs.back());
        }

        if (p == n_end) {
            break;
        }

        for (llama_context * ctx : { a, b }) {
            decode_steps(ctx, p, p + 1, seq_id);
        }

        for (size_t il = 0; il < sparse_layers.size(); ++il) {
            for (int32_t h = 0; h < n_head_kv; ++h) {
                const auto s = get_held(a, il, h, seq_id);
                const auto t = get_held(b, il, h, seq_id);

                int n_both = 0;
                for (const llama_pos q : s) {
                    n_both += t.count(q);
                }
                jaccard += n_both / (double) (s.size() + t.size() - n_both);
                n_sets++;
                same = same && s == t;
            }
        }
    }

    std::sort(diffs.begin(), diffs.end());

    const float median = diffs[diffs.size() / 2];

    fprintf(stderr, "%s: %-10s %-8s sets %.4f, logits of %zu steps: median %.2g, worst %.2g of their size\n", test_name,
            get_info(b).backend, get_info(b).fused ? "fused" : "portable", jaccard / n_sets, diffs.size(), median,
            worst);

    CHECK(jaccard / n_sets > 0.99);
    CHECK(median < 5e-3f);
}

// all layers on the device: the CPU's numbers in the same form, every node but the lookup of embeddings on the device,
// nothing but logits copied back
static void test_method(const options & o) {
    const bool fused = o.sparse.form == LIL_FORM_FUSED;

    const std::string name = std::string(__func__) + " " + std::to_string(o.sparse.method);
    test_name              = name.c_str();

    const llama_pos n_steps = 12;

    placement place;

    llama_context_params cparams = make_cparams(o);
    cparams.cb_eval              = place_node;
    cparams.cb_eval_user_data    = &place;

    lil_sparse_params sparse = o.sparse;
    sparse.form              = fused ? LIL_FORM_AUTO : LIL_FORM_PORTABLE;

    llama_context * on_gpu = lil_init_from_model(model_gpu, cparams, sparse);
    CHECK(on_gpu);
    llama_context * on_cpu = make_context(model_cpu, o);
    CHECK(on_cpu);

    CHECK(get_info(on_gpu).fused == fused && strcmp(get_info(on_gpu).backend, EMU_GPU_NAME) == 0);
    CHECK(get_info(on_cpu).fused == fused && strcmp(get_info(on_cpu).backend, "CPU") == 0);

    emu_gpu.n_ops.clear();

    compare(on_cpu, on_gpu, 100, 100 + n_steps);

    CHECK(place.n_gpu > 0);
    for (const auto & node : place.on_cpu) {
        if (node.find("GET_ROWS") != 0) {
            fprintf(stderr, "%s: on the CPU: %s\n", test_name, node.c_str());
            CHECK(false);
        }
    }

    // our ops did it, in every step
    if (!fused) {
        CHECK(emu_gpu.n_ops.empty());
    } else if (const char * op = get_op_of_steps(o.sparse.method)) {
        CHECK(emu_gpu.n_ops[op] >= n_steps * sparse_layers.size());
    }

    llama_free(on_gpu);
    llama_free(on_cpu);

    // a step copies the logits back and nothing else; to the device it copies some numbers for each token, not for each
    // layer
    on_gpu = make_context(model_gpu, o);
    CHECK(decode_text(on_gpu, 0, 80) == 0);
    decode_steps(on_gpu, 80, 83);
    get_logits(on_gpu);

    emu_gpu.n_get = 0;
    emu_gpu.n_set = 0;

    decode_steps(on_gpu, 83, 87);
    get_logits(on_gpu);

    if (emu_gpu.n_get != 4 * n_vocab * sizeof(float) || (fused && emu_gpu.n_set > 4 * (16 * o.n_ctx + 4096))) {
        fprintf(stderr, "%s: a step copies %zu bytes to the host and %zu from it\n", test_name, emu_gpu.n_get / 4,
                emu_gpu.n_set / 4);
        CHECK(false);
    }

    llama_free(on_gpu);
}

static void test_methods() {
    for (const auto method : METHODS) {
        options o = make_method(method);

        o.sparse.form = LIL_FORM_FUSED;
        test_method(o);

        if (method == LIL_SPARSE_TOVA || method == LIL_SPARSE_QUEST || method == LIL_SPARSE_LESSISMORE) {
            o.sparse.form = LIL_FORM_PORTABLE;
            test_method(o);
        }
    }

    options o              = make_method(LIL_SPARSE_H2O);
    o.sparse.form          = LIL_FORM_FUSED;
    o.sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    test_method(o);
}

// launches of kernels in each of the steps [p0, p1) of a text. CUDA graphs: n_replayed of these steps find the graph as
// it was and launch it as one
static std::vector<int> count_launches(const options & o, llama_pos p0, llama_pos p1, size_t & n_replayed) {
    llama_context * ctx = make_context(model_gpu, o);
    CHECK(ctx && decode_text(ctx, 0, p0) == 0);

    std::vector<int> res;

    emu_gpu.n_graphs   = 0;
    emu_gpu.n_replayed = 0;

    for (llama_pos p = p0; p < p1; ++p) {
        emu_gpu.n_launches = 0;
        emu_gpu.n_ops.clear();

        decode_steps(ctx, p, p + 1);
        get_logits(ctx);

        res.push_back(emu_gpu.n_launches);
    }

    CHECK(emu_gpu.n_graphs == res.size());
    n_replayed = emu_gpu.n_replayed;

    llama_free(ctx);

    return res;
}

// how many more kernels a decode step launches than full attention's, by layers that have the method's op, and how many
// steps CUDA graphs serve: docs/gpu.md
static void test_launches() {
    test_name = __func__;

    const llama_pos p0 = 100;
    const llama_pos p1 = 140; // pages and blocks are closed, R-KV's buffer fills

    size_t n_replayed = 0;

    const auto full = count_launches(make_options(LIL_SPARSE_NONE, 0), p0, p1, n_replayed);
    CHECK(n_replayed == full.size() - 1);

    struct launches {
        int usual; // in most steps
        int most;  // in the first step behind a prompt, and where R-KV cuts
    };

    const struct {
        lil_sparse_method method;
        const char *      op; // null: all layers
        launches          cuda;
        launches          metal;
    } tests[] = {
        { LIL_SPARSE_SINK, nullptr, { 0, 4 }, { 0, 4 } },
        { LIL_SPARSE_H2O, "evict_slots", { 3, 3 }, { 2, 2 } },
        { LIL_SPARSE_TOVA, "evict_slots", { 3, 3 }, { 2, 2 } },
        { LIL_SPARSE_RKV, "evict_slots", { 3, 6 }, { 3, 4 } },
        { LIL_SPARSE_QUEST, "page_select", { 2, 3 }, { 2, 3 } },
        { LIL_SPARSE_INFLLM, "block_select", { 3, 4 }, { 3, 4 } },
        { LIL_SPARSE_TIDAL, "tidal_select", { 1, 1 }, { 1, 1 } },
        { LIL_SPARSE_LESSISMORE, "lessismore_select", { 2, 2 }, { 1, 1 } },
        { LIL_SPARSE_RAAS, "raas_select", { 3, 4 }, { 3, 4 } },
    };

    for (const auto & t : tests) {
        options o             = make_method(t.method);
        o.sparse.form         = LIL_FORM_FUSED;
        o.sparse.kept_prompts = 0; // copies its rows in the first step behind a prompt

        const auto steps = count_launches(o, p0, p1, n_replayed);
        const int  n_op  = t.op ? emu_gpu.n_ops[t.op] : sparse_layers.size();

        std::vector<int> more;
        for (size_t i = 0; i < steps.size(); ++i) {
            more.push_back(steps[i] - full[i]);
        }
        std::sort(more.begin(), more.end());

#if defined(LIL_EMU_METAL)
        const auto want = t.metal;
#else
        const auto want = t.cuda;
#endif
        fprintf(stderr,
                "%s: method %d, in each of %d layers: %g launches more than full attention, at most %g; %zu of %zu "
                "steps as CUDA graphs\n",
                test_name, t.method, n_op, more[more.size() / 2] / (double) n_op, more.back() / (double) n_op,
                n_replayed, steps.size());

        CHECK(n_op > 0 && more[more.size() / 2] == want.usual * n_op && more.back() == want.most * n_op);

        // a graph of other nodes, and the one after it, are launched kernel by kernel
        const size_t n_other = t.method == LIL_SPARSE_RKV ? 2 * steps.size() / (o.sparse.buffer + 1) : 0;
        CHECK(n_replayed >= steps.size() - 2 - n_other);
    }
}

// the first layers on the CPU, the others on the device: each takes its own backend's ops
static void test_half() {
    for (const auto method : METHODS) {
        const std::string name = std::string(__func__) + " " + std::to_string(method);
        test_name              = name.c_str();

        options o     = make_method(method);
        o.sparse.form = LIL_FORM_FUSED;
        o.n_threads   = 2; // partial sums of prompts differ in number too

        llama_context * on_cpu = make_context(model_cpu, o);
        llama_context * half   = make_context(model_half, o);
        CHECK(on_cpu && half);
        CHECK(strcmp(get_info(half).backend, "CPU+" EMU_GPU_NAME) == 0 && get_info(half).fused);

        compare(on_cpu, half, 60, 64);

        llama_free(on_cpu);
        llama_free(half);
    }
}

// two sequences at once
static void test_sequences(lil_sparse_method method) {
    test_name = __func__;

    options o     = make_method(method);
    o.n_seq_max   = 2;
    o.n_ctx       = 1024;
    o.sparse.form = LIL_FORM_FUSED;

    llama_context * on_cpu = make_context(model_cpu, o);
    llama_context * on_gpu = make_context(model_gpu, o);
    CHECK(on_cpu && on_gpu);

    compare(on_cpu, on_gpu, 70, 75);
    compare(on_cpu, on_gpu, 90, 95, 1);

    float worst = 0.0f;
    for (llama_pos i = 0; i < 8; ++i) {
        for (llama_context * ctx : { on_cpu, on_gpu }) {
            CHECK(decode(ctx, { { text[75 + i], 75 + i, 0 }, { text[95 + i], 95 + i, 1 } }) == 0);
        }
        for (int32_t s = 0; s < 2; ++s) {
            worst = std::max(
                    worst, max_diff(get_logits(on_cpu, s), get_logits(on_gpu, s)) / rms(get_logits(on_cpu, s)));
        }
    }
    CHECK(worst < 2e-2f);

    llama_free(on_cpu);
    llama_free(on_gpu);
}

// what was computed on the device goes on on the CPU
static void test_state(lil_sparse_method method) {
    test_name = __func__;

    options o     = make_method(method);
    o.sparse.form = LIL_FORM_FUSED;

    llama_context * on_cpu = make_context(model_cpu, o);
    llama_context * on_gpu = make_context(model_gpu, o);
    CHECK(on_cpu && on_gpu);

    CHECK(decode_text(on_gpu, 0, 100) == 0);
    decode_steps(on_gpu, 100, 110);

    std::vector<uint8_t> state(llama_state_get_size(on_gpu));
    CHECK(llama_state_get_data(on_gpu, state.data(), state.size()) == state.size());
    CHECK(llama_state_set_data(on_cpu, state.data(), state.size()) == state.size());

    for (llama_context * ctx : { on_cpu, on_gpu }) {
        decode_steps_anew(ctx, 110, 112);
    }
    CHECK(max_diff(get_logits(on_cpu), get_logits(on_gpu)) < 2e-2f * rms(get_logits(on_cpu)));

    // a tail goes, where it is whole
    for (llama_context * ctx : { on_cpu, on_gpu }) {
        CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 112 - 1, -1));
        decode_steps(ctx, 111, 114);
    }
    CHECK(max_diff(get_logits(on_cpu), get_logits(on_gpu)) < 2e-2f * rms(get_logits(on_cpu)));

    llama_free(on_cpu);
    llama_free(on_gpu);
}

// other types of K and V; one that the kernels do not read
static void test_types(lil_sparse_method method) {
    test_name = __func__;

    for (const ggml_type type : { GGML_TYPE_Q8_0, GGML_TYPE_BF16, GGML_TYPE_F32 }) {
        options o     = make_method(method);
        o.type_kv     = type;
        o.sparse.form = LIL_FORM_FUSED;

        llama_context * on_cpu = make_context(model_cpu, o);
        llama_context * on_gpu = make_context(model_gpu, o);
        CHECK(on_cpu && on_gpu);

        compare(on_cpu, on_gpu, 80, 84);

        llama_free(on_cpu);
        llama_free(on_gpu);
    }

    options o = make_method(method);
    o.type_kv = GGML_TYPE_Q5_1;

    llama_context * on_gpu = make_context(model_gpu, o);
    CHECK(on_gpu && !get_info(on_gpu).fused);
    CHECK(decode_text(on_gpu, 0, 90) == 0);
    decode_steps(on_gpu, 90, 92);
    llama_free(on_gpu);

    o.sparse.form = LIL_FORM_FUSED;
    check_refused(model_gpu, o, { EMU_GPU_NAME, "F16, BF16, F32, Q8_0 or Q4_0" });
}

// a device without some of the ops: the portable form, or a message that names the device and the op
static void test_missing() {
    test_name = __func__;

    options o = make_method(LIL_SPARSE_QUEST);

    const lil_ops all = emu_gpu.ops;

    emu_gpu.ops.page_select = nullptr;

    for (llama_model * m : { model_gpu, model_half }) { // a context has one form
        llama_context * ctx = make_context(m, o);
        CHECK(ctx && !get_info(ctx).fused);
        llama_free(ctx);
    }

    o.sparse.form = LIL_FORM_FUSED;
    check_refused(model_gpu, o, { EMU_GPU_NAME, "has no op page_select" });
    check_refused(model_half, o,
            { EMU_GPU_NAME, "has no op page_select",
                    "layer " + std::to_string(sparse_layers[sparse_layers.size() / 2]) });

    o.sparse.form        = LIL_FORM_AUTO;
    o.sparse.fused_dense = true;
    check_refused(model_gpu, o, { "fused_dense", EMU_GPU_NAME, "has no op page_select" });

    // what exists in the fused form only
    emu_gpu.ops.raas_stamp   = nullptr;
    emu_gpu.ops.score_window = nullptr;

    check_refused(model_gpu, make_method(LIL_SPARSE_RAAS),
            { "RaaS has the fused form only", EMU_GPU_NAME, "has no op raas_stamp" });

    o                      = make_method(LIL_SPARSE_H2O);
    o.sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    check_refused(model_gpu, o, { "window", EMU_GPU_NAME, "has no op score_window" });

    // with the cache on the CPU all is as without a GPU
    llama_context_params cparams = make_cparams(o);
    cparams.offload_kqv          = false;
    llama_context * ctx          = lil_init_from_model(model_gpu, cparams, o.sparse);
    CHECK(ctx && get_info(ctx).fused && strcmp(get_info(ctx).backend, "CPU") == 0);
    CHECK(decode_text(ctx, 0, 60) == 0);
    decode_steps(ctx, 60, 62);
    llama_free(ctx);

    // a node that turns out to be beyond the device
    emu_gpu.ops     = all;
    emu_gpu.refused = "page_select";

    check_refused(model_gpu, make_method(LIL_SPARSE_QUEST), { EMU_GPU_NAME, "it has no page_select", "offload_kqv" });
    check_refused(model_half, make_method(LIL_SPARSE_QUEST), { EMU_GPU_NAME, "it has no page_select", "offload_kqv" });

    emu_gpu.refused = "";

    // the probe reads logits on the host
    check_refused(model_gpu, make_options(LIL_SPARSE_PROBE, 48), { "probe", EMU_GPU_NAME });
}

// the tokens that a chain of `pick` and a Guardian gives, on the backend or on the CPU; its end-of-generation token is
// the last
static std::vector<llama_token> sample_text(
        llama_model * m, bool on_backend, bool greedy, lil_guardian_action action, lil_guardian_report & report) {
    const llama_vocab * vocab = llama_model_get_vocab(m);

    lil_guardian_params params = lil_guardian_default_params();
    params.rule                = LIL_GUARDIAN_RULE_PAPER;
    params.every               = 7;
    params.threshold           = 1e9; // every check is an alarm
    params.action              = action;
    params.think_end           = "ab";
    params.grace               = 0;

    llama_sampler * chain    = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler * guardian = lil_sampler_init_guardian(vocab, params);
    CHECK(guardian);

    llama_sampler_chain_add(chain, greedy ? llama_sampler_init_greedy() : llama_sampler_init_dist(5));
    llama_sampler_chain_add(chain, guardian);

    llama_context * ctx = make_context(m, make_method(LIL_SPARSE_QUEST));
    CHECK(ctx && decode_text(ctx, 0, 60) == 0);

    CHECK(!on_backend || llama_set_sampler(ctx, 0, chain));

    std::vector<llama_token> res;
    decode(ctx, { { text[60], 60, 0 } });

    for (llama_pos p = 61; res.size() < 20; ++p) {
        CHECK((llama_get_sampled_token_ith(ctx, -1) != LLAMA_TOKEN_NULL) == on_backend);
        res.push_back(llama_sampler_sample(chain, ctx, -1));

        lil_guardian_get_report(guardian, &report);
        if (report.stopped) {
            CHECK(llama_vocab_is_eog(vocab, res.back()));
            break;
        }
        CHECK(decode(ctx, { { res.back(), p, 0 } }) == 0);
    }

    llama_free(ctx);
    llama_sampler_free(chain);

    return res;
}

// Guardian ends a text that is sampled on the backend where it ends one that is sampled on the CPU
static void test_sampling() {
    test_name = __func__;

    for (llama_model * m : { model_cpu, model_gpu }) {
        for (const bool greedy : { true, false }) {
            for (const auto action : { LIL_GUARDIAN_STOP, LIL_GUARDIAN_CLOSE_THINK, LIL_GUARDIAN_FLAG }) {
                lil_guardian_report want = {};
                lil_guardian_report got  = {};

                const auto on_cpu = sample_text(m, false, greedy, action, want);

                CHECK(sample_text(m, true, greedy, action, got) == on_cpu);
                CHECK(got.n_tokens == want.n_tokens && got.stopped == want.stopped &&
                        got.think_closed == want.think_closed);
                CHECK(want.stopped == (action != LIL_GUARDIAN_FLAG) &&
                        want.think_closed == (action == LIL_GUARDIAN_CLOSE_THINK));
                CHECK(want.alarmed && on_cpu.size() == (action == LIL_GUARDIAN_FLAG ? 20 : want.n_tokens + 1));
            }
        }
    }
}

// a node of the device's that ends up on the CPU is computed by nobody
static void test_stub() {
    test_name = __func__;

    const pid_t pid = fork();
    CHECK(pid >= 0);

    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        setenv("GGML_NO_BACKTRACE", "1", 1);
        ggml_tensor t = {};
        emu_gpu.ops.attn(&t, 0, 1, nullptr);
        _exit(0);
    }

    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.gguf\n", argv[0]);
        return 2;
    }

    if (!load_model(argv[1])) { // on the CPU: the device is not there yet
        return 1;
    }

    emu_gpu_register();

    llama_model_params mparams = llama_model_default_params();

    mparams.n_gpu_layers = n_layer + 1;
    model_gpu            = llama_model_load_from_file(argv[1], mparams);

    mparams.n_gpu_layers = n_layer / 2 + 1;
    model_half           = llama_model_load_from_file(argv[1], mparams);

    model_cpu = model;
    CHECK(model_gpu && model_half);

    test_stub();
    test_launches();
    test_methods();
    test_half();
    test_missing();
    test_sampling();

    for (const auto method : { LIL_SPARSE_TOVA, LIL_SPARSE_QUEST }) {
        test_sequences(method);
        test_state(method);
        test_types(method);
    }

    llama_model_free(model_gpu);
    llama_model_free(model_half);
    llama_model_free(model_cpu);

    printf("test-emu-gpu: ok\n");

    return 0;
}
