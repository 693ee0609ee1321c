#include "select.h"

#include "rows.h"

#include <cmath>
#include <cstring>

// Attention over a list, in chunks of lil_cpu_attn_chunk() entries: a unit of work is a chunk of some KV heads that
// share the list. Within a chunk the logits of all entries come first, then the softmax, then the sum over V; so a row
// is read once for all query heads, and for all tokens that share the list. The KV heads take turns tile by tile,
// because their rows of a cell lie side by side.

namespace {

struct attn_job {
    lil_sel_cells k; // of the first KV head
    lil_sel_cells v;

    const int32_t * cells; // entries of the chunk
    int             n;
    int64_t         n_first; // of these the first token sees so many, each token one more; none where it is negative

    int     n_head_kv;
    int64_t n_group;
    int64_t n_tok;

    float scale;
    float softcap;

    const ggml_tensor * q;
    int64_t             i_head; // the first query head
    int64_t             i_step; // the first token's

    float * part; // of the first query head and token, [n_embd_v + 2]
    int64_t part_tok;
    float * kq; // the chunk's first logit of these, may be null
    int64_t kq_head;
    int64_t kq_tok;

    // the queries of a KV head: those of its group for the first token, then those for the next
    int64_t n_query() const { return n_group * n_tok; }

    // entries that a token sees
    int n_seen(int64_t i_tok) const { return (int) std::max<int64_t>(0, std::min<int64_t>(n, n_first + i_tok)); }
};

// whether rows are read where they lie: F16 rows of whole vectors, for few enough heads to read them once
bool in_place(const attn_job & job, const lil_sel_cells & kv) {
    return kv.type == GGML_TYPE_F16 && kv.n_embd % LIL_VF_N == 0 && job.n_query() <= LIL_ROWS_HEADS;
}

// KV head h's rows of the entries [j0, j0 + LIL_TILE) of the chunk: in the cache, or widened into the tile
// [LIL_TILE][n_pad]. A last group of less than 4 is filled up with the last row. The rows that come next are fetched
void get_rows(const attn_job & job, const lil_sel_cells & kv, int j0, int h, float * tile, lil_rows & rows) {
    const int64_t n_pad = lil_pad(kv.n_embd);
    const size_t  size  = ggml_row_size(kv.type, kv.n_embd);

    const bool last = h + 1 == job.n_head_kv; // the next rows are head 0's of the next tile; behind them V's first

    const int    j_next = last ? j0 + LIL_TILE : j0;
    const size_t o_next = last ? 0 : (h + 1) * size;

    rows.n         = std::min(LIL_TILE, job.n - j0);
    rows.next_size = size;

    for (int r = 0; r < LIL_TILE; ++r) {
        rows.row[r]  = kv.row(job.cells[std::min(j0 + r, job.n - 1)]) + h * size;
        rows.next[r] = j_next < job.n ? kv.row(job.cells[std::min(j_next + r, job.n - 1)]) + o_next
                                      : job.v.row(job.cells[std::min(r, job.n - 1)]);
    }

    if (in_place(job, kv)) {
        return;
    }

    for (int r = 0; r < LIL_TILE; ++r) {
        float * dst = tile + std::min(r, rows.n - 1) * n_pad;

        if (r < rows.n) {
            lil_widen_row(kv.type, rows.row[r], dst, kv.n_embd);
            lil_pad_row(dst, kv.n_embd);
        }
        rows.row[r] = (const char *) dst;
    }
}

// logits -> probabilities relative to the maximum, which is returned; x [LIL_ATTN_CHUNK]
float softmax_chunk(float * x, int n, float * sum) {
    const int n_pad = lil_pad(n);

    for (int j = n; j < n_pad; ++j) {
        x[j] = -INFINITY;
    }

    lil_vf max_v = lil_vf_load(x);
    for (int j = LIL_VF_N; j < n_pad; j += LIL_VF_N) {
        max_v = lil_vf_max(max_v, lil_vf_load(x + j));
    }

    const float  max   = lil_vf_hmax(max_v);
    const lil_vf max_b = lil_vf_set1(max);

    lil_vf sum_v = lil_vf_set1(0.0f);
    for (int j = 0; j < n_pad; j += LIL_VF_N) {
        const lil_vf p = lil_vf_exp(lil_vf_sub(lil_vf_load(x + j), max_b));

        lil_vf_store(x + j, p);
        sum_v = lil_vf_add(sum_v, p);
    }
    *sum = lil_vf_sum(sum_v);

    return max;
}

// softcap*tanh(x/softcap), n rounded up; tanh(y) = 1 - 2/(exp(2*y) + 1)
void softcap_chunk(float * x, int n, float softcap) {
    const lil_vf one = lil_vf_set1(1.0f);
    const lil_vf cap = lil_vf_set1(softcap);
    const lil_vf two = lil_vf_set1(2.0f);
    const lil_vf in  = lil_vf_set1(2.0f / softcap);

    const lil_vf zero = lil_vf_set1(0.0f);

    for (int j = 0; j < n; j += LIL_VF_N) {
        const lil_vf e = lil_vf_exp(lil_vf_fma(zero, lil_vf_load(x + j), in));
        const lil_vf t = lil_vf_sub(one, lil_vf_div(two, lil_vf_add(e, one)));

        lil_vf_store(x + j, lil_vf_fma(zero, t, cap));
    }
}

// f(row, query head, token) for every query of the job; rows go KV head by KV head, see n_query()
template <typename F>
void each_query(const attn_job & job, F && f) {
    for (int64_t h = 0, i = 0; h < job.n_head_kv; ++h) {
        for (int64_t t = 0; t < job.n_tok; ++t) {
            for (int64_t g = 0; g < job.n_group; ++g, ++i) {
                f(i, h * job.n_group + g, t);
            }
        }
    }
}

void attn_chunk(const attn_job & job) {
    static thread_local lil_scratch scratch;

    const int64_t n_query = job.n_query();
    const int64_t n_row   = n_query * job.n_head_kv;
    const int64_t n_embd  = job.v.n_embd;
    const int64_t nk_pad  = lil_pad(job.k.n_embd);
    const int64_t nv_pad  = lil_pad(n_embd);

    float * tile = scratch.get(LIL_TILE * std::max(nk_pad, nv_pad) + n_row * (nk_pad + nv_pad + LIL_ATTN_CHUNK));
    float * q    = tile + LIL_TILE * std::max(nk_pad, nv_pad); // [n_row][nk_pad]
    float * y    = q + n_row * nk_pad;                         // [n_row][nv_pad]
    float * x    = y + n_row * nv_pad;                         // [n_row][LIL_ATTN_CHUNK]

    each_query(job, [&](int64_t i, int64_t i_head, int64_t i_tok) {
        const float * src = lil_sel_f32(job.q, job.i_head + i_head, job.i_step + i_tok);

        for (int64_t j = 0; j < nk_pad; ++j) {
            q[i * nk_pad + j] = j < job.k.n_embd ? src[j] * job.scale : 0.0f;
        }
    });

    lil_rows rows;

    for (int j0 = 0; j0 < job.n; j0 += LIL_TILE) {
        for (int h = 0; h < job.n_head_kv; ++h) {
            const float * qh = q + h * n_query * nk_pad;
            float *       xh = x + h * n_query * LIL_ATTN_CHUNK + j0;

            get_rows(job, job.k, j0, h, tile, rows);

            if (in_place(job, job.k)) {
                lil_rows_dot<lil_read_f16>(rows, qh, n_query, nk_pad, xh, LIL_ATTN_CHUNK);
            } else {
                lil_rows_dot<lil_read_f32>(rows, qh, n_query, nk_pad, xh, LIL_ATTN_CHUNK);
            }
        }
    }

    const auto get_part = [&](int64_t i_head, int64_t i_tok) {
        return job.part + i_tok * job.part_tok + i_head * (n_embd + 2);
    };

    each_query(job, [&](int64_t i, int64_t i_head, int64_t i_tok) {
        const int n = job.n_seen(i_tok);

        float * xi   = x + i * LIL_ATTN_CHUNK;
        float * part = get_part(i_head, i_tok);

        if (n == 0) {
            return; // the token has no such chunk
        }
        if (job.softcap != 0.0f) {
            softcap_chunk(xi, n, job.softcap);
        }
        if (job.kq) {
            memcpy(job.kq + i_head * job.kq_head + i_tok * job.kq_tok, xi, n * sizeof(float));
        }

        part[n_embd] = softmax_chunk(xi, n, &part[n_embd + 1]);

        std::fill(xi + n, xi + job.n, 0.0f);
    });

    memset(y, 0, n_row * nv_pad * sizeof(float));

    for (int j0 = 0; j0 < job.n; j0 += LIL_TILE) {
        for (int h = 0; h < job.n_head_kv; ++h) {
            const float * ph = x + h * n_query * LIL_ATTN_CHUNK + j0;
            float *       yh = y + h * n_query * nv_pad;

            get_rows(job, job.v, j0, h, tile, rows);

            if (in_place(job, job.v)) {
                lil_rows_add<lil_read_f16>(rows, ph, LIL_ATTN_CHUNK, n_query, nv_pad, yh);
            } else {
                lil_rows_add<lil_read_f32>(rows, ph, LIL_ATTN_CHUNK, n_query, nv_pad, yh);
            }
        }
    }

    each_query(job, [&](int64_t i, int64_t i_head, int64_t i_tok) {
        if (job.n_seen(i_tok) > 0) {
            memcpy(get_part(i_head, i_tok), y + i * nv_pad, n_embd * sizeof(float));
        }
    });
}

}

bool lil_attn_wins(const lil_ops_shape * shape) {
    // others are widened by to_float, which is compiled without the CPU's instructions
    const auto has_load = [](ggml_type type) {
        return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0 ||
                type == GGML_TYPE_Q4_0;
    };

    return LIL_VF_N > 1 && has_load(shape->type_k) && has_load(shape->type_v) && shape->n_embd_k % LIL_VF_N == 0 &&
            shape->n_embd_v % LIL_VF_N == 0;
}

void lil_attn(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * list  = dst->src[3];
    const ggml_tensor * steps = dst->src[4];

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_head    = q->ne[1];
    const int64_t n_group   = n_head / n_head_kv;
    const int64_t n_steps   = steps->ne[1];
    const int64_t n_max     = list->ne[0] - 1;
    const int64_t n_embd_v  = v->ne[0] / n_head_kv;
    const int64_t n_chunk   = lil_cpu_attn_n_chunk(n_embd_v, n_max);

    float * work = (float *) dst->data;
    float * kq   = dst->ne[0] == lil_cpu_attn_n_work(n_embd_v, n_head, n_max, n_steps, true)
            ? work + lil_cpu_attn_kq_offset(n_embd_v, n_head, n_max, n_steps)
            : nullptr;

    // tokens of a sequence may share a list
    const int64_t n_list = list->ne[2];
    const int64_t n_tok  = n_steps / n_list;

    // the entries of all lists in the order of the loops below; a thread's chunks are those that begin in its share
    int64_t n_entry = 0;
    for (int64_t u = 0; u < n_list * n_head_kv; ++u) {
        n_entry += lil_sel_list(list, u % n_head_kv, u / n_head_kv)[0];
    }

    const int64_t e0 = n_entry * ith / nth;
    const int64_t e1 = n_entry * (ith + 1) / nth;

    int64_t e = 0;

    for (int64_t i_list = 0; i_list < n_list; ++i_list) {
        const int64_t i_step = i_list * n_tok;
        const int64_t strm   = lil_sel_row(steps, i_step)[LIL_SEL_STREAM];

        for (int64_t i_chunk = 0; i_chunk < n_chunk; ++i_chunk) {
            for (int64_t i_head = 0, n_take = 1; i_head < n_head_kv; i_head += n_take) {
                const int32_t * cells = lil_sel_list(list, i_head, i_list);
                const int64_t   j0    = i_chunk * lil_cpu_attn_chunk(n_embd_v);
                const int64_t   n     = std::min(lil_cpu_attn_chunk(n_embd_v), cells[0] - j0);

                n_take = 1;

                if (n <= 0) {
                    continue;
                }

                const bool mine = e0 <= e && e < e1;

                e += n;

                if (!mine) {
                    continue;
                }

                while (list->ne[1] == 1 && i_head + n_take < n_head_kv && e < e1) {
                    e += n;
                    n_take++;
                }

                attn_job job = {};

                job.k         = lil_sel_get_cells(k, n_head_kv, strm, i_head);
                job.v         = lil_sel_get_cells(v, n_head_kv, strm, i_head);
                job.cells     = cells + 1 + j0;
                job.n         = n;
                job.n_first   = cells[0] - (n_tok - 1) - j0;
                job.n_group   = n_group;
                job.n_head_kv = n_take;
                job.n_tok     = n_tok;
                job.scale     = layer->scale;
                job.softcap   = layer->softcap;
                job.q         = q;
                job.i_head    = i_head * n_group;
                job.i_step    = i_step;
                job.part      = work + ((i_step * n_chunk + i_chunk) * n_head + i_head * n_group) * (n_embd_v + 2);
                job.part_tok  = n_chunk * n_head * (n_embd_v + 2);
                job.kq        = kq ? kq + (i_step * n_head + i_head * n_group) * n_max + j0 : nullptr;
                job.kq_head   = n_max;
                job.kq_tok    = n_head * n_max;

                attn_chunk(job);
            }
        }
    }
}

void lil_attn_join(ggml_tensor * dst, int ith, int nth, void * userdata) {
    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * work  = dst->src[0];
    const ggml_tensor * list  = dst->src[1];
    const ggml_tensor * sinks = dst->src[2];

    const int64_t n_embd  = dst->ne[0];
    const int64_t n_head  = dst->ne[1];
    const int64_t n_group = n_head / layer->n_head_kv;
    const int64_t n_chunk = lil_cpu_attn_n_chunk(n_embd, list->ne[0] - 1);
    const int64_t stride  = (n_embd + 2) * n_head; // of chunks
    const int64_t n_tok   = dst->ne[2] / list->ne[2];

    for (int64_t u = ith; u < n_head * dst->ne[2]; u += nth) {
        const int64_t i_step = u / n_head;
        const int64_t i_head = u % n_head;

        const int64_t n_later = n_tok - 1 - i_step % n_tok; // entries at the list's end that the token does not see
        const int64_t n =
                lil_cpu_attn_n_chunk(n_embd, lil_sel_list(list, i_head / n_group, i_step / n_tok)[0] - n_later);

        const float * part = (const float *) work->data + i_step * n_chunk * stride + i_head * (n_embd + 2);

        const float sink = sinks ? ((const float *) sinks->data)[i_head] : -INFINITY;

        float max = sink;
        for (int64_t c = 0; c < n; ++c) {
            max = std::max(max, part[c * stride + n_embd]);
        }

        float * y   = lil_sel_f32(dst, i_head, i_step);
        float   sum = expf(sink - max);

        memset(y, 0, n_embd * sizeof(float));

        for (int64_t c = 0; c < n; ++c) {
            const float w = expf(part[c * stride + n_embd] - max);

            ggml_vec_mad_f32(n_embd, y, part + c * stride, w);
            sum += w * part[c * stride + n_embd + 1];
        }

        ggml_vec_scale_f32(n_embd, y, 1.0f / sum);
    }
}
