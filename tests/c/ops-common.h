#pragma once

// What the tests of the ops share: random data, rankings, comparisons. A test program includes it once.
//
//   CHECK(x)   ends the program with the seed and the test's name where x is false

#undef NDEBUG

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: seed %u: %s: CHECK(%s) failed\n", __FILE__, __LINE__, seed, test_name.c_str(), \
                    #x); \
            exit(1); \
        } \
    } while (0)

static uint32_t seed = 1;

static std::string  test_name;
static std::mt19937 rng;

static const int32_t POISON = 0x7fc0dead; // as F32: not a number

static inline int rand_int(int lo, int hi) { // [lo, hi]
    return lo + (int) (rng() % (uint32_t) (hi - lo + 1));
}

static inline int pick(const std::vector<int> & of) {
    return of[rng() % of.size()];
}

static inline std::vector<float> rand_floats(size_t n, float scale = 1.0f) {
    std::vector<float> res(n);
    for (float & x : res) {
        x = scale * ((float) rng() / (float) rng.max() * 2.0f - 1.0f);
    }
    return res;
}

// [0, n) in any order
static inline std::vector<int32_t> rand_order(int n) {
    std::vector<int32_t> res(n);
    for (int i = 0; i < n; ++i) {
        res[i] = i;
    }
    std::shuffle(res.begin(), res.end(), rng);
    return res;
}

// n of [0, n_cells), ascending
static inline std::vector<int32_t> rand_cells(int n, int n_cells) {
    auto res = rand_order(n_cells);
    res.resize(n);
    std::sort(res.begin(), res.end());
    return res;
}

// levels 0: no ties to speak of
static inline void fill_levels(float * x, int64_t n, int levels, float scale = 1.0f) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = levels ? scale * (float) (rand_int(0, levels - 1) - levels / 2)
                      : scale * ((float) (rng() % (1u << 24)) / (float) (1u << 23) - 1.0f);
        if (x[i] == 0.0f && rng() % 2) {
            x[i] = -0.0f;
        }
    }
}

// types of a KV cache
static const std::vector<ggml_type> TYPES = { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0,
    GGML_TYPE_Q4_0 };

static inline ggml_type rand_type(int n_embd) {
    ggml_type type;
    do {
        type = TYPES[rng() % TYPES.size()];
    } while (n_embd % ggml_blck_size(type) != 0);
    return type;
}

static inline float round_f16(float x) {
    return ggml_fp16_to_fp32(ggml_fp32_to_fp16(x));
}

static inline double dot(const float * a, const float * b, int n) {
    double res = 0.0;
    for (int i = 0; i < n; ++i) {
        res += (double) a[i] * b[i];
    }
    return res;
}

static inline double get_logit(const float * q, const float * k, int n, float scale, float softcap) {
    const double x = dot(q, k, n) * scale;
    return softcap != 0.0f ? softcap * std::tanh(x / softcap) : x;
}

// sink: a learned one, which counts in the denominator
static inline std::vector<double> get_softmax(const std::vector<double> & x, double sink = -INFINITY) {
    const double max = std::max(*std::max_element(x.begin(), x.end()), sink);

    std::vector<double> res;

    double sum = std::exp(sink - max);
    for (const double v : x) {
        res.push_back(std::exp(v - max));
        sum += res.back();
    }
    for (double & v : res) {
        v /= sum;
    }
    return res;
}

static inline void check_near(double x, double ref, double tol) {
    if (!(std::fabs(x - ref) <= tol * (1.0 + std::fabs(ref)))) {
        fprintf(stderr, "%.9g, expected %.9g\n", x, ref);
        CHECK(!"near");
    }
}

// indices [0, x.size()), best first; of equal ones the last first
static inline std::vector<int32_t> get_ranking(const std::vector<float> & x) {
    std::vector<int32_t> res(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        res[i] = (int32_t) (x.size() - 1 - i);
    }
    std::stable_sort(res.begin(), res.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    return res;
}

static inline std::vector<int32_t> get_best(const std::vector<float> & x, int64_t k) {
    auto res = get_ranking(x);
    res.resize(std::min<size_t>(res.size(), std::max<int64_t>(k, 0)));
    return res;
}

static inline void add_ranks(std::vector<int32_t> & ranks, int32_t r0, int32_t r1) {
    for (int32_t r = r0; r < r1; ++r) {
        ranks.push_back(r);
    }
}

// RaaS from its definition (arXiv 2502.11147), one head at one step
struct raas_step {
    const int32_t * cells; // of the tokens, oldest first
    const int32_t * pages; // [n_pages + 1] each page's first token
    int32_t         n_pages;
    int32_t         n_alive; // pages that may live

    // of a page: its tokens' newest, stamps [n_cells]
    float get_stamp(const float * stamps, int32_t p) const {
        float res = 0.0f;
        for (int32_t r = pages[p]; r < pages[p + 1]; ++r) {
            res = std::max(res, stamps[cells[r]]);
        }
        return res;
    }

    // the pages with the newest stamps, and the last
    std::vector<int32_t> get_alive(const float * stamps) const {
        std::vector<float> x;
        for (int32_t p = 0; p < n_pages - 1; ++p) {
            x.push_back(get_stamp(stamps, p));
        }
        auto alive = get_best(x, n_alive - 1);
        alive.push_back(n_pages - 1);
        std::sort(alive.begin(), alive.end());
        return alive;
    }

    // the best of them, a share of `ratio`, get the time
    void stamp(float * stamps, const float * scores, float ratio, float now) const {
        const auto alive = get_alive(stamps);

        std::vector<float> x;
        for (const int32_t p : alive) {
            x.push_back(scores[p]);
        }
        for (const int32_t i : get_best(x, (int64_t) std::ceil(ratio * (float) alive.size()))) {
            if (get_stamp(stamps, alive[i]) < now) {
                for (int32_t r = pages[alive[i]]; r < pages[alive[i] + 1]; ++r) {
                    stamps[cells[r]] = now;
                }
            }
        }
    }
};

//
// the program: tests that run n times each
//

struct op_test {
    const char * name;
    void (*run)();
    int n;
};

// ./program [seed [test]]
static inline void run_tests(const char * program, int argc, char ** argv, const std::vector<op_test> & tests) {
    if (argc > 1) {
        seed = (uint32_t) strtoul(argv[1], nullptr, 10);
    }

    for (const auto & test : tests) {
        if (argc > 2 && strcmp(test.name, argv[2]) != 0) {
            continue;
        }
        rng.seed(seed);

        for (int i = 0; i < test.n; ++i) {
            test_name = test.name;
            test.run();
        }

        printf("%s: %s: ok\n", program, test.name);
        fflush(stdout);
    }
}
