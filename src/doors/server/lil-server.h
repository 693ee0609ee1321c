#pragma once

// lil-server.h: what llama-server calls. Part of the library server-context.

#include "lil.h"

#include "server-common.h"

#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

struct common_params;

//
// requests. What is wrong throws std::invalid_argument, which the server answers with status 400
//

// A body that is nested so deep that a walk through it would overflow the stack.
void lil_server_check_body(const std::string & body);

// The same of a grammar's brackets, and of its rules.
void lil_server_check_grammar(const std::string & grammar);

// A number that T cannot hold; of another type it is somebody else's. An unsigned T may be asked for as -1.
template <typename T>
void lil_server_check_number(const json & value) {
    using limits = std::numeric_limits<T>;

    const double low =
            std::is_unsigned<T>::value ? (double) std::numeric_limits<int32_t>::lowest() : (double) limits::lowest();

    if (value.is_number() && !(value.get<double>() >= low && value.get<double>() <= (double) limits::max())) {
        throw std::invalid_argument("the number is too large");
    }
}

// The same of an array of tokens.
void lil_server_check_tokens(const json & values);

// Whether what a handler threw says that the request was wrong, and not that the system lacks something.
bool lil_server_is_refusal(const std::exception & e);

// A request's `guardian` as a notation, "" for off: true, false, a notation, or an object of options.
std::string lil_server_read_guardian(const json & value);

//
// answers
//

// What a Guardian of this notation did, as Python's `guardian` has it; null: there is none.
json lil_server_report(const llama_sampler * guardian, const std::string & notation);

// Writes a report into an answer, or into the chunk of a stream that ends it: `guardian`, and `stop_reason` ("guardian"
// or null) beside `finish_reason`; `stop_type` where the native routes say it. Nothing where report is null.
void lil_server_annotate(json & answer, const json & report);

// What /slots says of the method that runs; null: llama.cpp's attention.
json lil_server_sparse(const llama_context * ctx);

// Keeps the positions of a sequence below `pos`. True: the rest is gone. It asks for kept ends of prompts, which
// llama_memory_seq_pos_min() does not tell. False: go on as with any other cache, nothing has changed.
bool lil_server_rewind(llama_context * ctx, llama_seq_id seq_id, llama_pos pos);

// counts since the server began, for /metrics
struct lil_server_metrics {
    struct slot {
        uint64_t n_alarms = 0; // that Guardian raised
        uint64_t n_stops  = 0; // answers that it ended
        uint64_t n_closed = 0; // thinking that it ended
        uint64_t n_tokens = 0; // that it watched
    };

    bool            sparse = false; // whether info is there
    lil_sparse_info info   = {};

    std::vector<slot> slots;

    void add(int id_slot, const json & report);
    void set(const llama_context * ctx);

    // in Prometheus's text form
    std::string to_text() const;
};
