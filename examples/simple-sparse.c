// Generates text with H2O and Guardian from C.
//
//   simple-sparse model.gguf "The prompt" [tokens]

#include "lil.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void log_errors(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level >= GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int main(int argc, char ** argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s model.gguf prompt [tokens]\n", argv[0]);
        return 2;
    }

    const int n_predict = argc > 3 ? atoi(argv[3]) : 128;

    llama_log_set(log_errors, NULL);

    struct llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        fprintf(stderr, "cannot load %s\n", argv[1]);
        return 1;
    }

    const struct llama_vocab * vocab = llama_model_get_vocab(model);

    // the prompt
    const int     n_text   = (int) strlen(argv[2]);
    llama_token * prompt   = malloc((n_text + 8) * sizeof(llama_token));
    const int     n_prompt = llama_tokenize(vocab, argv[2], n_text, prompt, n_text + 8, true, true);

    if (n_prompt <= 0) {
        fprintf(stderr, "the prompt is empty\n");
        return 1;
    }

    // a context whose cache holds 64 tokens in each KV head, whatever the length of the text
    struct llama_context_params cparams = llama_context_default_params();
    cparams.n_ctx                       = n_prompt + n_predict;
    cparams.n_batch                     = n_prompt;
    cparams.n_ubatch                    = 128;

    struct lil_sparse_params sparse = lil_sparse_default_params(LIL_SPARSE_H2O);
    sparse.budget                   = 64;

    struct llama_context * ctx = lil_init_from_model(model, cparams, sparse);
    if (!ctx) {
        fprintf(stderr, "%s\n", lil_last_error());
        return 1;
    }

    // greedy sampling, ended by Guardian where the text stops gaining information
    struct llama_sampler * chain    = llama_sampler_chain_init(llama_sampler_chain_default_params());
    struct llama_sampler * guardian = lil_sampler_init_guardian(vocab, lil_guardian_default_params());
    if (!guardian) {
        fprintf(stderr, "%s\n", lil_last_error());
        return 1;
    }
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    llama_sampler_chain_add(chain, guardian); // the chain owns it now
    lil_guardian_feed_prompt(guardian, prompt, n_prompt);

    struct llama_batch batch = llama_batch_get_one(prompt, n_prompt);
    llama_token        token;

    for (int i = 0; i < n_predict; ++i) {
        if (llama_decode(ctx, batch) != 0) {
            fprintf(stderr, "llama_decode() failed\n");
            return 1;
        }

        token = llama_sampler_sample(chain, ctx, -1);
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }

        char      piece[256];
        const int n = llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
        fwrite(piece, 1, n > 0 ? n : 0, stdout);

        batch = llama_batch_get_one(&token, 1);
    }
    putchar('\n');

    struct lil_sparse_info info;
    if (lil_sparse_get_info(ctx, &info)) {
        fprintf(stderr, "budget %u, %llu dense and %llu sparse steps, %llu rows read, %llu bytes of KV cache\n",
                info.budget, (unsigned long long) info.n_dense, (unsigned long long) info.n_sparse,
                (unsigned long long) info.n_rows, (unsigned long long) info.kv_bytes);
    }

    struct lil_guardian_report report;
    if (lil_guardian_get_report(guardian, &report)) {
        fprintf(stderr, "%llu tokens, compressed to %.0f of %llu bytes%s\n", (unsigned long long) report.n_tokens,
                report.size, (unsigned long long) report.n_bytes, report.stopped ? ", stopped by Guardian" : "");
    }

    llama_sampler_free(chain);
    llama_free(ctx);
    llama_model_free(model);
    free(prompt);

    return 0;
}
