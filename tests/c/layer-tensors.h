#pragma once

// What is read of a layer's tensors to compute its attention anew, and the sums over them, in F64.
//
//   REQUIRE(x, format, ...)   throws failure, with that text, where x is false

#undef NDEBUG

#include "tiny-arch.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

static const int BUDGET = 48; // of every method that is looked at

struct failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

#define REQUIRE(x, ...) \
    do { \
        if (!(x)) { \
            char text[400]; \
            snprintf(text, sizeof(text), __VA_ARGS__); \
            throw failure(std::string(text) + " [" #x "]"); \
        } \
    } while (0)

static std::vector<uint8_t> get_bytes(const ggml_tensor * t) {
    std::vector<uint8_t> res(ggml_nbytes(t));
    ggml_backend_tensor_get(t, res.data(), 0, res.size());
    return res;
}

// What an op does to its sequence, LIL_SEL_* or LIL_STEP_*; the runs have one sequence in a batch
static std::vector<int32_t> get_step(const ggml_tensor * steps) {
    REQUIRE(steps->ne[1] == 1, "%d sequences in a batch", (int) steps->ne[1]);

    std::vector<int32_t> res(steps->ne[0]);
    ggml_backend_tensor_get(steps, res.data(), 0, res.size() * sizeof(int32_t));
    return res;
}

// F32, F16 rows as numbers, without the gaps between them (MLA's values lie in its keys, a query may be a view):
// attention reads F16. Of a cache of several streams the one of that number
static std::vector<float> get_floats(const ggml_tensor * t, int64_t strm = 0) {
    const auto bytes = get_bytes(t);

    std::vector<float> res(t->ne[0] * t->ne[1]);
    for (int64_t i = 0; i < t->ne[1]; ++i) {
        const uint8_t * src = bytes.data() + (t->ne[2] > 1 ? strm : 0) * t->nb[2] + i * t->nb[1];
        float *         dst = res.data() + i * t->ne[0];

        if (t->type == GGML_TYPE_F32) {
            memcpy(dst, src, t->ne[0] * sizeof(float));
        } else {
            ggml_fp16_to_fp32_row((const ggml_fp16_t *) src, dst, t->ne[0]);
        }
    }
    return res;
}

// queries [n_embd, n_head, n_tokens], one token after the other
static std::vector<float> get_queries(const ggml_tensor * q) {
    std::vector<float> res;
    for (int64_t i = 0; i < q->ne[2]; ++i) {
        const auto one = get_floats(q, i);
        res.insert(res.end(), one.begin(), one.end());
    }
    return res;
}

// a list of cells, of KV head h: how many, then the cells
static std::vector<int32_t> get_list(const ggml_tensor * t, int64_t h = 0) {
    const auto   bytes = get_bytes(t);
    const auto * row   = (const int32_t *) (bytes.data() + (t->ne[1] == 1 ? 0 : h) * t->nb[1]);

    return { row + 1, row + 1 + row[0] };
}

static double dot(const float * a, const float * b, int64_t n) {
    double res = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        res += (double) a[i] * b[i];
    }
    return res;
}

// whether two scores may be in either order after rounding
static bool is_tie(double a, double b, double eps) {
    return std::fabs(a - b) <= eps * std::max(1.0, std::fabs(b));
}

// sink: counts in the denominator
static void soft_max(std::vector<double> & x, double sink) {
    double max = sink;
    for (const double y : x) {
        max = std::max(max, y);
    }
    double sum = std::exp(sink - max);
    for (double & y : x) {
        y = std::exp(y - max);
        sum += y;
    }
    for (double & y : x) {
        y /= sum;
    }
}

// RoPE without scaling: what moves a key by so many positions
struct rope_turn {
    int64_t n_rot  = 0;     // channels that have the position, 0: none
    int64_t offset = 0;     // the first of them
    bool    neox   = false; // a pair is n_rot/2 apart; otherwise neighbours
    double  base   = 10000.0;
    bool    slower = false; // by tiny_arch::rope_factor()

    void turn(float * row, double by) const {
        for (int64_t i = 0; i < n_rot / 2; ++i) {
            float & a = row[offset + (neox ? i : 2 * i)];
            float & b = row[offset + (neox ? i + n_rot / 2 : 2 * i + 1)];

            const double angle = by * std::pow(base, -2.0 * (double) i / (double) n_rot) /
                    (slower ? tiny_arch::rope_factor(i) : 1.0);
            const double x = a * std::cos(angle) - b * std::sin(angle);

            b = (float) (a * std::sin(angle) + b * std::cos(angle));
            a = (float) x;
        }
    }
};

// A layer's queries and the tokens that they may look at
struct layer_view {
    int64_t n_embd;
    int64_t n_head;
    int64_t n_head_kv;
    double  scale;
    double  softcap; // 0: none

    std::vector<float> q;     // [n_embd, n_head, queries]
    std::vector<float> k;     // [n_embd, n_head_kv, tokens]
    std::vector<float> sinks; // [n_head], or none

    int64_t n_group() const { return n_head / n_head_kv; }

    const float * query(int64_t head, int64_t i = 0) const { return q.data() + (i * n_head + head) * n_embd; }
    const float * key(int64_t token, int64_t h) const { return k.data() + (token * n_head_kv + h) * n_embd; }

    double cap(double x) const { return softcap != 0.0 ? softcap * std::tanh(x / softcap) : x; }
    double sink(int64_t head) const { return sinks.empty() ? -INFINITY : sinks[head]; }

    double logit(int64_t head, int64_t token, int64_t i = 0) const {
        return cap(dot(query(head, i), key(token, head / n_group()), n_embd) * scale);
    }

    // moves a token's keys by so many positions
    void turn(const rope_turn & rope, int64_t token, double by) {
        for (int64_t h = 0; h < n_head_kv; ++h) {
            rope.turn(k.data() + (token * n_head_kv + h) * n_embd, by);
        }
    }

    // what query i gives to each of these tokens
    std::vector<double> probs(int64_t head, const std::vector<int32_t> & tokens, int64_t i = 0) const {
        std::vector<double> res;
        for (const int32_t t : tokens) {
            res.push_back(logit(head, t, i));
        }
        soft_max(res, sink(head));
        return res;
    }

    // the same, all query heads of KV head h together
    std::vector<double> received(int64_t h, const std::vector<int32_t> & tokens, int64_t i = 0) const {
        std::vector<double> res(tokens.size(), 0.0);
        for (int64_t g = 0; g < n_group(); ++g) {
            const auto p = probs(h * n_group() + g, tokens, i);
            for (size_t j = 0; j < res.size(); ++j) {
                res[j] += p[j];
            }
        }
        return res;
    }
};

// of the length of a head's result; keys that were turned are rounded once more, and llama.cpp's FlashAttention on the
// CPU sums values in F16
static const double EPS_OURS   = 3e-4;
static const double EPS_TURNED = 2e-3;
static const double EPS_FLASH  = 4e-3;

// v [n_embd_v, n_head_kv, tokens], out [n_embd_v]: what attention over these tokens gives a query head
static void check_output(const layer_view & l, int64_t head, const std::vector<int32_t> & tokens,
        const std::vector<float> & v, int64_t n_embd_v, const float * out, double eps) {
    const auto p = l.probs(head, tokens);

    double diff   = 0.0;
    double length = 0.0;
    for (int64_t i = 0; i < n_embd_v; ++i) {
        double y = 0.0;
        for (size_t j = 0; j < tokens.size(); ++j) {
            y += p[j] * v[(tokens[j] * l.n_head_kv + head / l.n_group()) * n_embd_v + i];
        }
        diff += (y - out[i]) * (y - out[i]);
        length += y * y;
    }
    REQUIRE(diff <= eps * eps * length, "attention of head %d is off by %g of its length", (int) head,
            std::sqrt(diff / length));
}
