#include "lil-common.h"

#include "reasoning-budget.h"

#include "log.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

const char * const LIL_COMMON_HELP_SPARSE =
        "sparse attention: a method with its options, such as h2o or quest:budget=512,first_page=true;\n"
        "none: full attention, through lil.cpp's op where that is faster (default: llama.cpp's attention)";

const char * const LIL_COMMON_HELP_GUARDIAN =
        "end answers that go round in circles: on, off, or options, such as every=250,threshold=20,action=close_think\n"
        "(default: off)";

//
// arguments
//

std::string lil_common_read_sparse(const std::string & notation) {
    lil_sparse_params params;
    if (!lil_parse_sparse(notation.c_str(), &params)) {
        throw std::invalid_argument(lil_last_error());
    }

    return notation;
}

std::string lil_common_read_guardian(const std::string & notation) {
    bool                on;
    lil_guardian_params params;
    if (!lil_parse_guardian(notation.c_str(), &on, &params)) {
        throw std::invalid_argument(lil_last_error());
    }

    return on ? notation : "";
}

std::string lil_common_env_sparse() {
    const char * value = std::getenv("LIL_SPARSE");

    try {
        return value ? lil_common_read_sparse(value) : "";
    } catch (const std::invalid_argument & e) {
        fprintf(stderr, "error: LIL_SPARSE in the environment: %s\n", e.what());
        exit(1);
    }
}

//
// contexts
//

// of a notation that was read before
static lil_sparse_params read(const std::string & sparse) {
    lil_sparse_params res = lil_sparse_default_params(LIL_SPARSE_NONE);
    if (!sparse.empty()) {
        lil_parse_sparse(sparse.c_str(), &res);
    }

    return res;
}

void lil_common_set_slots(common_params & params) {
    const lil_sparse_params sparse = read(params.sparse);

    if (!lil_sparse_evicts(sparse.method)) {
        return;
    }

    params.kv_unified = false;

    if (sparse.capacity > 0 && params.n_ctx > 0 && params.n_ctx <= INT32_MAX / params.n_parallel) {
        params.n_ctx *= params.n_parallel;
    }

    LOG_INF("sparse attention: %s gives each of %d slots a cache of its own, kv_unified = false, n_ctx = %d\n",
            lil_sparse_get_name(sparse.method), params.n_parallel, params.n_ctx);
}

llama_context * lil_common_init_from_model(
        llama_model * model, const llama_context_params & cparams, const std::string & sparse) {
    if (sparse.empty()) {
        return llama_init_from_model(model, cparams);
    }

    llama_context * ctx = lil_init_from_model(model, cparams, read(sparse));
    if (!ctx) {
        LOG_ERR("--sparse %s: %s\n", sparse.c_str(), lil_last_error());
        return nullptr;
    }

    lil_sparse_info info;
    if (lil_sparse_get_info(ctx, &info)) {
        LOG_INF("sparse attention: %s, budget %u, %u layers, %s form, KV cache %.1f MiB on %s\n",
                lil_sparse_get_name(info.method), info.budget, info.n_layer, info.fused ? "fused" : "portable",
                info.kv_bytes / 1048576.0, info.backend);
    }

    return ctx;
}

// whether a variable of the environment, and no argument, says it
static bool is_from_environment(const std::string & sparse) {
    const char * value = std::getenv("LIL_SPARSE");

    return value && sparse == value;
}

static bool is_speculative(const common_params & params) {
    const auto & types = params.speculative.types;

    return params.speculative.has_dft() ||
            std::any_of(types.begin(), types.end(), [](auto t) { return t != COMMON_SPECULATIVE_TYPE_NONE; });
}

llama_context * lil_common_init_from_model(
        llama_model * model, const llama_context_params & cparams, const common_params & params) {
    if (cparams.embeddings && is_from_environment(params.sparse)) {
        LOG_INF("LIL_SPARSE=%s is not for embeddings: full attention\n", params.sparse.c_str());
        return llama_init_from_model(model, cparams);
    }

    const lil_sparse_params sparse = read(params.sparse);

    if (lil_sparse_evicts(sparse.method) && is_speculative(params)) {
        LOG_ERR("--sparse %s cannot work with speculative decoding: drafts that are rejected must be taken back from "
                "the "
                "cache, and others were evicted for them; use quest, infllm, tidal, lessismore or raas, or no drafts\n",
                params.sparse.c_str());
        return nullptr;
    }
    if (!params.sparse.empty() && is_from_environment(params.sparse)) {
        LOG_INF("LIL_SPARSE=%s in the environment is taken\n", params.sparse.c_str());
    }

    return lil_common_init_from_model(model, cparams, params.sparse);
}

static thread_local const common_params * fitted = nullptr;

lil_common_fit::lil_common_fit(const common_params & params) {
    fitted = params.sparse.empty() || params.embedding ? nullptr : &params;
}

lil_common_fit::~lil_common_fit() {
    fitted = nullptr;
}

llama_context * lil_common_fit_context(const char * path, llama_model * model, const llama_context_params & cparams) {
    const bool ours = fitted && cparams.ctx_type == LLAMA_CONTEXT_TYPE_DEFAULT && fitted->model.path == path;

    return ours ? lil_init_from_model(model, cparams, read(fitted->sparse)) : llama_init_from_model(model, cparams);
}

//
// Guardian
//

static bool has_action(const lil_guardian_params & params, lil_guardian_action action) {
    return params.action == action || std::count(params.then, params.then + params.n_then, action) > 0;
}

// false: off
static bool read(const common_params_sampling & params, lil_guardian_params & res) {
    if (params.guardian.empty()) {
        return false;
    }

    bool on = false;
    if (!lil_parse_guardian(params.guardian.c_str(), &on, &res)) {
        throw std::invalid_argument(lil_last_error());
    }
    if (has_action(res, LIL_GUARDIAN_WIDEN)) { // the budget is that of all slots
        throw std::invalid_argument(
                "guardian: action=widen is Python's and C's; here there is stop, close_think and flag");
    }

    return on;
}

bool lil_common_guardian_closes(const common_params_sampling & params) {
    lil_guardian_params guardian;

    return read(params, guardian) && has_action(guardian, LIL_GUARDIAN_CLOSE_THINK);
}

llama_sampler * lil_common_guardian_init(const llama_vocab * vocab, const common_params_sampling & params) {
    lil_guardian_params guardian;
    if (!read(params, guardian)) {
        return nullptr;
    }

    // what the chat's template ends thinking with, after --reasoning-budget-message, so that its parser sees it
    std::string think_end;
    if (has_action(guardian, LIL_GUARDIAN_CLOSE_THINK) && !guardian.think_end) {
        for (const llama_token token : params.reasoning_budget_forced) {
            think_end += common_token_to_piece(vocab, token, true);
        }
        guardian.think_end = think_end.empty() ? nullptr : think_end.c_str();
    }

    llama_sampler * res = lil_sampler_init_guardian(vocab, guardian);
    if (!res) {
        throw std::invalid_argument(lil_last_error());
    }

    return res;
}

void lil_common_guardian_accept(
        llama_sampler * guardian, llama_token token, bool is_generated, const llama_sampler * rbudget) {
    if (!guardian) {
        return;
    }
    if (!is_generated) {
        lil_guardian_feed_prompt(guardian, &token, 1);
        return;
    }

    if (rbudget) {
        const auto state = common_reasoning_budget_get_state(rbudget);

        lil_guardian_set_thinking(guardian, state != REASONING_BUDGET_IDLE && state != REASONING_BUDGET_DONE);
    }

    llama_sampler_accept(guardian, token);
}

bool lil_common_guardian_apply(
        llama_sampler * guardian, std::vector<llama_token_data> & cur, llama_token_data_array & cur_p) {
    if (!guardian) {
        return false;
    }

    llama_token_data       token = { LLAMA_TOKEN_NULL, 0.0f, 0.0f };
    llama_token_data_array one   = { &token, 1, -1, false };

    llama_sampler_apply(guardian, &one);
    if (one.selected < 0) {
        return false;
    }

    cur.assign(1, token);
    cur_p = { cur.data(), 1, 0, true };

    return true;
}
