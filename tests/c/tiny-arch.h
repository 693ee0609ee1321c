#pragma once

// Tiny random models of any architecture, made from metadata: what a converter would have written, for a few layers of
// a few channels. Keys that an architecture does not read are ignored, so most share one set.

#include "gguf.h"
#include "ggml-backend.h"
#include "llama.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace tiny_arch {

class metadata {
public:
    explicit metadata(const std::string & arch) : arch(arch), gguf(gguf_init_empty()) {
        gguf_set_val_str(gguf, "general.architecture", arch.c_str());
    }

    ~metadata() { gguf_free(gguf); }

    metadata(const metadata &)             = delete;
    metadata & operator=(const metadata &) = delete;

    gguf_context * get() { return gguf; }

    void set(const char * key, uint32_t value) { gguf_set_val_u32(gguf, name(key).c_str(), value); }
    void set(const char * key, float value) { gguf_set_val_f32(gguf, name(key).c_str(), value); }
    void set(const char * key, bool value) { gguf_set_val_bool(gguf, name(key).c_str(), value); }
    void set(const char * key, const std::vector<uint32_t> & values) {
        gguf_set_arr_data(gguf, name(key).c_str(), GGUF_TYPE_UINT32, values.data(), values.size());
    }
    void set(const char * key, const std::vector<float> & values) {
        gguf_set_arr_data(gguf, name(key).c_str(), GGUF_TYPE_FLOAT32, values.data(), values.size());
    }

private:
    std::string    arch;
    gguf_context * gguf;

    std::string name(const char * key) const {
        return strchr(key, '.') && strncmp(key, "xielu", 5) == 0 ? key : arch + "." + key;
    }
};

static inline bool is_one_of(const std::string & arch, std::initializer_list<const char *> list) {
    for (const char * x : list) {
        if (arch == x) {
            return true;
        }
    }
    return false;
}

static const uint32_t N_VOCAB = 96;
static const uint32_t N_CTX   = 512;

static inline void describe(metadata & m, const std::string & arch) {
    const bool mla = is_one_of(arch,
            { "deepseek2", "deepseek32", "glm-dsa", "dots3note", "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next",
                    "mistral4", "hy_v4" });
    // recurrent layers are those without KV heads
    const bool by_heads   = is_one_of(arch,
            { "plamo2", "jamba", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear", "bailingmoe3", "kimi-k3",
                    "glm5-next" });
    const bool nemotron_h = is_one_of(arch, { "nemotron_h", "nemotron_h_moe" });
    const bool delta_net  = is_one_of(arch, { "qwen3next", "qwen35", "qwen35moe", "qwen4exp" });

    uint32_t n_layer   = 4;
    uint32_t n_embd    = 128;
    uint32_t n_head    = 4;
    uint32_t n_head_kv = 2;
    uint32_t head_size = 32;

    if (by_heads || nemotron_h || delta_net || arch == "falcon-h1") {
        n_layer = 6;
    }
    if (arch == "gemma3n") { // the first 20 layers have keys and values of their own
        n_layer = 25;
    }
    if (arch == "gemma4") {
        n_layer = 10;
    }
    if (arch == "hrm_text") { // 1 layer a stack, 2 x (2 + 1) uses of them
        n_layer = 6;
    }
    if (mla) {
        n_head_kv = 1;
    }
    if (is_one_of(arch,
                { "mpt", "gpt2", "starcoder", "bloom", "jais", "phi2", "gptneox", "codeshell", "qwen", "plamo", "orion",
                        "chameleon", "cogvlm", "minicpm3", "olmoe", "dots1", "deepseek2-ocr" })) {
        n_head_kv = n_head; // no groups there
    }

    // at least the tokens of images; of sounds
    m.set("vocab_size", arch == "chameleon" ? 8200u : arch == "qwen3tts" ? 3072u : N_VOCAB);
    m.set("context_length", N_CTX);
    m.set("embedding_length", n_embd);
    m.set("block_count", n_layer);
    m.set("leading_dense_block_count", 1u);

    std::vector<uint32_t> n_ff(n_layer, 192);
    std::vector<uint32_t> heads(n_layer, n_head);
    std::vector<uint32_t> heads_kv(n_layer, n_head_kv);

    if (by_heads) {
        for (uint32_t il = 0; il < n_layer; il += 2) {
            heads_kv[il] = 0;
        }
    }
    if (nemotron_h) { // a layer is one of three
        for (uint32_t il = 0; il < n_layer; ++il) {
            heads_kv[il] = il % 3 == 1 ? n_head_kv : 0;
            n_ff[il]     = il % 3 == 2 ? 192 : 0;
        }
    }
    if (nemotron_h) {
        m.set("feed_forward_length", n_ff);
    } else {
        m.set("feed_forward_length", n_ff[0]);
    }
    m.set("attention.head_count", n_head);
    if (by_heads || nemotron_h) {
        m.set("attention.head_count_kv", heads_kv);
    } else {
        m.set("attention.head_count_kv", n_head_kv);
    }

    if (mla) {
        const uint32_t n_rot = arch == "glm5-next" ? 0 : 32;

        m.set("attention.kv_lora_rank", 64u);
        m.set("attention.q_lora_rank", 48u);
        m.set("attention.key_length", 64 + n_rot);
        m.set("attention.value_length", 64u);
        m.set("attention.key_length_mla", 32 + n_rot);
        m.set("attention.value_length_mla", 32u);
        m.set("rope.dimension_count", n_rot);
    } else {
        m.set("attention.key_length", head_size);
        m.set("attention.value_length", head_size);
        m.set("rope.dimension_count", head_size);
        m.set("attention.q_lora_rank", 64u);
        m.set("attention.kv_lora_rank", 64u);
    }
    m.set("attention.key_length_swa", head_size);
    m.set("attention.value_length_swa", head_size);
    m.set("rope.freq_base_swa", 10000.0f);
    m.set("rope.dimension_sections", std::vector<uint32_t>{ 6, 5, 5, 0 });

    m.set("attention.layer_norm_epsilon", 1e-5f);
    m.set("attention.layer_norm_rms_epsilon", 1e-5f);
    m.set("attention.max_alibi_bias", 8.0f);
    m.set("attention.clamp_kqv", 8.0f);
    m.set("attention.relative_buckets_count", 8u);
    m.set("logit_scale", 1.0f);
    m.set("residual_scale", 1.0f);
    m.set("use_parallel_residual", false);

    // every other layer sees 32 tokens
    if (!is_one_of(arch, { "lfm2", "lfm2moe" })) {
        m.set("attention.sliding_window", 32u);
    }
    std::vector<uint32_t> swa(n_layer, 0);
    for (uint32_t il = 0; il < n_layer; ++il) {
        swa[il] = arch == "gemma4" ? il % 5 != 4 : il % 2 == 0;
    }
    if (is_one_of(arch,
                { "gemma4", "cohere2moe", "mimo2", "step35", "spark2_5", "muse-glimmer", "granite_swa", "maple",
                        "dots3note" })) {
        m.set("attention.sliding_window_pattern", swa);
    } else {
        m.set("attention.sliding_window_pattern", 2u);
    }
    m.set("embedding_length_per_layer_input", 64u);
    m.set("attention.shared_kv_layers", arch == "gemma4" ? 5u : 0u);

    // mixtures
    m.set("expert_count", 4u);
    m.set("expert_used_count", 4u); // all: a router's near ties would make rounding a leap
    m.set("expert_shared_count", 1u);
    m.set("expert_feed_forward_length", 64u);
    m.set("expert_shared_feed_forward_length", 64u);
    m.set("expert_chunk_feed_forward_length", 64u);
    m.set("expert_latent_length", 64u);
    m.set("expert_gating_func", 2u);
    m.set("expert_group_scale", 1.0f);
    m.set("experts_per_group", 1u);
    m.set("interleave_moe_layer_step", 2u);
    m.set("moe_every_n_layers", 2u);
    m.set("expert_weights_scale", 1.0f);
    m.set("expert_weights_norm", true);

    // attention that chooses by itself; hy_v4 is without it where it has no such keys
    if (arch != "hy_v4") {
        m.set("attention.indexer.top_k", 64u);
    }
    m.set("attention.indexer.head_count", arch == "minimax-m3" ? n_head_kv : 4u);
    m.set("attention.indexer.key_length", arch == "qwen4exp" ? head_size : 64u);
    m.set("attention.indexer.block_size", 4u);
    m.set("attention.indexer.local_blocks", 1u);

    // recurrent layers
    m.set("full_attention_interval", 2u);
    m.set("ssm.conv_kernel", 4u);
    m.set("ssm.inner_size", delta_net ? 128u : 256u);
    m.set("ssm.state_size", delta_net ? 32u : 16u);
    m.set("ssm.time_step_rank", 4u);
    m.set("ssm.group_count", arch == "plamo2" ? 0u : 2u);
    m.set("shortconv.l_cache", 3u);
    m.set("kda.head_dim", 32u);
    m.set("kda.safe_gate", true);
    m.set("kda.gate_lower_bound", -5.0f);
    m.set("attn_res.block_size", 12u);
    m.set("activation.situ_beta", 4.0f);
    m.set("activation.situ_linear_beta", 25.0f);
    m.set("wkv.head_size", 32u);
    m.set("hyper_connection.count", 2u);
    m.set("hyper_connection.epsilon", 1e-6f);
    m.set("hyper_connection.magnitude", 2.0f);

    // an adapter that a token of the text turns on
    m.set("adapters.count", 1u);
    m.set("adapters.lora_rank", 8u);
    m.set("adapters.token_ids_activate", std::vector<uint32_t>{ 8 });
    m.set("adapters.token_ids_substitute", std::vector<uint32_t>{ 9 });

    m.set("xielu.alpha_n", 1.0f);
    m.set("xielu.alpha_p", 1.0f);
    m.set("xielu.beta", 1.0f);
    m.set("xielu.eps", 1e-6f);
    m.set("hrm.layers_per_stack", 1u);
    m.set("hrm.h_cycles", 2u);
    m.set("hrm.l_cycles", 2u);
    m.set("swiglu_clamp_exp", 7.0f);
    m.set("attention.value_scale", 1.0f);

    gguf_set_val_str(m.get(), "tokenizer.ggml.model", "none");
}

// by how much a pair of channels turns more slowly, where a model has a tensor that says it
static inline float rope_factor(int64_t i) {
    return 1.0f + (float) (i % 3);
}

// weights by the tensor's name, the same in every run; norms are about 1
static inline void fill(ggml_tensor * t, void * /*userdata*/) {
    const std::string name = t->name;

    std::mt19937 rng(std::hash<std::string>{}(name));

    const bool is_norm  = name.find("norm") != std::string::npos && name.find("bias") == std::string::npos;
    const bool is_decay = name.find("ssm_a") != std::string::npos;
    const bool is_scale = name.find(".scale") != std::string::npos && ggml_nelements(t) == 1; // of a quantised tensor
    const bool is_sink  = name.find("attn_sinks") != std::string::npos; // large enough to be missed

    std::normal_distribution<float> normal(0.0f, ggml_n_dims(t) > 1 ? 1.0f / std::sqrt((float) t->ne[0]) : 0.1f);

    std::vector<float> x(ggml_nelements(t));
    for (float & v : x) {
        v = normal(rng);
        v = is_scale ? 1.0f : is_norm ? 1.0f + v : is_decay ? -std::fabs(v) - 0.1f : is_sink ? 2.0f + 10.0f * v : v;
    }

    for (size_t i = 0; name.find("rope_f") == 0 && i < x.size(); ++i) {
        x[i] = rope_factor((int64_t) i);
    }

    if (t->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(t, x.data(), 0, ggml_nbytes(t));
    } else if (t->type == GGML_TYPE_F16) {
        std::vector<ggml_fp16_t> h(x.size());
        ggml_fp32_to_fp16_row(x.data(), h.data(), (int64_t) x.size());
        ggml_backend_tensor_set(t, h.data(), 0, ggml_nbytes(t));
    } else {
        std::vector<uint8_t> zero(ggml_nbytes(t), 0);
        ggml_backend_tensor_set(t, zero.data(), 0, zero.size());
    }
}

// Makes a batch of tokens [i, i + n) of a sequence, which has a text of its own; the logits of the last are asked for.
static inline void put_text(llama_batch & batch, int i, int n, llama_seq_id seq_id = 0) {
    for (int j = 0; j < n; ++j, ++i) {
        batch.token[j]     = (i * i + (7 + seq_id) * i + i / 5) % N_VOCAB;
        batch.pos[j]       = i;
        batch.n_seq_id[j]  = 1;
        batch.seq_id[j][0] = seq_id;
        batch.logits[j]    = j + 1 == n;
    }
    batch.n_tokens = n;
}

// MLA's heads as DeepSeek-V2-Lite has them: 16, keys of 512 + 64 channels; a layer fewer, for the time it takes
static inline void describe_mla(metadata & m) {
    m.set("block_count", 3u);
    m.set("attention.head_count", 16u);
    m.set("attention.kv_lora_rank", 512u);
    m.set("attention.key_length", 576u);
    m.set("attention.value_length", 512u);
    m.set("attention.key_length_mla", 96u);
    m.set("rope.dimension_count", 64u);
}

// null: it cannot be made this way
static inline llama_model * make(const std::string & arch, int32_t n_gpu_layers = 0, bool large_mla = false) {
    metadata m(arch);
    describe(m, arch);
    if (large_mla) {
        describe_mla(m);
    }

    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers       = n_gpu_layers;

    return llama_model_init_from_user(m.get(), fill, nullptr, params);
}

}
