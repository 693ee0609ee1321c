// Tests Guardian's rule LIL_GUARDIAN_RULE_TEXT: the sampler against the rule alone, copies, resets, and its cost. What
// the rule decides is compared with a reference in tests/python/test_text_rule.py.
//
//     test-text-rule model.gguf
//
// Only the vocabulary of the file is loaded.

#include "guardian-common.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

//
// helpers
//

// words of letters that come once
static std::string make_prose(size_t n_words, uint32_t seed) {
    std::string text;
    for (size_t i = 0; i < n_words; i++) {
        for (uint32_t n = 2 + draw(seed) % 7; n > 0; n--) {
            text += (char) ('a' + draw(seed) % 26);
        }
        text += i % 11 == 10 ? ". " : " ";
    }
    return text;
}

// the same in other words, and counted
static std::string make_loop(size_t n, uint32_t seed) {
    static const char * const words[3][4] = {
        { "Wait, let me ", "Hold on, I should ", "Hmm, let us ", "Actually, I will " },
        { "check ", "verify ", "look at ", "go over " },
        { "that again. ", "the answer once more. ", "the last step. ", "it from the start. " },
    };

    std::string text;
    for (size_t i = 0; i < n; i++) {
        text += "Attempt " + std::to_string(i) + ". ";
        for (const auto & row : words) {
            text += row[draw(seed) % 4];
        }
    }
    return text;
}

static llama_sampler * make_guardian(
        lil_guardian_action action, uint32_t every = 250, lil_guardian_rule rule = LIL_GUARDIAN_RULE_TEXT) {
    lil_guardian_params params = lil_guardian_default_params();
    params.rule                = rule;
    params.action              = action;
    params.every               = every;

    llama_sampler * smpl = lil_sampler_init_guardian(vocab, params);
    CHECK(smpl != nullptr);
    return smpl;
}

//
// tests
//

// checks every/2 tokens apart, the rule's verdict at each, the paper's curve
static void test_sampler() {
    const auto prompt = tokenize(make_prose(100, 1));
    const auto tokens = tokenize(make_prose(400, 2) + make_loop(200, 3) + make_prose(300, 4) + make_loop(100, 5));

    for (uint32_t every : { 61u, 250u, 251u }) {
        const uint32_t interval = (every + 1) / 2;

        llama_sampler * smpl = make_guardian(LIL_GUARDIAN_FLAG, every);
        lil_lz77 *      lz   = lil_lz77_init();
        lil_text_rule * rule = lil_text_rule_init();
        CHECK(lz != nullptr && rule != nullptr && std::isnan(lil_text_rule_get(rule).own_growth));

        CHECK(lil_guardian_feed_prompt(smpl, prompt.data(), (int32_t) prompt.size()));
        for (llama_token token : prompt) {
            const std::string piece = get_piece(token);
            CHECK(lil_lz77_feed(lz, piece.data(), piece.size()));
        }

        double              size  = lil_lz77_size(lz);
        std::vector<double> curve = { size };
        uint64_t            first = 0;
        uint32_t            n     = 0; // checks with an alarm

        for (size_t i = 0; i < tokens.size(); i++) {
            const std::string piece = get_piece(tokens[i]);
            CHECK(lil_lz77_feed(lz, piece.data(), piece.size()));
            CHECK(lil_text_rule_feed(rule, piece.data(), piece.size()));
            llama_sampler_accept(smpl, tokens[i]);

            if ((i + 1) % interval == 0) {
                const bool alarm = lil_text_rule_check(rule, lil_lz77_size(lz) - size, 20.0, 1);
                CHECK(alarm == lil_text_rule_get(rule).alarm);
                first = alarm && first == 0 ? i + 1 : first;
                n += alarm;
                size = lil_lz77_size(lz);
                curve.push_back(size);
            }
        }

        const auto          report = get_report(smpl);
        std::vector<double> found(lil_guardian_get_curve(smpl, nullptr, 0));
        lil_guardian_get_curve(smpl, found.data(), found.size());
        CHECK(found == curve && report.n_checks + 1 == curve.size());
        CHECK(first > 400 && n > 2 && n < report.n_checks);
        CHECK(report.alarmed && report.n_tokens_alarm == first && !report.stopped);

        lil_text_rule_free(rule);
        lil_lz77_free(lz);
        llama_sampler_free(smpl);
    }

    // the paper's rule sees none of it
    llama_sampler * smpl = make_guardian(LIL_GUARDIAN_STOP, 250, LIL_GUARDIAN_RULE_PAPER);
    CHECK(accept_until_forced(smpl, tokens) == tokens.size());
    llama_sampler_free(smpl);
}

// what is written out again is no loop, from the prompt or from the answer; a third time it is
static void test_again() {
    const auto text = tokenize(make_prose(700, 6));

    llama_sampler * smpl = make_guardian(LIL_GUARDIAN_STOP);
    CHECK(lil_guardian_feed_prompt(smpl, text.data(), (int32_t) text.size()));
    CHECK(accept_until_forced(smpl, text) == text.size());
    CHECK(accept_until_forced(smpl, text) < text.size());
    CHECK(get_report(smpl).stopped);

    // from the start
    llama_sampler_reset(smpl);
    CHECK(!get_report(smpl).alarmed);
    CHECK(accept_until_forced(smpl, text) == text.size());
    CHECK(accept_until_forced(smpl, text) == text.size());
    llama_sampler_free(smpl);
}

static void test_copies() {
    const auto prose = tokenize(make_prose(300, 7));
    const auto loop  = tokenize(make_loop(200, 8));

    // within a streak
    llama_sampler * a = make_guardian(LIL_GUARDIAN_STOP);
    CHECK(accept_until_forced(a, prose) == prose.size());
    CHECK(accept_until_forced(a, { loop.begin(), loop.begin() + 500 }) == 500);

    llama_sampler *                b    = llama_sampler_clone(a);
    llama_sampler *                c    = make_guardian(LIL_GUARDIAN_STOP, 250, LIL_GUARDIAN_RULE_PAPER);
    const std::vector<llama_token> rest = { loop.begin() + 500, loop.end() };
    llama_sampler_copy(a, c);

    const size_t n = accept_until_forced(a, rest);
    CHECK(n < rest.size() && n > 0);
    CHECK(accept_until_forced(b, prose) == prose.size()); // independent
    CHECK(accept_until_forced(c, rest) == n);
    CHECK(get_report(a).n_tokens_alarm == get_report(c).n_tokens_alarm && !get_report(b).alarmed);

    for (llama_sampler * smpl : { a, b, c }) {
        llama_sampler_free(smpl);
    }

    lil_text_rule * rule = lil_text_rule_init();
    for (int i = 0; i < 3; i++) {
        CHECK(lil_text_rule_feed(rule, "12 apples, 13 ap", 16));
        lil_text_rule_check(rule, 0.0, 20.0, 1);
    }
    lil_text_rule * copy = lil_text_rule_clone(rule);
    CHECK(copy != nullptr && lil_text_rule_memory(copy) == lil_text_rule_memory(rule));
    for (lil_text_rule * one : { rule, copy }) {
        CHECK(lil_text_rule_feed(one, "ples, 14 apples, 15", 19));
        lil_text_rule_check(one, 0.0, 20.0, 1);
    }
    const lil_text_stretch x = lil_text_rule_get(rule);
    const lil_text_stretch y = lil_text_rule_get(copy);
    CHECK(x.age == 3 && x.age == y.age && x.own_growth == y.own_growth && x.text_class == y.text_class);
    lil_text_rule_free(copy);

    lil_text_rule_reset(rule);
    CHECK(lil_text_rule_get(rule).age == 0 && !lil_text_rule_check(rule, 0.0, 20.0, 1));
    lil_text_rule_free(rule);
    lil_text_rule_free(nullptr);
}

// a landing begins anew: the second alarm needs as long as the first
static void test_close_think() {
    const auto loop = tokenize(make_loop(400, 9));

    llama_sampler * smpl  = make_guardian(LIL_GUARDIAN_CLOSE_THINK);
    const size_t    first = accept_until_forced(smpl, loop);
    CHECK(first < loop.size());
    while (apply(smpl) != LLAMA_TOKEN_NULL) {
        llama_sampler_accept(smpl, apply(smpl));
    }
    CHECK(get_report(smpl).think_closed && !get_report(smpl).stopped);

    const size_t second = accept_until_forced(smpl, loop);
    CHECK(second >= 3 * 125 && second < loop.size());
    CHECK(llama_vocab_is_eog(vocab, apply(smpl)));
    llama_sampler_free(smpl);
}

static void test_errors() {
    lil_guardian_params params = lil_guardian_default_params();
    CHECK(params.rule == LIL_GUARDIAN_RULE_TEXT);

    for (int rule : { -1, 2 }) {
        memcpy(&params.rule, &rule, sizeof(rule));
        CHECK(lil_sampler_init_guardian(vocab, params) == nullptr);
        CHECK(strstr(lil_last_error(), ("rule is " + std::to_string(rule)).c_str()) != nullptr);
        CHECK(strstr(lil_last_error(), "LIL_GUARDIAN_RULE_TEXT") != nullptr);
    }
}

// both factorisations together; loose, for a busy machine. benchmarks/guardian.py has the figures
static void test_cost() {
    const auto tokens = tokenize(make_loop(2000, 10));

    llama_sampler * smpl  = make_guardian(LIL_GUARDIAN_FLAG);
    const auto      start = std::chrono::steady_clock::now();
    for (llama_token token : tokens) {
        llama_sampler_accept(smpl, token);
    }
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;

    printf("  %.2f microseconds a token\n", time.count() / (double) tokens.size());
#ifndef LIL_EMULATED
    CHECK(time.count() / (double) tokens.size() < 100.0);
#endif
    llama_sampler_free(smpl);
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.gguf\n", argv[0]);
        return 2;
    }

    return run_tests(argv[1],
            {
                    { "sampler", test_sampler },
                    { "again", test_again },
                    { "copies", test_copies },
                    { "close_think", test_close_think },
                    { "errors", test_errors },
                    { "cost", test_cost },
            });
}
