#include "h2o.h"

#include "lil-simd.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// The attention that keys receive: softmax over the keys for each query, summed over the queries.
//
// The vectors run over queries (rows), so that a row's maximum and sum need no work across lanes. The rows of a group
// (all query heads of one KV head, all queries) are one list, row = query*G + head; a block is up to NV vectors of it. A
// key is widened to F32 once per block, then used for every row in it. The logits of a block are kept, [n_kv][NV] vectors,
// because a softmax needs the whole row before its first probability.

namespace {

struct score_job {
    const ggml_tensor * k;
    float               scale;
    float               softcap;

    const char * k_head;   // keys of the head, slot i at k_head + i*k_stride
    size_t       k_stride;
    int64_t      n_embd;
    int64_t      n_keys;   // slots

    // row r's query [n_embd]
    const char * q;
    size_t       q_stride_head;
    size_t       q_stride_token;
    int64_t      n_group;  // G
    int64_t      ring_pos; // >= 0: the queries are a ring, query i in row (ring_pos + i) % LIL_H2O_WINDOW

    // which keys a query sees. pos: those with pos[slot] <= pos0 + query; otherwise slots [0, base + query]
    const float * pos;
    float         pos0;
    int64_t       base;

    const char * query(int64_t r) const {
        const int64_t i = r/n_group;

        return q + (r%n_group)*q_stride_head + (ring_pos >= 0 ? (ring_pos + i)%LIL_H2O_WINDOW : i)*q_stride_token;
    }
};

// scratch of a thread, grown on first use
struct score_scratch {
    std::vector<float> qt;     // [n_embd][rows]
    std::vector<float> kf;     // [keys of a tile][n_embd]
    std::vector<float> logits; // [n_keys][rows]

    static score_scratch & get() {
        static thread_local score_scratch s;
        return s;
    }
};

// a key as attention reads it, in F32
void widen_key(const ggml_tensor * k, const char * src, float * dst, int64_t n) {
    switch (k->type) {
        case GGML_TYPE_F16:
            ggml_cpu_fp16_to_fp32((const ggml_fp16_t *) src, dst, n);
            break;
        case GGML_TYPE_F32: // FlashAttention reads an F32 cache as F16
            for (int64_t i = 0; i < n; ++i) {
                dst[i] = GGML_CPU_FP16_TO_FP32(GGML_CPU_FP32_TO_FP16(((const float *) src)[i]));
            }
            break;
        default:
            ggml_get_type_traits(k->type)->to_float(src, dst, n);
            break;
    }
}

// rows [r0, r0 + n_rows), at most NV*LIL_VF_N: adds to sum [n_keys]
template <int NV, int NK>
void score_block(const score_job & job, int64_t r0, int64_t n_rows, float * sum) {
    constexpr int N_ROWS = NV*LIL_VF_N;

    auto & scratch = score_scratch::get();

    const int64_t n_embd = job.n_embd;

    // the last key that any row of the block sees
    const int64_t n_keys = job.pos ? job.n_keys : std::min(job.n_keys, job.base + (r0 + n_rows - 1)/job.n_group + 1);

    if ((int64_t) scratch.qt.size()     < n_embd*N_ROWS) { scratch.qt.resize(n_embd*N_ROWS); }
    if ((int64_t) scratch.kf.size()     < NK*n_embd)     { scratch.kf.resize(NK*n_embd); }
    if ((int64_t) scratch.logits.size() < n_keys*N_ROWS) { scratch.logits.resize(n_keys*N_ROWS); }

    float * qt     = scratch.qt.data();
    float * kf     = scratch.kf.data();
    float * logits = scratch.logits.data();

    for (int r = 0; r < N_ROWS; ++r) {
        const float * q = r < n_rows ? (const float *) job.query(r0 + r) : nullptr;

        for (int64_t d = 0; d < n_embd; ++d) {
            qt[d*N_ROWS + r] = q ? q[d]*job.scale : 0.0f;
        }
    }

    lil_vf row_max[NV];
    for (int v = 0; v < NV; ++v) {
        row_max[v] = lil_vf_set1(-INFINITY);
    }

    // keys that every row of the block sees need no mask
    const int64_t n_free = job.pos ? 0 : std::min(n_keys, job.base + r0/job.n_group + 1);

    for (int64_t j0 = 0; j0 < n_keys; j0 += NK) {
        for (int kk = 0; kk < NK; ++kk) { // a tile past the end repeats the last key
            widen_key(job.k, job.k_head + std::min(j0 + kk, n_keys - 1)*job.k_stride, kf + kk*n_embd, n_embd);
        }

        lil_vf acc[NK][NV];
        for (int kk = 0; kk < NK; ++kk) {
            for (int v = 0; v < NV; ++v) {
                acc[kk][v] = lil_vf_set1(0.0f);
            }
        }

        for (int64_t d = 0; d < n_embd; ++d) {
            lil_vf q[NV];
            for (int v = 0; v < NV; ++v) {
                q[v] = lil_vf_load(qt + d*N_ROWS + v*LIL_VF_N);
            }
            for (int kk = 0; kk < NK; ++kk) {
                const lil_vf x = lil_vf_set1(kf[kk*n_embd + d]);
                for (int v = 0; v < NV; ++v) {
                    acc[kk][v] = lil_vf_fma(acc[kk][v], x, q[v]);
                }
            }
        }

        for (int kk = 0; kk < NK && j0 + kk < n_keys; ++kk) {
            const int64_t j = j0 + kk;

            float * l = logits + j*N_ROWS;

            for (int v = 0; v < NV; ++v) {
                lil_vf_store(l + v*LIL_VF_N, acc[kk][v]);
            }

            if (job.softcap != 0.0f) {
                for (int r = 0; r < N_ROWS; ++r) {
                    l[r] = job.softcap*tanhf(l[r]/job.softcap);
                }
            }

            if (j >= n_free) {
                for (int r = 0; r < N_ROWS; ++r) {
                    const int64_t i = (r0 + r)/job.n_group;

                    if (job.pos ? job.pos[j] > job.pos0 + (float) i : j > job.base + i) {
                        l[r] = -INFINITY;
                    }
                }
            }

            for (int v = 0; v < NV; ++v) {
                row_max[v] = lil_vf_max(row_max[v], lil_vf_load(l + v*LIL_VF_N));
            }
        }
    }

    lil_vf row_sum[NV];
    for (int v = 0; v < NV; ++v) {
        row_sum[v] = lil_vf_set1(0.0f);
    }

    for (int64_t j = 0; j < n_keys; ++j) {
        for (int v = 0; v < NV; ++v) {
            float * l = logits + j*N_ROWS + v*LIL_VF_N;

            const lil_vf p = lil_vf_exp(lil_vf_sub(lil_vf_load(l), row_max[v]));

            lil_vf_store(l, p);
            row_sum[v] = lil_vf_add(row_sum[v], p);
        }
    }

    // 1/sum, and 0 for the rows that fill up the block
    float inv[N_ROWS];
    for (int v = 0; v < NV; ++v) {
        lil_vf_store(inv + v*LIL_VF_N, row_sum[v]);
    }
    for (int r = 0; r < N_ROWS; ++r) {
        inv[r] = r < n_rows ? 1.0f/inv[r] : 0.0f;
    }

    lil_vf inv_v[NV];
    for (int v = 0; v < NV; ++v) {
        inv_v[v] = lil_vf_load(inv + v*LIL_VF_N);
    }

    for (int64_t j = 0; j < n_keys; ++j) {
        lil_vf s = lil_vf_set1(0.0f);
        for (int v = 0; v < NV; ++v) {
            s = lil_vf_fma(s, lil_vf_load(logits + j*N_ROWS + v*LIL_VF_N), inv_v[v]);
        }
        sum[j] += lil_vf_sum(s);
    }
}

// rows of a block of prompts: wide enough to hide the widening of the keys, few enough for the logits to stay in cache
constexpr int BLOCK_NV   = LIL_VF_N >= 16 ? 2 : LIL_VF_N == 1 ? 8 : 32/LIL_VF_N;
constexpr int BLOCK_NK   = LIL_VF_N >= 16 ? 8 : 2;
constexpr int BLOCK_ROWS = BLOCK_NV*LIL_VF_N;

// a few rows, as a decode step has
void score_rows(const score_job & job, int64_t r0, int64_t n_rows, float * sum) {
    while (n_rows > 0) {
        const int64_t n = std::min<int64_t>(n_rows, 2*LIL_VF_N);

        if (n <= LIL_VF_N) {
            score_block<1, 8>(job, r0, n, sum);
        } else {
            score_block<2, 4>(job, r0, n, sum);
        }

        r0     += n;
        n_rows -= n;
    }
}

score_job make_job(const lil_h2o_layer & layer, const ggml_tensor * k, int64_t strm, int64_t i_head) {
    const auto head = lil_h2o_get_head(layer, k, nullptr, nullptr, nullptr, strm, i_head);

    score_job job = {};

    job.k        = k;
    job.scale    = layer.scale;
    job.softcap  = layer.softcap;
    job.k_head   = head.k;
    job.k_stride = head.k_stride;
    job.n_embd   = k->ne[0]/layer.n_head_kv;
    job.ring_pos = -1;

    return job;
}

}

void lil_h2o_score(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_h2o_layer *) userdata;

    const ggml_tensor * q     = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1]/n_head_kv;

    for (int64_t u = ith; u < steps->ne[1]*n_head_kv; u += nth) {
        const int64_t i_step = u/n_head_kv;
        const int64_t i_head = u%n_head_kv;

        const int32_t * step = lil_h2o_step(steps, i_step);

        const auto    head = lil_h2o_get_head(*layer, k, nullptr, dst, pos, step[LIL_STEP_STREAM], i_head);
        const int64_t base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];

        head.score[base] = 0.0f;
        head.pos  [base] = step[LIL_STEP_POS];

        score_job job = make_job(*layer, k, step[LIL_STEP_STREAM], i_head);

        job.n_keys         = base + 1;
        job.base           = base;
        job.q              = (const char *) q->data + i_step*q->nb[2] + i_head*n_group*q->nb[1];
        job.q_stride_head  = q->nb[1];
        job.q_stride_token = q->nb[2];
        job.n_group        = n_group;

        score_rows(job, 0, n_group, head.score);
    }
}

void lil_h2o_score_prompt(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_h2o_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * steps = dst->src[2];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_group   = q->ne[1]/n_head_kv;
    const int64_t n_query   = q->ne[2]/steps->ne[1];
    const int64_t n_block   = (n_query*n_group + BLOCK_ROWS - 1)/BLOCK_ROWS;

    // each thread sums into a part of its own
    nth = std::min(nth, layer->n_part);
    if (ith >= nth) {
        return;
    }

    for (int64_t s = 0; s < dst->ne[3]; ++s) {
        memset((char *) dst->data + s*dst->nb[3] + ith*dst->nb[2], 0, dst->nb[2]);
    }

    for (int64_t u = ith; u < steps->ne[1]*n_head_kv*n_block; u += nth) {
        const int64_t i_step  = u/(n_head_kv*n_block);
        const int64_t i_head  = u/n_block%n_head_kv;
        const int64_t i_block = u%n_block;

        const int32_t * step = lil_h2o_step(steps, i_step);
        const int64_t   base = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];

        score_job job = make_job(*layer, k, step[LIL_STEP_STREAM], i_head);

        job.n_keys         = base + n_query;
        job.base           = base;
        job.q              = (const char *) q->data + i_step*n_query*q->nb[2] + i_head*n_group*q->nb[1];
        job.q_stride_head  = q->nb[1];
        job.q_stride_token = q->nb[2];
        job.n_group        = n_group;

        const int64_t r0 = i_block*BLOCK_ROWS;

        score_block<BLOCK_NV, BLOCK_NK>(job, r0, std::min<int64_t>(BLOCK_ROWS, n_query*n_group - r0),
                (float *) ((char *) dst->data + i_step*dst->nb[3] + ith*dst->nb[2] + i_head*dst->nb[1]));
    }
}

void lil_h2o_score_add(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_h2o_layer *) userdata;

    const ggml_tensor * part  = dst->src[1];
    const ggml_tensor * pos   = dst->src[2];
    const ggml_tensor * steps = dst->src[3];

    const int64_t n_head_kv = layer->n_head_kv;
    const int     n_part    = std::min(nth, layer->n_part); // as many as lil_h2o_score_prompt wrote

    for (int64_t u = ith; u < steps->ne[1]*n_head_kv; u += nth) {
        const int64_t i_step = u/n_head_kv;
        const int64_t i_head = u%n_head_kv;

        const int32_t * step = lil_h2o_step(steps, i_step);

        const int64_t base  = step[LIL_STEP_BEFORE] - step[LIL_STEP_EVICT];
        const int64_t n_new = step[LIL_STEP_NEW];

        float * score = (float *) ((char *) dst->data + step[LIL_STEP_STREAM]*dst->nb[2] + i_head*dst->nb[1]);
        float * p     = (float *) ((char *) pos->data + step[LIL_STEP_STREAM]*pos->nb[2] + i_head*pos->nb[1]);

        for (int64_t i = 0; i < n_new; ++i) {
            score[base + i] = 0.0f;
            p    [base + i] = step[LIL_STEP_POS] + i;
        }

        for (int i_part = 0; i_part < n_part; ++i_part) {
            ggml_vec_acc_f32(base + n_new, score, (const float *) ((const char *) part->data + i_step*part->nb[3] + i_part*part->nb[2] + i_head*part->nb[1]));
        }
    }
}

void lil_h2o_score_window(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_h2o_layer *) userdata;

    const ggml_tensor * win   = dst->src[1];
    const ggml_tensor * k     = dst->src[2];
    const ggml_tensor * pos   = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_embd    = k->ne[0]/n_head_kv;
    const int64_t n_group   = win->ne[0]/n_embd/n_head_kv;

    for (int64_t u = ith; u < steps->ne[1]*n_head_kv; u += nth) {
        const int64_t i_head = u%n_head_kv;

        const int32_t * step = lil_h2o_step(steps, u/n_head_kv);

        const int64_t n_win = step[LIL_STEP_WIN];
        if (n_win == 0) {
            continue;
        }

        const auto head = lil_h2o_get_head(*layer, k, nullptr, dst, pos, step[LIL_STEP_STREAM], i_head);

        score_job job = make_job(*layer, k, step[LIL_STEP_STREAM], i_head);

        job.n_keys         = step[LIL_STEP_BEFORE];
        job.q              = (const char *) win->data + step[LIL_STEP_STREAM]*win->nb[2] + i_head*n_group*n_embd*sizeof(float);
        job.q_stride_head  = n_embd*sizeof(float);
        job.q_stride_token = win->nb[1];
        job.n_group        = n_group;
        job.ring_pos       = step[LIL_STEP_POS] - n_win;
        job.pos            = head.pos;
        job.pos0           = step[LIL_STEP_POS] - n_win;

        for (int64_t r0 = 0; r0 < n_win*n_group; r0 += BLOCK_ROWS) {
            score_block<BLOCK_NV, BLOCK_NK>(job, r0, std::min<int64_t>(BLOCK_ROWS, n_win*n_group - r0), head.score);
        }
    }
}
