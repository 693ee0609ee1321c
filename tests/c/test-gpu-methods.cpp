// Every method on every GPU device that the library finds, with all layers on it, in the portable form and where the
// device has our ops in the fused one, against the same form on the CPU: the same text, the same steps. Beside the
// logits and the tokens held or read, what the scheduler made of the graph.
//
//   test-gpu-methods [--quick] gpu.gguf [METHOD]
//
//   --quick  keys and values of type F16 only, and nothing but all layers on the device

#include "gpu-common.h"

//
// what the scheduler did: the nodes it computed where, and what it copied between devices for them
//

struct sched_log {
    bool on = false;

    int    n_gpu   = 0; // nodes on the device
    size_t n_bytes = 0; // copied between devices, in all
    size_t n_most  = 0; // ... for one tensor

    std::set<std::string> cpu;    // nodes on the CPU behind the first one on the device
    std::set<std::string> to_cpu; // tensors copied to the CPU
    std::set<std::string> copied; // all
};

static bool on_host(const ggml_tensor * t) {
    return ggml_backend_buffer_is_host(t->view_src ? t->view_src->buffer : t->buffer);
}

static bool log_node(ggml_tensor * t, bool, void * data) {
    auto & log = *(sched_log *) data;

    if (!log.on || t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE ||
            t->op == GGML_OP_TRANSPOSE) {
        return false;
    }

    if (!on_host(t)) {
        log.n_gpu++;
    } else if (log.n_gpu > 0) {
        log.cpu.insert(std::string(ggml_op_desc(t)) + " " + t->name);
    }

    // the scheduler names a copy BACKEND#TENSOR#NUMBER
    for (const ggml_tensor * src : t->src) {
        const ggml_tensor * s = src && src->view_src ? src->view_src : src;

        if (s && strchr(s->name, '#') && log.copied.insert(s->name).second) {
            if (on_host(s)) {
                log.to_cpu.insert(s->name);
            }
            if (!strstr(s->name, "_rot#")) { // llama.cpp's rotation of quantised keys and values, a constant
                log.n_bytes += ggml_nbytes(s);
                log.n_most = std::max(log.n_most, ggml_nbytes(s));
            }
        }
    }

    return false; // whole splits are computed at once, as without a callback
}

static llama_model * model_cpu = nullptr;

static ggml_type type_v = GGML_TYPE_COUNT; // COUNT: as the keys

static llama_context * try_context(llama_model * m, const options & o, sched_log * log, bool offload_kqv = true) {
    llama_context_params cparams = make_cparams(o);

    if (log) {
        cparams.cb_eval           = log_node;
        cparams.cb_eval_user_data = log;
    }
    cparams.offload_kqv = offload_kqv;
    if (type_v != GGML_TYPE_COUNT) {
        cparams.type_v = type_v;
    }

    return lil_init_from_model(m, cparams, o.sparse);
}

static method get_method(const char * name, lil_form form = LIL_FORM_PORTABLE) {
    for (const auto & m : all_methods(48, form)) {
        if (strcmp(m.name, name) == 0) {
            return m;
        }
    }
    CHECK(!"no such method");
    return {};
}

static double jaccard(const std::set<llama_pos> & a, const std::set<llama_pos> & b) {
    int n_both = 0;
    for (const llama_pos p : a) {
        n_both += b.count(p);
    }

    return n_both / (double) (a.size() + b.size() - n_both);
}

static float median_diff(const std::vector<float> & a, const std::vector<float> & b) {
    std::vector<float> d(a.size());
    for (size_t i = 0; i < a.size(); ++i) {
        d[i] = std::fabs(a[i] - b[i]);
    }
    std::nth_element(d.begin(), d.begin() + d.size() / 2, d.end());

    return d[d.size() / 2];
}

// how far logits may be apart where full attention's are by so much: a method computes more of them in turn
static float get_limit(float diff) {
    return std::max(2.0f * diff, 0.01f);
}

//
// tests
//

// how the layers are shared out
enum placement { ALL, SOME, NO_KV };

// Prompts and steps of n_seq sequences, on both. limit: how far logits may be apart while the two hold or read the same
// tokens. Returns how far they were.
static float test_method(llama_model * model_dev, const method & m, ggml_type type_kv, int32_t n_seq, float limit,
        placement where = ALL) {
    test_name = m.name;

    options o   = m.o;
    o.type_kv   = type_kv;
    o.n_seq_max = n_seq;
    o.n_ctx     = 512 * n_seq;

    const bool sparse = o.sparse.method != LIL_SPARSE_NONE;
    const bool fused  = o.sparse.form == LIL_FORM_FUSED;

    sched_log log;

    llama_context * cpu = try_context(model_cpu, o, nullptr);
    CHECK(cpu);
    if (where == NO_KV && sparse) {
        o.sparse.form = LIL_FORM_AUTO;
    }
    llama_context * dev = try_context(model_dev, o, &log, where != NO_KV);
    CHECK(dev);

    if (sparse) {
        CHECK(get_info(cpu).fused == fused && get_info(dev).fused == (fused || where == NO_KV));
    }

    // sequences of different lengths; a later prompt finds the others there
    for (llama_context * ctx : { cpu, dev }) {
        for (int32_t s = 0; s < n_seq; ++s) {
            CHECK(decode_text(ctx, 0, 70 + 7 * s, s) == 0);
        }
    }

    float diff = max_diff(get_logits(cpu), get_logits(dev));
    CHECK(diff <= limit);

    std::vector<float> medians; // of the steps after the tokens first differed
    std::vector<bool>  same(n_seq, true);

    double sum_jaccard = 0.0;
    int    n_jaccard   = 0;
    int    n_same      = 0;

    size_t n_bytes = 0;
    size_t n_most  = 0;

    const int n_steps = 8;

    for (int i = 0; i < n_steps; ++i) {
        std::vector<token_at> tokens;
        for (int32_t s = 0; s < n_seq; ++s) {
            const llama_pos p = 70 + 7 * s + i;
            tokens.push_back({ text[p], p, s });
        }

        CHECK(decode(cpu, tokens) == 0);

        log    = {};
        log.on = true;
        CHECK(decode(dev, tokens) == 0);
        log.on = false;

        n_bytes = std::max(n_bytes, log.n_bytes);
        n_most  = std::max(n_most, log.n_most);

        for (int32_t s = 0; s < n_seq; ++s) {
            for (size_t il = 0; sparse && il < sparse_layers.size(); ++il) {
                for (int32_t h = 0; h < n_head_kv; ++h) {
                    const double j = jaccard(get_held(cpu, il, h, s), get_held(dev, il, h, s));

                    same[s] = same[s] && j == 1.0;
                    sum_jaccard += j;
                    n_jaccard++;
                }
            }

            const auto a = get_logits(cpu, s);
            const auto b = get_logits(dev, s);

            if (same[s]) {
                diff = std::max(diff, max_diff(a, b));
                n_same++;
            } else {
                medians.push_back(median_diff(a, b));
            }
        }

        for (const auto & what : log.cpu) {
            if (where == ALL) {
                fprintf(stderr, "%s, %s: on the CPU: %s\n", m.name, ggml_type_name(type_kv), what.c_str());
            }
        }
        for (const auto & what : log.to_cpu) {
            if (where == ALL) {
                fprintf(stderr, "%s, %s: copied to the CPU: %s\n", m.name, ggml_type_name(type_kv), what.c_str());
            }
        }
        CHECK(log.n_gpu > 0);
        // behind the embeddings everything is on the device, and nothing comes back before the logits
        if (where == ALL) {
            CHECK(log.cpu.empty() && log.to_cpu.empty());
        }
    }

    std::sort(medians.begin(), medians.end());
    const double mean   = n_jaccard ? sum_jaccard / n_jaccard : 1.0;
    const float  median = medians.empty() ? 0.0f : medians[medians.size() / 2];

    printf("%-5s %-8s %-20s %-5s %d seq: same tokens in %d of %d steps, logits within %.4f; tokens %.4f alike, then "
           "median %.4f; copied %zu bytes a step, %zu at most for one tensor\n",
            where == ALL            ? "all"
                    : where == SOME ? "some"
                                    : "no kv",
            !sparse ? ""
                    : get_info(dev).fused ? "fused"
                                          : "portable",
            m.name, ggml_type_name(type_kv), n_seq, n_same, n_steps * n_seq, diff, mean, median, n_bytes, n_most);
    fflush(stdout);

    CHECK(diff <= limit);
    // the CPU's product rounds queries as keys are
    CHECK(mean >= (type_kv == GGML_TYPE_F16 || type_kv == GGML_TYPE_F32 ? 0.96 : 0.9));
    CHECK(median <= 0.5f); // one page or token exchanged at a near tie moves a random model's logits by as much

    if (sparse) {
        const auto info = get_info(dev);

        CHECK(info.n_sparse > 0 && info.n_rows == get_info(cpu).n_rows);
        if (where != NO_KV) { // inputs, not the cache
            CHECK(n_bytes < info.kv_bytes / info.n_layer / 8);
        }
    }

    llama_free(cpu);
    llama_free(dev);

    return diff;
}

// what has no portable form is an error that says so, where the device has no fused one
static void test_no_ops(llama_model * model_dev) {
    test_name = __func__;

    const auto refused = [&](options o, const char * what) {
        llama_context * ctx = try_context(model_dev, o, nullptr);
        CHECK(!ctx);
        if (!strstr(lil_last_error(), what)) {
            fprintf(stderr, "expected \"%s\" in: %s\n", what, lil_last_error());
            exit(1);
        }
    };

    auto m = get_method("h2o");

    options o              = m.o;
    o.sparse.form          = LIL_FORM_AUTO;
    o.sparse.prompt_scores = LIL_PROMPT_SCORES_WINDOW;
    refused(o, "window");

    o             = get_method("quest").o;
    o.sparse.form = LIL_FORM_FUSED;
    refused(o, "fused");

    o = make_options(LIL_SPARSE_RAAS, 48);
    refused(o, "fused");

    o = make_options(LIL_SPARSE_PROBE, 48);
    refused(o, "fused");

    o                    = make_options(LIL_SPARSE_TIDAL, 48);
    o.sparse.fused_dense = true;
    refused(o, "fused");
}

// types that some backend cannot compute with: an error, or wholly on the device
static void test_other_types(llama_model * model_dev) {
    test_name = __func__;

    const ggml_type types[][2] = {
        { GGML_TYPE_BF16, GGML_TYPE_F16 },
        { GGML_TYPE_F16, GGML_TYPE_Q8_0 },
        { GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_NL },
        { GGML_TYPE_Q5_1, GGML_TYPE_Q5_1 },
    };

    for (const auto & type : types) {
        for (const char * name : { "h2o", "tidal" }) {
            options o = get_method(name).o;
            o.type_kv = type[0];
            type_v    = type[1];

            sched_log log;

            llama_context * ctx = try_context(model_dev, o, &log);
            if (!ctx) {
                printf("%s, %s and %s: refused: %s\n", name, ggml_type_name(type[0]), ggml_type_name(type[1]),
                        lil_last_error());
                CHECK(strstr(lil_last_error(), "offload_kqv"));
                continue;
            }

            CHECK(decode_text(ctx, 0, 70) == 0);
            log.on = true;
            decode_steps(ctx, 70, 71);
            CHECK(log.n_gpu > 0 && log.cpu.empty() && log.to_cpu.empty());
            printf("%s, %s and %s: on the device\n", name, ggml_type_name(type[0]), ggml_type_name(type[1]));

            llama_free(ctx);
        }
    }
    type_v = GGML_TYPE_COUNT;
}

int main(int argc, char ** argv) {
    const bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;

    argc -= quick;
    argv += quick;

    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: test-gpu-methods [--quick] gpu.gguf [METHOD]\n");
        return 2;
    }

    const auto gpus = find_gpus();

    if (gpus.empty()) {
        printf("test-gpu-methods: skipped: this build has no GPU backend, or it finds no device\n");
        return getenv("LIL_REQUIRE_GPU") ? 1 : STATUS_SKIP;
    }

    if (!load_on_cpu(argv[1])) {
        return 1;
    }
    model_cpu = model;

    int n_tested = 0;

    for (ggml_backend_dev_t gpu : gpus) {
        begin_gpu(gpu);

        llama_model * model_gpu = load_on_gpu(argv[1], gpu, -1);

        // CUDA and Metal have FlashAttention for some sizes of heads only
        llama_context * probe = try_context(model_gpu, get_method("sink").o, nullptr);
        if (!probe) {
            printf("%s\n", lil_last_error());
            CHECK(strstr(lil_last_error(), "FLASH_ATTN_EXT"));
            llama_model_free(model_gpu);
            continue;
        }
        llama_free(probe);

        const auto wanted = [&](const method & m) {
            return m.o.sparse.method != LIL_SPARSE_NONE && (argc < 3 || strcmp(m.name, argv[2]) == 0);
        };

        std::vector<lil_form> forms = { LIL_FORM_PORTABLE };
        if (has_ops(gpu)) {
            forms.push_back(LIL_FORM_FUSED);
        }

        for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
            const int32_t n_seq = type == GGML_TYPE_F16 ? 3 : 1;
            const float   limit = get_limit(test_method(model_gpu, get_method("full"), type, n_seq, 0.5f));

            // of the other types: the quantised ones take ways of their own
            const bool all = type == GGML_TYPE_F16 || type == GGML_TYPE_Q8_0;

            for (const auto form : forms) {
                for (const auto & m : all_methods(48, form)) {
                    const auto method = m.o.sparse.method;

                    if (m.o.sparse.positions == LIL_POSITIONS_CLIPPED && ggml_is_quantized(type)) {
                        continue; // refused on every device
                    }
                    if (wanted(m) && (all || method == LIL_SPARSE_H2O || method == LIL_SPARSE_QUEST)) {
                        test_method(model_gpu, m, type, n_seq, limit);
                    }
                }
            }
            if (quick) {
                break;
            }
        }

        if (!quick && argc < 3) {
            if (!has_ops(gpu)) {
                test_no_ops(model_gpu);
            }
            test_other_types(model_gpu);

            const float limit = get_limit(test_method(model_gpu, get_method("full"), GGML_TYPE_F16, 1, 0.5f, NO_KV));
            test_method(model_gpu, get_method("h2o"), GGML_TYPE_F16, 1, limit, NO_KV);
            test_method(model_gpu, get_method("quest"), GGML_TYPE_F16, 1, limit, NO_KV);

            llama_model * model_some = load_on_gpu(argv[1], gpu, n_layer / 2);

            for (const auto form : forms) {
                for (const char * name : { "sink", "h2o", "quest", "infllm", "tidal", "lessismore" }) {
                    test_method(model_some, get_method(name, form), GGML_TYPE_F16, 1, limit, SOME);
                }
            }

            llama_model_free(model_some);
        }

        llama_model_free(model_gpu);
        n_tested++;
    }

    llama_model_free(model_cpu);

    if (n_tested == 0) {
        printf("test-gpu-methods: skipped: no device can run this model\n");
        return getenv("LIL_REQUIRE_GPU") ? 1 : STATUS_SKIP;
    }

    printf("test-gpu-methods: ok\n");

    return 0;
}
