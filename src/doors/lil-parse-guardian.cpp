// What a notation says of Guardian.

#include "lil-guardian-fields.h"

#include "lil-error.h"

#include <algorithm>
#include <exception>

struct lil_switch {
    const char * name;
    bool         on;
};

static const lil_switch SWITCHES[] = {
    { "guardian", true },
    { "on", true },
    { "true", true },
    { "off", false },
    { "none", false },
    { "false", false },
};

// what params of this thread's last call point into
static thread_local std::deque<std::string>          texts;
static thread_local std::vector<lil_guardian_action> then;

// Takes the actions behind the first one off an option.
static std::string read_then(std::string & value, std::vector<lil_guardian_action> & res) {
    size_t at = value.find('+');

    for (size_t i = at; i != std::string::npos;) {
        const size_t      end  = value.find('+', i + 1);
        const std::string word = value.substr(i + 1, end == std::string::npos ? end : end - i - 1);

        lil_names names;
        bool      found = false;

        for (const auto & action : LIL_GUARDIAN_ACTIONS) {
            names.push_back(action.word);
            if (word == action.word) {
                res.push_back((lil_guardian_action) action.value);
                found = true;
            }
        }
        if (!found) {
            return "action=" + lil_quote(value) + ": " + lil_quote(word) + " is unknown: " + lil_suggest(word, names);
        }

        i = end;
    }

    value.erase(std::min(at, value.size()));

    return "";
}

static bool has_action(const lil_guardian_params & params, lil_guardian_action action) {
    return params.action == action || std::count(params.then, params.then + params.n_then, action) > 0;
}

static std::string parse(const char * text, bool & enabled, lil_guardian_params & res) {
    lil_notation notation;

    std::string err = lil_split_notation(text, notation);
    if (!err.empty()) {
        return err;
    }

    const lil_switch * found = nullptr;

    lil_names names;
    for (const auto & s : SWITCHES) {
        if (notation.name == s.name || (notation.name.empty() && s.on && !found)) {
            found = &s;
        }
        names.push_back(s.name);
    }
    if (!found) {
        for (const auto & f : LIL_GUARDIAN_FIELDS) {
            names.push_back(std::string(f.name) + "=...");
        }
        return lil_quote(notation.name) + " is unknown: " + lil_suggest(notation.name, names);
    }
    if (!found->on && !notation.options.empty()) {
        return lil_quote(found->name) + " takes no options, and " + lil_quote(notation.options[0].name) +
                " follows; write guardian:OPTION=VALUE";
    }

    lil_guardian_params params = lil_guardian_default_params();

    texts.clear();
    then.clear();

    for (auto & option : notation.options) {
        if (option.name == "action") {
            err = read_then(option.value, then);
        }
    }
    if (err.empty()) {
        err = lil_read_options(notation.options, LIL_GUARDIAN_FIELDS, "guardian", &params, texts);
    }

    params.then   = then.data();
    params.n_then = then.size();

    if (err.empty() && (params.think_end || params.message) && !has_action(params, LIL_GUARDIAN_CLOSE_THINK)) {
        err = std::string(params.think_end ? "think_end" : "message") + " has no effect without action=close_think";
    }
    if (err.empty()) {
        enabled = found->on;
        res     = params;
    }

    return err;
}

bool lil_parse_guardian(const char * text, bool * enabled, lil_guardian_params * params) {
    if (!text || !enabled || !params) {
        lil_set_last_error("guardian: text, enabled or params is NULL");
        return false;
    }

    try {
        const std::string err = parse(text, *enabled, *params);
        if (!err.empty()) {
            lil_set_last_error("guardian=%s: %s", lil_quote(text).c_str(), err.c_str());
        }
        return err.empty();
    } catch (const std::exception & e) {
        lil_set_last_error("guardian: %s", e.what());
        return false;
    }
}

int32_t lil_format_guardian(const lil_guardian_params * params, char * buf, size_t size) {
    if (!params || (!buf && size > 0)) {
        lil_set_last_error("guardian: params or buf is NULL");
        return -1;
    }

    try {
        const lil_guardian_params defaults = lil_guardian_default_params();
        lil_guardian_params       first    = *params;
        std::string               actions;

        if (params->n_then > 0) { // all of them, and the others behind
            first.action = defaults.action;
            actions      = std::string("action=") + lil_guardian_action_word(params->action);
            for (uint32_t i = 0; i < params->n_then; ++i) {
                actions += std::string("+") + lil_guardian_action_word(params->then[i]);
            }
        }

        std::string options = lil_write_options(LIL_GUARDIAN_FIELDS, &first, &defaults);
        if (!actions.empty()) {
            options = actions + (options.empty() ? "" : ",") + options;
        }

        return snprintf(buf, size, "%s%s%s", SWITCHES[0].name, options.empty() ? "" : ":", options.c_str());
    } catch (const std::exception & e) {
        lil_set_last_error("guardian: %s", e.what());
        return -1;
    }
}
