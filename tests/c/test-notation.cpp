// lil_parse_sparse() and lil_parse_guardian(): what is taken and what is refused, written back and read again, and
// strings at random, from a seed.

#undef NDEBUG

#include "lil.h"

#include <cassert>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

static std::string format(const lil_sparse_params & p) {
    char      buf[512];
    const int n = lil_format_sparse(&p, buf, sizeof(buf));

    assert(n > 0 && (size_t) n == strlen(buf));
    assert(lil_format_sparse(&p, nullptr, 0) == n);

    return buf;
}

static std::string format(const lil_guardian_params & p) {
    std::vector<char> buf((size_t) lil_format_guardian(&p, nullptr, 0) + 1);

    assert(lil_format_guardian(&p, buf.data(), buf.size()) == (int32_t) buf.size() - 1);

    return buf.data();
}

static bool same(const lil_sparse_params & a, const lil_sparse_params & b) {
    return a.method == b.method && a.budget == b.budget && a.capacity == b.capacity && a.n_sink == b.n_sink &&
            a.recent == b.recent && a.positions == b.positions && a.prompt_scores == b.prompt_scores &&
            a.form == b.form && a.fused_dense == b.fused_dense && a.flash_attn_free == b.flash_attn_free &&
            a.min_ctx == b.min_ctx && a.first_page == b.first_page && a.n_init == b.n_init && a.block == b.block &&
            a.n_repr == b.n_repr && a.reselect == b.reselect && a.dense_layers == b.dense_layers &&
            a.ratio == b.ratio && a.buffer == b.buffer && a.n_obs == b.n_obs && a.lambda == b.lambda &&
            a.threshold == b.threshold && a.kept_prompts == b.kept_prompts;
}

static bool same(const lil_guardian_params & a, const lil_guardian_params & b) {
    const char * x = a.think_end ? a.think_end : "";
    const char * y = b.think_end ? b.think_end : "";

    return a.every == b.every && a.threshold == b.threshold && a.patience == b.patience && a.action == b.action &&
            strcmp(x, y) == 0;
}

// one line of plain ASCII, of a bounded length
static void check_error() {
    const std::string err = lil_last_error();

    assert(!err.empty() && err.size() < 1500);
    for (const char c : err) {
        assert(c >= 0x20 && c < 0x7f);
    }
}

// what is read, and how it is written back
static const char * const TAKEN[][2] = {
    { "none", "none" },
    { "off", "none" },
    { "full:fused_dense=off", "none:fused_dense=false" },
    { "dense", "dense" },
    { "h2o", "h2o" },
    { "quest:budget=512,first_page=true", "quest:budget=512,first_page=true" },
    { " quest :\tfirst_page = on : budget=512 ", "quest:budget=512,first_page=true" },
    { "quest:budget=1024\n", "quest" },
    { "quest:min_ctx=auto,dense_layers=auto", "quest" },
    { "quest:dense_layers=0", "quest:dense_layers=0" },
    { "sink:positions=cache,n_sink=\"2\"", "sink:n_sink=2,positions=cache" },
    { "infllm:positions=clipped,block=auto", "infllm:positions=clipped" },
    { "rkv:lam=0.30,observed=4,threshold=1e-1", "rkv:observed=4,lam=0.3,threshold=0.1" },
    { "lessismore:ratio=0.33333334,reselect=18", "lessismore:reselect=18,ratio=0.33333334" },
    { "raas:form=fused,fused_dense=false", "raas:form=fused,fused_dense=false" },
    { "tova:capacity=4096,kept_prompts=0", "tova:capacity=4096,kept_prompts=0" },
    { "tidal:reselect=none", "tidal" },
    { "probe:n_sink=1", "probe:n_sink=1" },
    { "h2o:recent=7,prompt_scores=window", "h2o:recent=7,prompt_scores=window" },
};

// what is refused, and what the error says
static const char * const REFUSED[][2] = {
    { "", "it is empty" },
    { ":", "it is empty" },
    { "budget=512", "it begins with a method" },
    { "qest", "'qest' is no method: did you mean quest? There is sink, h2o" },
    { "H2O", "did you mean h2o?" },
    { "streaming", "There is sink" },
    { "quest:", "an option is empty" },
    { "quest:budget=512,", "an option is empty" },
    { "quest:budget", "'budget' has no value" },
    { "quest:budgte=512", "'budgte' is no option of quest: did you mean budget? There is budget, min_ctx" },
    { "quest:capacity=512", "'capacity' is no option of quest" },
    { "none:budget=512", "no option of full attention" },
    { "quest:budget=512,budget=512", "'budget' stands there twice" },
    { "quest:budget=", "budget='': give a whole number of at least 1" },
    { "quest:budget=-1", "budget='-1': give a whole number" },
    { "quest:budget=1e3", "give a whole number" },
    { "quest:budget=0x10", "give a whole number" },
    { "quest:budget=4294967297", "give a whole number" },
    { "quest:budget=3", "budget = 3" },
    { "quest:first_page=yse", "first_page='yse': There is true, false, on and off" },
    { "quest:first_page=flase", "did you mean false?" },
    { "sink:positions=clipped", "positions='clipped': There is absolute and cache" },
    { "infllm:positions=cache", "There is absolute and clipped" },
    { "infllm:block=257", "at least 1 and at most 256, or auto, none" },
    { "tova:kept_prompts=65", "at least 0 and at most 64" },
    { "rkv:lam=nan", "a number of at least 0 and at most 1" },
    { "rkv:lam=1.5", "a number of at least 0 and at most 1" },
    { "rkv:lam=0,5", "'5' has no value" },
    { "raas:ratio=0", "ratio" },
    { "raas:form=portable", "form" },
    { "quest:form=fast", "form='fast': There is auto, portable and fused" },
    { "quest:budget=\"512", "does not end with one" },
    { "quest:budget=\"512\"x", "'x' stands behind a value in quotes" },
};

static const char * const GUARDIAN[][2] = {
    { "on", "guardian" },
    { "true", "guardian" },
    { "guardian:every=250", "guardian" },
    { "every=100,threshold=12.5,patience=2", "guardian:every=100,threshold=12.5,patience=2" },
    { "on,action=close_think", "guardian:action=close_think" },
    { "guardian:action=close_think,think_end=\"a\\n\\\"b\\\\,\"",
            "guardian:action=close_think,think_end=\"a\\n\\\"b\\\\,\"" },
    { "action=flag", "guardian:action=flag" },
    { "action=widen+close_think+stop,every=100", "guardian:action=widen+close_think+stop,every=100" },
    { "action=stop+widen", "guardian:action=stop+widen" },
    { "rule=text", "guardian" },
    { "rule=paper", "guardian:rule=paper" },
    { "action=widen,widen=all", "guardian:action=widen,widen=all" },
    { "action=close_think,grace=0,message=\"I answer.\"", "guardian:action=close_think,message=\"I answer.\",grace=0" },
};

static const char * const GUARDIAN_REFUSED[][2] = {
    { "", "it is empty" },
    { "gaurdian", "'gaurdian' is unknown: did you mean guardian?" },
    { "1", "'1' is unknown" },
    { "off:every=3", "'off' takes no options" },
    { "action=widen+halt", "action='widen+halt': 'halt' is unknown" },
    { "action=widen,message=x", "message has no effect without action=close_think" },
    { "widen=1", "widen='1'" },
    { "evry=3", "'evry' is no option of guardian: did you mean every?" },
    { "every=0", "every='0': give a whole number of at least 1" },
    { "threshold=-1", "threshold='-1': give a number of at least 0" },
    { "threshold=inf", "give a number" },
    { "action=stopp", "action='stopp': did you mean stop? There is stop, close_think, flag and widen" },
    { "think_end=x", "think_end has no effect without action=close_think" },
    { "action=close_think,think_end=\"\"", "think_end is empty" },
    { "action=close_think,think_end=\"\\x\"", "a backslash stands before" },
};

static void test_tables() {
    for (const auto & t : TAKEN) {
        lil_sparse_params p;
        if (!lil_parse_sparse(t[0], &p)) {
            fprintf(stderr, "%s\n", lil_last_error());
            assert(false);
        }
        if (format(p) != t[1]) {
            fprintf(stderr, "%s: %s\n", t[0], format(p).c_str());
            assert(false);
        }
        lil_sparse_params back;
        assert(lil_parse_sparse(t[1], &back) && same(p, back));
    }

    for (const auto & t : REFUSED) {
        const lil_sparse_params before = lil_sparse_default_params(LIL_SPARSE_TOVA);
        lil_sparse_params       p      = before;
        assert(!lil_parse_sparse(t[0], &p) && same(p, before));
        check_error();
        if (!strstr(lil_last_error(), t[1])) {
            fprintf(stderr, "%s: %s\n", t[0], lil_last_error());
            assert(false);
        }
    }

    for (const auto & t : GUARDIAN) {
        bool                on = false;
        lil_guardian_params p;
        assert(lil_parse_guardian(t[0], &on, &p) && on);
        assert(format(p) == t[1]);
    }

    for (const auto & t : GUARDIAN_REFUSED) {
        bool                on     = true;
        lil_guardian_params before = lil_guardian_default_params();
        before.every               = 77;
        lil_guardian_params p      = before;
        assert(!lil_parse_guardian(t[0], &on, &p) && on && same(p, before));
        check_error();
        if (!strstr(lil_last_error(), t[1])) {
            fprintf(stderr, "%s: %s\n", t[0], lil_last_error());
            assert(false);
        }
    }

    bool                on = true;
    lil_guardian_params p;
    assert(lil_parse_guardian("off", &on, &p) && !on && p.every == 250);

    assert(!lil_parse_sparse(nullptr, nullptr) && !lil_parse_guardian("on", nullptr, nullptr));
    assert(lil_format_sparse(nullptr, nullptr, 0) == -1 && lil_format_guardian(nullptr, nullptr, 0) == -1);

    char buf[6];
    assert(lil_format_guardian(&p, buf, sizeof(buf)) == 8 && strcmp(buf, "guard") == 0);
}

// a decimal comma of the process's locale changes nothing
static void test_locale() {
    for (const char * name : { "de_DE.UTF-8", "fr_FR.UTF-8" }) {
        if (setlocale(LC_ALL, name)) {
            break;
        }
    }
    lil_sparse_params p;
    assert(lil_parse_sparse("rkv:lam=0.25", &p) && p.lambda == 0.25f && format(p) == "rkv:lam=0.25");
    setlocale(LC_ALL, "C");
}

static void test_fuzz(uint32_t seed, int n) {
    static const char * const PARTS[] = { "quest", "h2o", "sink", "none", "guardian", "on", "off", ":", ",", "=", "\"",
        "\\", "budget", "capacity", "first_page", "ratio", "every", "threshold", "action", "close_think", "think_end",
        "512", "0", "-1", "1e9", "0.5", "true", "auto", " ", "\n", "\xff", "99999999999999999999", "\xc3\xbc", "nan" };

    std::mt19937 rng(seed);
    const auto   below = [&](size_t m) { return (size_t) (rng() % m); };

    const size_t n_taken    = sizeof(TAKEN) / sizeof(TAKEN[0]);
    const size_t n_guardian = sizeof(GUARDIAN) / sizeof(GUARDIAN[0]);

    int n_ok = 0;
    for (int i = 0; i < n; i++) {
        std::string s;
        if (below(3) > 0) { // one that is right, with a few faults
            s = below(2) ? TAKEN[below(n_taken)][0] : GUARDIAN[below(n_guardian)][0];
            for (size_t k = below(3); k > 0; k--) {
                const size_t at = below(s.size() + 1);
                switch (below(3)) {
                    case 0:  s.erase(at, 1 + below(4)); break;
                    case 1:  s.insert(at, PARTS[below(sizeof(PARTS) / sizeof(PARTS[0]))]); break;
                    default: s.insert(at, 1, (char) (1 + below(255))); break;
                }
            }
        } else {
            for (size_t k = below(12); k > 0; k--) {
                s += PARTS[below(sizeof(PARTS) / sizeof(PARTS[0]))];
            }
        }

        const lil_sparse_params before = lil_sparse_default_params(LIL_SPARSE_TOVA);
        lil_sparse_params       p      = before;
        lil_sparse_params       back;
        if (lil_parse_sparse(s.c_str(), &p)) {
            n_ok++;
            assert(lil_parse_sparse(format(p).c_str(), &back) && same(p, back));
        } else {
            assert(same(p, before));
            check_error();
        }

        bool                on = false;
        lil_guardian_params g  = lil_guardian_default_params();
        if (lil_parse_guardian(s.c_str(), &on, &g)) {
            n_ok++;
            const std::string   written = format(g);
            lil_guardian_params other;
            assert(lil_parse_guardian(written.c_str(), &on, &other) && format(other) == written);
        } else {
            check_error();
        }
    }

    printf("seed %u: %d of %d were taken\n", (unsigned) seed, n_ok, 2 * n);
    assert(n_ok > n / 20 && n_ok < n);
}

int main(int argc, char ** argv) {
    test_tables();
    test_locale();
    test_fuzz(argc > 1 ? (uint32_t) std::stoul(argv[1]) : 1, argc > 2 ? std::stoi(argv[2]) : 100000);

    printf("OK\n");

    return 0;
}
