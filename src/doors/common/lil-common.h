#pragma once

// lil-common.h: what upstream's common/ and its programs call, so that they take --sparse and --guardian. Part of the
// library llama-common.

#include "lil.h"

#include "common.h"

#include <string>
#include <vector>

//
// arguments
//

// A notation that is right, as it is kept in common_params. Throws std::invalid_argument, which says what is wrong.
std::string lil_common_read_sparse(const std::string & notation);
std::string lil_common_read_guardian(const std::string & notation);

// What LIL_SPARSE says, for programs with parsers of their own; empty where it is not set. Where it cannot be read, the
// program ends with a message.
std::string lil_common_env_sparse();

// The help of the arguments.
extern const char * const LIL_COMMON_HELP_SPARSE;
extern const char * const LIL_COMMON_HELP_GUARDIAN;

//
// contexts
//

// What sparse attention asks of a server's slots where nobody chose their number: a method that evicts gives each a
// cache of its own. Where its capacity bounds that, each slot has n_ctx positions, as in a cache that slots share.
void lil_common_set_slots(common_params & params);

// llama_init_from_model() where sparse is empty, otherwise lil_init_from_model(). Null: the log says why.
llama_context * lil_common_init_from_model(
        llama_model * model, const llama_context_params & cparams, const std::string & sparse);

// The same for the context of common_params. Not for embeddings: what LIL_SPARSE says is not for them, what --sparse
// says is refused. Methods that evict refuse speculative decoding.
llama_context * lil_common_init_from_model(
        llama_model * model, const llama_context_params & cparams, const common_params & params);

// While it lives, --fit sizes the model's own context with its method, on this thread.
struct lil_common_fit {
    explicit lil_common_fit(const common_params & params);
    ~lil_common_fit();
};

// A context of a trial of --fit.
llama_context * lil_common_fit_context(const char * path, llama_model * model, const llama_context_params & cparams);

//
// Guardian: beside the chain of a common_sampler, not in it, so that what it forces passes every other sampler
//

// Whether an alarm may end thinking: it needs to be known where thinking is.
bool lil_common_guardian_closes(const common_params_sampling & params);

// Null: off. Throws std::invalid_argument.
llama_sampler * lil_common_guardian_init(const llama_vocab * vocab, const common_params_sampling & params);

// A token of the prompt, or a generated one; rbudget, which may be null, has accepted it.
void lil_common_guardian_accept(
        llama_sampler * guardian, llama_token token, bool is_generated, const llama_sampler * rbudget);

// Whether the next token is forced; it is then cur_p's only one, and selected.
bool lil_common_guardian_apply(
        llama_sampler * guardian, std::vector<llama_token_data> & cur, llama_token_data_array & cur_p);
