// The CUDA ops of the evict methods, without a GPU. See cuda-common.h.
//
//   test-cuda-evict [seed [test]]

#include "cuda-common.h"

#include "../../src/ops/cuda/lil-mma.h"

static void test_score_step() {
    const int n_embd    = pick({ 32, 64, 80, 96, 128, 256, 576 });
    const int n_head_kv = rand_int(1, 3);
    const int n_group   = pick({ 1, 2, 3, 4, 7, 8, 16, 20 });
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int capacity  = pick({ 1, 32, 100, 255, 256, 257, 600 });
    const int n_sm      = pick({ 1, 4, 20, 132 });

    lil_evict_layer layer = {};
    layer.n_head_kv       = n_head_kv;
    layer.scale           = 1.0f / sqrtf((float) n_embd);
    layer.softcap         = rng() % 4 ? 0.0f : 5.0f;
    layer.last            = rng() % 3 == 0;

    const ggml_type type = rng() % 2 ? GGML_TYPE_F16 : rand_type(n_embd);

    test_name = "score_step: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) + ", capacity " +
            std::to_string(capacity) + ", " + ggml_type_name(type);

    tensor q(GGML_TYPE_F32, n_embd, n_head, n_steps);
    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(type, n_embd, n_head_kv, capacity, n_stream);

    const sinks_or_none sinks(n_head);

    q.fill(4.0f);

    std::vector<std::vector<double>> want_score(n_steps * n_head_kv);

    for (int s = 0; s < n_steps; ++s) {
        const int n_evict = rand_int(0, 3);
        const int n       = rng() % 2 ? capacity : rand_int(1, capacity); // slots used in the end

        int32_t * step        = steps.i32(s);
        step[LIL_STEP_STREAM] = n_stream - 1 - s;
        step[LIL_STEP_BEFORE] = n - 1 + n_evict;
        step[LIL_STEP_EVICT]  = n_evict;
        step[LIL_STEP_NEW]    = 1;
        step[LIL_STEP_POS]    = 10000 + s;

        for (int h = 0; h < n_head_kv; ++h) {
            float * x = score.f32(h, n_stream - 1 - s);
            float * t = pos.f32(h, n_stream - 1 - s);

            fill_levels(x, n - 1, 0, 3.0f);
            fill_levels(t, n - 1, 50);

            auto & want = want_score[s * n_head_kv + h];
            want.assign(x, x + n);
            want[n - 1] = 0.0;
            if (layer.last) {
                std::fill(want.begin(), want.end(), 0.0);
            }

            for (int g = 0; g < n_group; ++g) {
                std::vector<double> x(n);
                for (int j = 0; j < n; ++j) {
                    x[j] = get_logit(q.f32(h * n_group + g, s), k.row(j, h, n_stream - 1 - s), n_embd, layer.scale,
                            layer.softcap);
                }
                const auto p = get_softmax(x, sinks[h * n_group + g]);
                for (int j = 0; j < n; ++j) {
                    want[j] += p[j];
                }
            }
        }
    }

    const auto pos_before = get_bytes(pos);

    CHECK(lil_cuda_score_step_supports(layer, score, q, k.t, pos, steps));

    tensor scratch(GGML_TYPE_F32, (int64_t) lil_cuda_score_step_n_scratch(q, k.t, steps));

    lil_cuda_score_step(layer, score, q, k.t, pos, steps, sinks, (float *) scratch.data, n_sm, nullptr);

    CHECK(scratch.is_whole());

    tensor old_pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    memcpy(old_pos.data, pos_before.data(), pos_before.size());

    for (int strm = 0; strm < n_stream; ++strm) {
        const int s = n_stream - 1 - strm;
        for (int h = 0; h < n_head_kv; ++h) {
            const int n = s < n_steps ? (int) want_score[s * n_head_kv + h].size() : 0;

            for (int j = 0; j < capacity; ++j) {
                if (j < n) {
                    check_near(score.f32(h, strm)[j], want_score[s * n_head_kv + h][j], 2e-5);
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
    fill_levels((float *) score.data, capacity * n_head_kv * n_stream, 0);
    fill_levels((float *) pos.data, capacity * n_head_kv * n_stream, 0);

    tensor want_s(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor want_p(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    want_s.mem  = score.mem;
    want_p.mem  = pos.mem;
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

static void test_evict_slots() {
    const int n_embd    = pick({ 32, 64, 96 });
    const int n_head_kv = rand_int(1, 3);
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int capacity  = pick({ 2, 33, 511, 512, 513, 1200 });

    lil_evict_layer layer = {};
    layer.n_head_kv       = n_head_kv;
    layer.shared          = rng() % 3 == 0;

    test_name = "evict_slots: capacity " + std::to_string(capacity) + (layer.shared ? ", shared" : "");

    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(rand_type(n_embd), n_embd, n_head_kv, capacity, n_stream);
    kv_cache v(rand_type(n_embd), n_embd, n_head_kv, capacity, n_stream);

    const bool joined = n_head_kv == 1 && rng() % 2; // the values are a part of the keys' rows, as MLA has them

    lil_cuda_tensor values = joined ? k.t : v.t;
    values.ne[0]           = joined ? 32 : v.t.ne[0];

    fill_levels((float *) score.data, capacity * n_head_kv * n_stream, pick({ 0, 1, 3, 50 }));

    for (int s = 0; s < n_steps; ++s) {
        const int n         = rng() % 2 ? capacity : rand_int(2, capacity);
        const int n_protect = rand_int(0, n - 1); // newest tokens

        int32_t * step         = steps.i32(s);
        step[LIL_STEP_STREAM]  = n_stream - 1 - s;
        step[LIL_STEP_BEFORE]  = n;
        step[LIL_STEP_EVICT]   = pick({ 0, 1, 1, rand_int(1, n - n_protect), n - n_protect });
        step[LIL_STEP_EVICT]   = std::min(step[LIL_STEP_EVICT], n - n_protect);
        step[LIL_STEP_PROTECT] = 3 * (n - n_protect);

        for (int h = 0; h < n_head_kv; ++h) {
            const auto order = rand_order(n);
            for (int j = 0; j < n; ++j) { // positions 0, 3, 6, ... in any order
                pos.f32(h, n_stream - 1 - s)[j] =
                        3.0f * (float) (layer.shared && h > 0 ? (int) pos.f32(0, n_stream - 1 - s)[j] / 3 : order[j]);
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
            std::sort(slots.begin(), slots.end(),
                    [&](int a, int b) { return x[a] < x[b] || (x[a] == x[b] && t[a] < t[b]); });

            std::vector<bool> gone(n);
            for (int j = 0; j < step[LIL_STEP_EVICT]; ++j) {
                gone[slots[j]] = true;
            }

            const auto move = [&](std::vector<char> & bytes, const tensor & of, int64_t src, int64_t dst, size_t size,
                                      size_t at) {
                memcpy(bytes.data() + at + dst * of.nb[1], bytes.data() + at + src * of.nb[1], size);
            };

            int src = n;
            for (int dst = 0; dst < n - step[LIL_STEP_EVICT]; ++dst) {
                if (gone[dst]) {
                    do {
                        --src;
                    } while (gone[src]);

                    const size_t k_size = ggml_row_size(k.t.type, n_embd);
                    const size_t v_size = ggml_row_size(v.t.type, n_embd);

                    move(want_k, k.t, src, dst, k_size, strm * k.t.nb[2] + h * k_size);
                    if (!joined) {
                        move(want_v, v.t, src, dst, v_size, strm * v.t.nb[2] + h * v_size);
                    }

                    const size_t at = strm * pos.nb[2] + h * pos.nb[1];
                    memcpy(want_s.data() + at + 4 * dst, want_s.data() + at + 4 * src, 4);
                    memcpy(want_p.data() + at + 4 * dst, want_p.data() + at + 4 * src, 4);
                }
            }
        }
    }

    tensor scratch(GGML_TYPE_I32, (int64_t) lil_cuda_evict_slots_n_scratch(layer, pos, steps));

    lil_cuda_evict_slots(layer, pos, k.t, values, score, steps, (int32_t *) scratch.data, nullptr);

    CHECK(get_bytes(pos) == want_p);
    CHECK(get_bytes(score) == want_s);
    CHECK(get_bytes(k.t) == want_k);
    CHECK(get_bytes(v.t) == want_v);
    CHECK(scratch.is_whole());
}

// a head size and a type of K; the kernels are few, so that their borders come up often
static int rand_embd() {
    return pick({ 32, 64, 72, 80, 96, 128, 160, 256, 288, 576 });
}

// what keys receive from n_query*n_group rows: get_q(query, head in the group), get_sink(head in the group),
// is_seen(query, key), all in F64 from what was rounded to F16
template <typename Q, typename L, typename S>
static std::vector<double> get_received(int n_query, int n_group, int n_keys, int n_embd, float scale, float softcap,
        Q get_q, L get_sink, const std::vector<const float *> & keys, S is_seen) {
    std::vector<float> k(n_keys * n_embd);
    for (int j = 0; j < n_keys; ++j) {
        for (int d = 0; d < n_embd; ++d) {
            k[j * n_embd + d] = round_f16(keys[j][d]);
        }
    }

    std::vector<double> res(n_keys, 0.0);
    for (int i = 0; i < n_query; ++i) {
        for (int g = 0; g < n_group; ++g) {
            std::vector<float> q(n_embd);
            for (int d = 0; d < n_embd; ++d) {
                q[d] = round_f16(get_q(i, g)[d] * scale);
            }

            std::vector<double> x;
            std::vector<int>    at;
            for (int j = 0; j < n_keys; ++j) {
                if (is_seen(i, j)) {
                    x.push_back(get_logit(q.data(), k.data() + j * n_embd, n_embd, 1.0f, softcap));
                    at.push_back(j);
                }
            }
            if (!x.empty()) {
                const auto p = get_softmax(x, get_sink(g));
                for (size_t j = 0; j < p.size(); ++j) {
                    res[at[j]] += p[j];
                }
            }
        }
    }
    return res;
}

static void test_score_prompt() {
    const int n_embd    = rand_embd();
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16, 20 });
    const int n_head_kv = rand_int(1, 2);
    const int n_head    = n_head_kv * n_group;
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int n_query =
            std::max(1, pick({ 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 150 }) / n_group + rand_int(-1, 1));
    const int n_before = pick({ 0, 0, 1, 31, 64, 65, 130, 600 });
    const int capacity = n_before + n_query + rand_int(0, 40);
    const int n_sm     = pick({ 1, 20, 132 });

    const ggml_type type = rng() % 2 ? GGML_TYPE_F16 : rand_type(n_embd);

    test_name = "score_prompt: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) + ", before " +
            std::to_string(n_before) + ", queries " + std::to_string(n_query) + ", " + ggml_type_name(type);

    lil_evict_layer layer = {};
    layer.n_head_kv       = n_head_kv;
    layer.n_score_part    = 1;
    layer.scale           = 1.0f / sqrtf((float) n_embd);
    layer.softcap         = rng() % 4 ? 0.0f : 5.0f;

    tensor q(GGML_TYPE_F32, n_embd, n_head, n_query * n_steps, 1, rng() % 2 ? 32 : 0);
    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor part(GGML_TYPE_F32, capacity, n_head_kv, 1, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(type, n_embd, n_head_kv, capacity, n_stream);

    const sinks_or_none sinks(n_head);

    q.fill(4.0f);

    for (int s = 0; s < n_steps; ++s) {
        const int n_evict = rand_int(0, 3);
        const int base    = s == 0 ? n_before : rand_int(0, n_before);

        int32_t * step        = steps.i32(s);
        step[LIL_STEP_STREAM] = n_stream - 1 - s;
        step[LIL_STEP_BEFORE] = base + n_evict;
        step[LIL_STEP_EVICT]  = n_evict;
        step[LIL_STEP_NEW]    = n_query;
        step[LIL_STEP_POS]    = 10000 + s;

        for (int h = 0; h < n_head_kv; ++h) {
            fill_levels(score.f32(h, n_stream - 1 - s), base, 0, 3.0f);
            fill_levels(pos.f32(h, n_stream - 1 - s), base, 50);
        }
    }

    tensor want_pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    memcpy(want_pos.data, pos.data, pos.mem.size() * sizeof(uint4));

    std::vector<double> want(capacity * n_head_kv * n_stream, NAN);
    for (int s = 0; s < n_steps; ++s) {
        const int strm = n_stream - 1 - s;
        const int base = steps.i32(s)[LIL_STEP_BEFORE] - steps.i32(s)[LIL_STEP_EVICT];

        for (int h = 0; h < n_head_kv; ++h) {
            std::vector<const float *> keys;
            for (int j = 0; j < base + n_query; ++j) {
                keys.push_back(k.row(j, h, strm));
            }
            const auto sum = get_received(
                    n_query, n_group, base + n_query, n_embd, layer.scale, layer.softcap,
                    [&](int i, int g) { return q.f32(h * n_group + g, s * n_query + i); },
                    [&](int g) { return sinks[h * n_group + g]; }, keys, [&](int i, int j) { return j <= base + i; });

            for (int j = 0; j < base + n_query; ++j) {
                want[(strm * n_head_kv + h) * capacity + j] = sum[j] + (j < base ? score.f32(h, strm)[j] : 0.0f);
            }
            for (int i = 0; i < n_query; ++i) {
                want_pos.f32(h, strm)[base + i] = (float) (10000 + s + i);
            }
        }
    }

    CHECK(lil_cuda_score_prompt_supports(layer, part, q, k.t, steps));

    tensor scratch(GGML_TYPE_F32, (int64_t) lil_cuda_score_prompt_n_scratch(layer, part, q, steps, n_sm));

    lil_cuda_score_prompt(layer, part, q, k.t, steps, sinks, (float *) scratch.data, n_sm, nullptr);
    lil_cuda_score_add(layer, score, part, pos, steps, nullptr);

    CHECK(scratch.is_whole() && part.is_whole() && get_bytes(pos) == get_bytes(want_pos));

    for (size_t i = 0; i < want.size(); ++i) {
        const float got = ((const float *) score.data)[i];
        if (std::isnan(want[i])) {
            CHECK(std::isnan(got));
        } else {
            check_near(got, want[i], 3e-5);
        }
    }
}

static void test_score_window() {
    const int n_embd    = rand_embd();
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16, 20 });
    const int n_head_kv = rand_int(1, 2);
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int capacity  = pick({ 1, 31, 64, 65, 128, 130, 600 });
    const int n_sm      = pick({ 1, 20, 132 });

    const ggml_type type = rng() % 2 ? GGML_TYPE_F16 : rand_type(n_embd);

    test_name = "score_window: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) +
            ", capacity " + std::to_string(capacity) + ", " + ggml_type_name(type);

    lil_evict_layer layer = {};
    layer.n_head_kv       = n_head_kv;
    layer.scale           = 1.0f / sqrtf((float) n_embd);
    layer.softcap         = rng() % 4 ? 0.0f : 5.0f;

    tensor win(GGML_TYPE_F32, n_embd * n_group * n_head_kv, LIL_PROMPT_WINDOW, n_stream);
    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(type, n_embd, n_head_kv, capacity, n_stream);

    const sinks_or_none sinks(n_group * n_head_kv);

    win.fill(4.0f);
    fill_levels((float *) score.data, capacity * n_head_kv * n_stream, 0, 3.0f);

    std::vector<double> want(capacity * n_head_kv * n_stream);
    for (size_t i = 0; i < want.size(); ++i) {
        want[i] = ((const float *) score.data)[i];
    }

    for (int s = 0; s < n_steps; ++s) {
        const int strm  = n_stream - 1 - s;
        const int n     = s == 0 ? capacity : rand_int(1, capacity);
        const int p1    = n + rand_int(0, 200); // positions below
        const int n_win = pick({ 0, 1, std::min(p1, 5), std::min(p1, LIL_PROMPT_WINDOW) });

        int32_t * step        = steps.i32(s);
        step[LIL_STEP_STREAM] = strm;
        step[LIL_STEP_BEFORE] = n;
        step[LIL_STEP_POS]    = p1;
        step[LIL_STEP_WIN]    = n_win;

        for (int h = 0; h < n_head_kv; ++h) {
            const auto order = rand_order(p1);

            std::vector<const float *> keys;
            for (int j = 0; j < n; ++j) {
                pos.f32(h, strm)[j] = (float) order[j];
                keys.push_back(k.row(j, h, strm));
            }
            const auto sum = get_received(
                    n_win, n_group, n, n_embd, layer.scale, layer.softcap,
                    [&](int i, int g) {
                        return win.f32((p1 - n_win + i) % LIL_PROMPT_WINDOW, strm) + (h * n_group + g) * n_embd;
                    },
                    [&](int g) { return sinks[h * n_group + g]; }, keys,
                    [&](int i, int j) { return order[j] <= p1 - n_win + i; });

            for (int j = 0; j < n; ++j) {
                want[(strm * n_head_kv + h) * capacity + j] += sum[j];
            }
        }
    }

    const auto old_pos = get_bytes(pos);

    CHECK(lil_cuda_score_window_supports(layer, score, win, k.t, pos, steps));

    tensor scratch(GGML_TYPE_F32, (int64_t) lil_cuda_score_window_n_scratch(layer, win, k.t, steps, n_sm));

    lil_cuda_score_window(layer, score, win, k.t, pos, steps, sinks, (float *) scratch.data, n_sm, nullptr);

    CHECK(scratch.is_whole() && score.is_whole() && get_bytes(pos) == old_pos);

    for (size_t i = 0; i < want.size(); ++i) {
        check_near(((const float *) score.data)[i], want[i], 3e-5);
    }
}

// the tensor cores' work without them
static void test_mma() {
    uint32_t a[32][4];
    uint32_t b[32][2];
    float    d[32][2][4];

    for (int i = 0; i < 32; ++i) {
        for (uint32_t & x : a[i]) {
            x = ggml_fp32_to_fp16(rand_floats(1)[0]) | (uint32_t) ggml_fp32_to_fp16(rand_floats(1)[0]) << 16;
        }
        for (uint32_t & x : b[i]) {
            x = ggml_fp32_to_fp16(rand_floats(1)[0]) | (uint32_t) ggml_fp32_to_fp16(rand_floats(1)[0]) << 16;
        }
        for (float & x : d[i][0]) {
            x = rand_floats(1)[0];
        }
        memcpy(d[i][1], d[i][0], sizeof(d[i][0]));
    }

    emu_launch(dim3(1), dim3(32), 0, [&]() {
        const int i = (int) threadIdx.x;
        lil_mma(d[i][0], a[i], b[i]);
        lil_mma_shuffle(d[i][1], a[i], b[i]);
    });

    for (int i = 0; i < 32; ++i) {
        for (int j = 0; j < 4; ++j) {
            check_near(d[i][1][j], d[i][0][j], 1e-5);
        }
    }
}

// one head's, by the definition; sink: the largest of the group's; near: how close any similarity comes to the
// threshold
static std::vector<double> get_rkv(const lil_evict_layer & layer, const std::vector<std::vector<float>> & keys,
        const std::vector<float> & pos, const std::vector<std::vector<std::vector<float>>> & queries, int p0,
        double sink, double & near) {
    const int n     = (int) keys.size();
    const int n_win = (int) queries.size();

    std::vector<int> order(n);
    for (int j = 0; j < n; ++j) {
        order[j] = j;
    }
    std::sort(order.begin(), order.end(), [&](int a, int b) { return pos[a] < pos[b]; });

    const int n_embd = (int) keys[0].size();

    std::vector<double> mean(n, 0.0);
    for (int i = 0; i < n_win; ++i) {
        std::vector<double> x;
        for (int j = 0; j < n && pos[order[j]] <= (float) (p0 + i); ++j) {
            double max = -INFINITY;
            for (const auto & q : queries[i]) {
                max = std::max(max, get_logit(q.data(), keys[order[j]].data(), n_embd, 1.0f, layer.softcap));
            }
            x.push_back(max);
        }
        if (!x.empty()) {
            const auto p = get_softmax(x, sink);
            for (size_t j = 0; j < p.size(); ++j) {
                mean[j] += p[j] / n_win;
            }
        }
    }

    std::vector<double> norm(n);
    for (int j = 0; j < n; ++j) {
        norm[j] = std::sqrt(dot(keys[order[j]].data(), keys[order[j]].data(), n_embd));
    }

    std::vector<double> like(n, 0.0);
    for (int i = 0; i < n; ++i) {
        bool found = false;
        for (int j = n - 1; j >= 0; --j) {
            const double s =
                    i == j ? 0.0 : dot(keys[order[i]].data(), keys[order[j]].data(), n_embd) / (norm[i] * norm[j]);

            near = i == j ? near : std::min(near, std::fabs(s - layer.threshold));
            if (s > layer.threshold && !found) {
                found = true;
            } else {
                like[j] += s;
            }
        }
    }
    for (double & v : like) {
        v /= n;
    }
    like = get_softmax(like);

    std::vector<double> res(n);
    for (int j = 0; j < n; ++j) {
        const double imp = *std::max_element(mean.begin() + std::max(0, j - 3), mean.begin() + std::min(n, j + 4));
        res[order[j]]    = layer.lambda * imp - (1.0 - layer.lambda) * like[j];
    }
    return res;
}

static void test_rkv_score() {
    const int n_embd    = rand_embd();
    const int n_group   = pick({ 1, 3, 4, 7, 8, 16, 20 });
    const int n_head_kv = rand_int(1, 2);
    const int n_steps   = rand_int(1, 2);
    const int n_stream  = n_steps + rand_int(0, 1);
    const int capacity  = pick({ 1, 2, 31, 63, 64, 65, 127, 128, 129, 300, 520 });
    const int n_ring    = pick({ 1, 7, 8, 9, 17 });

    const ggml_type type = rng() % 2 ? GGML_TYPE_F16 : rand_type(n_embd);

    test_name = "rkv_score: n_embd " + std::to_string(n_embd) + ", group " + std::to_string(n_group) + ", capacity " +
            std::to_string(capacity) + ", ring " + std::to_string(n_ring) + ", " + ggml_type_name(type);

    lil_evict_layer layer = {};
    layer.n_head_kv       = n_head_kv;
    layer.scale           = 1.0f / sqrtf((float) n_embd);
    layer.softcap         = rng() % 4 ? 0.0f : 5.0f;
    layer.lambda          = (float) pick({ 0, 10, 50, 100 }) / 100.0f;
    layer.threshold       = (float) pick({ 0, 5, 10, 50 }) / 100.0f;

    tensor ring(GGML_TYPE_F32, n_embd * n_group * n_head_kv, n_ring, n_stream);
    tensor steps(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);
    tensor score(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
    tensor pos(GGML_TYPE_F32, capacity, n_head_kv, n_stream);

    kv_cache k(type, n_embd, n_head_kv, capacity, n_stream);

    // keys that repeat others
    if (rng() % 2) {
        for (int s = 0; s < n_stream; ++s) {
            for (int c = 1; c < capacity; c += rand_int(1, 10)) {
                const int from = rand_int(0, c - 1);
                memcpy(k.t.row(c, s), k.t.row(from, s), ggml_row_size(type, k.t.ne[0]));
                memcpy((float *) k.row(c, 0, s), k.row(from, 0, s), k.t.ne[0] * sizeof(float));
            }
        }
    }

    const sinks_or_none sinks(n_group * n_head_kv);

    ring.fill(4.0f);
    fill_levels((float *) score.data, capacity * n_head_kv * n_stream, 0, 3.0f);
    fill_levels((float *) pos.data, capacity * n_head_kv * n_stream, 0, 3.0f);

    for (int s = 0; s < n_steps; ++s) {
        const int n  = s == 0 ? capacity : rand_int(1, capacity);
        const int p1 = n + rand_int(0, 200); // positions below

        int32_t * step        = steps.i32(s);
        step[LIL_STEP_STREAM] = n_stream - 1 - s;
        step[LIL_STEP_BEFORE] = n;
        step[LIL_STEP_EVICT]  = rng() % 5 ? 1 : 0;
        step[LIL_STEP_POS]    = p1;
        step[LIL_STEP_WIN]    = rand_int(0, std::min(p1, n_ring));

        for (int h = 0; h < n_head_kv; ++h) {
            const auto order = rand_order(p1);
            for (int j = 0; j < n; ++j) {
                pos.f32(h, n_stream - 1 - s)[j] = (float) order[j];
            }
        }
    }

    // a threshold that no similarity comes so close to that rounding would decide
    std::vector<double> want(capacity * n_head_kv * n_stream);
    std::vector<double> size(capacity * n_head_kv * n_stream, 1.0); // of 1/score, about

    for (double near = 0.0; near < 1e-6; layer.threshold += near < 1e-6 ? 1.3e-5f : 0.0f) {
        near = INFINITY;

        for (size_t i = 0; i < want.size(); ++i) {
            want[i] = ((const float *) score.data)[i];
        }

        for (int s = 0; s < n_steps; ++s) {
            const int32_t * step = steps.i32(s);
            const int       n    = step[LIL_STEP_BEFORE];
            const int       strm = step[LIL_STEP_STREAM];
            const int       p0   = step[LIL_STEP_POS] - step[LIL_STEP_WIN];

            for (int h = 0; h < n_head_kv && step[LIL_STEP_EVICT] > 0; ++h) {
                std::vector<std::vector<float>> keys;
                for (int j = 0; j < n; ++j) {
                    keys.emplace_back(k.row(j, h, strm), k.row(j, h, strm) + n_embd);
                    for (float & v : keys.back()) {
                        v = round_f16(v);
                    }
                }

                std::vector<std::vector<std::vector<float>>> queries(step[LIL_STEP_WIN]);
                for (int i = 0; i < step[LIL_STEP_WIN]; ++i) {
                    for (int g = 0; g < n_group; ++g) {
                        const float * q = ring.f32((p0 + i) % n_ring, strm) + (h * n_group + g) * n_embd;
                        queries[i].emplace_back(q, q + n_embd);
                        for (float & v : queries[i].back()) {
                            v = round_f16(v * layer.scale);
                        }
                    }
                }

                double sink = -INFINITY;
                for (int g = 0; g < n_group; ++g) {
                    sink = std::max(sink, sinks[h * n_group + g]);
                }

                const auto res = get_rkv(layer, keys, std::vector<float>(pos.f32(h, strm), pos.f32(h, strm) + n),
                        queries, p0, sink, near);
                for (int j = 0; j < n; ++j) {
                    want[(strm * n_head_kv + h) * capacity + j] = res[j];
                    size[(strm * n_head_kv + h) * capacity + j] = n;
                }
            }
        }
    }

    CHECK(lil_cuda_rkv_score_supports(layer, score, ring, k.t, pos, steps));

    tensor scratch(GGML_TYPE_F32, (int64_t) lil_cuda_rkv_score_n_scratch(layer, ring, k.t, steps));

    lil_cuda_rkv_score(layer, score, ring, k.t, pos, steps, sinks, (float *) scratch.data, nullptr);

    CHECK(scratch.is_whole() && score.is_whole());
    for (size_t i = 0; i < want.size(); ++i) {
        check_near(size[i] * ((const float *) score.data)[i], size[i] * want[i], 3e-5);
    }
}

int main(int argc, char ** argv) {
    run_tests("test-cuda-evict", argc, argv,
            {
                    { "score_step", test_score_step, 100 },
                    { "evict_slots", test_evict_slots, 200 },
                    { "mma", test_mma, 1 },
                    { "score_prompt", test_score_prompt, 80 },
                    { "score_window", test_score_window, 60 },
                    { "rkv_score", test_rkv_score, 80 },
            });

    printf("test-cuda-evict: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
