#include "lil-params.h"

#include "lil-seq-index.h"

#include "llama-impl.h"

#include <cmath>

lil_sparse_params lil_sparse_default_params(lil_sparse_method method) {
    lil_sparse_params res = {};

    res.method        = method;
    res.budget        = 1024;
    res.n_sink        = 4;
    res.positions     = LIL_POSITIONS_ABSOLUTE;
    res.prompt_scores = LIL_PROMPT_SCORES_EXACT;
    res.form          = LIL_FORM_AUTO;
    res.n_init        = 4;
    res.n_repr        = 4;
    res.ratio         = method == LIL_SPARSE_RAAS ? 0.5f : 0.25f;
    res.buffer        = 128;
    res.n_obs         = 8;
    res.lambda        = 0.1f;
    res.threshold     = 0.5f;

    return res;
}

bool lil_is_select(lil_sparse_method method) {
    switch (method) {
        case LIL_SPARSE_QUEST:
        case LIL_SPARSE_INFLLM:
        case LIL_SPARSE_TIDAL:
        case LIL_SPARSE_LESSISMORE:
        case LIL_SPARSE_RAAS:
        case LIL_SPARSE_DENSE:
        case LIL_SPARSE_PROBE:
            return true;
        default:
            return false;
    }
}

lil_infllm_shape lil_get_infllm_shape(const lil_sparse_params & p) {
    lil_infllm_shape res = {};

    res.block = p.block != 0 ? p.block : p.budget < 128 ? 8 : 16;

    const int64_t left = (int64_t) p.budget - p.n_init - p.budget/2 - (res.block - 1); // for blocks

    res.n_block = left < 0 ? 0 : left/res.block;
    res.window  = p.budget/2 + (left < 0 ? 0 : left%res.block);

    return res;
}

//
// checks, one function per method
//

static std::string check_sink(const lil_sparse_params & p) {
    if (p.budget < (uint64_t) p.n_sink + 1) {
        return format("budget = %u is too small for n_sink = %u: at least n_sink + 1 = %llu", p.budget, p.n_sink, p.n_sink + 1ull);
    }

    return "";
}

static std::string check_h2o(const lil_sparse_params & p) {
    if (p.budget < 2) {
        return format("budget = %u is too small: H2O needs at least 2", p.budget);
    }
    if (p.recent >= p.budget) {
        return format("recent = %u must be below budget = %u", p.recent, p.budget);
    }
    if (p.prompt_scores != LIL_PROMPT_SCORES_EXACT && p.prompt_scores != LIL_PROMPT_SCORES_WINDOW) {
        return format("prompt_scores = %d: 0 (exact) or 1 (window)", p.prompt_scores);
    }
    if (p.prompt_scores == LIL_PROMPT_SCORES_WINDOW && p.form == LIL_FORM_PORTABLE) {
        return "prompt_scores = 1 (window) has no portable form: use form AUTO or FUSED, or exact prompt scores";
    }

    return "";
}

static std::string check_quest(const lil_sparse_params & p) {
    const uint32_t least = (p.first_page ? 2 : 1)*lil_seq_index::PAGE;

    if (p.budget < least) {
        return format("budget = %u is too small: Quest needs at least %u, %s", p.budget, least,
                p.first_page ? "the first page and the current one" : "one page");
    }

    return "";
}

static std::string check_infllm(const lil_sparse_params & p) {
    if (p.block > 256) {
        return format("block = %u: 1 to 256, or 0 for the default", p.block);
    }

    const auto shape = lil_get_infllm_shape(p);

    if (p.n_repr == 0 || p.n_repr > shape.block) {
        return format("n_repr = %u: 1 to block = %u", p.n_repr, shape.block);
    }
    if (shape.n_block == 0) {
        lil_sparse_params q = p;
        while (lil_get_infllm_shape(q).n_block == 0) {
            q.budget++;
        }

        return format("budget = %u is too small for n_init = %u and block = %u: at least %u, so that one block can be chosen", p.budget, p.n_init, shape.block, q.budget);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && p.min_ctx > p.budget) {
        return format("min_ctx = %u with positions = 2 (clipped): a prompt's queries see clipped distances from budget = %u on, and so must steps", p.min_ctx, p.budget);
    }
    if (p.positions == LIL_POSITIONS_CLIPPED && p.form == LIL_FORM_FUSED) {
        return "positions = 2 (clipped) has no fused form: use form AUTO or PORTABLE";
    }

    return "";
}

static std::string check_tidal(const lil_sparse_params & p) {
    if (p.budget < 2) {
        return format("budget = %u is too small: TidalDecode needs at least 2", p.budget);
    }

    return "";
}

static std::string check_lessismore(const lil_sparse_params & p) {
    if (!(p.ratio > 0.0f && p.ratio < 1.0f)) {
        return format("ratio = %g: between 0 and 1", p.ratio);
    }

    const uint32_t n_recent = (uint32_t) std::floor((double) p.ratio*p.budget);

    if (n_recent < 1 || (uint64_t) p.n_sink + n_recent + 1 > p.budget) {
        return format("budget = %u is too small for n_sink = %u and ratio = %g: at least one recent and one ranked token must fit (recent: %u)",
                p.budget, p.n_sink, p.ratio, n_recent);
    }

    return "";
}

static std::string check_raas(const lil_sparse_params & p) {
    if (p.budget < (uint32_t) lil_seq_index::PAGE) {
        return format("budget = %u is too small: RaaS needs at least %d, one page", p.budget, (int) lil_seq_index::PAGE);
    }
    if (!(p.ratio > 0.0f && p.ratio <= 1.0f)) {
        return format("ratio = %g: above 0, at most 1", p.ratio);
    }
    if (p.form == LIL_FORM_PORTABLE) {
        return "RaaS has no portable form: use form AUTO or FUSED";
    }

    return "";
}

static std::string check_probe(const lil_sparse_params & p) {
    if (p.form == LIL_FORM_PORTABLE) {
        return "the probe has no portable form: use form AUTO or FUSED";
    }

    const std::string err = check_tidal(p);

    return err.empty() ? check_lessismore(p) : err;
}

std::string lil_check_params(const lil_sparse_params & p) {
    std::string err;

    switch (p.method) {
        case LIL_SPARSE_SINK:       err = check_sink(p);       break;
        case LIL_SPARSE_H2O:        err = check_h2o(p);        break;
        case LIL_SPARSE_QUEST:      err = check_quest(p);      break;
        case LIL_SPARSE_INFLLM:     err = check_infllm(p);     break;
        case LIL_SPARSE_TIDAL:      err = check_tidal(p);      break;
        case LIL_SPARSE_LESSISMORE: err = check_lessismore(p); break;
        case LIL_SPARSE_RAAS:       err = check_raas(p);       break;
        case LIL_SPARSE_PROBE:      err = check_probe(p);      break;
        case LIL_SPARSE_DENSE:                                 break;
        default:
            return format("method = %d is unknown: see enum lil_sparse_method", p.method);
    }

    if (!err.empty()) {
        return err;
    }

    const lil_positions other = p.method == LIL_SPARSE_SINK ? LIL_POSITIONS_CACHE : p.method == LIL_SPARSE_INFLLM ? LIL_POSITIONS_CLIPPED : LIL_POSITIONS_ABSOLUTE;

    if (p.positions != LIL_POSITIONS_ABSOLUTE && p.positions != other) {
        return format("positions = %d: 0 (absolute)%s", p.positions,
                other == LIL_POSITIONS_CACHE ? " or 1 (cache)" : other == LIL_POSITIONS_CLIPPED ? " or 2 (clipped)" : " only with this method");
    }
    if (p.budget > INT32_MAX || p.capacity > INT32_MAX) {
        return format("budget = %u, capacity = %u: at most %d", p.budget, p.capacity, INT32_MAX);
    }
    if (p.form != LIL_FORM_AUTO && p.form != LIL_FORM_PORTABLE && p.form != LIL_FORM_FUSED) {
        return format("form = %d: 0 (auto), 1 (portable) or 2 (fused)", p.form);
    }
    if (!lil_is_select(p.method) && p.min_ctx != 0) {
        return format("min_ctx = %u: a method that evicts has none", p.min_ctx);
    }
    if (!lil_is_select(p.method) && p.fused_dense) {
        return "fused_dense = true: a method that evicts has no such form";
    }

    return "";
}
