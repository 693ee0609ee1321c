#include "lil-rope.h"

#include "llama-model.h"

#include <cmath>

ggml_tensor * lil_build_turn(const llm_graph_context & g, const llama_model & model, const llama_hparams & hparams,
        ggml_tensor * x, ggml_tensor * by, int il) {
    const auto & cparams = g.cparams;

    // the RoPE op scales by attn_factor, and under YaRN by 1 + 0.1 ln(1/freq_scale) besides; what is turned already is
    const float freq_scale  = model.get_rope_freq_scale(cparams, il);
    const float attn_factor = cparams.yarn_ext_factor != 0.0f ? 1.0f / (1.0f + 0.1f * logf(1.0f / freq_scale)) : 1.0f;

    ggml_tensor * res = ggml_rope_ext(g.ctx0, x, by, model.get_rope_factors(cparams, il), hparams.n_rot(il),
            hparams.rope_type, cparams.n_ctx_orig_yarn, model.get_rope_freq_base(cparams, il), freq_scale,
            cparams.yarn_ext_factor, attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);

    // compressed keys, absorbed or not: the last channels have the position
    return hparams.n_lora_kv > 0 ? ggml_rope_set_offset(res, x->ne[0] - hparams.n_rot(il)) : res;
}
