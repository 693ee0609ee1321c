#include "evict.h"
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

// What R-KV ranks by: importance and redundancy of the tokens of one KV head, in order of position, see
// sparse/evict/rkv.cpp. Once every `buffer` steps and head, so it may allocate.

namespace {

// the keys of a head by position, in F32
struct rkv_keys {
    int64_t n;
    int64_t n_embd;

    std::vector<uint32_t> slot; // [n]
    std::vector<float>    pos;  // [n]
    std::vector<float>    k;    // [n_embd, n]

    rkv_keys(const lil_evict_head & head, ggml_type type, int64_t n, int64_t n_embd) :
        n(n), n_embd(n_embd), slot(n), pos(n), k(n * n_embd) {
        std::iota(slot.begin(), slot.end(), 0);
        std::sort(slot.begin(), slot.end(), [&](uint32_t a, uint32_t b) { return head.pos[a] < head.pos[b]; });

        for (int64_t j = 0; j < n; ++j) {
            pos[j] = head.pos[slot[j]];
            lil_widen_row(type, head.k + slot[j] * head.k_stride, k.data() + j * n_embd, n_embd);
        }
    }

    float * key(int64_t j) { return k.data() + j * n_embd; }
};

float dot(const float * a, const float * b, int64_t n) {
    float res;
    ggml_vec_dot_f32(n, &res, 0, a, 0, b, 0, 1);
    return res;
}

// sink: counts in the denominator
void soft_max(float * x, int64_t n, float sink = -INFINITY) {
    const float max = std::max(*std::max_element(x, x + n), sink);

    float sum = expf(sink - max);
    for (int64_t j = 0; j < n; ++j) {
        x[j] = expf(x[j] - max);
        sum += x[j];
    }
    for (int64_t j = 0; j < n; ++j) {
        x[j] /= sum;
    }
}

// scale and softcap do not change which logit is the largest
float get_logit(const lil_evict_layer & layer, float kq) {
    kq *= layer.scale;

    return layer.softcap != 0.0f ? layer.softcap * tanhf(kq / layer.softcap) : kq;
}

// ring: a head's first query in row 0, n_ring rows; the last n_win queries before position p1
std::vector<float> get_importance(const lil_evict_layer & layer, rkv_keys & keys, const char * ring, size_t stride,
        int64_t n_ring, int64_t n_group, int64_t n_win, int64_t p1, float sink) {
    std::vector<float> mean(keys.n, 0.0f);
    std::vector<float> prob(keys.n);

    for (int64_t p = p1 - n_win; p < p1; ++p) {
        const float * q = (const float *) (ring + p % n_ring * stride);

        // keys of up to the query's position
        const int64_t n = std::upper_bound(keys.pos.begin(), keys.pos.end(), (float) p) - keys.pos.begin();
        if (n == 0) {
            continue;
        }

        for (int64_t j = 0; j < n; ++j) {
            float max = -INFINITY;
            for (int64_t g = 0; g < n_group; ++g) {
                max = std::max(max, dot(keys.key(j), q + g * keys.n_embd, keys.n_embd));
            }
            prob[j] = get_logit(layer, max);
        }

        soft_max(prob.data(), n, sink);

        for (int64_t j = 0; j < n; ++j) {
            mean[j] += prob[j] / n_win;
        }
    }

    std::vector<float> res(keys.n);
    for (int64_t j = 0; j < keys.n; ++j) {
        res[j] = *std::max_element(mean.begin() + std::max<int64_t>(0, j - 3), mean.begin() + std::min(keys.n, j + 4));
    }

    return res;
}

// The keys become unit vectors. The sum over i of S_ij is the dot product of key j and the sum of all; only the entry
// that each row lets off has to be looked for, from the newest on.
std::vector<float> get_redundancy(rkv_keys & keys, float threshold) {
    std::vector<float> sum(keys.n_embd, 0.0f);

    for (int64_t j = 0; j < keys.n; ++j) {
        const float norm = std::sqrt(dot(keys.key(j), keys.key(j), keys.n_embd));

        ggml_vec_scale_f32(keys.n_embd, keys.key(j), 1.0f / std::max(norm, 1e-12f));
        ggml_vec_acc_f32(keys.n_embd, sum.data(), keys.key(j));
    }

    std::vector<float> res(keys.n);
    for (int64_t j = 0; j < keys.n; ++j) {
        res[j] = dot(keys.key(j), sum.data(), keys.n_embd) - dot(keys.key(j), keys.key(j), keys.n_embd);
    }

    for (int64_t i = 0; i < keys.n; ++i) {
        for (int64_t j = keys.n - 1; j >= 0; --j) {
            const float s = j == i ? 0.0f : dot(keys.key(i), keys.key(j), keys.n_embd);

            if (s > threshold) {
                res[j] -= s;
                break;
            }
        }
    }

    ggml_vec_scale_f32(keys.n, res.data(), 1.0f / keys.n);
    soft_max(res.data(), keys.n);

    return res;
}

}

void lil_rkv_score(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_evict_layer *) userdata;

    const ggml_tensor * ring  = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];
    const ggml_tensor * sinks = dst->src[5];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_embd    = k->ne[0] / n_head_kv;
    const int64_t n_group   = ring->ne[0] / n_embd / n_head_kv;

    for (int64_t u = ith; u < steps->ne[1] * n_head_kv; u += nth) {
        const int64_t i_head = u % n_head_kv;

        const int32_t * step = lil_get_step(steps, u / n_head_kv);

        if (step[LIL_STEP_EVICT] == 0) {
            continue;
        }

        const auto head = lil_get_evict_head(*layer, k, nullptr, dst, pos, step[LIL_STEP_STREAM], i_head);

        rkv_keys keys(head, k->type, step[LIL_STEP_BEFORE], n_embd);

        const char * queries = (const char *) ring->data + step[LIL_STEP_STREAM] * ring->nb[2] +
                i_head * n_group * n_embd * sizeof(float);

        // as with the logits, the largest of the group
        const float * first = sinks ? (const float *) sinks->data + i_head * n_group : nullptr;
        const float   sink  = first ? *std::max_element(first, first + n_group) : -INFINITY;

        const auto importance = get_importance(
                *layer, keys, queries, ring->nb[1], ring->ne[1], n_group, step[LIL_STEP_WIN], step[LIL_STEP_POS], sink);
        const auto redundancy = get_redundancy(keys, layer->threshold);

        for (int64_t j = 0; j < keys.n; ++j) {
            head.score[keys.slot[j]] = layer->lambda * importance[j] - (1.0f - layer->lambda) * redundancy[j];
        }
    }
}
