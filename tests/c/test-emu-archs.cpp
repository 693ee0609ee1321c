// Models beyond plain stacks on an emulated GPU (emu-gpu.h): learned sinks, MLA with DeepSeek-V2-Lite's heads, a hybrid
// with M-RoPE, shared keys and values. Each method in the form that it takes there and in the portable one: what it
// computes is what the same form computes on the CPU, and every decode step beyond the budget is sparse.
//
// Which form a method takes is in the table below: the portable one where the kernels lack something (docs/models.md).

#undef NDEBUG

#include "emu-gpu.h"
#include "tiny-arch.h"

#include "lil.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>

#define CHECK(x, ...) \
    do { \
        if (!(x)) { \
            fprintf(stderr, __VA_ARGS__); \
            fprintf(stderr, ": CHECK(%s) failed; lil_last_error: %s\n", #x, lil_last_error()); \
            exit(1); \
        } \
    } while (0)

static const int BUDGET   = 48;
static const int N_PROMPT = 90;
static const int N_STEPS  = 12;

struct kind {
    const char * arch;
    // methods with a fused form on the device
    std::set<lil_sparse_method> fused;

    bool large_mla = false;
};

static const std::set<lil_sparse_method> ALL = { LIL_SPARSE_SINK, LIL_SPARSE_H2O, LIL_SPARSE_TOVA, LIL_SPARSE_RKV,
    LIL_SPARSE_QUEST, LIL_SPARSE_INFLLM, LIL_SPARSE_TIDAL, LIL_SPARSE_LESSISMORE, LIL_SPARSE_RAAS };

static const std::vector<kind> KINDS = {
    { "qwen35", ALL },
    { "gpt-oss", ALL },
    { "gemma4",
            { LIL_SPARSE_SINK, LIL_SPARSE_QUEST, LIL_SPARSE_INFLLM, LIL_SPARSE_TIDAL, LIL_SPARSE_LESSISMORE,
                    LIL_SPARSE_RAAS } },
    { "deepseek2", ALL, true },
};

using context_ptr = std::unique_ptr<llama_context, decltype(&llama_free)>;

static context_ptr make_context(llama_model * model, lil_sparse_method method, lil_form form) {
    llama_context_params cparams = llama_context_default_params();

    cparams.n_ctx           = 256;
    cparams.n_ubatch        = 64;
    cparams.n_threads       = 1;
    cparams.n_threads_batch = 1;
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    cparams.swa_full        = true;

    lil_sparse_params sparse = lil_sparse_default_params(method);

    sparse.budget      = BUDGET;
    sparse.buffer      = 8;
    sparse.form        = form;
    sparse.fused_dense = LIL_FUSED_DENSE_OFF;

    return { lil_init_from_model(model, cparams, sparse), llama_free };
}

// the logits of each step
static std::vector<std::vector<float>> run(llama_context * ctx) {
    std::vector<std::vector<float>> res;

    llama_batch batch = llama_batch_init(N_PROMPT, 0, 1);

    for (int i = 0; i < N_PROMPT + N_STEPS;) {
        const int n = i < N_PROMPT ? N_PROMPT : 1;

        tiny_arch::put_text(batch, i, n);
        i += n;

        CHECK(llama_decode(ctx, batch) == 0, "token %d", i);

        const float * logits = llama_get_logits_ith(ctx, -1);
        res.emplace_back(logits, logits + tiny_arch::N_VOCAB);
    }

    llama_batch_free(batch);

    return res;
}

// The largest difference of a step's logits, in their size, in the better quarter of the steps: a near tie makes a
// leap, and gemma4 makes much of the last bit
static double get_diff(const std::vector<std::vector<float>> & a, const std::vector<std::vector<float>> & b) {
    std::vector<double> diffs;

    for (size_t i = 0; i < a.size(); ++i) {
        double most = 0.0;
        double sum  = 0.0;
        for (size_t j = 0; j < a[i].size(); ++j) {
            most = std::max(most, std::fabs((double) a[i][j] - b[i][j]));
            sum += (double) a[i][j] * a[i][j];
        }
        diffs.push_back(most / std::sqrt(sum / a[i].size()));
    }
    std::nth_element(diffs.begin(), diffs.begin() + diffs.size() / 4, diffs.end());

    return diffs[diffs.size() / 4];
}

static void test_form(
        const kind & k, llama_model * on_cpu, llama_model * on_gpu, lil_sparse_method method, bool fused) {
    const char * name = lil_sparse_get_name(method);

    const auto cpu = make_context(on_cpu, method, fused ? LIL_FORM_FUSED : LIL_FORM_PORTABLE);
    const auto gpu = make_context(on_gpu, method, fused ? LIL_FORM_AUTO : LIL_FORM_PORTABLE);

    CHECK(!cpu == !gpu, "%s, %s, fused %d: refused on one of them", k.arch, name, fused);
    if (!gpu) {
        printf("%-10s %-10s %-8s %s\n", k.arch, name, "refused", lil_last_error());
        return;
    }

    lil_sparse_info info = {};
    CHECK(lil_sparse_get_info(gpu.get(), &info) && info.fused == fused, "%s, %s: fused %d", k.arch, name, info.fused);

    emu_gpu.n_ops.clear();

    const auto   a    = run(cpu.get());
    const auto   b    = run(gpu.get());
    const double diff = get_diff(a, b);

    CHECK(diff < 1e-3, "%s, %s, fused %d: logits %g apart", k.arch, name, fused, diff);
    CHECK(lil_sparse_get_info(gpu.get(), &info) && info.n_sparse == N_STEPS, "%s, %s: %d sparse steps", k.arch, name,
            (int) info.n_sparse);
    CHECK(emu_gpu.n_ops.empty() == (!fused || method == LIL_SPARSE_SINK), "%s, %s: ops on the device", k.arch, name);

    printf("%-10s %-10s %-8s %.2g\n", k.arch, name, fused ? "fused" : "portable", diff);
}

int main() {
    std::map<std::string, llama_model *> on_cpu; // before the device is there

    for (const auto & k : KINDS) {
        on_cpu[k.arch] = tiny_arch::make(k.arch, 0, k.large_mla);
        CHECK(on_cpu[k.arch], "%s", k.arch);
    }

    emu_gpu_register();

    for (const auto & k : KINDS) {
        llama_model * on_gpu = tiny_arch::make(k.arch, 99, k.large_mla);
        CHECK(on_gpu, "%s", k.arch);

        for (const auto method : ALL) {
            if (k.fused.count(method)) {
                test_form(k, on_cpu[k.arch], on_gpu, method, true);
            }
            if (method != LIL_SPARSE_RAAS) { // has no portable form
                test_form(k, on_cpu[k.arch], on_gpu, method, false);
            }
        }

        llama_model_free(on_gpu);
        llama_model_free(on_cpu[k.arch]);
    }

    printf("test-emu-archs: ok\n");

    return 0;
}
