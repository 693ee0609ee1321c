// Greedy texts of a real model with all layers on a GPU device against the CPU's, in the form that runs on the device:
// equal but for near-ties, of logits, and of what is read or held.
//
//   test-gpu-greedy model.gguf [N_TOKENS] [METHOD ...]
//
// The device is given the CPU's tokens, so that both always stand behind the same text. With full attention it may go
// on with another token only where that one's logit is below the best one's, on the CPU, by no more than the rounding
// of logits that were computed in F16. A method that takes another page or token at a near-tie goes on from there with
// other logits: of its tokens 19 in 20 must be the CPU's.

#include "gpu-common.h"

static const uint32_t BUDGET = 64;

static const char * const PROMPT =
        "The lighthouse on the northern cape was built in three summers, because nobody could work there in winter. "
        "The first keeper, a man who "
        "had never been at sea, wrote a diary of every storm, every ship and every bird that flew against the "
        "lantern. When the diary was found "
        "again, a hundred years later, the people of the village read it aloud on long evenings. This is what it "
        "said about the great storm of";

// the best token that does not end the text
static llama_token get_best(const std::vector<float> & logits) {
    const llama_vocab * vocab = llama_model_get_vocab(model);

    llama_token best = -1;
    for (llama_token t = 0; t < n_vocab; ++t) {
        if (!llama_vocab_is_eog(vocab, t) && (best < 0 || logits[t] > logits[best])) {
            best = t;
        }
    }
    return best;
}

// the logits themselves are some 0.3 apart on a device that computes in F16
static const float NEAR_TIE = 0.1f;

static void test_text(llama_model * model_dev, const method & m, int32_t n_tokens) {
    test_name = m.name;

    const int32_t n_prompt = text.size();

    const bool fused = m.o.sparse.form == LIL_FORM_FUSED;

    options o = m.o;
    o.n_ctx   = n_prompt + n_tokens;

    llama_context * dev = lil_init_from_model(model_dev, make_cparams(o), o.sparse);
    llama_context * cpu = lil_init_from_model(model, make_cparams(o), o.sparse);
    CHECK(dev && cpu && decode_text(cpu, 0, n_prompt) == 0 && decode_text(dev, 0, n_prompt) == 0);

    std::vector<int32_t> other_at; // where the device would go on with another token

    float gap  = 0.0f;
    float diff = 0.0f;

    for (int32_t i = 0; i < n_tokens; ++i) {
        const auto want = get_logits(cpu);
        const auto got  = get_logits(dev);

        const llama_token token = get_best(want);
        const llama_token other = get_best(got);

        diff = std::max(diff, max_diff(want, got));

        if (other != token) {
            other_at.push_back(i);
            gap = std::max(gap, want[token] - want[other]);
        }

        for (llama_context * ctx : { cpu, dev }) {
            CHECK(decode(ctx, { { token, n_prompt + i, 0 } }) == 0);
        }
    }

    printf("%-22s %-8s ", m.name, o.sparse.method == LIL_SPARSE_NONE ? "" : fused ? "fused" : "portable");
    printf("%zu of %d tokens equal", n_tokens - other_at.size(), n_tokens);
    if (!other_at.empty()) {
        printf(", the first %d of them, gaps up to %.4f", other_at[0], gap);
    }
    printf("; logits within %.4f\n", diff);
    fflush(stdout);

    CHECK(o.sparse.method != LIL_SPARSE_NONE || gap <= NEAR_TIE);
    CHECK(20 * other_at.size() <= (size_t) n_tokens);

    llama_free(cpu);
    llama_free(dev);
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: test-gpu-greedy model.gguf [N_TOKENS] [METHOD ...]\n");
        return 2;
    }

    const int32_t n_tokens = argc > 2 ? atoi(argv[2]) : 200;
    CHECK(n_tokens > 0);

    const auto gpus = find_gpus();
    if (gpus.empty()) {
        printf("test-gpu-greedy: skipped: this build has no GPU backend, or it finds no device\n");
        return getenv("LIL_REQUIRE_GPU") ? 1 : STATUS_SKIP;
    }

    if (!load_on_cpu(argv[1])) {
        return 1;
    }

    text.resize(512);
    text.resize(llama_tokenize(
            llama_model_get_vocab(model), PROMPT, strlen(PROMPT), text.data(), text.size(), true, false));
    CHECK(text.size() > BUDGET);

    for (ggml_backend_dev_t gpu : gpus) {
        begin_gpu(gpu);

        llama_model * model_dev = load_on_gpu(argv[1], gpu, -1);

        for (const auto & m : all_methods(BUDGET, has_ops(gpu) ? LIL_FORM_FUSED : LIL_FORM_PORTABLE)) {
            if (argc < 4 || std::find(argv + 3, argv + argc, std::string(m.name)) != argv + argc) {
                test_text(model_dev, m, n_tokens);
            }
        }

        llama_model_free(model_dev);
    }

    llama_model_free(model);

    printf("test-gpu-greedy: ok\n");

    return 0;
}
