#ifndef LIL_H
#define LIL_H

// lil.h: sparse attention and early stop for llama.cpp, the public C API.
//
// Everything here is added to the pinned llama.cpp; no llama_* or ggml_* struct or function changes shape. Programs
// that do not include this file run unchanged on the same library.
//
//   Sparse attention   lil_init_from_model() in place of llama_init_from_model()
//   Guardian           lil_sampler_init_guardian(), a llama_sampler for the end of a sampler chain
//   LZ77               lil_lz77_*, the incremental compressor under Guardian
//   Notation           lil_parse_sparse(), lil_parse_guardian(): the two as users write them
//   Guardian's rule    lil_text_rule_*, its second rule on texts that were recorded
//
// Errors: a function that returns a pointer returns NULL, one that returns bool returns false. lil_last_error() then
// says what was wrong and what would work.

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The version of lil.cpp, of this header and of the library that runs.
#define LIL_VERSION "0.1.0"

LLAMA_API const char * lil_version(void);

// The message of the last call of this thread that failed. Never NULL; valid until the thread's next lil_* call.
LLAMA_API const char * lil_last_error(void);

// Threads that compute best here, for llama_context_params::n_threads and n_threads_batch: one for each physical core
// that the process may run on (the affinity mask; performance cores only, where there are two kinds), and not more than
// the CPU quota of its container (cgroup v1 and v2, rounded). At least 1. Reads some files of /proc and /sys.
//
// Contexts without a thread pool of their own (llama_attach_threadpool()) use fewer than they were given while other
// programs keep the cores busy and fewer are faster. Results do not depend on it.
LLAMA_API int32_t lil_n_threads(void);

//
// Sparse attention
//
// Notation: B budget, T tokens so far of a sequence, G query heads per KV head. A method changes what a decode step
// (one new token of a sequence) attends to; prompts are processed with full causal attention. While T <= B a step is
// dense.
//
// Two families:
//   evict   tokens outside the budget are gone, and the cache is bounded: it holds `capacity` slots per layer and
//           sequence instead of n_ctx, which then only limits positions
//   select  everything is kept, and each step reads a part. The cache is llama.cpp's own, with all it can do
//

// Every method, X(NAME, name, number): LIL_SPARSE_NAME = number, and what every door calls it. One list, from which the
// enum and every table is made.
//
//   evict
//     sink        StreamingLLM, arXiv 2309.17453: the first n_sink tokens and the last B - n_sink
//     h2o         arXiv 2306.14048: the last `recent` tokens and those with the most accumulated attention
//     tova        arXiv 2401.06104: the tokens that the last query attended to most, one set for all heads
//     rkv         arXiv 2505.24133: tokens that are attended to and do not repeat others, cut every `buffer`
//   select
//     quest       arXiv 2406.10774: pages of 16 by a bound on q.k
//     infllm      arXiv 2402.04617: first tokens, a local window, blocks by representative keys
//     tidal       TidalDecode, arXiv 2410.05076: tokens by q.k of two layers, per KV head
//     lessismore  arXiv 2508.07101: tokens by q.k of two layers, one set for all heads
//     raas        arXiv 2502.11147: pages of 16 with time stamps; a page once left out stays out
//   none
//     dense       full attention through the fused op: every step reads everything
//     probe       full attention that measures re-selection layers, see lil_probe_get()
// clang-format off
#define LIL_SPARSE_METHODS(X) \
    X(SINK,       sink,        1) \
    X(H2O,        h2o,         2) \
    X(TOVA,       tova,        7) \
    X(RKV,        rkv,         8) \
    X(QUEST,      quest,       3) \
    X(INFLLM,     infllm,      4) \
    X(TIDAL,      tidal,       5) \
    X(LESSISMORE, lessismore,  6) \
    X(RAAS,       raas,        9) \
    X(DENSE,      dense,      10) \
    X(PROBE,      probe,      11)
// clang-format on

enum lil_sparse_method {
    LIL_SPARSE_NONE = 0, // full attention, see fused_dense
#define LIL_SPARSE_METHOD(NAME, name, number) LIL_SPARSE_##NAME = number,
    LIL_SPARSE_METHODS(LIL_SPARSE_METHOD)
#undef LIL_SPARSE_METHOD
};

// A method's name, as every door spells it: "h2o", "quest". NULL: there is none of that number, or it is NONE.
LLAMA_API const char * lil_sparse_get_name(enum lil_sparse_method method);

// The method of a name; NONE: there is none.
LLAMA_API enum lil_sparse_method lil_sparse_find(const char * name);

// Whether it is one of the evict family.
LLAMA_API bool lil_sparse_evicts(enum lil_sparse_method method);

enum lil_positions {
    LIL_POSITIONS_ABSOLUTE = 0, // keys keep the RoPE position they were written with
    LIL_POSITIONS_CACHE    = 1, // Sink: keys take the position of their slot, for texts beyond the training length
    LIL_POSITIONS_CLIPPED  = 2, // InfLLM: once T > B, tokens outside the window are seen at the window's distance
};

enum lil_prompt_scores {
    LIL_PROMPT_SCORES_EXACT  = 0, // H2O: every prompt query adds to the scores
    LIL_PROMPT_SCORES_WINDOW = 1, // H2O: only the last 64 prompt queries do
};

// Which implementation computes a method's own steps. The portable form uses ggml's ordinary ops and runs on every
// backend; the fused form is ours. The results agree within rounding.
enum lil_form {
    LIL_FORM_AUTO     = 0, // fused where the backends of all layers have it, portable elsewhere
    LIL_FORM_PORTABLE = 1,
    LIL_FORM_FUSED    = 2, // an error where a layer's backend has no fused form
};

// Whether decode steps that attend to everything run through our own op, which reads each key and value once for all
// query heads of its group. Its result equals llama.cpp's within rounding. false and true are OFF and ON.
enum lil_fused_dense {
    LIL_FUSED_DENSE_OFF = 0, // llama.cpp's attention, bit for bit
    LIL_FUSED_DENSE_ON  = 1, // an error where the model, the context or a layer's backend cannot have it
    // where it is known to be faster: on the CPU. llama.cpp's attention elsewhere, never an error
    LIL_FUSED_DENSE_AUTO = 2,
};

struct lil_sparse_params {
    enum lil_sparse_method method;

    uint32_t budget; // B: tokens that one KV head of one layer attends to in a decode step, the current one included
    // evict: slots per layer and sequence, rounded up to 256; 0: n_ctx. Otherwise at least budget + n_ubatch
    uint32_t capacity;

    uint32_t n_sink; // Sink, LessIsMore: first tokens that are always kept
    uint32_t recent; // H2O: last tokens that are always kept, the current one included; 0: budget/2

    enum lil_positions     positions;     // Sink, InfLLM
    enum lil_prompt_scores prompt_scores; // H2O
    enum lil_form          form;

    // Every method. The evict family has it over the slots that it holds, with and without evictions
    int32_t fused_dense; // enum lil_fused_dense

    // Method NONE: flash_attn_type is DISABLED by default rather than by choice, as in llama-cpp-python. Where
    // fused_dense takes the context, FlashAttention is on all the same, and states are written as without it: V
    // transposed
    bool flash_attn_free;

    // select
    uint32_t min_ctx; // while T < min_ctx a step is dense

    bool     first_page; // Quest: the first page is always attended to
    uint32_t n_init;     // InfLLM: first tokens that are always attended to
    uint32_t block;      // InfLLM: tokens per block; 0: 16, or 8 where B < 128
    uint32_t n_repr;     // InfLLM: representative keys per block
    uint32_t reselect;   // TidalDecode, LessIsMore: the re-selection layer c, counted among the full-attention layers,
                         // dense_layers < c < L; 0: floor(0.55*L + 0.5)
    // Quest, TidalDecode, LessIsMore: layers at the start that always attend to everything, counted among the
    // full-attention layers, L of them. -1: 2 where L >= 16, 1 where 8 <= L < 16, 0 where L < 8
    int32_t dense_layers;
    // LessIsMore: share of the budget for the last tokens. RaaS: share of the pages that a step stamps
    float ratio;

    // R-KV
    uint32_t buffer;    // decode steps between two cuts: a cut leaves budget - buffer
    uint32_t n_obs;     // last queries that importance is taken from; as many last tokens stay
    float    lambda;    // weight of importance against redundancy, 0 to 1
    float    threshold; // cosine similarity above which a key repeats another

    // evict
    // ends of the last prompts that are kept per sequence, B - 1 slots each, for going back to them
    uint32_t kept_prompts;
};

// The defaults: budget 1024, form AUTO, fused_dense AUTO, absolute positions, min_ctx 0, and those of each method's
// paper:
//   n_sink 4; recent 0, exact prompt scores; first_page false; n_init 4, block 0, n_repr 4; reselect 0;
//   dense_layers -1; ratio 0.25 (LessIsMore), 0.5 (RaaS); buffer 128, n_obs 8, lambda 0.1, threshold 0.5; kept_prompts
//   2 (evict)
LLAMA_API struct lil_sparse_params lil_sparse_default_params(enum lil_sparse_method method);

// llama_init_from_model() with sparse attention.
//
// With LIL_SPARSE_NONE it is llama_init_from_model() with fused_dense: AUTO takes the op where the model, the context
// and the backend let it, FlashAttention (flash_attn_type AUTO or ENABLED) among the conditions, and is
// llama_init_from_model() otherwise; ON is an error there; OFF is llama_init_from_model(). Batches that the op does not
// cover (prompts, drafts, sequences that share a batch in unequal parts) take llama.cpp's attention. States and those
// of llama_init_from_model()'s contexts can be exchanged.
//
// FlashAttention is needed by the methods: cparams.flash_attn_type AUTO is taken as ENABLED, DISABLED is an error. The
// evict family needs kv_unified = false where there are several sequences (n_seq_max > 1): every sequence has slots of
// its own.
//
// Returns NULL where the parameters are out of range or cannot work together, where the model's architecture is not
// covered (docs/models.md: recurrent, encoder-only, a trained indexer, ALiBi), and where llama_init_from_model()
// would.
//
// A token is a decode step if its own logits and its predecessor's were asked for: someone sampled it from those.
// Everything else is a part of a prompt, for which attention is full: also its last token where that comes alone,
// because the rest is in the cache or a batch ended before it. The record goes by position: removals shorten it, a
// loaded state has none, and what is not known is a prompt's. A host that asks for the logits of prompts says so, see
// lil_set_prompt(). Several steps of a sequence in one batch are computed one after another.
//
// The calls of an evicting cache keep llama.h's contract and answer truthfully:
//   llama_memory_seq_rm       removes a whole sequence, a tail, or nothing. After an eviction a tail [p0, end) goes if
//                               every head holds all of it, and at least min(p0, B) - floor(B/16) slots remain (R-KV: B
//                               is what a cut leaves, budget - buffer), or p0 is the end of one of the last
//                               kept_prompts prompts, or at most max(1, floor(B/16)) tokens before it: the cut cache as
//                               it was there comes back, at the cost of a copy.
//                             Otherwise it returns false and leaves the cache as it was: evaluate anew. In a model with
//                             sliding windows both halves must be able to, or it is false
//   llama_memory_seq_pos_min  the first position from which on any tail goes; ends of prompts are not told this way
//   llama_memory_can_shift    false
//   llama_memory_seq_cp       whole sequences, or one less a tail that could be removed; kept ends of prompts with them
//   llama_state_*             everything: keys, values, scores, positions, counts, kept ends of prompts
LLAMA_API struct llama_context * lil_init_from_model(
        struct llama_model * model, struct llama_context_params cparams, struct lil_sparse_params sparse);

// Whether the tokens of the batches that come are a prompt's, whatever logits they ask for. For hosts that want the
// logits of a whole prompt: set it before, and take it back before the first token that was sampled. Their logits count
// as asked for all the same: what is sampled from the last ones is a decode step. Nothing in a context without sparse
// attention.
LLAMA_API void lil_set_prompt(struct llama_context * ctx, bool prompt);

// Changes the budget of a running context of the select family, for all its sequences, from its next llama_decode() on.
// 0: that of lil_init_from_model(); n_ctx and more: everything is read. It may go up and down at any time: the steps
// then are those of a context made with it, but that InfLLM's representatives and RaaS's stamps come from the steps
// before, and InfLLM's block stays. A change waits for a decode in progress, and the next graph is built anew; the same
// budget again costs nothing. The graphs' memory grows where it must. False: the method is one of the evict family or
// full attention, or the budget is less than the method needs; all is as it was.
LLAMA_API bool lil_set_budget(struct llama_context * ctx, uint32_t budget);

struct lil_sparse_info {
    enum lil_sparse_method method;

    uint32_t budget;         // as it is now, see lil_set_budget()
    uint32_t capacity;       // slots per layer and sequence, as allocated
    uint32_t reselect;       // TidalDecode, LessIsMore: the re-selection layer, counted among the full-attention layers
    uint32_t n_layer;        // layers that the method acts on (the full-attention layers)
    uint32_t n_dense_layers; // Quest, TidalDecode, LessIsMore: of these, the first ones, which attend to everything
    bool     fused;          // whether the fused form runs
    bool     fused_dense; // whether decode steps that attend to everything run through the op, see enum lil_fused_dense

    uint64_t kv_bytes;  // bytes allocated for those layers: keys, values, scores, positions, page metadata, kept ends
                        // of prompts, all sequences
    uint64_t n_dense;   // decode steps (tokens) that attended to everything
    uint64_t n_sparse;  // decode steps that attended to a part
    uint64_t n_rows;    // KV rows that decode steps attended to: tokens x KV heads x layers
    uint64_t n_evicted; // tokens evicted, per KV head and layer

    const char * backend; // where these layers' keys and values live and their steps run: "CPU", "CUDA0+CUDA1"; valid
                          // as long as ctx

    uint64_t kv_resident; // of kv_bytes, what takes memory now, see lil_memory_info

    uint32_t n_kept;     // evict: ends of prompts that are kept now, of all sequences
    uint64_t n_restored; // evict: removals that brought one back
};

// Counts since the context was created. False where ctx has no sparse attention and full attention is llama.cpp's;
// where full attention runs through our op, method is LIL_SPARSE_DENSE.
LLAMA_API bool lil_sparse_get_info(const struct llama_context * ctx, struct lil_sparse_info * info);

// What the context's log said of a step that the method cannot serve well (RaaS with a prompt beyond its budget, InfLLM
// with absolute positions beyond the model's training length), the first time. NULL: nothing. Valid as long as ctx.
LLAMA_API const char * lil_sparse_get_warning(const struct llama_context * ctx);

// The memory of a context's cache, with sparse attention or without. On the CPU memory comes as tokens come: a cache
// takes it page by page where it is written first, and gives it back after llama_memory_clear(), after a removal of
// many tokens (256 in a row; the state of a shorter text that is loaded, a copy of one, is such a removal too), and
// where an evicting method cuts a prompt. What is given back is taken anew by the tokens that come next. So a context
// may be made that does not fit once it is full: then llama_init_from_model() and lil_init_from_model() warn in the
// log. On other devices all is taken at once.
struct lil_memory_info {
    uint64_t kv_bytes;    // bytes allocated: keys, values and what is kept beside them, all layers and sequences
    uint64_t kv_resident; // of these, what takes memory now, as far as the system tells
    uint64_t available;   // bytes that the machine, and the limits of the cgroups around the process, leave; 0: unknown
};

// Takes a millisecond or so for each GiB of kv_bytes. False where ctx has no cache.
LLAMA_API bool lil_memory_get_info(const struct llama_context * ctx, struct lil_memory_info * info);

// What one KV head of one layer holds (evict) or attended to in the last decode step (select), for tests and for
// looking at a method. Writes up to n entries of
//   pos    [n]  the position of each token, in no order
//   score  [n]  its accumulated score (H2O, InfLLM), 0 otherwise; may be NULL
// and returns how many tokens there are, or -1 on error. il counts the model's layers. Waits for a decode in progress.
LLAMA_API int32_t lil_sparse_get_slots(struct llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t i_head_kv,
        llama_pos * pos, float * score, int32_t n);

// LIL_SPARSE_PROBE: what re-selection layers are worth. Each decode step, with full attention, takes the sets that
// TidalDecode and LessIsMore (budget, n_sink, ratio) would take at every layer, and sums the share of this and the
// later layers' softmax mass that they hold. Layers are counted among the full-attention layers, L of them.
//   mass [L*L]  [c*L + l]: mean share of layer l's mass in the set of layer c, over decode steps with T > B and heads;
//               0 where l < c
// Returns L, or -1 on error: ctx is no probe, method is not TIDAL or LESSISMORE, n < L*L.
LLAMA_API int32_t lil_probe_get(struct llama_context * ctx, enum lil_sparse_method method, float * mass, int32_t n);

//
// LZ77
//
// The greedy LZ77 factorisation of a text that grows byte by byte: unbounded window, self-overlap allowed; a phrase is
// the longest earlier match or one literal. Feeding bytes one by one gives the factorisation of the whole text.
// See src/guardian/lz77.h for the cost model and the bounds.
//

struct lil_lz77;

LLAMA_API struct lil_lz77 * lil_lz77_init(void);                        // NULL: out of memory
LLAMA_API struct lil_lz77 * lil_lz77_clone(const struct lil_lz77 * lz); // NULL: out of memory
LLAMA_API void              lil_lz77_free(struct lil_lz77 * lz);        // lz may be NULL
LLAMA_API void              lil_lz77_reset(struct lil_lz77 * lz);       // back to the empty text

// Appends n bytes. Amortised O(1) a byte. False (out of memory, or more than 2^31 - 1 bytes): the text is as before.
LLAMA_API bool lil_lz77_feed(struct lil_lz77 * lz, const void * data, size_t n);

LLAMA_API double   lil_lz77_size(const struct lil_lz77 * lz);    // compressed size so far, bytes
LLAMA_API uint64_t lil_lz77_phrases(const struct lil_lz77 * lz); // phrases so far, the open one included
LLAMA_API uint64_t lil_lz77_bytes(const struct lil_lz77 * lz);   // bytes fed
LLAMA_API uint64_t lil_lz77_memory(const struct lil_lz77 * lz);  // bytes of memory held

//
// The rule LIL_GUARDIAN_RULE_TEXT alone
//
// For a text that was recorded. See src/guardian/text-rule.h for what each function does.
//

struct lil_text_rule;

struct lil_text_stretch {
    uint64_t n_bytes;    // of the stretch
    double   growth;     // of the whole text, compressed bytes
    double   own_growth; // of the part that repeats itself, compressed bytes; NaN: nothing does, or this is its first
    uint32_t age;        // stretches of that part after its first, this one included
    int32_t  text_class; // 0 blank, 1 running text, 2 rows, 3 numbers
    bool     alarm;
};

LLAMA_API struct lil_text_rule * lil_text_rule_init(void);                               // NULL: out of memory
LLAMA_API struct lil_text_rule * lil_text_rule_clone(const struct lil_text_rule * rule); // NULL: out of memory
LLAMA_API void                   lil_text_rule_free(struct lil_text_rule * rule);        // rule may be NULL
LLAMA_API void                   lil_text_rule_reset(struct lil_text_rule * rule);       // back to no text

// Appends n generated bytes. Amortised O(1) a byte. False: out of memory.
LLAMA_API bool lil_text_rule_feed(struct lil_text_rule * rule, const void * data, size_t n);

// A check. growth: of the whole text since the last one, as lil_lz77_size() has it. Whether there is an alarm.
LLAMA_API bool lil_text_rule_check(struct lil_text_rule * rule, double growth, double threshold, uint32_t patience);

LLAMA_API struct lil_text_stretch lil_text_rule_get(const struct lil_text_rule * rule);    // at the last check
LLAMA_API uint64_t                lil_text_rule_memory(const struct lil_text_rule * rule); // bytes of memory held

//
// Guardian (arXiv 2601.03043)
//
// A sampler that watches the LZ77-compressed size of the text, prompt included. RULE_PAPER: every `every` generated
// tokens, if the size grew by less than `threshold` bytes since the last check, `patience` checks in a row, it acts.
// RULE_TEXT, twice as often: if what repeats itself adds less to itself than what it is made of allows.
//

// What an alarm leads to.
enum lil_guardian_action {
    LIL_GUARDIAN_STOP        = 0, // forces the end-of-generation token
    LIL_GUARDIAN_CLOSE_THINK = 1, // forces the end-of-thinking text, lets the model answer; once in an answer
    LIL_GUARDIAN_FLAG        = 2, // only reports
    LIL_GUARDIAN_WIDEN       = 3, // asks the host to decode with a larger budget, see lil_guardian_set_budget()
};

enum lil_guardian_rule {
    LIL_GUARDIAN_RULE_PAPER = 0, // the paper's
    LIL_GUARDIAN_RULE_TEXT  = 1, // src/guardian/text-rule.h
};

struct lil_guardian_params {
    // RULE_PAPER. With RULE_TEXT a check comes twice as often, every/2 tokens apart, and at 20 and 1 the rule's own
    // numbers hold: twice the threshold doubles each of its thresholds, twice the patience each of its patiences.
    uint32_t every;     // generated tokens between two checks, >= 1
    double   threshold; // compressed bytes, >= 0
    uint32_t patience;  // checks in a row, >= 1

    // The first alarm's, and those of the n_then alarms after it. One that cannot be taken (thinking is over) is passed
    // over. Alarms behind the last stop, or only report where the last is FLAG. Copied.
    enum lil_guardian_action         action;
    const enum lil_guardian_action * then; // may be NULL where n_then is 0
    uint32_t                         n_then;

    // CLOSE_THINK
    // The texts that begin and end thinking, see lil_find_thinking(). think_end NULL: "</think>". With think_begin an
    // alarm closes thinking where the text, prompt included, has it open; NULL: it is open until think_end comes.
    // Copied.
    const char * think_begin;
    const char * think_end;
    const char * message; // text before think_end; NULL: none. Copied.
    uint32_t     grace;   // tokens that are waited at most for the end of a line or a sentence

    uint32_t widen; // WIDEN: times the budget, >= 2; 0: everything is read

    enum lil_guardian_rule rule;
};

// How a model marks its thinking, by its chat template, or else by its vocabulary: "<think>" and "</think>", "[THINK]",
// gpt-oss's channels and others (src/guardian/thinking.cpp). The texts are constants. False: no known marks.
LLAMA_API bool lil_find_thinking(const struct llama_model * model, const char ** begin, const char ** end);

// The defaults: RULE_TEXT, every 250, threshold 20, patience 1, STOP alone, no texts, grace 25, widen 2.
LLAMA_API struct lil_guardian_params lil_guardian_default_params(void);

// Add it at the end of a chain, after the sampler that picks the token: it replaces that token where it acts. Bytes of
// a UTF-8 character that has begun are let through first. clone and reset work as for any sampler. NULL: a parameter
// out of range, or a vocabulary without an end-of-generation token (STOP, CLOSE_THINK).
//
// Works in chains that sample on a backend (llama_set_sampler()) too. There it must stand after the sampler that picks
// the token; elsewhere, and on a device that cannot replace a token, it does not act, and says so in the log. Of
// several outputs of a sequence in one batch, all see what was accepted before it.
LLAMA_API struct llama_sampler * lil_sampler_init_guardian(
        const struct llama_vocab * vocab, struct lil_guardian_params params);

// Feeds the prompt: text that counts as earlier text, but not as generated. Call it before the first sampled token.
// False where smpl is no Guardian or memory ran out.
LLAMA_API bool lil_guardian_feed_prompt(struct llama_sampler * smpl, const llama_token * tokens, int32_t n_tokens);

// Decides otherwise: `action` takes the place of what the last alarm leads to, which is proposed again at the next one.
// Call it between the llama_sampler_accept() that raised the alarm (n_alarms has grown) and the next
// llama_sampler_apply(). False where smpl is no Guardian, there is no such alarm, or the action cannot be taken.
LLAMA_API bool lil_guardian_decide(struct llama_sampler * smpl, enum lil_guardian_action action);

// in what Guardian cut a text off
enum lil_guardian_cut {
    LIL_GUARDIAN_CUT_NOTHING   = 0, // running text
    LIL_GUARDIAN_CUT_JSON      = 1, // an object or an array that is not closed
    LIL_GUARDIAN_CUT_TOOL_CALL = 2, // a tool call that is not closed
};

// For hosts that follow the thinking themselves: whether the text is in it now. While it is not, CLOSE_THINK is passed
// over, as where think_end was written. What has begun to close it goes on. False where smpl is no Guardian.
LLAMA_API bool lil_guardian_set_thinking(struct llama_sampler * smpl, bool thinking);

struct lil_guardian_report {
    bool     alarmed;        // whether an alarm was raised
    bool     stopped;        // whether generation was ended: the end-of-generation token was forced
    bool     think_closed;   // whether the end-of-thinking text was forced
    bool     thinking;       // whether an alarm could close thinking now
    uint64_t n_tokens;       // tokens generated so far
    uint64_t n_tokens_alarm; // tokens generated at the first alarm, 0 if none
    uint64_t n_bytes;        // bytes of text so far, prompt included
    double   size;           // compressed size so far, bytes
    double   last_growth;    // growth between the last two checks, bytes; NaN before the first check
    uint32_t n_checks;       // checks so far
    uint32_t n_alarms;       // alarms so far

    enum lil_guardian_action action; // what the last alarm leads to; before one, the first alarm's
    enum lil_guardian_cut    cut;    // stopped: in what
    uint32_t                 n_wide; // WIDEN: how often the budget is to be multiplied now, 0: not
    uint64_t                 n_tail; // tokens of the tail that looped at the last alarm, see lil_guardian_rewind()
};

// WIDEN's other half, for hosts: gives a context of the select family the budget that a Guardian asks for now, of which
// the sampler cannot know. Call it before each llama_decode(). The budget is that of all the context's sequences; where
// several have a Guardian, the host chooses the largest n_wide. After an answer: lil_set_budget(ctx, 0). False as
// lil_set_budget(), also while nothing is asked for, or where smpl is no Guardian.
LLAMA_API bool lil_guardian_set_budget(const struct llama_sampler * smpl, struct llama_context * ctx);

// For hosts that take the looping tail back, before they decode on with a larger budget: the text is now tokens [0,
// n_tokens), of which the first n_prompt are the prompt's. The tail of lil_guardian_report::n_tail tokens is the
// longest one that adds at most `threshold` bytes (or what the last check found, where that is more), lengthened to the
// end of a line or a sentence where there is one within `grace` tokens before it, and to the end of a character. The
// checks start anew from here, events and the curve stay. Reads the whole text again. Call it after
// llama_sampler_accept(); removing the tail from the cache is the host's matter. False where smpl is no Guardian, the
// tokens are more than there were, or memory ran out.
LLAMA_API bool lil_guardian_rewind(
        struct llama_sampler * smpl, const llama_token * tokens, int32_t n_prompt, int32_t n_tokens);

// False where smpl is no Guardian.
LLAMA_API bool lil_guardian_get_report(const struct llama_sampler * smpl, struct lil_guardian_report * report);

// The size at the start of generation and at every check: up to n entries into size. Returns how many there are
// (n_checks + 1), 0 where smpl is no Guardian. size may be NULL.
LLAMA_API size_t lil_guardian_get_curve(const struct llama_sampler * smpl, double * size, size_t n);

enum lil_guardian_event_kind {
    LIL_GUARDIAN_DID_ALARM       = 0, // an alarm was raised
    LIL_GUARDIAN_DID_STOP        = 1, // from here on the end-of-generation token is forced
    LIL_GUARDIAN_DID_CLOSE_THINK = 2, // from here on the end-of-thinking text is forced
    LIL_GUARDIAN_DID_WIDEN       = 3, // the budget was to be multiplied
    LIL_GUARDIAN_DID_NARROW      = 4, // the text gained again: the budget went back
    LIL_GUARDIAN_DID_REWIND      = 5, // the host took a tail back; n_tokens is what is left
};

struct lil_guardian_event {
    enum lil_guardian_event_kind kind;
    uint64_t                     n_tokens; // tokens generated by then
};

// What was done and when, in order: up to n events. Returns how many there are, 0 where smpl is no Guardian. events may
// be NULL.
LLAMA_API size_t lil_guardian_get_events(
        const struct llama_sampler * smpl, struct lil_guardian_event * events, size_t n);

//
// Notation
//
// How every door (programs, commands, Python, the variables LIL_SPARSE and LIL_GUARDIAN) writes the parameters:
//
//   NAME:OPTION=VALUE,OPTION=VALUE
//
// ':' parts options too. Numbers are decimal. What is true or false may be on or off. A value with ',' or ':' stands in
// double quotes, within which \" \\ \n \t mean what they do in C. Errors name the word, what there is, and the nearest.
//

// "quest:budget=512,first_page=true": a method's name, see LIL_SPARSE_METHODS, with the fields of lil_sparse_params
// that it reads, by their names; but n_obs is `observed`, lambda is `lam`. Words: positions absolute, cache, clipped;
// prompt_scores exact, window; form auto, portable, fused; fused_dense auto, true, false; auto (or none) where 0 or -1
// stands for a default: capacity, recent, block, reselect, dense_layers, min_ctx.
// "none" (or "off", "full") is full attention, LIL_SPARSE_NONE, with the option fused_dense.
//
// Every parameter that is not named has its default. Checked as far as lil_init_from_model() does without a model.
// False: an error, params is as it was.
LLAMA_API bool lil_parse_sparse(const char * text, struct lil_sparse_params * params);

// "on", "guardian", "guardian:every=100,action=close_think" or the options alone, "every=100": the fields of
// lil_guardian_params by their names; action stop, close_think, flag, widen, or several for one alarm after another,
// "widen+close_think+stop"; widen=all reads everything. "off" (or "none"): enabled is false, params the defaults. True
// and false are on and off.
//
// Texts in params are valid until this thread's next call. False: an error, enabled and params are as they were.
LLAMA_API bool lil_parse_guardian(const char * text, bool * enabled, struct lil_guardian_params * params);

// The notation of parameters, of those that differ from their defaults: "none", "h2o", "guardian:every=100". Writes at
// most size bytes, the final 0 included, and returns the whole length without it, as snprintf() does, or -1 on error.
LLAMA_API int32_t lil_format_sparse(const struct lil_sparse_params * params, char * buf, size_t size);
LLAMA_API int32_t lil_format_guardian(const struct lil_guardian_params * params, char * buf, size_t size);

#ifdef __cplusplus
}
#endif

#endif // LIL_H
