#include "lil-methods.h"

#include "llama-impl.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace {

struct entry {
    const char *       name;
    const lil_method * method;
};

const entry ALL[] = {
#define LIL_METHOD(NAME, name, number) { #name, &lil_method_##name },
    LIL_SPARSE_METHODS(LIL_METHOD)
#undef LIL_METHOD
};

}

static const entry * find(lil_sparse_method method) {
    const auto * end = std::end(ALL);
    const auto * e   = std::find_if(ALL, end, [&](const entry & e) { return e.method->method == method; });

    return e != end ? e : nullptr;
}

const lil_method * lil_find_method(lil_sparse_method method) {
    const auto * e = find(method);

    return e ? e->method : nullptr;
}

const char * lil_sparse_get_name(lil_sparse_method method) {
    const auto * e = find(method);

    return e ? e->name : nullptr;
}

lil_sparse_method lil_sparse_find(const char * name) {
    for (const auto & e : ALL) {
        if (name && strcmp(e.name, name) == 0) {
            return e.method->method;
        }
    }

    return LIL_SPARSE_NONE;
}

bool lil_sparse_evicts(lil_sparse_method method) {
    const auto * m = lil_find_method(method);

    return m && m->evicts;
}

lil_sparse_params lil_sparse_default_params(lil_sparse_method method) {
    const auto * m = lil_find_method(method);

    lil_sparse_params res = {};

    res.method        = method;
    res.budget        = 1024;
    res.n_sink        = 4;
    res.positions     = LIL_POSITIONS_ABSOLUTE;
    res.prompt_scores = LIL_PROMPT_SCORES_EXACT;
    res.form          = LIL_FORM_AUTO;
    res.fused_dense   = LIL_FUSED_DENSE_AUTO;
    res.dense_layers  = -1;
    res.n_init        = 4;
    res.n_repr        = 4;
    res.ratio         = m ? m->ratio : 0.25f;
    res.buffer        = 128;
    res.n_obs         = 8;
    res.lambda        = 0.1f;
    res.threshold     = 0.5f;
    res.kept_prompts  = m && m->evicts ? 2 : 0;

    return res;
}

std::string lil_check_params(const lil_sparse_params & p) {
    const auto * m = lil_find_method(p.method);
    if (!m) {
        return format("method = %d is unknown: see enum lil_sparse_method", p.method);
    }

    const std::string err = m->check(p);
    if (!err.empty()) {
        return err;
    }

    if (p.positions != LIL_POSITIONS_ABSOLUTE && p.positions != m->positions) {
        return format("positions = %d: 0 (absolute)%s", p.positions,
                m->positions == LIL_POSITIONS_CACHE             ? " or 1 (cache)"
                        : m->positions == LIL_POSITIONS_CLIPPED ? " or 2 (clipped)"
                                                                : " only with this method");
    }
    if (p.budget > INT32_MAX || p.capacity > INT32_MAX) {
        return format("budget = %u, capacity = %u: at most %d", p.budget, p.capacity, INT32_MAX);
    }
    if (p.form != LIL_FORM_AUTO && p.form != LIL_FORM_PORTABLE && p.form != LIL_FORM_FUSED) {
        return format("form = %d: 0 (auto), 1 (portable) or 2 (fused)", p.form);
    }
    if (m->evicts && p.min_ctx != 0) {
        return format("min_ctx = %u: a method that evicts has none", p.min_ctx);
    }
    if (p.fused_dense != LIL_FUSED_DENSE_OFF && p.fused_dense != LIL_FUSED_DENSE_ON &&
            p.fused_dense != LIL_FUSED_DENSE_AUTO) {
        return format("fused_dense = %d: 0 (off), 1 (on) or 2 (auto)", p.fused_dense);
    }
    if (p.fused_dense == LIL_FUSED_DENSE_ON && p.form == LIL_FORM_PORTABLE) {
        return "fused_dense = 1 (on) and form = 1 (portable): the op is a fused one; use form AUTO or FUSED";
    }
    if (p.dense_layers < -1 || (p.dense_layers >= 0 && !m->has_dense_layers)) {
        return format("dense_layers = %d: %s", p.dense_layers,
                m->has_dense_layers ? "how many layers attend to everything, or -1" : "this method has none; use -1");
    }
    if (!m->evicts && p.kept_prompts != 0) {
        return format("kept_prompts = %u: only a method that evicts keeps ends of prompts", p.kept_prompts);
    }
    if (p.kept_prompts > 64) {
        return format("kept_prompts = %u: at most 64", p.kept_prompts);
    }

    return "";
}
