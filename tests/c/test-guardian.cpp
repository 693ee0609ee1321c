// Tests the Guardian sampler with a real vocabulary and made-up token streams; no model is run.
//
//     test-guardian model.gguf answers
//
// Only the vocabulary of the file is loaded. The folder answers (tests/data/answers) holds answers that must raise no
// alarm.

#include "guardian-common.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#ifdef __linux__
// elsewhere a library's allocations are not replaced by a program's. Inlined, gcc takes them for a malloc that is
// deleted
static size_t fail_size = 0; // 0: no allocation fails, otherwise those of at least that many bytes

__attribute__((noinline)) void * operator new(size_t size) {
    void * ptr = fail_size > 0 && size >= fail_size ? nullptr : malloc(size > 0 ? size : 1);
    if (ptr == nullptr) {
        throw std::bad_alloc();
    }
    return ptr;
}

__attribute__((noinline)) void operator delete(void * ptr) noexcept {
    free(ptr);
}

__attribute__((noinline)) void operator delete(void * ptr, size_t) noexcept {
    free(ptr);
}
#endif

//
// helpers
//

static std::string repeat(const std::string & text, size_t n) {
    std::string result;
    while (n-- > 0) {
        result += text;
    }
    return result;
}

// text that says something new all the time
static std::string make_prose(size_t n_words, uint32_t seed) {
    static const char * const words[] = {
        "river",
        "stone",
        "quickly",
        "under",
        "seven",
        "garden",
        "because",
        "window",
        "yellow",
        "answer",
        "never",
        "music",
        "clock",
        "ladder",
        "through",
        "winter",
        "doubt",
        "paper",
        "along",
        "bright",
        "question",
        "market",
        "whisper",
        "almost",
        "copper",
        "island",
        "between",
        "harvest",
        "silent",
        "travel",
        "orange",
        "number",
        "castle",
        "except",
        "feather",
        "morning",
    };

    std::string text;
    for (size_t i = 0; i < n_words; i++) {
        text += words[draw(seed) % (sizeof(words) / sizeof(words[0]))];
        text += i % 11 == 10 ? ". " : " ";
    }
    return text;
}

static lil_guardian_params make_params(
        lil_guardian_action action, uint32_t every, double threshold, uint32_t patience) {
    lil_guardian_params params = lil_guardian_default_params();
    params.rule                = LIL_GUARDIAN_RULE_PAPER; // test-text-rule.cpp has the other
    params.action              = action;
    params.every               = every;
    params.threshold           = threshold;
    params.patience            = patience;
    params.grace               = 0; // test-guardian-actions.cpp waits
    return params;
}

static llama_sampler * make_guardian(lil_guardian_action action, uint32_t every, double threshold, uint32_t patience) {
    llama_sampler * smpl = lil_sampler_init_guardian(vocab, make_params(action, every, threshold, patience));
    CHECK(smpl != nullptr);
    CHECK(strcmp(llama_sampler_name(smpl), "guardian") == 0);
    return smpl;
}

static std::vector<double> get_curve(const llama_sampler * smpl) {
    std::vector<double> curve(lil_guardian_get_curve(smpl, nullptr, 0));
    CHECK(lil_guardian_get_curve(smpl, curve.data(), curve.size()) == curve.size());
    return curve;
}

//
// tests
//

// the rule, simulated: the curve from the LZ77 sizes, the alarm from the curve
static void test_rule() {
    const std::string text = make_prose(300, 1) + repeat("All work and no play makes a dull page. ", 80) +
            make_prose(300, 2) + repeat("one two ", 400);
    const auto prompt = tokenize("Write a novel, please.\n");
    const auto tokens = tokenize(text);

    for (uint32_t every : { 1u, 7u, 50u, 250u }) {
        for (uint32_t patience : { 1u, 2u, 3u }) {
            const double threshold = 20.0 * every / 250.0 + 1.0;

            llama_sampler * smpl = make_guardian(LIL_GUARDIAN_FLAG, every, threshold, patience);
            lil_lz77 *      lz   = lil_lz77_init();

            std::vector<double> curve;
            uint64_t            n_alarm = 0;
            uint32_t            streak  = 0;

            for (llama_token token : prompt) {
                const std::string piece = get_piece(token);
                CHECK(lil_lz77_feed(lz, piece.data(), piece.size()));
            }
            CHECK(lil_guardian_feed_prompt(smpl, prompt.data(), (int32_t) prompt.size()));
            CHECK(std::isnan(get_report(smpl).last_growth));
            curve.push_back(lil_lz77_size(lz));

            for (size_t i = 0; i < tokens.size(); i++) {
                const std::string piece = get_piece(tokens[i]);
                CHECK(lil_lz77_feed(lz, piece.data(), piece.size()));

                CHECK(apply(smpl) == LLAMA_TOKEN_NULL); // FLAG
                llama_sampler_accept(smpl, tokens[i]);

                if ((i + 1) % every == 0) {
                    const double growth = lil_lz77_size(lz) - curve.back();
                    curve.push_back(lil_lz77_size(lz));
                    streak = growth < threshold ? streak + 1 : 0;
                    if (streak >= patience && n_alarm == 0) {
                        n_alarm = i + 1;
                    }
                    CHECK(get_report(smpl).last_growth == growth);
                }
            }

            const auto report = get_report(smpl);
            CHECK(report.n_tokens == tokens.size() && report.n_bytes == lil_lz77_bytes(lz) &&
                    report.size == lil_lz77_size(lz));
            CHECK(report.n_checks == tokens.size() / every && report.n_checks + 1 == curve.size());
            CHECK(n_alarm > 0 && report.alarmed && report.n_tokens_alarm == n_alarm);
            CHECK(!report.stopped && !report.think_closed);
            CHECK(get_curve(smpl) == curve);

            double first = -1.0;
            CHECK(lil_guardian_get_curve(smpl, &first, 1) == curve.size() && first == curve[0]);
            CHECK(lil_guardian_get_curve(smpl, &first, 0) == curve.size());

            lil_lz77_free(lz);
            llama_sampler_free(smpl);
        }
    }
}

static void test_stop() {
    const auto prose = tokenize(make_prose(400, 3));
    const auto loop  = tokenize(repeat("Wait, let me think about that again. ", 300));

    llama_sampler * smpl = lil_sampler_init_guardian(vocab, lil_guardian_default_params());
    CHECK(smpl != nullptr);

    CHECK(accept_until_forced(smpl, prose) == prose.size());
    CHECK(!get_report(smpl).alarmed);

    // from the first whole check interval of the loop on, at the latest
    const size_t n_loop  = accept_until_forced(smpl, loop);
    const size_t n_total = prose.size() + n_loop;
    CHECK(n_total % 125 == 0 && n_loop < 500);

    auto report = get_report(smpl);
    CHECK(report.alarmed && report.stopped && report.n_tokens == n_total && report.n_tokens_alarm == n_total);
    CHECK(report.last_growth < 20.0 && report.n_checks == n_total / 125);

    // the same again, wherever it is in the chain
    const llama_token eog = apply(smpl, 2);
    CHECK(is_eog(eog) && apply(smpl) == eog);
    const llama_token eos = llama_vocab_eos(vocab);
    CHECK(eog == eos || !is_eog(eos));

    // ends the text and adds nothing
    llama_sampler_accept(smpl, eog);
    report = get_report(smpl);
    CHECK(report.stopped && report.n_tokens == n_total && report.n_checks == n_total / 125);

    // a host that goes on gets the same answer
    llama_sampler_accept(smpl, loop[0]);
    CHECK(apply(smpl) == eog && get_report(smpl).n_tokens == n_total + 1 && get_report(smpl).n_tokens_alarm == n_total);

    // reset clears everything, the prompt included
    llama_sampler_reset(smpl);
    report = get_report(smpl);
    CHECK(!report.alarmed && !report.stopped && report.n_tokens == 0 && report.n_bytes == 0 && report.size == 0.0);
    CHECK(report.n_checks == 0 && report.n_tokens_alarm == 0 && std::isnan(report.last_growth));
    CHECK(get_curve(smpl) == std::vector<double>(1, 0.0));
    CHECK(accept_until_forced(smpl, prose) == prose.size());
    CHECK(accept_until_forced(smpl, loop) == n_loop);

    llama_sampler_free(smpl);

    // the model's own end of generation on a check boundary is no check
    smpl = make_guardian(LIL_GUARDIAN_STOP, 1, 1e9, 1);
    llama_sampler_accept(smpl, eog);
    CHECK(apply(smpl) == LLAMA_TOKEN_NULL && get_report(smpl).n_checks == 0 && !get_report(smpl).alarmed);
    llama_sampler_free(smpl);
}

static void test_patience() {
    const auto loop = tokenize(repeat("Wait, let me think about that again. ", 300));

    size_t n_prev = 0;
    for (uint32_t patience = 1; patience <= 4; patience++) {
        llama_sampler * smpl = make_guardian(LIL_GUARDIAN_STOP, 50, 10.0, patience);
        const size_t    n    = accept_until_forced(smpl, loop);
        CHECK(n % 50 == 0 && (patience == 1 || n == n_prev + 50));
        n_prev = n;
        llama_sampler_free(smpl);
    }

    // something new in between ends the streak
    llama_sampler * smpl   = make_guardian(LIL_GUARDIAN_STOP, 50, 10.0, 2);
    auto            tokens = std::vector<llama_token>(loop.begin(), loop.begin() + 100);
    const auto      prose  = tokenize(make_prose(200, 4));
    tokens.insert(tokens.end(), prose.begin(), prose.begin() + 50);
    tokens.insert(tokens.end(), loop.begin(), loop.begin() + 50);
    CHECK(accept_until_forced(smpl, tokens) == tokens.size());
    CHECK(!get_report(smpl).alarmed && get_report(smpl).n_checks == 4);
    CHECK(apply(smpl) == LLAMA_TOKEN_NULL);
    llama_sampler_free(smpl);

    // growth is never below 0
    smpl = make_guardian(LIL_GUARDIAN_STOP, 10, 0.0, 1);
    CHECK(accept_until_forced(smpl, loop) == loop.size());
    llama_sampler_free(smpl);
}

static void test_close_think() {
    const auto loop   = tokenize(repeat("Wait, let me think about that again. ", 300));
    const auto answer = tokenize(make_prose(120, 5));

    for (const char * think_end :
            { (const char *) nullptr, "</think>", "\n<|end of my thoughts|>\n\n", "\xe2\x9c\x93 fertig" }) {
        auto        params = make_params(LIL_GUARDIAN_CLOSE_THINK, 50, 10.0, 1);
        std::string copy   = think_end ? think_end : "";
        params.think_end   = think_end ? copy.c_str() : nullptr;

        llama_sampler * smpl = lil_sampler_init_guardian(vocab, params);
        CHECK(smpl != nullptr);
        std::fill(copy.begin(), copy.end(), '?'); // copied

        const auto forced = tokenize(think_end ? think_end : "</think>", true);

        const size_t n_loop = accept_until_forced(smpl, loop);
        CHECK(n_loop % 50 == 0);

        for (llama_token token : forced) {
            CHECK(!get_report(smpl).think_closed);
            CHECK(apply(smpl) == token && apply(smpl, 1) == token);
            llama_sampler_accept(smpl, token);
        }

        auto report = get_report(smpl);
        CHECK(report.alarmed && report.think_closed && !report.stopped);
        CHECK(report.n_tokens == n_loop + forced.size() && report.n_tokens_alarm == n_loop &&
                report.n_checks == n_loop / 50);
        CHECK(apply(smpl) == LLAMA_TOKEN_NULL);

        // the answer is let through, with a whole interval to the next check
        CHECK(accept_until_forced(smpl, { answer.begin(), answer.begin() + 100 }) == 100);
        CHECK(get_report(smpl).n_checks == n_loop / 50 + 2);

        // and a loop in it stops
        const size_t n_again = accept_until_forced(smpl, loop);
        CHECK(n_again % 50 == 0 && is_eog(apply(smpl)));
        report = get_report(smpl);
        CHECK(report.stopped && report.think_closed && report.n_tokens_alarm == n_loop);

        llama_sampler_free(smpl);
    }

    // the host knows that there is no thinking, and then that there is
    for (const bool thinking : { false, true }) {
        llama_sampler * smpl = make_guardian(LIL_GUARDIAN_CLOSE_THINK, 50, 10.0, 1);
        CHECK(lil_guardian_set_thinking(smpl, false) && (!thinking || lil_guardian_set_thinking(smpl, true)));
        accept_until_forced(smpl, loop);
        CHECK(is_eog(apply(smpl)) == !thinking);
        CHECK(lil_guardian_set_thinking(smpl, false) && is_eog(apply(smpl)) == !thinking); // what has begun goes on
        llama_sampler_free(smpl);
    }

    // thinking is over already, whatever the tokens: the alarm stops
    for (const char * text : { "so that is it</think>\n\n", "a </", "no think>" }) {
        llama_sampler *          smpl = make_guardian(LIL_GUARDIAN_CLOSE_THINK, 50, 10.0, 1);
        std::vector<llama_token> tokens;
        for (char c : std::string(text)) {
            const auto t = tokenize(std::string(1, c));
            tokens.insert(tokens.end(), t.begin(), t.end());
        }
        CHECK(accept_until_forced(smpl, tokens) == tokens.size());
        accept_until_forced(smpl, loop);
        CHECK(is_eog(apply(smpl)) == (strstr(text, "</think>") != nullptr));
        llama_sampler_free(smpl);
    }

    // one in the prompt, of an earlier turn, does not count
    llama_sampler * smpl   = make_guardian(LIL_GUARDIAN_CLOSE_THINK, 50, 10.0, 1);
    const auto      prompt = tokenize("<think>easy</think>4<think>", true);
    CHECK(lil_guardian_feed_prompt(smpl, prompt.data(), (int32_t) prompt.size()));
    accept_until_forced(smpl, loop);
    CHECK(apply(smpl) == tokenize("</think>", true)[0]);

    // a token that the host puts in place of the forced one does not count for it
    llama_sampler_accept(smpl, loop[0]);
    CHECK(apply(smpl) == tokenize("</think>", true)[0]);
    llama_sampler_free(smpl);
}

static void test_clone() {
    const auto loop  = tokenize(repeat("Wait, let me think about that again. ", 300));
    const auto prose = tokenize(make_prose(400, 6));

    // in the middle of an interval
    llama_sampler * a = make_guardian(LIL_GUARDIAN_STOP, 100, 15.0, 2);
    CHECK(lil_guardian_feed_prompt(a, prose.data(), 20));
    CHECK(accept_until_forced(a, { loop.begin(), loop.begin() + 130 }) == 130);

    llama_sampler * b  = llama_sampler_clone(a);
    const auto      ra = get_report(a);
    const auto      rb = get_report(b);
    CHECK(ra.n_tokens == rb.n_tokens && ra.n_bytes == rb.n_bytes && ra.size == rb.size && ra.n_checks == rb.n_checks);
    CHECK(get_curve(a) == get_curve(b));

    CHECK(accept_until_forced(b, prose) == prose.size());
    CHECK(get_report(a).n_tokens == 130);
    const size_t n_a = accept_until_forced(a, { loop.begin() + 130, loop.end() });
    CHECK((130 + n_a) % 100 == 0 && get_report(a).stopped && !get_report(b).alarmed);

    // of a stopped one
    llama_sampler * c = llama_sampler_clone(a);
    llama_sampler_free(a);
    CHECK(get_report(c).stopped && is_eog(apply(c)));

    // the copy function of upstream
    llama_sampler_copy(c, b);
    CHECK(get_report(b).stopped && is_eog(apply(b)) && get_curve(b) == get_curve(c));
    llama_sampler_free(b);
    llama_sampler_free(c);

#ifdef __linux__
    // a copy that fails changes nothing
    llama_sampler * full = make_guardian(LIL_GUARDIAN_FLAG, 1, 0.0, 2);
    llama_sampler * kept = make_guardian(LIL_GUARDIAN_FLAG, 100, 15.0, 2);
    accept_until_forced(full, prose);
    accept_until_forced(kept, { loop.begin(), loop.begin() + 130 });
    const auto before = get_report(kept);
    CHECK(get_curve(full).size() > 300);

    bool thrown = false;
    fail_size   = 300 * sizeof(double);
    try {
        llama_sampler_copy(full, kept);
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    fail_size        = 0;
    const auto after = get_report(kept);
    CHECK(thrown && after.size == before.size && after.n_tokens == before.n_tokens &&
            after.n_checks == before.n_checks);
    accept_until_forced(kept, prose);
    llama_sampler_copy(full, kept);
    CHECK(get_curve(kept) == get_curve(full));
    llama_sampler_free(full);
    llama_sampler_free(kept);
#endif

    // in the middle of forcing, within a chain
    llama_sampler * chain  = llama_sampler_chain_init(llama_sampler_chain_default_params());
    auto            params = make_params(LIL_GUARDIAN_CLOSE_THINK, 50, 10.0, 1);
    params.think_end       = "that will have to do";
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    llama_sampler_chain_add(chain, lil_sampler_init_guardian(vocab, params));

    const auto forced = tokenize(params.think_end, true);
    CHECK(forced.size() > 2);
    for (llama_token token : loop) {
        llama_sampler_accept(chain, token);
        if (get_report(llama_sampler_chain_get(chain, 1)).alarmed) {
            break;
        }
    }
    llama_sampler_accept(chain, forced[0]);

    llama_sampler * other = llama_sampler_clone(chain);
    for (llama_sampler * smpl : { chain, other }) {
        for (size_t i = 1; i < forced.size(); i++) {
            CHECK(apply(smpl) == forced[i]);
            llama_sampler_accept(smpl, forced[i]);
        }
        CHECK(get_report(llama_sampler_chain_get(smpl, 1)).think_closed);
        llama_sampler_free(smpl);
    }
}

// the token of one byte; LLAMA_TOKEN_NULL: the vocabulary has none
static llama_token find_byte(unsigned char byte) {
    for (llama_token token = 0; token < llama_vocab_n_tokens(vocab); token++) {
        if (get_piece(token) == std::string(1, (char) byte)) {
            return token;
        }
    }
    return LLAMA_TOKEN_NULL;
}

static void test_utf8() {
    struct {
        std::string bytes;  // accepted one by one; every one is a check that raises the alarm
        size_t      n_pass; // how many go through before the action
    } cases[] = {
        { "a", 1 },
        { "\xc3\xa9", 2 },
        { "\xe2\x82\xac", 3 },
        { "\xf0\x9f\x98\x80", 4 },
        { "\xf0\x9f"
          "aa",
                3 },               // broken off
        { "\xe2\xe2\xe2\xe2", 4 }, // never complete: three more at most
        { "\xf0\xf0\xf0\xf0\xf0", 4 },
        { "\x80", 1 }, // no beginning
    };

    for (const auto & c : cases) {
        std::vector<llama_token> tokens;
        for (char byte : c.bytes) {
            tokens.push_back(find_byte((unsigned char) byte));
        }
        if (std::count(tokens.begin(), tokens.end(), LLAMA_TOKEN_NULL) > 0) {
            printf("  no token for a byte of this vocabulary: one UTF-8 case skipped\n");
            continue;
        }

        for (auto action : { LIL_GUARDIAN_STOP, LIL_GUARDIAN_CLOSE_THINK }) {
            llama_sampler * smpl   = make_guardian(action, 1, 1e6, 1);
            const size_t    n_pass = accept_until_forced(smpl, tokens);
            CHECK(n_pass == c.n_pass);
            CHECK(apply(smpl) != LLAMA_TOKEN_NULL);
            CHECK(get_report(smpl).n_tokens_alarm == 1 && get_report(smpl).n_checks == 1);
            CHECK(get_report(smpl).stopped == (action == LIL_GUARDIAN_STOP));
            llama_sampler_free(smpl);
        }

        // the model ends by itself while the action waits
        if (c.n_pass > 1) {
            llama_sampler * smpl = make_guardian(LIL_GUARDIAN_STOP, 1, 1e6, 1);
            llama_sampler_accept(smpl, tokens[0]);
            CHECK(apply(smpl) == LLAMA_TOKEN_NULL);
            llama_sampler_accept(smpl, llama_vocab_eos(vocab));
            CHECK(get_report(smpl).alarmed && !get_report(smpl).stopped);
            llama_sampler_free(smpl);
        }
    }
}

static void check_refused(const lil_guardian_params & params, const char * word) {
    CHECK(lil_sampler_init_guardian(vocab, params) == nullptr);
    CHECK(strstr(lil_last_error(), word) != nullptr);
}

static void test_errors() {
    const auto params = lil_guardian_default_params();
    CHECK(params.every == 250 && params.threshold == 20.0 && params.patience == 1 &&
            params.action == LIL_GUARDIAN_STOP && params.rule == LIL_GUARDIAN_RULE_TEXT && params.n_then == 0 &&
            params.grace == 25 && params.widen == 2);
    CHECK(params.think_begin == nullptr && params.think_end == nullptr && params.message == nullptr);

    auto p  = params;
    p.every = 0;
    check_refused(p, "every is 0");
    p          = params;
    p.patience = 0;
    check_refused(p, "patience is 0");
    for (double threshold : { -1.0, (double) NAN, std::numeric_limits<double>::infinity() }) {
        p           = params;
        p.threshold = threshold;
        check_refused(p, "threshold is");
    }
    p                = params;
    const int action = 4;
    memcpy(&p.action, &action, sizeof(action));
    check_refused(p, "action is 4");
    p           = params;
    p.action    = LIL_GUARDIAN_CLOSE_THINK;
    p.think_end = "";
    check_refused(p, "think_end is empty");

    CHECK(lil_sampler_init_guardian(nullptr, params) == nullptr);
    CHECK(strstr(lil_last_error(), "vocabulary") != nullptr);

    lil_lz77 * lz = lil_lz77_init();
    CHECK(lil_lz77_feed(lz, "abc", 3) && !lil_lz77_feed(lz, "abc", (size_t) 1 << 31) && lil_lz77_bytes(lz) == 3);
    CHECK(strstr(lil_last_error(), "2147483648 bytes after 3") != nullptr &&
            strstr(lil_last_error(), "2^31 - 1") != nullptr);
    lil_lz77_free(lz);

    // no Guardian
    llama_sampler * greedy = llama_sampler_init_greedy();
    llama_sampler * chain  = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, lil_sampler_init_guardian(vocab, params));

    lil_guardian_report report;
    for (llama_sampler * smpl : { greedy, chain, (llama_sampler *) nullptr }) {
        CHECK(!lil_guardian_feed_prompt(smpl, nullptr, 0));
        CHECK(!lil_guardian_get_report(smpl, &report));
        CHECK(lil_guardian_get_curve(smpl, nullptr, 0) == 0);
        CHECK(strstr(lil_last_error(), "not a Guardian") != nullptr);
    }

    // prompts
    llama_sampler *   smpl  = llama_sampler_chain_get(chain, 0);
    const llama_token bad[] = { 1, llama_vocab_n_tokens(vocab) };
    CHECK(lil_guardian_feed_prompt(smpl, nullptr, 0));
    CHECK(!lil_guardian_feed_prompt(smpl, nullptr, 1));
    CHECK(!lil_guardian_feed_prompt(smpl, bad, -1));
    CHECK(!lil_guardian_feed_prompt(smpl, bad, 2));
    CHECK(strstr(lil_last_error(), "token 1 of the prompt") != nullptr);
    CHECK(get_report(smpl).n_bytes == 0);

    // a token that no vocabulary has counts, and harms nothing
    llama_sampler_accept(smpl, LLAMA_TOKEN_NULL);
    llama_sampler_accept(smpl, bad[1]);
    CHECK(get_report(smpl).n_tokens == 2 && get_report(smpl).n_bytes == 0);

    llama_sampler_free(greedy);
    llama_sampler_free(chain);
}

static void test_prompt() {
    const auto prose = tokenize(make_prose(400, 7));
    const auto loop  = tokenize(repeat("Wait, let me think about that again. ", 300));

    // the model copies its prompt: that is repetition
    llama_sampler * smpl = make_guardian(LIL_GUARDIAN_STOP, 100, 20.0, 1);
    CHECK(lil_guardian_feed_prompt(smpl, prose.data(), (int32_t) prose.size()));
    CHECK(get_report(smpl).n_tokens == 0 && get_curve(smpl)[0] > 100.0);
    CHECK(accept_until_forced(smpl, prose) == 100);
    llama_sampler_free(smpl);

    // what is fed in the middle adds nothing to the growth
    llama_sampler * a = make_guardian(LIL_GUARDIAN_FLAG, 100, 15.0, 1);
    CHECK(accept_until_forced(a, { loop.begin(), loop.begin() + 250 }) == 250);
    const auto before = get_report(a);
    CHECK(lil_guardian_feed_prompt(a, prose.data(), (int32_t) prose.size()));
    CHECK(get_report(a).size > before.size + 100.0 && get_report(a).n_tokens == 250);
    CHECK(accept_until_forced(a, { loop.begin() + 250, loop.begin() + 300 }) == 50);
    CHECK(get_report(a).n_checks == 3 && get_report(a).last_growth < 15.0);
    llama_sampler_free(a);
}

// a chain whose grammar does not allow the end takes the forced one
static void test_grammar() {
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_grammar(vocab, "root ::= [a-z ,.A-Z]* \"!\"", "root"));
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    llama_sampler_chain_add(chain, make_guardian(LIL_GUARDIAN_STOP, 50, 10.0, 1));

    llama_token forced = LLAMA_TOKEN_NULL;

    for (llama_token token : tokenize(repeat("Wait, let me think about that again. ", 30))) {
        llama_token_data       data[2] = { { token, 1.0f, 0.0f }, { llama_vocab_eos(vocab), 2.0f, 0.0f } };
        llama_token_data_array cur_p   = { data, 2, -1, false };
        llama_sampler_apply(chain, &cur_p);

        const llama_token id = cur_p.data[cur_p.selected].id;
        llama_sampler_accept(chain, id);
        if (id != token) {
            forced = id;
            break;
        }
    }

    CHECK(is_eog(forced));
    CHECK(get_report(llama_sampler_chain_get(chain, 2)).stopped);

    llama_sampler_free(chain);
}

static void test_answers(const std::string & dir) {
    static const char * const names[] = { "table-12", "table-60", "json-60", "list", "python", "math", "ascii-box",
        "csv", "model-table", "model-json", "model-list", "model-code" };

    for (const char * name : names) {
        std::ifstream file(dir + "/" + name + ".txt", std::ios::binary);
        CHECK(file.good());
        std::stringstream text;
        text << file.rdbuf();

        const auto tokens = tokenize(text.str());

        // under both rules, and with the check at another place of the text
        for (size_t run = 0; run < 8; run++) {
            const size_t        skip   = std::vector<size_t>{ 0, 60, 125, 190 }[run / 2];
            lil_guardian_params params = lil_guardian_default_params();
            params.rule                = run % 2 == 0 ? LIL_GUARDIAN_RULE_PAPER : LIL_GUARDIAN_RULE_TEXT;

            llama_sampler * smpl = lil_sampler_init_guardian(vocab, params);
            CHECK(lil_guardian_feed_prompt(smpl, tokens.data(), (int32_t) skip));
            const size_t n = accept_until_forced(smpl, { tokens.begin() + (ptrdiff_t) skip, tokens.end() });
            if (params.rule == LIL_GUARDIAN_RULE_TEXT && strcmp(name, "model-json") == 0) {
                CHECK(skip + n > 800); // five books, and these over and over with other ids
                llama_sampler_free(smpl);
                continue;
            }
            CHECK(skip + n == tokens.size());

            const auto report = get_report(smpl);
            const auto curve  = get_curve(smpl);
            CHECK(!report.alarmed && report.n_checks > 0);

            double least = std::numeric_limits<double>::infinity();
            for (size_t i = 1; i < curve.size(); i++) {
                least = std::min(least, curve[i] - curve[i - 1]);
            }
            if (run == 0) {
                printf("  %-11s %5zu tokens, %2u checks, least growth %.1f\n", name, tokens.size(), report.n_checks,
                        least);
            }

            llama_sampler_free(smpl);
        }
    }
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s model.gguf answers\n", argv[0]);
        return 2;
    }

    return run_tests(argv[1],
            {
                    { "rule", test_rule },
                    { "stop", test_stop },
                    { "patience", test_patience },
                    { "close_think", test_close_think },
                    { "clone", test_clone },
                    { "utf8", test_utf8 },
                    { "errors", test_errors },
                    { "prompt", test_prompt },
                    { "grammar", test_grammar },
                    { "answers", [&] { test_answers(argv[2]); } },
            });
}
