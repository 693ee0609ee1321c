// A program for stock llama.cpp: it is compiled with stock headers and knows nothing of ours. It prints the shapes that
// it was compiled with, the values that the library fills them with, and what the model says. Linked with our libraries
// and with stock's it must print the same.
//
//   test-abi model.gguf

#include "llama.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define N_PREDICT 24

#define SIZE(type)          printf("sizeof(%s) = %zu\n", #type, sizeof(struct type))
#define OFFSET(type, field) printf("offsetof(%s, %s) = %zu\n", #type, #field, offsetof(struct type, field))

static void quiet(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

// what the defaults are says whether the library writes each field where the program reads it
static void print_defaults(void) {
    SIZE(llama_model_params);
    OFFSET(llama_model_params, n_gpu_layers);
    SIZE(llama_context_params);
    OFFSET(llama_context_params, n_ctx);
    OFFSET(llama_context_params, flash_attn_type);
    OFFSET(llama_context_params, type_k);
    OFFSET(llama_context_params, kv_unified);
    SIZE(llama_batch);
    OFFSET(llama_batch, logits);
    SIZE(llama_token_data_array);
    SIZE(llama_sampler_chain_params);
    SIZE(ggml_tensor);
    OFFSET(ggml_tensor, data);

    const struct llama_context_params c = llama_context_default_params();
    printf("n_ctx %u, n_batch %u, n_ubatch %u, n_seq_max %u, n_threads %d, flash_attn %d, type_k %d, type_v %d\n",
            c.n_ctx, c.n_batch, c.n_ubatch, c.n_seq_max, c.n_threads, (int) c.flash_attn_type, (int) c.type_k,
            (int) c.type_v);
    printf("embeddings %d, offload_kqv %d, no_perf %d, op_offload %d, swa_full %d, kv_unified %d\n", c.embeddings,
            c.offload_kqv, c.no_perf, c.op_offload, c.swa_full, c.kv_unified);

    const struct llama_model_params m = llama_model_default_params();
    printf("n_gpu_layers %d, split_mode %d, main_gpu %d, vocab_only %d\n", m.n_gpu_layers, (int) m.split_mode,
            m.main_gpu, m.vocab_only);
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.gguf\n", argv[0]);
        return 1;
    }

    llama_log_set(quiet, NULL);
    llama_backend_init();
    print_defaults();

    struct llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        return 1;
    }
    const struct llama_vocab * vocab = llama_model_get_vocab(model);

    struct llama_context_params cparams = llama_context_default_params();
    cparams.n_ctx                       = 256;
    cparams.n_threads                   = 2;
    cparams.n_threads_batch             = 2;

    struct llama_context * ctx = llama_init_from_model(model, cparams);
    if (!ctx) {
        return 1;
    }
    printf("n_ctx %u, n_vocab %d, n_layer %d\n", llama_n_ctx(ctx), llama_vocab_n_tokens(vocab),
            llama_model_n_layer(model));

    struct llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());

    const char * prompt = "The capital of France is";
    llama_token  tokens[64];
    int          n = llama_tokenize(vocab, prompt, (int) strlen(prompt), tokens, 64, true, true);
    if (n <= 0) {
        return 1;
    }

    printf("%s", prompt);
    struct llama_batch batch = llama_batch_get_one(tokens, n);
    for (int i = 0; i < N_PREDICT; i++) {
        if (llama_decode(ctx, batch) != 0) {
            return 1;
        }
        llama_token token = llama_sampler_sample(chain, ctx, -1);
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }
        char      piece[64];
        const int len = llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
        printf("%.*s", len > 0 ? len : 0, piece);
        tokens[0] = token;
        batch     = llama_batch_get_one(tokens, 1);
    }
    printf("\n");

    // the memory and the state, as a program would use them
    llama_memory_t mem = llama_get_memory(ctx);
    printf("pos_max %d, state %zu\n", llama_memory_seq_pos_max(mem, 0), llama_state_seq_get_size(ctx, 0));
    printf("seq_rm of the tail: %d, ", llama_memory_seq_rm(mem, 0, 4, -1));
    printf("pos_max %d\n", llama_memory_seq_pos_max(mem, 0));

    llama_sampler_free(chain);
    llama_free(ctx);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
