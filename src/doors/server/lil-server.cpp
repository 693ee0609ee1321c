#include "lil-server.h"

#include "lil-guardian-fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <vector>

//
// requests
//

// far more than any sound request has, and little enough for the stack of a thread, whatever walks through it
static const int LIL_SERVER_MAX_DEPTH = 100;
static const int LIL_SERVER_MAX_RULES = 5000;

// How deep brackets are nested, outside of quotes and, from # on, of a grammar's comments.
static int get_depth(const std::string & text, const char * open, const char * close, const char * quotes) {
    int  res   = 0;
    int  depth = 0;
    char quote = '\0';

    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];

        if (c == '\\') {
            i++;
        } else if (quote) {
            quote = c == quote ? '\0' : quote;
        } else if (c == '#') {
            i = std::min(text.find('\n', i), text.size());
        } else if (c != '\0' && std::strchr(quotes, c)) {
            quote = c == '[' ? ']' : c;
        } else if (c != '\0' && std::strchr(open, c)) {
            res = std::max(res, ++depth);
        } else if (c != '\0' && std::strchr(close, c)) {
            depth--;
        }
    }

    return res;
}

void lil_server_check_body(const std::string & body) {
    if (get_depth(body, "[{", "]}", "\"") > LIL_SERVER_MAX_DEPTH) {
        throw std::invalid_argument(
                "the request is nested deeper than " + std::to_string(LIL_SERVER_MAX_DEPTH) + " arrays and objects");
    }
}

void lil_server_check_grammar(const std::string & grammar) {
    if (get_depth(grammar, "(", ")", "\"[") > LIL_SERVER_MAX_DEPTH) {
        throw std::invalid_argument(
                "the grammar is nested deeper than " + std::to_string(LIL_SERVER_MAX_DEPTH) + " brackets");
    }

    int n_rules = 0;
    for (size_t at = grammar.find("::="); at != std::string::npos; at = grammar.find("::=", at + 3)) {
        n_rules++;
    }
    if (n_rules > LIL_SERVER_MAX_RULES) {
        throw std::invalid_argument("the grammar has more than " + std::to_string(LIL_SERVER_MAX_RULES) + " rules");
    }
}

void lil_server_check_tokens(const json & values) {
    for (const auto & value : values) {
        lil_server_check_number<llama_token>(value);
    }
}

bool lil_server_is_refusal(const std::exception & e) {
    if (dynamic_cast<const std::system_error *>(&e)) {
        return false;
    }

    return dynamic_cast<const std::runtime_error *>(&e) || dynamic_cast<const std::logic_error *>(&e);
}

static bool is_name(const std::string & s) {
    return !s.empty() && s.size() <= 32 && s.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos;
}

static std::string quote(const std::string & s) {
    std::string res = "\"";
    for (const char c : s) {
        if (c == '\0') {
            throw std::invalid_argument("a text with a zero byte");
        }
        switch (c) {
            case '"':
            case '\\': res += std::string("\\") + c; break;
            case '\n': res += "\\n"; break;
            case '\t': res += "\\t"; break;
            default:   res += c; break;
        }
    }

    return res + "\"";
}

// Numbers are JSON's numbers, words and texts its strings; what is no option, the notation's parser says.
static void check_kind(const std::string & key, const json & option) {
    for (const auto & field : LIL_GUARDIAN_FIELDS) {
        if (key != field.name) {
            continue;
        }
        const bool text = field.type == LIL_FIELD_WORD || field.type == LIL_FIELD_TEXT;
        const bool fits = option.is_string() ? text || !field.words.empty() : option.is_number() && !text;
        if (!fits) {
            throw std::invalid_argument(key + " must be a " + (text ? "text" : "number"));
        }
    }
}

std::string lil_server_read_guardian(const json & value) {
    std::string notation;

    if (value.is_boolean()) {
        notation = value.get<bool>() ? "on" : "off";
    } else if (value.is_string()) {
        notation = value.get<std::string>();
        if (notation.find('\0') != std::string::npos) {
            throw std::invalid_argument("a text with a zero byte");
        }
    } else if (value.is_object()) {
        notation = "guardian";
        for (const auto & [key, option] : value.items()) {
            if (!is_name(key)) {
                throw std::invalid_argument("a key is no name of an option; such as every, threshold, action");
            }
            if (!option.is_string() && !option.is_number() && !option.is_boolean()) {
                throw std::invalid_argument(key + " must be a number, a text, true or false");
            }
            check_kind(key, option);
            notation += (notation == "guardian" ? ":" : ",") + key + "=";
            notation += option.is_string() ? quote(option.get<std::string>()) : option.dump();
        }
    } else {
        throw std::invalid_argument("must be true, false, a notation or an object such as {\"every\": 250}");
    }

    bool                on = false;
    lil_guardian_params params;
    if (!lil_parse_guardian(notation.c_str(), &on, &params)) {
        throw std::invalid_argument(lil_last_error());
    }

    return on ? notation : "";
}

//
// answers
//

static json get_action(const std::string & notation) {
    bool                on = false;
    lil_guardian_params params;
    if (!lil_parse_guardian(notation.c_str(), &on, &params)) {
        return json(nullptr);
    }

    std::vector<std::string> names = { lil_guardian_action_word(params.action) };
    for (size_t i = 0; i < params.n_then; ++i) {
        names.push_back(lil_guardian_action_word(params.then[i]));
    }

    return names.size() == 1 ? json(names[0]) : json(names);
}

json lil_server_report(const llama_sampler * guardian, const std::string & notation) {
    static const char * const DID[] = { "alarm", "stop", "close_think", "widen", "narrow", "rewind" };

    lil_guardian_report r;
    if (!guardian || !lil_guardian_get_report(guardian, &r)) {
        return json(nullptr);
    }

    std::vector<double> curve(lil_guardian_get_curve(guardian, nullptr, 0));
    lil_guardian_get_curve(guardian, curve.data(), curve.size());

    std::vector<lil_guardian_event> done(lil_guardian_get_events(guardian, nullptr, 0));
    lil_guardian_get_events(guardian, done.data(), done.size());

    json events = json::array();
    for (const auto & event : done) {
        events.push_back(json{ { "did", DID[event.kind] }, { "tokens", event.n_tokens } });
    }

    json cut(nullptr);
    if (r.cut != LIL_GUARDIAN_CUT_NOTHING) {
        cut = r.cut == LIL_GUARDIAN_CUT_JSON ? "json" : "tool_call";
    }

    return json{
        { "action", get_action(notation) },
        { "alarmed", r.alarmed },
        { "alarms", r.n_alarms },
        { "stopped", r.stopped },
        { "incomplete", cut },
        { "think_closed", r.think_closed },
        { "tokens", r.n_tokens },
        { "tokens_at_alarm", r.n_tokens_alarm > 0 ? json(r.n_tokens_alarm) : json(nullptr) },
        { "checks", r.n_checks },
        { "bytes", r.n_bytes },
        { "size", r.size },
        { "last_growth", std::isnan(r.last_growth) ? json(nullptr) : json(r.last_growth) },
        { "curve", curve },
        { "events", events },
    };
}

// whether it was one that ends an answer
static bool annotate_one(json & answer, const json & report) {
    const json reason = report.at("stopped").get<bool>() ? json("guardian") : json(nullptr);

    if (answer.contains("choices")) { // OpenAI's chat and completions
        bool found = false;
        for (auto & choice : answer["choices"]) {
            if (choice.contains("finish_reason") && !choice.at("finish_reason").is_null()) {
                choice["stop_reason"] = reason;
                choice["guardian"]    = report;
                found                 = true;
            }
        }
        return found;
    }
    if (answer.contains("stop_type")) { // native
        if (!reason.is_null()) {
            answer["stop_type"] = reason;
        }
        answer["stop_reason"] = reason;
        answer["guardian"]    = report;
        return true;
    }
    if (answer.contains("data") &&
            answer.contains("event")) { // an event of OpenAI's responses or of Anthropic's messages
        const std::string event = answer.at("event").get<std::string>();
        if (event == "response.completed") {
            answer["data"]["response"]["guardian"] = report;
        } else if (event == "message_delta") {
            answer["data"]["delta"]["guardian"] = report;
        } else {
            return false;
        }
        return true;
    }
    if (answer.contains("output") || answer.contains("stop_reason")) { // OpenAI's responses, Anthropic's messages
        answer["guardian"] = report;
        return true;
    }

    return false;
}

void lil_server_annotate(json & answer, const json & report) {
    if (report.is_null()) {
        return;
    }
    if (answer.is_object()) {
        annotate_one(answer, report);
        return;
    }
    for (auto & chunk : answer) {
        annotate_one(chunk, report);
    }
}

//
// what runs
//

json lil_server_sparse(const llama_context * ctx) {
    lil_sparse_info info;
    if (!ctx || !lil_sparse_get_info(ctx, &info)) {
        return json(nullptr);
    }

    return json{
        { "method", std::string(lil_sparse_get_name(info.method)) },
        { "budget", info.budget },
        { "capacity", info.capacity },
        { "layers", info.n_layer },
        { "form", std::string(info.fused ? "fused" : "portable") },
        { "fused_dense", info.fused_dense },
        { "backend", std::string(info.backend) },
        { "kv_bytes", info.kv_bytes },
    };
}

bool lil_server_rewind(llama_context * ctx, llama_seq_id seq_id, llama_pos pos) {
    lil_sparse_info info;

    return pos > 0 && lil_sparse_get_info(ctx, &info) && lil_sparse_evicts(info.method) &&
            llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id) >= pos - 1 &&
            llama_memory_seq_rm(llama_get_memory(ctx), seq_id, pos, -1);
}

//
// metrics
//

void lil_server_metrics::add(int id_slot, const json & report) {
    if (report.is_null() || id_slot < 0) {
        return;
    }

    slots.resize(std::max<size_t>(slots.size(), id_slot + 1));
    slot & s = slots[id_slot];

    s.n_alarms += report.at("alarms").get<uint64_t>();
    s.n_stops += report.at("stopped").get<bool>();
    s.n_closed += report.at("think_closed").get<bool>();
    s.n_tokens += report.at("tokens").get<uint64_t>();
}

void lil_server_metrics::set(const llama_context * ctx) {
    sparse = ctx && lil_sparse_get_info(ctx, &info);

    if (ctx) {
        slots.resize(std::max<size_t>(slots.size(), llama_n_seq_max(ctx)));
    }
}

std::string lil_server_metrics::to_text() const {
    std::ostringstream out;

    const auto head = [&out](const char * name, const char * help, const char * type) {
        out << "# HELP lil:" << name << " " << help << "\n"
            << "# TYPE lil:" << name << " " << type << "\n";
    };

    const struct {
        const char * name;
        const char * help;
        uint64_t slot::* value;
    } of_slots[] = {
        { "guardian_alarms_total", "Alarms that Guardian raised", &slot::n_alarms },
        { "guardian_stops_total", "Answers that Guardian ended", &slot::n_stops },
        { "guardian_think_closed_total", "Answers whose thinking Guardian ended", &slot::n_closed },
        { "guardian_tokens_total", "Generated tokens that Guardian watched", &slot::n_tokens },
    };
    for (const auto & i : of_slots) {
        head(i.name, i.help, "counter");
        for (size_t s = 0; s < slots.size(); ++s) {
            out << "lil:" << i.name << "{slot=\"" << s << "\"} " << slots[s].*i.value << "\n";
        }
    }

    if (!sparse) {
        return out.str();
    }

    const struct {
        const char * name;
        const char * help;
        const char * type;
        uint64_t     value;
    } of_context[] = {
        { "sparse_steps_total", "Decode steps that attended to a part", "counter", info.n_sparse },
        { "dense_steps_total", "Decode steps that attended to everything", "counter", info.n_dense },
        { "rows_read_total", "KV rows that decode steps attended to", "counter", info.n_rows },
        { "evicted_total", "Tokens evicted, per KV head and layer", "counter", info.n_evicted },
        { "restored_total", "Ends of prompts that were brought back", "counter", info.n_restored },
        { "kept_prompts", "Ends of prompts that are kept", "gauge", info.n_kept },
        { "kv_bytes", "Bytes allocated for the KV cache of the method's layers", "gauge", info.kv_bytes },
        { "kv_resident_bytes", "Of these, what takes memory", "gauge", info.kv_resident },
    };
    for (const auto & i : of_context) {
        head(i.name, i.help, i.type);
        out << "lil:" << i.name << " " << i.value << "\n";
    }

    return out.str();
}
