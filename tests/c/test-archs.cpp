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

#include "arch-images.h"
#include "arch-page.h"
#include "arch-runs.h"
#include "layer-check.h"
#include "tiny-arch.h"

#include "lil.h"

#include "llama-arch.h"

#include <sys/wait.h>
#include <unistd.h>

// looked at for long, one of each kind
static const std::initializer_list<const char *> LONG = { "llama", "qwen35", "qwen2vl", "deepseek2", "kimi-linear",
    "gpt-oss", "gemma4", "lfm2" };

static std::string one_line(std::string s) {
    std::replace(s.begin(), s.end(), '\n', ' ');
    return s;
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

    add(has_images(model), "M-RoPE");

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

// llama.cpp's own logits, and how far two right implementations may be apart
struct stock_runs {
    logits_list within;
    logits_list beyond;
    double      rounding = 0.0; // of these weights; a model may amplify it

    logits_list with_image; // M-RoPE
    logits_list without_image;
};

static stock_runs run_stock(llama_model * model, llama_context * ctx) {
    stock_runs res;

    res.within = run(ctx, N_WITHIN, N_STEPS_WITHIN, nullptr);
    llama_memory_clear(llama_get_memory(ctx), true);
    res.beyond = run(ctx, N_PROMPT, N_STEPS, nullptr);

    if (has_images(model)) {
        llama_memory_clear(llama_get_memory(ctx), true);
        res.with_image    = run_image(ctx, nullptr);
        res.without_image = replace_image(ctx, nullptr);
    }

    // the same without FlashAttention
    llama_context_params cparams = make_cparams(nullptr);
    cparams.flash_attn_type      = LLAMA_FLASH_ATTN_TYPE_DISABLED;

    context_ptr slow(llama_init_from_model(model, cparams), llama_free);
    if (slow) {
        res.rounding = 4.0 * max_diff(run(slow.get(), N_PROMPT, N_STEPS, nullptr), res.beyond);
    }

    return res;
}

// full attention through our op: "yes", or why not
static std::string check_dense(llama_model * model, const stock_runs & stock) {
    auto params        = lil_sparse_default_params(LIL_SPARSE_NONE);
    params.fused_dense = LIL_FUSED_DENSE_ON;

    layer_check check(params);

    context_ptr ctx(new_context(model, &params, &check), llama_free);
    if (!ctx) {
        return lil_last_error();
    }

    const double eps  = std::max(0.05, stock.rounding);
    const double diff = max_diff(run(ctx.get(), N_PROMPT, N_STEPS, &check), stock.beyond);

    check.finish();
    REQUIRE(check.n_attn > 0 && diff <= eps, "full attention: logits %g apart (%g), %d attentions", diff, eps,
            check.n_attn);

    return "yes";
}

// whether keys have positions of one dimension
static bool has_rope(const llama_model * model) {
    const auto type = llama_model_rope_type(model);
    return type == LLAMA_ROPE_TYPE_NORM || type == LLAMA_ROPE_TYPE_NEOX;
}

static rope_turn get_rope(const llama_model * model, const std::string & arch) {
    char buf[32] = "0";
    llama_model_meta_val_str(model, (arch + ".rope.dimension_count").c_str(), buf, sizeof(buf));

    rope_turn res;
    res.n_rot  = atoi(buf);
    res.slower = tiny_arch::is_one_of(arch, { "llama", "gemma4" });
    res.neox   = llama_model_rope_type(model) == LLAMA_ROPE_TYPE_NEOX;
    if (describe_kind(model, arch).find("MLA") != std::string::npos) { // behind the latent part
        llama_model_meta_val_str(model, (arch + ".attention.kv_lora_rank").c_str(), buf, sizeof(buf));
        res.offset = atoi(buf);
    }
    return res;
}

// a method in one form on one model
struct method_check {
    const std::string & arch;
    llama_model *       model;
    const stock_runs &  stock;
    lil_sparse_params   params;

    bool fused() const { return params.form == LIL_FORM_FUSED; }
    bool goes_far() const { return tiny_arch::is_one_of(arch, LONG); }

    const char * name() const { return lil_sparse_get_name(params.method); }

    context_ptr make(layer_check * check = nullptr, uint32_t n_seq = 1) const {
        return { new_context(model, &params, check, n_seq), llama_free };
    }

    void look_within(llama_context * ctx) const {
        const double diff = max_diff(run(ctx, N_WITHIN, N_STEPS_WITHIN, nullptr), stock.within);
        REQUIRE(diff == 0.0, "logits within the budget %g apart from llama.cpp's", diff);

        if (params.method == LIL_SPARSE_H2O && tiny_arch::is_one_of(arch, { "gemma3n", "gemma4" })) {
            check_shared_scores(ctx, N_WITHIN + N_STEPS_WITHIN);
        }

        lil_sparse_info info = {};
        REQUIRE(lil_sparse_get_info(ctx, &info), "no info");
        REQUIRE(info.n_sparse == 0 && info.n_dense == N_STEPS_WITHIN, "%d sparse and %d dense steps within the budget",
                (int) info.n_sparse, (int) info.n_dense);
    }

    // RaaS never drops a prompt's page while it has others
    int n_prompt() const { return params.method == LIL_SPARSE_RAAS ? 8 : N_PROMPT; }
    int n_steps() const { return params.method == LIL_SPARSE_RAAS ? N_PROMPT + N_STEPS - 8 : N_STEPS; }

    // what was looked at in so many sparse steps
    void expect(const layer_check & check, int n_steps, int n_layer) const {
        const bool chooses = params.method == LIL_SPARSE_TIDAL || params.method == LIL_SPARSE_LESSISMORE;

        if (fused() || params.method == LIL_SPARSE_SINK) {
            REQUIRE(check.n_attn >= n_steps * n_layer, "%d attentions in %d layers", check.n_attn, n_layer);
            REQUIRE(check.n_lists + check.n_choices > 0 || params.method == LIL_SPARSE_SINK, "no list");
        }
        REQUIRE(!fused() || !chooses || check.n_choices == 2 * n_steps, "%d choices in %d steps", check.n_choices,
                n_steps);
    }

    // its logits
    logits_list look_beyond(llama_context * ctx, layer_check & check) const {
        check.watch(ctx);

        const auto res = run(ctx, n_prompt(), n_steps(), &check);
        check.finish();

        lil_sparse_info info = {};
        REQUIRE(lil_sparse_get_info(ctx, &info), "no info");
        REQUIRE((int) info.n_sparse == std::min(n_steps(), n_prompt() + n_steps() - BUDGET), "%d sparse steps",
                (int) info.n_sparse);
        expect(check, (int) info.n_sparse, (int) info.n_layer);

        return res;
    }

    // The two forms. A near tie makes a leap, not in most of the steps; but what scores have dropped stays away
    void look_alike(const logits_list & a, const logits_list & b) const {
        std::vector<double> diffs;
        for (size_t i = 0; i < a.size(); ++i) {
            diffs.push_back(max_diff({ a[i] }, { b[i] }));
        }
        std::nth_element(diffs.begin(), diffs.begin() + diffs.size() / 2, diffs.end());

        const double median = diffs[diffs.size() / 2];
        const bool   drops  = lil_sparse_evicts(params.method) && params.method != LIL_SPARSE_SINK;
        const double eps    = drops ? 0.05 : 0.008;
        REQUIRE(median <= std::max(eps, stock.rounding), "logits of the two forms %g apart", median);
    }

    void look_far() const {
        layer_check check(params);

        const auto ctx = make(&check, 2);
        REQUIRE(ctx, "%s", lil_last_error());
        check.watch(ctx.get());
        run_long(ctx.get(), check);

        lil_sparse_info info = {};
        REQUIRE(lil_sparse_get_info(ctx.get(), &info) && info.n_sparse > N_LONG / 2, "%s: %d sparse steps", name(),
                (int) info.n_sparse);
        expect(check, (int) info.n_sparse, (int) info.n_layer);
    }

    // positions other than absolute, where keys can be turned: in a prompt beyond the budget, and in steps
    void look_turned(lil_positions positions) const {
        auto m             = *this;
        m.params.positions = positions;

        layer_check check(m.params, get_rope(model, arch));

        const auto ctx = m.make(&check);
        if (!ctx) {
            REQUIRE(strstr(lil_last_error(), "ordinary RoPE") && !has_rope(model), "positions %d: %s", positions,
                    lil_last_error());
            return;
        }
        check.watch(ctx.get());
        run(ctx.get(), N_PROMPT, N_STEPS, &check);
        check.finish();

        lil_sparse_info info = {};
        REQUIRE(lil_sparse_get_info(ctx.get(), &info) && check.n_attn == (int) (N_STEPS * info.n_layer),
                "positions %d: %d attentions in %d layers", positions, check.n_attn, (int) info.n_layer);
    }

    // All of it: "yes", or why it is refused. beyond: the logits that the fused form had, or has now
    std::string look(logits_list & beyond) {
        auto ctx = make();
        if (!ctx) {
            const std::string why = one_line(lil_last_error());
            return params.method == LIL_SPARSE_RKV && why.find("share keys and values") != std::string::npos ? "" : why;
        }
        look_within(ctx.get());

        if (fused()) {
            params.fused_dense = LIL_FUSED_DENSE_AUTO;
        }
        layer_check check(params);

        ctx = make(&check);
        REQUIRE(ctx, "%s", lil_last_error());
        const auto logits = look_beyond(ctx.get(), check);

        if (fused()) {
            beyond = logits;
        } else if (!beyond.empty()) {
            look_alike(logits, beyond);
        }
        if (fused() && goes_far()) {
            look_far();
        }
        // of gemma4's nodes some do not tell whose keys they have
        if (params.method == LIL_SPARSE_INFLLM && !fused() && goes_far() && arch != "gemma4") {
            look_turned(LIL_POSITIONS_CLIPPED);
        }
        if (params.method == LIL_SPARSE_SINK && goes_far()) {
            look_turned(LIL_POSITIONS_CACHE);
        }
        if (!stock.with_image.empty()) {
            check_images(model, params, stock.with_image, stock.without_image);
        }
        look_state(ctx.get());

        return "yes";
    }

    // its state, in another context
    void look_state(llama_context * ctx) const {
        std::vector<uint8_t> buf(llama_state_seq_get_size(ctx, 0));
        REQUIRE(llama_state_seq_get_data(ctx, buf.data(), buf.size(), 0) == buf.size(), "state");

        const auto other = make();
        REQUIRE(llama_state_seq_set_data(other.get(), buf.data(), buf.size(), 0) == buf.size(),
                "its state is refused: %s", last_error.c_str());
        REQUIRE(llama_memory_seq_pos_max(llama_get_memory(other.get()), 0) == N_PROMPT + N_STEPS - 1,
                "position after its state");
    }
};

// "yes", or why not; empty: the others of its family tell
static std::string check_method(
        const std::string & arch, llama_model * model, const stock_runs & stock, lil_sparse_method method) {
    std::string res;
    logits_list beyond; // the fused form's

    for (const auto form : { LIL_FORM_FUSED, LIL_FORM_PORTABLE }) {
        if (form == LIL_FORM_PORTABLE && method == LIL_SPARSE_RAAS) {
            continue; // has none
        }

        method_check m = { arch, model, stock, lil_sparse_default_params(method) };

        m.params.budget       = BUDGET;
        m.params.form         = form;
        m.params.fused_dense  = LIL_FUSED_DENSE_OFF;
        m.params.buffer       = 8;
        m.params.kept_prompts = 0; // a removal takes tokens and brings none back

        try {
            const auto found = m.look(beyond);
            REQUIRE(res.empty() || res == found, "%s, but the other form: %s", found.c_str(), res.c_str());
            res = found;
        } catch (const failure & e) {
            throw failure(m.name() + std::string(m.fused() ? ", fused: " : ", portable: ") + e.what());
        }
    }

    return res;
}

static row look(const std::string & arch) {
    row res;

    llama_log_set(on_log, nullptr);

    if (arch == "chameleon") {
        n_ubatch = 128;
    }

    const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(tiny_arch::make(arch), llama_model_free);
    REQUIRE(model, "no model: %s", last_error.c_str());

    if (llama_model_has_encoder(model.get()) || !llama_model_has_decoder(model.get())) {
        res.kind = "encoder";
        return res;
    }

    context_ptr ctx(new_context(model.get(), nullptr, nullptr), llama_free);
    REQUIRE(ctx, "no context: %s", last_error.c_str());

    if (!llama_get_memory(ctx.get())) {
        res.kind = "no KV cache";
        return res;
    }

    res.kind = describe_kind(model.get(), arch);

    const auto stock = run_stock(model.get(), ctx.get());

    res.dense = check_dense(model.get(), stock);

    for (int i = LIL_SPARSE_NONE + 1; lil_sparse_get_name((lil_sparse_method) i); ++i) {
        const auto method = (lil_sparse_method) i;

        if (method == LIL_SPARSE_DENSE || method == LIL_SPARSE_PROBE) {
            continue;
        }

        const auto found = check_method(arch, model.get(), stock, method);
        auto &     said  = lil_sparse_evicts(method) ? res.evict : res.select;

        REQUIRE(said.empty() || found.empty() || said == found, "%s: %s, but others of its family: %s",
                lil_sparse_get_name(method), found.c_str(), said.c_str());
        if (!found.empty()) {
            said = found;
        }
    }

    return res;
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
    res.resize(5);

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

    std::string table    = HEAD;
    int         n_failed = 0;

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
            r = { found[1], found[2], found[3], found[4] };
        }

        table += make_line(arch, r);
    }

    if (only) {
        printf("%s", table.c_str());
        return n_failed > 0;
    }

    const bool ok = check_page(page, table, write) && n_failed == 0;

    printf("test-archs: %s\n", ok ? "ok" : "failed");

    return !ok;
}
