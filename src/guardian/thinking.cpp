// How models mark their thinking, for lil_find_thinking(). One table.

#include "lil.h"

#include "lil-error.h"

#include <cstring>
#include <initializer_list>

namespace {

struct thinking {
    const char * sign; // what a template, or a vocabulary as one token, has
    const char * begin;
    const char * end;
};

// The first that fits is taken.
const thinking ALL[] = {
    // gpt-oss: the next channel
    { "<|channel|>", "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>" },
    { "<channel|>", "<|channel>thought", "<channel|>" },              // Gemma 4
    { "[/THINK]", "[THINK]", "[/THINK]" },                            // Magistral
    { "</seed:think>", "<seed:think>", "</seed:think>" },             // Seed-OSS
    { "<|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>" }, // Command A
    { "<|inner_suffix|>", "<|inner_prefix|>", "<|inner_suffix|>" },   // Apertus
    { "\xe2\x97\x81/think\xe2\x96\xb7", "\xe2\x97\x81think\xe2\x96\xb7", "\xe2\x97\x81/think\xe2\x96\xb7" }, // Kimi-VL
    { "</thought>", "<thought>", "</thought>" }, // EXAONE Deep
    { "</think>", "<think>", "</think>" },       // DeepSeek-R1, Qwen3, GLM, MiniMax, SmolLM3, Nemotron and others
};

bool is_token(const llama_vocab * vocab, const char * text) {
    llama_token tokens[2];

    return llama_tokenize(vocab, text, (int32_t) strlen(text), tokens, 2, false, true) == 1;
}

}

bool lil_find_thinking(const llama_model * model, const char ** begin, const char ** end) {
    if (model == nullptr || begin == nullptr || end == nullptr) {
        lil_set_last_error("find_thinking: model, begin or end is NULL; pass a model and where the texts go");
        return false;
    }

    const llama_vocab * vocab = llama_model_get_vocab(model);
    const char *        tmpl  = llama_model_chat_template(model, nullptr);

    for (const bool by_template : { true, false }) {
        for (const auto & t : ALL) {
            if (by_template ? tmpl != nullptr && strstr(tmpl, t.sign) != nullptr : is_token(vocab, t.sign)) {
                *begin = t.begin;
                *end   = t.end;
                return true;
            }
        }
    }

    lil_set_last_error("find_thinking: neither the chat template nor the vocabulary has a known end of thinking, such "
                       "as </think>; give the text that ends this model's thinking");
    return false;
}
