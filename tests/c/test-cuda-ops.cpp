// The CUDA ops without a GPU: the kernels' own sources, compiled as C++ and run in lock step (emu-cuda.h), against references in
// F64 or, where the op chooses, against its definition in lil-ops.h computed the naive way. Random inputs with many ties, sizes
// at and around the borders of tiles, outputs poisoned.
//
// It tests the kernels' logic. It cannot test what only a GPU has: its memory model, its rounding, its speed.
//
//   test-cuda-ops [seed]

#undef NDEBUG

#define LIL_EMU_CUDA
#include "emu-cuda.h"

#include "../../src/ops/cuda/attn-join.cu"
#include "../../src/ops/cuda/attn.cu"
#include "../../src/ops/cuda/h2o-evict.cu"
#include "../../src/ops/cuda/h2o-score.cu"
#include "../../src/ops/cuda/page-bounds.cu"
#include "../../src/ops/cuda/page-scores.cu"
#include "../../src/ops/cuda/page-select.cu"
#include "../../src/ops/cuda/tidal-select.cu"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: seed %u: %s: CHECK(%s) failed\n", __FILE__, __LINE__, seed, test_name.c_str(), #x); \
            exit(1); \
        } \
    } while (0)

static uint32_t seed = 1;

static std::string  test_name;
static std::mt19937 rng;

static const int32_t POISON = 0x7fc0dead; // as F32: not a number

//
// helpers
//

static int rand_int(int lo, int hi) { // [lo, hi]
    return lo + (int) (rng()%(uint32_t) (hi - lo + 1));
}

static int pick(const std::vector<int> & of) {
    return of[rng()%of.size()];
}

static std::vector<float> rand_floats(size_t n, float scale = 1.0f) {
    std::vector<float> res(n);
    for (float & x : res) {
        x = scale*((float) rng()/(float) rng.max()*2.0f - 1.0f);
    }
    return res;
}

// [0, n) in any order
static std::vector<int32_t> rand_order(int n) {
    std::vector<int32_t> res(n);
    for (int i = 0; i < n; ++i) {
        res[i] = i;
    }
    std::shuffle(res.begin(), res.end(), rng);
    return res;
}

// n of [0, n_cells), ascending
static std::vector<int32_t> rand_cells(int n, int n_cells) {
    auto res = rand_order(n_cells);
    res.resize(n);
    std::sort(res.begin(), res.end());
    return res;
}

// a tensor in memory of its own, poisoned; rows and what is above them lie apart where `gap` says so
struct tensor : lil_cuda_tensor {
    std::vector<uint4> mem;

    tensor(ggml_type type_, int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1, size_t gap = 0) {
        type = type_;

        ne[0] = ne0;
        ne[1] = ne1;
        ne[2] = ne2;
        ne[3] = ne3;

        nb[0] = ggml_type_size(type);
        nb[1] = ggml_row_size(type, ne0) + gap;
        nb[2] = nb[1]*ne1 + gap;
        nb[3] = nb[2]*ne2;

        mem.resize((nb[3]*ne3 + 15)/16 + 1);
        data = mem.data();

        for (size_t i = 0; i < mem.size()*4; ++i) {
            ((int32_t *) data)[i] = POISON;
        }
    }

    tensor(const tensor &) = delete;
    tensor & operator=(const tensor &) = delete;

    char * row(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const {
        return (char *) data + i3*nb[3] + i2*nb[2] + i1*nb[1];
    }

    float   * f32(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const { return (float   *) row(i1, i2, i3); }
    int32_t * i32(int64_t i1, int64_t i2 = 0, int64_t i3 = 0) const { return (int32_t *) row(i1, i2, i3); }

    // F32, random
    void fill(float scale) {
        for (int64_t i3 = 0; i3 < ne[3]; ++i3) {
            for (int64_t i2 = 0; i2 < ne[2]; ++i2) {
                for (int64_t i1 = 0; i1 < ne[1]; ++i1) {
                    const auto x = rand_floats(ne[0], scale);
                    memcpy(row(i1, i2, i3), x.data(), x.size()*sizeof(float));
                }
            }
        }
    }
};

// K or V [n_embd*n_head_kv, n_cells, n_stream]. Each cell has a scale of its own, so that an attention is no mean
struct kv_cache {
    tensor t;

    int n_embd;

    std::vector<float> values; // as attention reads them

    kv_cache(ggml_type type, int n_embd, int n_head_kv, int n_cells, int n_stream) :
            t(type, n_embd*n_head_kv, n_cells, n_stream, 1, rng()%2 ? 32 : 0), n_embd(n_embd) {
        const int64_t n = t.ne[0];

        for (int s = 0; s < n_stream; ++s) {
            for (int c = 0; c < n_cells; ++c) {
                auto x = rand_floats(n, 0.25f + 2.0f*(float) rng()/(float) rng.max());

                if (type == GGML_TYPE_F32) {
                    memcpy(t.row(c, s), x.data(), n*sizeof(float));

                    for (float & v : x) {
                        v = ggml_fp16_to_fp32(ggml_fp32_to_fp16(v));
                    }
                } else {
                    ggml_quantize_chunk(type, x.data(), t.row(c, s), 0, 1, n, nullptr);
                    ggml_get_type_traits(type)->to_float(t.row(c, s), x.data(), n);
                }

                values.insert(values.end(), x.begin(), x.end());
            }
        }
    }

    const float * row(int64_t cell, int64_t i_head, int64_t strm) const {
        return values.data() + (strm*t.ne[1] + cell)*t.ne[0] + i_head*n_embd;
    }
};

static double dot(const float * a, const float * b, int n) {
    double res = 0.0;
    for (int i = 0; i < n; ++i) {
        res += (double) a[i]*b[i];
    }
    return res;
}

static void check_near(double x, double ref, double tol) {
    if (!(std::fabs(x - ref) <= tol*(1.0 + std::fabs(ref)))) {
        fprintf(stderr, "%.9g, expected %.9g\n", x, ref);
        CHECK(!"near");
    }
}

static const std::vector<int> TYPES = { GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

static ggml_type rand_type(int n_embd) {
    ggml_type type;
    do {
        type = (ggml_type) pick(TYPES);
    } while (n_embd%ggml_blck_size(type) != 0);
    return type;
}

static double get_logit(const float * q, const float * k, int n, float scale, float softcap) {
    const double x = dot(q, k, n)*scale;
    return softcap != 0.0f ? softcap*std::tanh(x/softcap) : x;
}

//
// tests
//

static void test_attn(int n_embd, int n_embd_v, int n_group, ggml_type type_k, ggml_type type_v, int n_list) {
    const bool  shared  = rng()%2;
    const bool  kq      = rng()%2;
    const float softcap = rng()%4 ? 0.0f : 5.0f;

    const int n_head_kv = rand_int(1, n_list > 300 ? 2 : 3);
    const int n_head    = n_head_kv*n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_max     = n_list + (rng()%2 ? rand_int(0, 2000) : 0);
    const int n_cells   = n_list + rand_int(0, 100);
    const int n_sm      = pick({ 1, 4, 20, 132 });

    char name[256];
    snprintf(name, sizeof(name), "attn: n_embd %d/%d, heads %d*%d, %s/%s, list %d of %d, steps %d, shared %d, kq %d, softcap %g, multiprocessors %d",
            n_embd, n_embd_v, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_v), n_list, n_max, n_steps, shared, kq, (double) softcap, n_sm);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.scale     = 1.0f/sqrtf((float) n_embd);
    layer.softcap   = softcap;

    tensor q    (GGML_TYPE_F32, n_embd, n_head, n_steps, 1, rng()%2 ? 16 : 0);
    tensor list (GGML_TYPE_I32, 1 + n_max, shared ? 1 : n_head_kv, n_steps);
    tensor steps(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    tensor work (GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd_v, n_head, n_max, n_steps, kq));
    tensor out  (GGML_TYPE_F32, n_embd_v, n_head, n_steps);

    kv_cache k(type_k, n_embd,   n_head_kv, n_cells, n_stream);
    kv_cache v(type_v, n_embd_v, n_head_kv, n_cells, n_stream);

    q.fill(4.0f);

    // the first list has n_list entries, the others at most as many
    for (int s = 0; s < n_steps; ++s) {
        for (int h = 0; h < list.ne[1]; ++h) {
            const auto cells = rand_cells(s + h == 0 ? n_list : rand_int(1, n_list), n_cells);

            list.i32(h, s)[0] = (int32_t) cells.size();
            std::copy(cells.begin(), cells.end(), list.i32(h, s) + 1);
        }
        steps.i32(s)[LIL_SEL_STREAM] = n_stream - 1 - s;
    }

    CHECK(lil_cuda_attn_supports(layer, work, q, k.t, v.t, list, steps));

    lil_cuda_attn     (layer, work, q, k.t, v.t, list, steps, n_sm, nullptr);
    lil_cuda_attn_join(layer, out, work, list, n_sm, nullptr);

    const float * x = (const float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, n_max, n_steps);

    for (int s = 0; s < n_steps; ++s) {
        for (int i = 0; i < n_head; ++i) {
            const int       h     = i/n_group;
            const int       strm  = n_stream - 1 - s;
            const int32_t * cells = list.i32(shared ? 0 : h, s);

            std::vector<double> logits;
            double max = -INFINITY;
            for (int j = 0; j < cells[0]; ++j) {
                logits.push_back(get_logit(q.f32(i, s), k.row(cells[1 + j], h, strm), n_embd, layer.scale, softcap));
                max = std::max(max, logits[j]);
            }

            double sum = 0.0;
            std::vector<double> ref(n_embd_v, 0.0);
            for (int j = 0; j < cells[0]; ++j) {
                const double  p   = std::exp(logits[j] - max);
                const float * row = v.row(cells[1 + j], h, strm);
                for (int d = 0; d < n_embd_v; ++d) {
                    ref[d] += p*row[d];
                }
                sum += p;
            }

            for (int d = 0; d < n_embd_v; ++d) {
                check_near(out.f32(i, s)[d], ref[d]/sum, 2e-5);
            }

            if (kq) {
                for (int j = 0; j < n_max; ++j) {
                    const float got = x[((int64_t) s*n_head + i)*n_max + j];
                    if (j < cells[0]) {
                        check_near(got, logits[j], 2e-5);
                    } else {
                        CHECK(std::isnan(got)); // not written
                    }
                }
            }
        }
    }
}

static void test_attn_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 5, 7, 8, 9, 16 }) {
            const int n_embd_v = rng()%4 == 0 ? 32*rand_int(1, 8) : n_embd;

            for (int n_list : { pick({ 1, 2, 31, 32, 33 }), pick({ 63, 64, 65, 127, 128, 129 }), pick({ 255, 256, 257, 500 }) }) {
                const ggml_type type = rand_type(n_embd%32 ? n_embd : n_embd_v);

                // the types that have kernels of their own, and others
                test_attn(n_embd, n_embd_v, n_group, type, rng()%4 && n_embd_v%ggml_blck_size(type) == 0 ? type : rand_type(n_embd_v), n_list);
            }
        }
    }

    // every kernel
    for (int type : { GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        for (int n_embd : { 64, 128, 256 }) {
            for (int n_group : { 1, 2, 4, 8, 16 }) {
                test_attn(n_embd, n_embd, n_group, (ggml_type) type, (ggml_type) type, rand_int(1, 150));
            }
        }
    }

    test_attn(128, 128, 7, GGML_TYPE_F16, GGML_TYPE_F16, 3000);
}

static void test_pages(int n_embd, int n_group, ggml_type type_k, ggml_type type_b, int n_pages) {
    const int n_head_kv = rand_int(1, 3);
    const int n_head    = n_head_kv*n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_cells   = 400;
    const int page_size = pick({ 1, 2, 7, 15, 16, 17, 20 });

    char name[256];
    snprintf(name, sizeof(name), "pages: n_embd %d, heads %d*%d, %s, bounds %s, steps %d, pages %d of %d",
            n_embd, n_head_kv, n_group, ggml_type_name(type_k), ggml_type_name(type_b), n_steps, n_pages, page_size);
    test_name = name;

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;

    tensor q     (GGML_TYPE_F32, n_embd, n_head, n_steps);
    tensor bounds(type_b, 2*n_embd, n_head_kv, n_pages + 1, n_stream);
    tensor dirty (GGML_TYPE_I32, LIL_DIRTY_HEAD + page_size, n_pages*n_steps);
    tensor steps (GGML_TYPE_I32, LIL_SEL_COUNT, n_steps);
    tensor scores(GGML_TYPE_F32, n_pages + 1, n_head_kv, n_steps);

    kv_cache k(type_k, n_embd, n_head_kv, n_cells, n_stream);

    q.fill(4.0f);

    for (int s = 0; s < n_steps; ++s) {
        steps.i32(s)[LIL_SEL_STREAM] = n_stream - 1 - s;
        steps.i32(s)[LIL_SEL_TABLE]  = s;
        steps.i32(s)[LIL_SEL_PAGES]  = s == 0 ? n_pages : rand_int(1, n_pages);

        for (int p = 0; p < n_pages; ++p) {
            const auto cells = rand_cells(rand_int(1, page_size), n_cells);

            int32_t * entry = dirty.i32(s*n_pages + p);
            entry[LIL_DIRTY_STREAM] = n_stream - 1 - s;
            entry[LIL_DIRTY_TABLE]  = s;
            entry[LIL_DIRTY_PAGE]   = p;
            entry[LIL_DIRTY_N]      = (int32_t) cells.size();
            std::copy(cells.begin(), cells.end(), entry + LIL_DIRTY_HEAD);
        }
    }

    CHECK(lil_cuda_page_bounds_supports(layer, bounds, k.t, dirty));
    CHECK(lil_cuda_page_scores_supports(layer, scores, q, bounds, steps));

    lil_cuda_page_bounds(layer, bounds, k.t, dirty, nullptr);
    lil_cuda_page_scores(layer, scores, q, bounds, steps, nullptr);

    for (int s = 0; s < n_stream; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            for (int p = 0; p <= n_pages; ++p) {
                std::vector<float> bound(2*n_embd);
                if (type_b == GGML_TYPE_F16) {
                    ggml_fp16_to_fp32_row((const ggml_fp16_t *) bounds.row(h, p, s), bound.data(), 2*n_embd);
                } else {
                    memcpy(bound.data(), bounds.row(h, p, s), 2*n_embd*sizeof(float));
                }

                if (p == n_pages || s >= n_steps) { // not written
                    CHECK(memcmp(bounds.row(h, p, s), &POISON, 4) == 0 && memcmp(bounds.row(h, p, s) + bounds.nb[1] - 4, &POISON, 4) == 0);
                    CHECK(s >= n_steps || std::isnan(scores.f32(h, s)[p]));
                    continue;
                }

                const int32_t * entry = dirty.i32(s*n_pages + p);

                for (int i = 0; i < n_embd; ++i) {
                    float max = -INFINITY;
                    float min =  INFINITY;
                    for (int j = 0; j < entry[LIL_DIRTY_N]; ++j) {
                        const float x = k.row(entry[LIL_DIRTY_HEAD + j], h, n_stream - 1 - s)[i];
                        max = std::max(max, x);
                        min = std::min(min, x);
                    }
                    CHECK(bound[i] == max && bound[n_embd + i] == min);
                }

                if (p >= steps.i32(s)[LIL_SEL_PAGES]) {
                    CHECK(std::isnan(scores.f32(h, s)[p]));
                    continue;
                }

                double ref = -INFINITY;
                for (int g = 0; g < n_group; ++g) {
                    const float * qh = q.f32(h*n_group + g, s);

                    double sum = 0.0;
                    for (int i = 0; i < n_embd; ++i) {
                        sum += std::max((double) qh[i]*bound[i], (double) qh[i]*bound[n_embd + i]);
                    }
                    ref = std::max(ref, sum);
                }
                check_near(scores.f32(h, s)[p], ref, 1e-5);
            }
        }
    }
}

static void test_pages_all() {
    for (int n_embd : { 32, 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 5, 7, 8, 9, 16 }) {
            const ggml_type type_k = rand_type(n_embd);
            const bool      is_f16 = type_k == GGML_TYPE_F16 || (type_k == GGML_TYPE_F32 && rng()%2 == 0);

            test_pages(n_embd, n_group, type_k, is_f16 ? GGML_TYPE_F16 : GGML_TYPE_F32, pick({ 1, 2, 3, 15, 16, 17, 63, 64, 65, 90 }));
        }
    }
}

//
// selection
//

// levels 0: no ties to speak of
static void fill_levels(float * x, int64_t n, int levels, float scale = 1.0f) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = levels ? scale*(float) (rand_int(0, levels - 1) - levels/2) : scale*((float) (rng()%(1u << 24))/(float) (1u << 23) - 1.0f);
        if (x[i] == 0.0f && rng()%2) {
            x[i] = -0.0f;
        }
    }
}

// indices [0, x.size()), best first; of equal ones the last first
static std::vector<int32_t> get_ranking(const std::vector<float> & x) {
    std::vector<int32_t> res(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        res[i] = (int32_t) (x.size() - 1 - i);
    }
    std::stable_sort(res.begin(), res.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    return res;
}

static std::vector<int32_t> get_best(const std::vector<float> & x, int64_t k) {
    auto res = get_ranking(x);
    res.resize(std::min<size_t>(res.size(), std::max<int64_t>(k, 0)));
    return res;
}

static void add_ranks(std::vector<int32_t> & ranks, int32_t r0, int32_t r1) {
    for (int32_t r = r0; r < r1; ++r) {
        ranks.push_back(r);
    }
}

// a list says: the cells of these ranks, and nothing is written behind them
static void check_list(const tensor & list, int64_t i_head, int64_t i_step, const int32_t * all, std::vector<int32_t> ranks) {
    const int32_t * got = list.i32(i_head, i_step);

    std::sort(ranks.begin(), ranks.end());
    CHECK(got[0] == (int32_t) ranks.size());
    for (size_t i = 0; i < ranks.size(); ++i) {
        CHECK(got[1 + i] == all[1 + ranks[i]]);
    }
    for (int64_t i = 1 + (int64_t) ranks.size(); i < list.ne[0]; ++i) {
        CHECK(got[i] == POISON);
    }
}

// sequences, some of which share a stream and then cells
struct sequences {
    int n_steps;
    int n_stream;
    int n_cells;
    int n_max;

    tensor steps;
    tensor cells;

    explicit sequences(int n_max) : n_steps(rand_int(1, 3)), n_stream(rng()%2 ? 1 : n_steps + 1), n_cells(n_max + rand_int(0, 5)), n_max(n_max),
            steps(GGML_TYPE_I32, LIL_SEL_COUNT, n_steps), cells(GGML_TYPE_I32, 1 + n_max, 1, n_steps) {
        for (int s = 0; s < n_steps; ++s) {
            const auto order = rand_order(n_cells);
            memcpy(all(s) + 1, order.data(), n_max*sizeof(int32_t));

            step(s)[LIL_SEL_STREAM] = n_stream == 1 ? 0 : n_stream - 1 - s;
            step(s)[LIL_SEL_TABLE]  = s;
            step(s)[LIL_SEL_SPARSE] = rng()%4 != 0;
            step(s)[LIL_SEL_NEW]    = 1;
            step(s)[LIL_SEL_PAGES]  = 0;
            step(s)[LIL_SEL_NOW]    = 0;
            set_n(s, rng()%2 ? n_max : rand_int(1, n_max));
        }
    }

    int32_t * step(int s) { return steps.i32(s); }
    int32_t * all (int s) { return cells.i32(0, s); }
    int       n   (int s) { return all(s)[0]; }

    void set_n(int s, int n) {
        step(s)[LIL_SEL_N] = n;
        all (s)[0]         = n;
    }
};

// pages of any sizes, or of 16
static void fill_pages(tensor & pages, sequences & seq) {
    for (int s = 0; s < seq.n_steps; ++s) {
        const int n_page = pick({ 0, 1, 16 });

        int n = 0;
        for (int r = 0; r < seq.n(s); ) {
            pages.i32(s)[n++] = r;
            r += n_page ? n_page : rand_int(1, 20);
        }
        pages.i32(s)[n] = seq.n(s);

        seq.step(s)[LIL_SEL_PAGES] = n;
    }
}

static void test_page_select() {
    sequences seq(pick({ 1, 17, 100, 512, 513, 514, 1000, 5000 }));
    test_name = "page_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);

    tensor pages (GGML_TYPE_I32, seq.n_max + 1, seq.n_steps);
    tensor scores(GGML_TYPE_F32, seq.n_max, n_head_kv, seq.n_steps);
    tensor list  (GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    fill_pages(pages, seq);
    fill_levels((float *) scores.data, seq.n_max*n_head_kv*seq.n_steps, pick({ 0, 1, 3, 50 }));

    lil_select_layer layer = {};
    layer.n_head_kv  = n_head_kv;
    layer.first_page = rng()%2;
    layer.n_pages    = rand_int(1 + layer.first_page, pick({ 2, 10, 100 }));

    // a page more, as many, one fewer
    if (rng()%2) {
        layer.n_pages = std::max(1 + layer.first_page, seq.step(0)[LIL_SEL_PAGES] + rand_int(-1, 1));
    }

    lil_cuda_page_select(layer, list, scores, seq.steps, seq.cells, pages, nullptr);

    for (int s = 0; s < seq.n_steps; ++s) {
        const int       n_pages = seq.step(s)[LIL_SEL_PAGES];
        const int32_t * first   = pages.i32(s);

        for (int h = 0; h < n_head_kv; ++h) {
            std::vector<int32_t> ranks;

            if (!seq.step(s)[LIL_SEL_SPARSE]) {
                add_ranks(ranks, 0, seq.n(s));
            } else {
                std::vector<float> x(scores.f32(h, s), scores.f32(h, s) + n_pages - 1);
                if (layer.first_page && n_pages > 1) {
                    x[0] = 1e30f;
                }
                auto best = get_best(x, layer.n_pages - 1);
                best.push_back(n_pages - 1);
                for (const int32_t p : best) {
                    add_ranks(ranks, first[p], first[p + 1]);
                }
            }
            check_list(list, h, s, seq.all(s), ranks);
        }
    }
}

static void test_tidal_select() {
    sequences seq(pick({ 1, 2, 17, 100, 513, 1000, 3000 }));
    test_name = "tidal_select: n_max " + std::to_string(seq.n_max);

    const int n_head_kv = rand_int(1, 3);
    const int n_group   = pick({ 1, 3, 7 });
    const int n_head    = n_head_kv*n_group;
    const int n_embd_v  = pick({ 8, 24 });

    tensor work(GGML_TYPE_F32, lil_cuda_attn_n_work(n_embd_v, n_head, seq.n_max, seq.n_steps, true));
    tensor list(GGML_TYPE_I32, 1 + seq.n_max, n_head_kv, seq.n_steps);

    float * kq = (float *) work.data + lil_cuda_attn_kq_offset(n_embd_v, n_head, seq.n_max, seq.n_steps);
    fill_levels(kq, (int64_t) seq.n_max*n_head*seq.n_steps, pick({ 0, 1, 3, 50 }), (float) pick({ 1, 20 }));

    lil_select_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.budget    = rng()%2 ? std::max(1, seq.n(0) + rand_int(-1, 1)) : rand_int(1, pick({ 10, 100, 1500 }));

    lil_cuda_tidal_select(layer, list, work, n_embd_v, n_head, seq.steps, seq.cells, nullptr);

    for (int s = 0; s < seq.n_steps; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            const int n = seq.n(s);

            std::vector<int32_t> ranks;

            if (!seq.step(s)[LIL_SEL_SPARSE]) {
                add_ranks(ranks, 0, n);
            } else {
                std::vector<float> x(n - 1, -INFINITY);
                for (int r = 0; r < n - 1; ++r) {
                    for (int g = 0; g < n_group; ++g) {
                        x[r] = std::max(x[r], kq[((int64_t) s*n_head + h*n_group + g)*seq.n_max + r]);
                    }
                }
                ranks = get_best(x, layer.budget - 1);
                ranks.push_back(n - 1);
            }
            check_list(list, h, s, seq.all(s), ranks);
        }
    }
}

//
// eviction
//

// bytes of a tensor
static std::vector<char> get_bytes(const tensor & t) {
    return std::vector<char>((const char *) t.data, (const char *) t.data + t.mem.size()*sizeof(uint4));
}

static void test_h2o_score() {
    const int n_embd    = pick({ 32, 64, 80, 96, 128, 256 });
    const int n_head_kv = rand_int(1, 3);
    const int n_group   = pick({ 1, 2, 3, 7, 8, 16 });
    const int n_head    = n_head_kv*n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int capacity  = pick({ 1, 32, 100, 255, 256, 257, 600 });
    const int n_sm      = pick({ 1, 4, 20, 132 });

    lil_h2o_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.scale     = 1.0f/sqrtf((float) n_embd);
    layer.softcap   = rng()%4 ? 0.0f : 5.0f;
    layer.last      = rng()%3 == 0;

    const ggml_type type = rng()%2 ? GGML_TYPE_F16 : rand_type(n_embd);

    test_name = "h2o_score: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) + ", capacity " + std::to_string(capacity) + ", " + ggml_type_name(type);

    tensor q    (GGML_TYPE_F32, n_embd, n_head, n_steps);
    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos  (GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(type, n_embd, n_head_kv, capacity, n_stream);

    q.fill(4.0f);

    std::vector<std::vector<double>> want_score(n_steps*n_head_kv);

    for (int s = 0; s < n_steps; ++s) {
        const int n_evict = rand_int(0, 3);
        const int n       = rng()%2 ? capacity : rand_int(1, capacity); // slots used in the end

        int32_t * step = steps.i32(s);
        step[LIL_STEP_STREAM] = n_stream - 1 - s;
        step[LIL_STEP_BEFORE] = n - 1 + n_evict;
        step[LIL_STEP_EVICT]  = n_evict;
        step[LIL_STEP_NEW]    = 1;
        step[LIL_STEP_POS]    = 10000 + s;

        for (int h = 0; h < n_head_kv; ++h) {
            float * x = score.f32(h, n_stream - 1 - s);
            float * t = pos  .f32(h, n_stream - 1 - s);

            fill_levels(x, n - 1, 0, 3.0f);
            fill_levels(t, n - 1, 50);

            auto & want = want_score[s*n_head_kv + h];
            want.assign(x, x + n);
            want[n - 1] = 0.0;
            if (layer.last) {
                std::fill(want.begin(), want.end(), 0.0);
            }

            for (int g = 0; g < n_group; ++g) {
                std::vector<double> p(n);
                double max = -INFINITY;
                for (int j = 0; j < n; ++j) {
                    p[j] = get_logit(q.f32(h*n_group + g, s), k.row(j, h, n_stream - 1 - s), n_embd, layer.scale, layer.softcap);
                    max  = std::max(max, p[j]);
                }
                double sum = 0.0;
                for (double & v : p) {
                    v = std::exp(v - max);
                    sum += v;
                }
                for (int j = 0; j < n; ++j) {
                    want[j] += p[j]/sum;
                }
            }
        }
    }

    const auto pos_before = get_bytes(pos);

    CHECK(lil_cuda_h2o_score_supports(layer, score, q, k.t, pos, steps));

    tensor scratch(GGML_TYPE_F32, (int64_t) lil_cuda_h2o_score_n_scratch(q, k.t, steps));

    lil_cuda_h2o_score(layer, score, q, k.t, pos, steps, (float *) scratch.data, n_sm, nullptr);

    CHECK(((const int32_t *) scratch.data)[scratch.ne[0]] == POISON); // nothing is written behind it

    tensor old_pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    memcpy(old_pos.data, pos_before.data(), pos_before.size());

    for (int strm = 0; strm < n_stream; ++strm) {
        const int s = n_stream - 1 - strm;
        for (int h = 0; h < n_head_kv; ++h) {
            const int n = s < n_steps ? (int) want_score[s*n_head_kv + h].size() : 0;

            for (int j = 0; j < capacity; ++j) {
                if (j < n) {
                    check_near(score.f32(h, strm)[j], want_score[s*n_head_kv + h][j], 2e-5);
                } else {
                    CHECK(std::isnan(score.f32(h, strm)[j]));
                }
                if (j == n - 1) {
                    CHECK(pos.f32(h, strm)[j] == (float) steps.i32(s)[LIL_STEP_POS]);
                } else {
                    CHECK(memcmp(&pos.f32(h, strm)[j], &old_pos.f32(h, strm)[j], 4) == 0);
                }
            }
        }
    }

    // new_slots: those, with score 0, and no others
    for (int s = 0; s < n_steps; ++s) {
        steps.i32(s)[LIL_STEP_BEFORE] = rand_int(0, capacity);
        steps.i32(s)[LIL_STEP_EVICT]  = 0;
        steps.i32(s)[LIL_STEP_NEW]    = rand_int(0, capacity - steps.i32(s)[LIL_STEP_BEFORE]);
        steps.i32(s)[LIL_STEP_POS]    = 20000;
    }
    fill_levels((float *) score.data, capacity*n_head_kv*n_stream, 0);
    fill_levels((float *) pos.data,   capacity*n_head_kv*n_stream, 0);

    tensor want_s(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor want_p(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    want_s.mem = score.mem;
    want_p.mem = pos.mem;
    want_s.data = want_s.mem.data();
    want_p.data = want_p.mem.data();

    for (int s = 0; s < n_steps; ++s) {
        for (int h = 0; h < n_head_kv; ++h) {
            for (int j = 0; j < steps.i32(s)[LIL_STEP_NEW]; ++j) {
                want_s.f32(h, n_stream - 1 - s)[steps.i32(s)[LIL_STEP_BEFORE] + j] = 0.0f;
                want_p.f32(h, n_stream - 1 - s)[steps.i32(s)[LIL_STEP_BEFORE] + j] = (float) (20000 + j);
            }
        }
    }

    lil_cuda_new_slots(layer, score, pos, steps, nullptr);

    CHECK(get_bytes(score) == get_bytes(want_s) && get_bytes(pos) == get_bytes(want_p));
}

static void test_h2o_evict() {
    const int n_embd    = pick({ 32, 64, 96 });
    const int n_head_kv = rand_int(1, 3);
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int capacity  = pick({ 2, 33, 511, 512, 513, 1200 });

    lil_h2o_layer layer = {};
    layer.n_head_kv = n_head_kv;
    layer.shared    = rng()%3 == 0;

    test_name = "h2o_evict: capacity " + std::to_string(capacity) + (layer.shared ? ", shared" : "");

    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos  (GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(rand_type(n_embd), n_embd, n_head_kv, capacity, n_stream);
    kv_cache v(rand_type(n_embd), n_embd, n_head_kv, capacity, n_stream);

    fill_levels((float *) score.data, capacity*n_head_kv*n_stream, pick({ 0, 1, 3, 50 }));

    for (int s = 0; s < n_steps; ++s) {
        const int n         = rng()%2 ? capacity : rand_int(2, capacity);
        const int n_protect = rand_int(0, n - 1); // newest tokens

        int32_t * step = steps.i32(s);
        step[LIL_STEP_STREAM]  = n_stream - 1 - s;
        step[LIL_STEP_BEFORE]  = n;
        step[LIL_STEP_EVICT]   = pick({ 0, 1, 1, rand_int(1, n - n_protect), n - n_protect });
        step[LIL_STEP_EVICT]   = std::min(step[LIL_STEP_EVICT], n - n_protect);
        step[LIL_STEP_PROTECT] = 3*(n - n_protect);

        for (int h = 0; h < n_head_kv; ++h) {
            const auto order = rand_order(n);
            for (int j = 0; j < n; ++j) { // positions 0, 3, 6, ... in any order
                pos.f32(h, n_stream - 1 - s)[j] = 3.0f*(float) (layer.shared && h > 0 ? (int) pos.f32(0, n_stream - 1 - s)[j]/3 : order[j]);
            }
        }
    }

    // what is to become of it
    auto want_k = get_bytes(k.t);
    auto want_v = get_bytes(v.t);
    auto want_s = get_bytes(score);
    auto want_p = get_bytes(pos);

    for (int s = 0; s < n_steps; ++s) {
        const int32_t * step = steps.i32(s);
        const int       strm = step[LIL_STEP_STREAM];
        const int       n    = step[LIL_STEP_BEFORE];

        for (int h = 0; h < n_head_kv; ++h) {
            std::vector<float> x(n, 0.0f);
            for (int i = layer.shared ? 0 : h; i < (layer.shared ? n_head_kv : h + 1); ++i) {
                for (int j = 0; j < n; ++j) {
                    x[j] += score.f32(i, strm)[j];
                }
            }

            const float * t = pos.f32(h, strm);

            std::vector<int> slots;
            for (int j = 0; j < n; ++j) {
                if (t[j] < (float) step[LIL_STEP_PROTECT]) {
                    slots.push_back(j);
                }
            }
            std::sort(slots.begin(), slots.end(), [&](int a, int b) { return x[a] < x[b] || (x[a] == x[b] && t[a] < t[b]); });

            std::vector<bool> gone(n);
            for (int j = 0; j < step[LIL_STEP_EVICT]; ++j) {
                gone[slots[j]] = true;
            }

            const auto move = [&](std::vector<char> & bytes, const tensor & of, int64_t src, int64_t dst, size_t size, size_t at) {
                memcpy(bytes.data() + at + dst*of.nb[1], bytes.data() + at + src*of.nb[1], size);
            };

            int src = n;
            for (int dst = 0; dst < n - step[LIL_STEP_EVICT]; ++dst) {
                if (gone[dst]) {
                    do {
                        --src;
                    } while (gone[src]);

                    const size_t k_size = ggml_row_size(k.t.type, n_embd);
                    const size_t v_size = ggml_row_size(v.t.type, n_embd);

                    move(want_k, k.t, src, dst, k_size, strm*k.t.nb[2] + h*k_size);
                    move(want_v, v.t, src, dst, v_size, strm*v.t.nb[2] + h*v_size);

                    const size_t at = strm*pos.nb[2] + h*pos.nb[1];
                    memcpy(want_s.data() + at + 4*dst, want_s.data() + at + 4*src, 4);
                    memcpy(want_p.data() + at + 4*dst, want_p.data() + at + 4*src, 4);
                }
            }
        }
    }

    tensor scratch(GGML_TYPE_I32, (int64_t) lil_cuda_h2o_evict_n_scratch(layer, pos, steps));

    lil_cuda_h2o_evict(layer, pos, k.t, v.t, score, steps, (int32_t *) scratch.data, nullptr);

    CHECK(get_bytes(pos) == want_p);
    CHECK(get_bytes(score) == want_s);
    CHECK(get_bytes(k.t) == want_k);
    CHECK(get_bytes(v.t) == want_v);
    CHECK(((const int32_t *) scratch.data)[scratch.ne[0]] == POISON);
}

int main(int argc, char ** argv) {
    if (argc > 1) {
        seed = (uint32_t) strtoul(argv[1], nullptr, 10);
    }

    static const struct {
        const char * name;
        void      (* run)();
        int          n;
    } tests[] = {
        { "attn",         test_attn_all,       1 },
        { "pages",        test_pages_all,      1 },
        { "page_select",  test_page_select,  100 },
        { "tidal_select", test_tidal_select, 100 },
        { "h2o_score",    test_h2o_score,    100 },
        { "h2o_evict",    test_h2o_evict,    200 },
    };

    for (const auto & test : tests) {
        rng.seed(seed);

        for (int i = 0; i < test.n; ++i) {
            test_name = test.name;
            test.run();
        }

        printf("test-cuda-ops: %s: ok\n", test.name);
        fflush(stdout);
    }

    printf("test-cuda-ops: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
