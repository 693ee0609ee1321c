// What a notation says of sparse attention: a method's options are named in its file (lil_method::options), and each is
// a line here.

#include "lil-notation.h"

#include "lil-error.h"
#include "lil-methods.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iterator>

// words for full attention; the first is what is written
static const char * const NONE[] = { "none", "off", "full" };

static const double MOST = INT32_MAX;

static const std::vector<lil_word> UNSET = { { "auto", 0 }, { "none", 0 } };

#define FIELD(name) offsetof(lil_sparse_params, name)

// clang-format off
static const std::vector<lil_field> FIELDS = {
    { "budget",        LIL_FIELD_U32,  FIELD(budget),        1, MOST },
    { "capacity",      LIL_FIELD_U32,  FIELD(capacity),      1, MOST, UNSET },
    { "kept_prompts",  LIL_FIELD_U32,  FIELD(kept_prompts),  0, 64 },
    { "min_ctx",       LIL_FIELD_U32,  FIELD(min_ctx),       0, MOST, UNSET },
    { "dense_layers",  LIL_FIELD_I32,  FIELD(dense_layers),  0, MOST, { { "auto", -1 }, { "none", -1 } } },
    { "n_sink",        LIL_FIELD_U32,  FIELD(n_sink),        0, MOST },
    { "recent",        LIL_FIELD_U32,  FIELD(recent),        1, MOST, UNSET },
    { "positions",     LIL_FIELD_WORD, FIELD(positions),     0, 0,
            { { "absolute", LIL_POSITIONS_ABSOLUTE }, { "cache", LIL_POSITIONS_CACHE },
                    { "clipped", LIL_POSITIONS_CLIPPED } } },
    { "prompt_scores", LIL_FIELD_WORD, FIELD(prompt_scores), 0, 0,
            { { "exact", LIL_PROMPT_SCORES_EXACT }, { "window", LIL_PROMPT_SCORES_WINDOW } } },
    { "first_page",    LIL_FIELD_BOOL, FIELD(first_page) },
    { "n_init",        LIL_FIELD_U32,  FIELD(n_init),        0, MOST },
    { "block",         LIL_FIELD_U32,  FIELD(block),         1, 256, UNSET },
    { "n_repr",        LIL_FIELD_U32,  FIELD(n_repr),        1, MOST },
    { "reselect",      LIL_FIELD_U32,  FIELD(reselect),      1, MOST, UNSET },
    { "ratio",         LIL_FIELD_F32,  FIELD(ratio),         0, 1 },
    { "buffer",        LIL_FIELD_U32,  FIELD(buffer),        1, MOST },
    { "observed",      LIL_FIELD_U32,  FIELD(n_obs),         1, MOST },
    { "lam",           LIL_FIELD_F32,  FIELD(lambda),        0, 1 },
    { "threshold",     LIL_FIELD_F32,  FIELD(threshold),     0, 1 },
    { "form",          LIL_FIELD_WORD, FIELD(form),          0, 0,
            { { "auto", LIL_FORM_AUTO }, { "portable", LIL_FORM_PORTABLE }, { "fused", LIL_FORM_FUSED } } },
    { "fused_dense",   LIL_FIELD_WORD, FIELD(fused_dense),   0, 0,
            { { "auto", LIL_FUSED_DENSE_AUTO }, { "true", LIL_FUSED_DENSE_ON }, { "false", LIL_FUSED_DENSE_OFF },
                    { "on", LIL_FUSED_DENSE_ON }, { "off", LIL_FUSED_DENSE_OFF } } },
};
// clang-format on

static bool has_word(const std::string & words, const std::string & word) {
    return (" " + words + " ").find(" " + word + " ") != std::string::npos;
}

// the fields of a method's options; null: full attention
static std::vector<lil_field> get_fields(const lil_method * m) {
    const std::string options = m ? m->options : "fused_dense";

    std::vector<lil_field> res;
    for (lil_field f : FIELDS) {
        if (!has_word(options, f.name)) {
            continue;
        }
        if (f.offset == FIELD(positions)) { // each method has one kind beside absolute
            const auto other = [&](const lil_word & w) {
                return w.value != LIL_POSITIONS_ABSOLUTE && w.value != (int32_t) m->positions;
            };
            f.words.erase(std::remove_if(f.words.begin(), f.words.end(), other), f.words.end());
        }
        res.push_back(f);
    }

    return res;
}

static std::string parse(const char * text, lil_sparse_params & res) {
    lil_notation notation;

    std::string err = lil_split_notation(text, notation);
    if (!err.empty()) {
        return err;
    }

    const bool none   = std::find(std::begin(NONE), std::end(NONE), notation.name) != std::end(NONE);
    const auto method = lil_sparse_find(notation.name.c_str());

    if (!none && method == LIL_SPARSE_NONE) {
        lil_names names;
#define LIL_NAME(NAME, name, number) names.push_back(#name);
        LIL_SPARSE_METHODS(LIL_NAME)
#undef LIL_NAME
        names.insert(names.end(), std::begin(NONE), std::end(NONE));

        return notation.name.empty() ? "it begins with a method, such as quest:budget=512. " + lil_suggest("", names)
                                     : lil_quote(notation.name) + " is no method: " + lil_suggest(notation.name, names);
    }

    lil_sparse_params params = lil_sparse_default_params(method);

    std::deque<std::string> texts; // of no field here

    const auto * m = lil_find_method(method);

    err = lil_read_options(notation.options, get_fields(m),
            m ? notation.name : "full attention (" + notation.name + ")", &params, texts);
    if (err.empty() && m) {
        err = lil_check_params(params);
    }
    if (err.empty()) {
        res = params;
    }

    return err;
}

bool lil_parse_sparse(const char * text, lil_sparse_params * params) {
    if (!text || !params) {
        lil_set_last_error("sparse: text or params is NULL");
        return false;
    }

    try {
        const std::string err = parse(text, *params);
        if (!err.empty()) {
            lil_set_last_error("sparse=%s: %s", lil_quote(text).c_str(), err.c_str());
        }
        return err.empty();
    } catch (const std::exception & e) {
        lil_set_last_error("sparse: %s", e.what());
        return false;
    }
}

int32_t lil_format_sparse(const lil_sparse_params * params, char * buf, size_t size) {
    if (!params || (!buf && size > 0)) {
        lil_set_last_error("sparse: params or buf is NULL");
        return -1;
    }

    try {
        const auto * m = lil_find_method(params->method);
        if (!m && params->method != LIL_SPARSE_NONE) {
            lil_set_last_error("sparse: method = %d is unknown: see enum lil_sparse_method", params->method);
            return -1;
        }

        const lil_sparse_params defaults = lil_sparse_default_params(params->method);
        const std::string       options  = lil_write_options(get_fields(m), params, &defaults);

        return snprintf(buf, size, "%s%s%s", m ? lil_sparse_get_name(params->method) : NONE[0],
                options.empty() ? "" : ":", options.c_str());
    } catch (const std::exception & e) {
        lil_set_last_error("sparse: %s", e.what());
        return -1;
    }
}
