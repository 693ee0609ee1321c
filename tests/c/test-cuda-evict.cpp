// The CUDA ops of the evict methods, without a GPU. See cuda-common.h.
//
//   test-cuda-evict [seed [test]]

#include "cuda-common.h"

#include "../../src/ops/cuda/h2o-evict.cu"
#include "../../src/ops/cuda/h2o-score.cu"

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

    CHECK(scratch.is_whole());

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
    CHECK(scratch.is_whole());
}

int main(int argc, char ** argv) {
    run_tests("test-cuda-evict", argc, argv, {
        { "h2o_score", test_h2o_score, 100 },
        { "h2o_evict", test_h2o_evict, 200 },
    });

    printf("test-cuda-evict: %zu launches, seed %u: ok\n", emu.n_launches, seed);

    return 0;
}
