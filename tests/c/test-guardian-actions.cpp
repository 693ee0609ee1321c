// Tests what a Guardian's alarms lead to: places for a landing, one action after another, what is decided otherwise,
// what a report says of it. Made-up token streams, a byte or a piece at a time; no model is run.
//
//     test-guardian-actions model.gguf
//
// Only the vocabulary of the file is loaded.

#include "guardian-common.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

// every alarm comes as soon as it may: a check after each token, in which nothing is enough
static lil_guardian_params make_params(std::vector<lil_guardian_action> & actions) {
    lil_guardian_params params = lil_guardian_default_params();
    params.rule                = LIL_GUARDIAN_RULE_PAPER;
    params.every               = 1;
    params.threshold           = 1e9;
    params.action              = actions[0];
    params.then                = actions.data() + 1;
    params.n_then              = (uint32_t) actions.size() - 1;
    return params;
}

struct guardian {
    llama_sampler * smpl;

    explicit guardian(const lil_guardian_params & params) : smpl(lil_sampler_init_guardian(vocab, params)) {
        CHECK(smpl);
    }
    ~guardian() { llama_sampler_free(smpl); }

    guardian(const guardian &)             = delete;
    guardian & operator=(const guardian &) = delete;

    lil_guardian_report report() const { return get_report(smpl); }

    // "alarm 1, stop 1"
    std::string events() const {
        static const char * const       names[] = { "alarm", "stop", "close_think", "widen", "narrow", "rewind" };
        std::vector<lil_guardian_event> all(lil_guardian_get_events(smpl, nullptr, 0));
        CHECK(lil_guardian_get_events(smpl, all.data(), all.size()) == all.size());

        std::string res;
        for (const auto & e : all) {
            res += (res.empty() ? "" : ", ") + std::string(names[e.kind]) + " " + std::to_string(e.n_tokens);
        }
        return res;
    }

    llama_token forced() const { return apply(smpl); }

    void accept(const std::string & text) const {
        for (const llama_token token : tokenize(text, true)) {
            llama_sampler_accept(smpl, token);
        }
    }

    // one byte after another, a token each, until something is forced; what came before
    std::string accept_bytes(const std::string & text) const {
        for (size_t i = 0; i < text.size(); i++) {
            if (forced() != LLAMA_TOKEN_NULL) {
                return text.substr(0, i);
            }
            const auto tokens = tokenize(text.substr(i, 1));
            CHECK(tokens.size() == 1);
            llama_sampler_accept(smpl, tokens[0]);
        }
        return text;
    }
};

// where think_end is put: the alarm is raised at the first byte
static void test_places() {
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_CLOSE_THINK };
    const struct {
        const char * text;
        uint32_t     grace;
        const char * before; // null: the alarm stops instead
    } cases[] = {
        { "abc. def", 25, "abc." },
        { "abc\ndef", 25, "abc\n" },
        { "so? yes", 25, "so?" },
        { "it is 3.14 or so! ok", 25, "it is 3.14 or so!" }, // no full stop behind a digit
        { "he said \"no.\" then", 25, "he said \"no." },
        { "abcdefghijkl", 5, "abcdef" }, // grace is over
        { "abcdefghijkl", 0, "a" },
        { "{\"a\": \"b. c! d?\", \"e\": 1}\nx", 25, "{\"a\": \"b. c! d?\", \"e\": 1}\n" },
        { "[\"x. \\\" y. \", 2\n, 3]. z", 25, "[\"x. \\\" y. \", 2\n, 3]." },
        { "[1,\n2,\n3,\n4,\n5", 8, "[1,\n2,\n3," }, // grace is over, and this is no string
        { "{x. y", 25, "{x." },                     // no JSON: a set
        { "f({\"a. \nb", 25, "f({\"a. \n" },        // a string has no line break
        { "\\frac{1}{2}. z", 25, "\\frac{1}{2}." },
        { "{\"a\": \"bcdefghijklmnopqrstuvwxyz", 8, nullptr },
        { "<tool_call>\n{\"name\": 1}\n</tool_call>\n.", 100, "<tool_call>\n{\"name\": 1}\n</tool_call>\n" },
        { "<tool_call>\nabc.\ndef.\nghi", 20, nullptr },
        { "[TOOL_CALLS] a. b. c. d. e. f. g.", 20, nullptr },
    };

    for (const auto & c : cases) {
        auto params  = make_params(actions);
        params.grace = c.grace;

        guardian          g(params);
        const std::string before = g.accept_bytes(c.text);
        const std::string events = g.events();

        if (c.before == nullptr) {
            CHECK(is_eog(g.forced()));
            CHECK(before.size() == 1 + c.grace);
            CHECK(events == "alarm 1, stop " + std::to_string(1 + c.grace));
            CHECK(g.report().cut == (c.text[0] == '{' ? LIL_GUARDIAN_CUT_JSON : LIL_GUARDIAN_CUT_TOOL_CALL));
            continue;
        }
        if (before != c.before) {
            fprintf(stderr, "\"%s\": \"%s\"\n", c.text, before.c_str());
        }
        CHECK(before == c.before);
        CHECK(g.report().cut == LIL_GUARDIAN_CUT_NOTHING);
        if (g.forced() != LLAMA_TOKEN_NULL) {
            CHECK(g.forced() == tokenize("</think>")[0]);
            CHECK(events == "alarm 1, close_think " + std::to_string(before.size()));
        }
    }
}

// message and think_end, then the checks anew; the next alarm stops
static void test_landing() {
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_CLOSE_THINK };

    auto params    = make_params(actions);
    params.every   = 4;
    params.message = "\nI answer now.\n";

    guardian   g(params);
    const auto forced = tokenize("\nI answer now.\n</think>");

    CHECK(g.accept_bytes("abc. d") == "abc.");
    for (const llama_token token : forced) {
        CHECK(g.forced() == token && !g.report().think_closed && g.report().thinking);
        llama_sampler_accept(g.smpl, token);
    }
    CHECK(g.report().think_closed && !g.report().thinking && g.report().n_alarms == 1);

    const size_t n = 4 + forced.size();
    CHECK(g.report().n_tokens == n && g.accept_bytes("abcdefg") == "abcd" && is_eog(g.forced()));
    CHECK(g.events() == "alarm 4, close_think 4, alarm " + std::to_string(n + 4) + ", stop " + std::to_string(n + 4));
    CHECK(g.report().stopped && g.report().action == LIL_GUARDIAN_STOP);

    // the model lands by itself while the alarm waits
    guardian h(params);
    h.accept("abcdef ghi jkl</think>");
    CHECK(h.forced() == LLAMA_TOKEN_NULL && !h.report().think_closed && !h.report().thinking);
    CHECK(h.events().find("close_think") == std::string::npos);
    CHECK(h.accept_bytes("abcdefgh") == "abcd" && is_eog(h.forced()));
}

// with think_begin, thinking is what the text has open
static void test_open() {
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_CLOSE_THINK };
    const struct {
        const char * prompt;
        const char * text;
        bool         open;
    } cases[] = {
        { "Question? <think>\n", "Well.", true },
        { "Question?", "Well.", false },
        { "Question?", "<think>Well.", true },
        { "Write <think>so</think> first.", "Well.", false },
        { "<think>earlier</think> 4. Again? <think>", "Well.", true },
        { "Question? <think>\n", "Yes.</think> Well.", false },
        { "Question? <think>\n", "Yes.</think> Hm. <think> Well.", true },
    };
    for (const auto & c : cases) {
        auto params        = make_params(actions);
        params.every       = 50;
        params.think_begin = "<think>";
        params.think_end   = "</think>";
        params.grace       = 0;

        guardian   g(params);
        const auto prompt = tokenize(c.prompt, true);
        CHECK(lil_guardian_feed_prompt(g.smpl, prompt.data(), (int32_t) prompt.size()));
        g.accept(c.text);
        CHECK(g.report().thinking == c.open);
        CHECK(g.accept_bytes(std::string(50, 'x')).size() < 50);
        CHECK(is_eog(g.forced()) == !c.open);
    }
}

static void test_one_after_another() {
    // a new word in every second check or so: the text gains and does not
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_FLAG, LIL_GUARDIAN_WIDEN, LIL_GUARDIAN_CLOSE_THINK,
        LIL_GUARDIAN_WIDEN };
    auto                             params  = make_params(actions);
    params.every                             = 10;
    params.threshold                         = 3.0;
    params.grace                             = 0;

    guardian g(params);
    g.accept_bytes("qwertyuiop");
    CHECK(g.report().n_alarms == 0);
    g.accept_bytes("qwertyuiop"); // 20: flag
    CHECK(g.report().n_alarms == 1 && g.report().action == LIL_GUARDIAN_FLAG && g.report().n_wide == 0);
    g.accept_bytes("qwertyuiop"); // 30: widen
    CHECK(g.report().n_alarms == 2 && g.report().action == LIL_GUARDIAN_WIDEN && g.report().n_wide == 1);
    g.accept_bytes("qwertyuiop"); // 40: whatever it does
    CHECK(g.report().n_alarms == 2 && g.report().n_wide == 1);
    g.accept_bytes("asdfghjklz"); // 50: gains
    CHECK(g.report().n_alarms == 2 && g.report().n_wide == 0);
    g.accept_bytes("asdfghjklz"); // 60: close_think
    CHECK(g.forced() != LLAMA_TOKEN_NULL && !is_eog(g.forced()) && g.report().action == LIL_GUARDIAN_CLOSE_THINK);
    for (const llama_token token : tokenize("</think>")) {
        llama_sampler_accept(g.smpl, token);
    }
    g.accept_bytes("qwertyuiop"); // widen
    CHECK(g.report().n_wide == 1);
    g.accept_bytes("qwertyuiopqwertyuiop"); // no gain: what comes behind the last one
    CHECK(is_eog(g.forced()) && g.report().n_wide == 1);

    const size_t n = 60 + tokenize("</think>").size();
    CHECK(g.events() ==
            "alarm 20, alarm 30, widen 30, narrow 50, alarm 60, close_think 60, alarm " + std::to_string(n + 10) +
                    ", widen " + std::to_string(n + 10) + ", alarm " + std::to_string(n + 30) + ", stop " +
                    std::to_string(n + 30));

    // a copy goes on as the original
    llama_sampler * copy = llama_sampler_clone(g.smpl);
    CHECK(lil_guardian_get_events(copy, nullptr, 0) == lil_guardian_get_events(g.smpl, nullptr, 0));
    llama_sampler_free(copy);

    llama_sampler_reset(g.smpl);
    CHECK(g.events().empty() && g.report().n_alarms == 0 && g.report().n_wide == 0 && g.report().thinking);

    // the last one is FLAG: it stays so
    actions = { LIL_GUARDIAN_WIDEN, LIL_GUARDIAN_FLAG };
    guardian f(make_params(actions));
    CHECK(f.accept_bytes("abcdefghij").size() == 10 && f.report().n_alarms == 9 && f.report().n_wide == 1);

    // one that is passed over
    actions = { LIL_GUARDIAN_CLOSE_THINK, LIL_GUARDIAN_WIDEN };
    guardian p(make_params(actions));
    p.accept("x</think>");
    p.accept_bytes("y");
    CHECK(p.events().find("close_think") == std::string::npos && p.report().n_wide == 1);
}

static void test_decide() {
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_WIDEN, LIL_GUARDIAN_STOP };
    auto                             params  = make_params(actions);
    params.every                             = 2;
    params.grace                             = 0;

    guardian g(params);
    CHECK(!lil_guardian_decide(g.smpl, LIL_GUARDIAN_FLAG) && strstr(lil_last_error(), "nothing to decide"));

    g.accept_bytes("ab");
    CHECK(g.report().action == LIL_GUARDIAN_WIDEN && g.report().n_wide == 1);
    CHECK(lil_guardian_decide(g.smpl, LIL_GUARDIAN_FLAG));
    CHECK(g.report().action == LIL_GUARDIAN_FLAG && g.report().n_wide == 0 && g.events() == "alarm 2");

    g.accept_bytes("cd"); // what was put off is proposed again
    CHECK(g.report().action == LIL_GUARDIAN_WIDEN);
    CHECK(lil_guardian_decide(g.smpl, LIL_GUARDIAN_CLOSE_THINK));
    CHECK(g.report().n_wide == 0 && g.forced() == tokenize("</think>")[0]);
    CHECK(g.events() == "alarm 2, alarm 4, close_think 4");
    for (const llama_token token : tokenize("</think>")) {
        llama_sampler_accept(g.smpl, token);
    }

    g.accept_bytes("ef");
    CHECK(!lil_guardian_decide(g.smpl, LIL_GUARDIAN_CLOSE_THINK) && strstr(lil_last_error(), "thinking is not open"));
    CHECK(g.report().n_wide == 1);
    CHECK(lil_guardian_decide(g.smpl, LIL_GUARDIAN_STOP) && is_eog(g.forced()) && g.report().n_wide == 0);

    int                 number = 9;
    lil_guardian_action action;
    memcpy(&action, &number, sizeof(action));
    CHECK(!lil_guardian_decide(g.smpl, action) && strstr(lil_last_error(), "action is 9"));
    CHECK(!lil_guardian_decide(nullptr, LIL_GUARDIAN_STOP) && strstr(lil_last_error(), "not a Guardian"));
}

// a tail that the host takes back is as if it had never been
static void test_rewind() {
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_WIDEN, LIL_GUARDIAN_STOP };
    auto                             params  = make_params(actions);
    params.every                             = 20;
    params.threshold                         = 5.0;

    const std::string ask    = "Say it.";
    const std::string sound  = "The quick brown fox. "; // 21 bytes, a token each
    const std::string loop   = "jumps! jumps! jumps! jumps! jumps! ";
    const auto        prompt = tokenize(ask, true);

    guardian g(params);
    CHECK(lil_guardian_feed_prompt(g.smpl, prompt.data(), (int32_t) prompt.size()));
    g.accept_bytes(sound + loop.substr(0, 19)); // 40: gains
    CHECK(g.report().n_alarms == 0);
    g.accept_bytes(loop.substr(19) + loop.substr(0, 4)); // 60: does not
    CHECK(g.report().n_wide == 1 && g.report().n_tokens == 60);

    // the first "jumps!" is news, so are few of the bytes after it; "quick brown fox." ends a sentence, "jumps!" too
    const size_t n_left = 60 - g.report().n_tail;
    CHECK(g.report().n_tail >= 20 && n_left >= sound.size());
    const std::string left = (sound + loop).substr(0, n_left);
    CHECK(left.back() == '!' || left.back() == ' ');

    std::vector<llama_token> text = prompt;
    for (const char c : left) {
        text.push_back(tokenize(std::string(1, c))[0]);
    }
    const auto n = (int32_t) text.size();
    CHECK(!lil_guardian_rewind(g.smpl, text.data(), n + 1, n) && strstr(lil_last_error(), "are left"));
    CHECK(!lil_guardian_rewind(g.smpl, nullptr, 0, n) && !lil_guardian_rewind(nullptr, text.data(), 0, n));
    CHECK(g.report().n_tokens == 60);
    CHECK(lil_guardian_rewind(g.smpl, text.data(), (int32_t) prompt.size(), n));
    CHECK(g.report().n_tokens == n_left && g.report().n_wide == 1);
    CHECK(g.events() == "alarm 60, widen 60, rewind " + std::to_string(n_left));

    guardian fresh(params);
    CHECK(lil_guardian_feed_prompt(fresh.smpl, prompt.data(), (int32_t) prompt.size()));
    fresh.accept_bytes(left);
    CHECK(g.report().size == fresh.report().size && g.report().n_bytes == fresh.report().n_bytes);

    // the budget goes back after two checks from here
    const std::string news = "over lazy dogs in a warm, red field; why? I know: it is Friday.";
    g.accept_bytes(news.substr(0, 39));
    CHECK(g.report().n_wide == 1);
    g.accept_bytes(news.substr(39, 1));
    CHECK(g.report().n_wide == 0 && g.report().n_alarms == 1);
}

// what a stop cuts off
static void test_cut() {
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_STOP };
    const struct {
        const char *     text;
        lil_guardian_cut cut;
    } cases[] = {
        { "plain text.", LIL_GUARDIAN_CUT_NOTHING },
        { "{\"a\": [1, 2.5e-3, true, {\"b\": null}]}", LIL_GUARDIAN_CUT_NOTHING },
        { "{\"a\": [1, 2", LIL_GUARDIAN_CUT_JSON },
        { "Here it is:\n```json\n[{\"a\": \"x", LIL_GUARDIAN_CUT_JSON },
        { "{\"a\": \"{\"", LIL_GUARDIAN_CUT_JSON },
        { "{\"a\": 1}]", LIL_GUARDIAN_CUT_NOTHING },
        { "a set {1, 2", LIL_GUARDIAN_CUT_NOTHING },
        { "see [12] and [a", LIL_GUARDIAN_CUT_NOTHING },
        { "{\"a\" 1, {", LIL_GUARDIAN_CUT_JSON }, // what breaks it begins anew
        { "<tool_call>{\"a\": 1}", LIL_GUARDIAN_CUT_TOOL_CALL },
        { "<tool_call>{\"a\": 1}</tool_call>", LIL_GUARDIAN_CUT_NOTHING },
        { "<\xef\xbd\x9ctool\xe2\x96\x81"
          "calls\xe2\x96\x81"
          "begin\xef\xbd\x9c>x",
                LIL_GUARDIAN_CUT_TOOL_CALL },
    };
    for (const auto & c : cases) {
        auto params  = make_params(actions);
        params.every = 1000;

        guardian g(params);
        g.accept(c.text);
        CHECK(g.report().cut == LIL_GUARDIAN_CUT_NOTHING); // not stopped

        const auto tokens = tokenize(c.text, true);
        params.every      = (uint32_t) tokens.size();

        guardian h(params);
        h.accept(c.text);
        CHECK(is_eog(h.forced()));
        if (h.report().cut != c.cut) {
            fprintf(stderr, "\"%s\": %d\n", c.text, (int) h.report().cut);
        }
        CHECK(h.report().cut == c.cut);
    }
}

static void test_errors() {
    const auto refused = [](const lil_guardian_params & params, const char * word) {
        CHECK(lil_sampler_init_guardian(vocab, params) == nullptr);
        CHECK(strstr(lil_last_error(), word) != nullptr);
    };
    std::vector<lil_guardian_action> actions = { LIL_GUARDIAN_STOP, LIL_GUARDIAN_STOP };

    auto      p      = make_params(actions);
    const int number = 7;
    memcpy(&actions[1], &number, sizeof(number));
    refused(p, "action is 7");
    p.then = nullptr;
    refused(p, "n_then is 1 and then is NULL");
    p       = lil_guardian_default_params();
    p.widen = 1;
    refused(p, "widen is 1");
    p         = lil_guardian_default_params();
    p.message = "";
    refused(p, "message is empty");
    p             = lil_guardian_default_params();
    p.think_begin = "";
    refused(p, "think_begin is empty");

    CHECK(lil_guardian_get_events(nullptr, nullptr, 0) == 0);

    const char * begin = nullptr;
    const char * end   = nullptr;
    CHECK(!lil_find_thinking(nullptr, &begin, &end) && strstr(lil_last_error(), "NULL"));
    CHECK(!lil_find_thinking(model, &begin, &end) && strstr(lil_last_error(), "</think>")); // SmolLM2 does not think
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s model.gguf\n", argv[0]);
        return 2;
    }

    return run_tests(argv[1],
            {
                    { "places", test_places },
                    { "landing", test_landing },
                    { "open", test_open },
                    { "one after another", test_one_after_another },
                    { "decide", test_decide },
                    { "rewind", test_rewind },
                    { "cut", test_cut },
                    { "errors", test_errors },
            });
}
