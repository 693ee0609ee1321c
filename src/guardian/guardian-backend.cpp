#include "guardian-backend.h"

#include "guardian-state.h"

#include "llama-impl.h"

bool lil_guardian_backend_init(llama_sampler * smpl, ggml_backend_buffer_type_t buft, uint32_t n_outputs_max_per_seq) {
    (void) smpl;
    (void) n_outputs_max_per_seq;

    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    if (dev == nullptr) {
        return true; // the CPU
    }

    const ggml_init_params params = { 8 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/true };

    ggml_context * ctx = ggml_init(params);
    ggml_tensor *  x   = ggml_cast(ctx, ggml_new_tensor_1d(ctx, GGML_TYPE_I32, 1), GGML_TYPE_F32);
    ggml_tensor *  y   = ggml_add(ctx, x, x);

    const bool res = ggml_backend_dev_supports_op(dev, x) && ggml_backend_dev_supports_op(dev, y) &&
            ggml_backend_dev_supports_op(dev, ggml_mul(ctx, x, x)) &&
            ggml_backend_dev_supports_op(dev, ggml_cast(ctx, y, GGML_TYPE_I32));

    if (!res) {
        LLAMA_LOG_ERROR("guardian: %s cannot replace a token: sample on the CPU, without llama_set_sampler()\n",
                ggml_backend_dev_name(dev));
    }

    ggml_free(ctx);

    return res;
}

void lil_guardian_backend_apply(llama_sampler * smpl, ggml_context * ctx, ggml_cgraph * gf, llama_sampler_data * data) {
    (void) gf;

    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    if (g.params.action == LIL_GUARDIAN_FLAG) {
        return;
    }
    if (data->sampled == nullptr) {
        LLAMA_LOG_ERROR(
                "guardian: on a backend it must stand after the sampler that picks the token: it will not act\n");
        return;
    }

    lil_guardian::input input;

    input.keep   = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1);
    input.forced = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1);

    for (ggml_tensor * t : { input.keep, input.forced }) {
        ggml_format_name(t, "guardian_%s_%zu", t == input.keep ? "keep" : "forced", g.inputs.size());
        ggml_set_input(t);
    }

    g.inputs.push_back(input);

    // tokens are exact in F32
    ggml_tensor * cur = ggml_cast(ctx, ggml_reshape_1d(ctx, data->sampled, 1), GGML_TYPE_F32);

    cur = ggml_add(ctx, ggml_mul(ctx, cur, input.keep), input.forced);

    data->sampled = ggml_cast(ctx, cur, GGML_TYPE_I32);
}

void lil_guardian_backend_set_input(llama_sampler * smpl) {
    lil_guardian & g = *(lil_guardian *) smpl->ctx;

    for (size_t i = 0; i < g.inputs.size(); i++) {
        const llama_token token = lil_guardian_get_forced(g, i);

        const float keep   = token == LLAMA_TOKEN_NULL ? 1.0f : 0.0f;
        const float forced = token == LLAMA_TOKEN_NULL ? 0.0f : (float) token;

        ggml_backend_tensor_set(g.inputs[i].keep, &keep, 0, sizeof(keep));
        ggml_backend_tensor_set(g.inputs[i].forced, &forced, 0, sizeof(forced));
    }
}

void lil_guardian_backend_reset(llama_sampler * smpl) {
    ((lil_guardian *) smpl->ctx)->inputs.clear();
}
