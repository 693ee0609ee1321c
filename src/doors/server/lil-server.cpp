#include "lil-server.h"

#include <cmath>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <vector>

//
// requests
//

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

json lil_server_report(const llama_sampler * guardian) {
    lil_guardian_report r;
    if (!guardian || !lil_guardian_get_report(guardian, &r)) {
        return json(nullptr);
    }

    std::vector<double> curve(lil_guardian_get_curve(guardian, nullptr, 0));
    lil_guardian_get_curve(guardian, curve.data(), curve.size());

    return json{
        { "stopped", r.stopped },
        { "think_closed", r.think_closed },
        { "alarmed", r.alarmed },
        { "tokens", r.n_tokens },
        { "tokens_at_alarm", r.n_tokens_alarm > 0 ? json(r.n_tokens_alarm) : json(nullptr) },
        { "last_growth", std::isnan(r.last_growth) ? json(nullptr) : json(r.last_growth) },
        { "size", r.size },
        { "bytes", r.n_bytes },
        { "checks", r.n_checks },
        { "curve", curve },
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

void lil_server_metrics::add(const json & report) {
    if (report.is_null()) {
        return;
    }

    n_alarms += report.at("alarmed").get<bool>();
    n_stops += report.at("stopped").get<bool>();
    n_closed += report.at("think_closed").get<bool>();
}

void lil_server_metrics::set(const llama_context * ctx) {
    sparse = ctx && lil_sparse_get_info(ctx, &info);
}

std::string lil_server_metrics::to_text() const {
    struct item {
        const char * name;
        const char * help;
        const char * type;
        uint64_t     value;
    };

    std::vector<item> items = {
        { "guardian_alarms_total", "Answers in which Guardian raised an alarm", "counter", n_alarms },
        { "guardian_stops_total", "Answers that Guardian ended", "counter", n_stops },
        { "guardian_think_closed_total", "Answers whose thinking Guardian ended", "counter", n_closed },
    };
    if (sparse) {
        const std::vector<item> more = {
            { "sparse_steps_total", "Decode steps that attended to a part", "counter", info.n_sparse },
            { "dense_steps_total", "Decode steps that attended to everything", "counter", info.n_dense },
            { "rows_read_total", "KV rows that decode steps attended to", "counter", info.n_rows },
            { "evicted_total", "Tokens evicted, per KV head and layer", "counter", info.n_evicted },
            { "restored_total", "Ends of prompts that were brought back", "counter", info.n_restored },
            { "kept_prompts", "Ends of prompts that are kept", "gauge", info.n_kept },
            { "kv_bytes", "Bytes allocated for the KV cache of the method's layers", "gauge", info.kv_bytes },
            { "kv_resident_bytes", "Of these, what takes memory", "gauge", info.kv_resident },
        };
        items.insert(items.end(), more.begin(), more.end());
    }

    std::ostringstream out;
    for (const auto & i : items) {
        out << "# HELP lil:" << i.name << " " << i.help << "\n"
            << "# TYPE lil:" << i.name << " " << i.type << "\n"
            << "lil:" << i.name << " " << i.value << "\n";
    }

    return out.str();
}
