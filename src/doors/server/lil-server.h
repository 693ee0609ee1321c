#pragma once

// lil-server.h: what llama-server calls. Part of the library server-context.

#include "lil.h"

#include "server-common.h"

#include <string>

struct common_params;

// A request's `guardian` as a notation, "" for off: true, false, a notation, or an object of options. Throws
// std::invalid_argument.
std::string lil_server_read_guardian(const json & value);

// What a Guardian did, as Python's `guardian` has it; null: there is none.
json lil_server_report(const llama_sampler * guardian);

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
    bool            sparse = false; // whether info is there
    lil_sparse_info info   = {};

    uint64_t n_alarms = 0; // answers in which Guardian raised an alarm
    uint64_t n_stops  = 0; // answers that it ended
    uint64_t n_closed = 0; // thinking that it ended

    void add(const json & report);
    void set(const llama_context * ctx);

    // in Prometheus's text form
    std::string to_text() const;
};
