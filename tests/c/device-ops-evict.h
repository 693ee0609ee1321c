#pragma once

// The ops of the evict methods.

#include "device-ops.h"

// a cache of an evict method: the tokens of each head, in any order
struct evict_cache {
    int n_head_kv = rand_int(1, 3);
    int n_steps   = rand_int(1, 2);
    int n_stream  = n_steps + rand_int(0, 1);
    int capacity;

    ggml_tensor * k;
    ggml_tensor * v;
    ggml_tensor * score;
    ggml_tensor * pos;
    ggml_tensor * steps;

    lil_evict_layer layer = {};

    // same: every head holds the same tokens
    evict_cache(op_test_case & t, int n_embd, int n_embd_v, ggml_type type_k, ggml_type type_v, int n_slots, int levels,
            bool same, bool exact = false) : capacity(n_slots + rand_int(0, 20)) {
        k     = t.tensor_kv(type_k, n_embd * n_head_kv, capacity, n_stream, exact);
        v     = t.tensor_kv(type_v, n_embd_v * n_head_kv, capacity, n_stream);
        score = t.tensor_f32(levels, 1.0f, capacity, n_head_kv, n_stream);
        pos   = t.tensor(GGML_TYPE_F32, capacity, n_head_kv, n_stream);
        steps = t.tensor(GGML_TYPE_I32, LIL_STEP_COUNT, n_steps);

        for (int s = 0; s < n_stream; ++s) {
            std::vector<int32_t> order = rand_cells(capacity, 3 * capacity);
            for (int h = 0; h < n_head_kv; ++h) {
                if (h == 0 || !same) {
                    std::shuffle(order.begin(), order.end(), rng);
                }
                for (int i = 0; i < capacity; ++i) {
                    ((float *) ((char *) pos->data + s * pos->nb[2] + h * pos->nb[1]))[i] = (float) order[i];
                }
            }
        }

        for (int s = 0; s < n_steps; ++s) {
            memset(step(s), 0, LIL_STEP_COUNT * sizeof(int32_t));
            step(s)[LIL_STEP_STREAM] = n_stream - 1 - s;
        }

        layer.n_head_kv    = n_head_kv;
        layer.n_score_part = 1;
        layer.scale        = get_scale(n_embd, exact);
        layer.softcap      = rng() % 4 == 0 ? 5.0f : 0.0f;
        layer.shared       = same;
        layer.last         = rand_bool();
    }

    int32_t * step(int s) { return row_i32(steps, s); }
};

static void test_evict_slots(int n_slots, int n_evict) {
    const bool same   = rand_bool();
    const int  levels = LEVELS[rng() % 5];
    const int  n_embd = 32 * rand_int(1, 2);

    const ggml_type type_k = TYPES[rng() % 5];
    const ggml_type type_v = TYPES[rng() % 5];

    char name[256];
    snprintf(name, sizeof(name), "evict_slots: %d of %d, %s/%s, same %d, levels %d", n_evict, n_slots,
            ggml_type_name(type_k), ggml_type_name(type_v), same, levels);
    test_name = name;

    op_test_case t;
    evict_cache  c(t, n_embd, 32, type_k, type_v, n_slots, levels, same);

    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_BEFORE]  = n_slots;
        c.step(s)[LIL_STEP_EVICT]   = s == 0 ? n_evict : rand_int(0, n_evict);
        c.step(s)[LIL_STEP_PROTECT] = 3 * c.capacity;

        // as many unprotected as are to go, or more
        if (rand_bool()) {
            int protect = 0;
            for (int h = 0; h < c.n_head_kv; ++h) {
                const float * pos = (const float *) ((char *) c.pos->data + c.step(s)[LIL_STEP_STREAM] * c.pos->nb[2] +
                        h * c.pos->nb[1]);

                std::vector<float> p(pos, pos + n_slots);
                std::sort(p.begin(), p.end());
                protect = std::max(protect, (int) p[n_evict - 1] + 1);
            }
            c.step(s)[LIL_STEP_PROTECT] = protect;
        }
    }

    t.check_op(&lil_ops::evict_slots, t.inplace(c.pos), { c.pos, c.k, c.v, c.score, c.steps }, &c.layer, 0.0);
}

static void test_score_step(int n_embd, int n_group, ggml_type type_k, int n_slots) {
    char name[256];
    snprintf(name, sizeof(name), "score_step: n_embd %d, group %d, %s, slots %d", n_embd, n_group,
            ggml_type_name(type_k), n_slots);
    test_name = name;

    op_test_case t;
    evict_cache  c(t, n_embd, 4, type_k, GGML_TYPE_F16, n_slots, 0, false, true);

    const int n_head = c.n_head_kv * n_group;
    const int n_new  = rand_int(1, std::min(n_slots, n_group <= 4 ? 20 : 6));

    // decode: the last query of each
    for (int s = 0; s < c.n_steps; ++s) {
        const int n_evict = rand_int(0, 3);
        const int n_here  = s == 0 ? n_new : 1;

        c.step(s)[LIL_STEP_BEFORE] = n_slots - n_here + n_evict;
        c.step(s)[LIL_STEP_EVICT]  = n_evict;
        c.step(s)[LIL_STEP_NEW]    = n_here;
        c.step(s)[LIL_STEP_POS]    = 5000 + s;
    }

    ggml_tensor * q = t.tensor_q(n_embd, n_head, c.n_steps);

    t.check_op(&lil_ops::score_step, t.inplace(c.score), t.with_sinks({ c.score, q, c.k, c.pos, c.steps }, n_head),
            &c.layer, get_tol(2e-5, c.layer.softcap));
    t.check_op(&lil_ops::new_slots, t.inplace(c.score), { c.score, c.pos, c.steps }, &c.layer, 0.0);

    // a prompt, in two ops
    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_NEW]    = n_new;
        c.step(s)[LIL_STEP_BEFORE] = n_slots - n_new + c.step(s)[LIL_STEP_EVICT];
    }

    const int n_kv = n_slots + rand_int(0, 30);

    ggml_tensor * qs  = t.tensor_q(n_embd, n_head, n_new * c.n_steps);
    ggml_tensor * ref = t.tensor(GGML_TYPE_F32, n_kv, c.n_head_kv, 1, c.n_steps);
    ggml_tensor * part =
            t.tensor(GGML_TYPE_F32, n_kv, c.n_head_kv, device.ops->has_parts ? rand_int(1, 4) : 1, c.n_steps);

    t.check_parts(&lil_ops::score_prompt, ref, part, t.with_sinks({ qs, c.k, c.steps }, n_head), &c.layer,
            std::vector<int>(c.n_steps, n_slots), get_tol(2e-5, c.layer.softcap));

    ggml_tensor * one = t.tensor_f32(0, 1.0f, n_kv, c.n_head_kv, 1, c.n_steps);

    t.check_op(&lil_ops::score_add, t.inplace(c.score), { c.score, one, c.pos, c.steps }, &c.layer, 1e-6);

    // every part counts
    c.layer.n_score_part = (int) part->ne[2];

    t.check_op(&lil_ops::score_add, t.inplace(c.score), { c.score, part, c.pos, c.steps }, &c.layer, 1e-6,
            c.layer.n_score_part);

    // the window: the last queries before LIL_STEP_POS, which see the tokens up to their own
    ggml_tensor * win = t.tensor_q(n_embd * n_head, LIL_PROMPT_WINDOW, c.n_stream);

    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_BEFORE] = n_slots;
        c.step(s)[LIL_STEP_WIN]    = rand_bool() ? 0 : n_group <= 2 ? rand_int(1, LIL_PROMPT_WINDOW) : rand_int(1, 5);
        c.step(s)[LIL_STEP_POS]    = 100 + rand_int(0, 100); // no query before position 0

        // a token that every query sees
        for (int h = 0; h < c.n_head_kv; ++h) {
            float * pos =
                    (float *) ((char *) c.pos->data + c.step(s)[LIL_STEP_STREAM] * c.pos->nb[2] + h * c.pos->nb[1]);

            for (int i = 0; i < n_slots; ++i) {
                pos[i] = i == 0 ? 0.0f : (float) (c.step(s)[LIL_STEP_POS] - rand_int(1, 100));
            }
        }
    }

    t.check_op(&lil_ops::score_window, t.inplace(c.score), t.with_sinks({ c.score, win, c.k, c.pos, c.steps }, n_head),
            &c.layer, get_tol(5e-5, c.layer.softcap));
}

// R-KV by the text of evict/rkv.cpp, in F64: one head's keys in order of position, as unit vectors and as they are
struct rkv_head {
    int n;
    int n_embd;

    std::vector<int>                 slot;
    std::vector<float>               pos;
    std::vector<std::vector<double>> key;
    std::vector<std::vector<double>> S; // cosines, 0 with itself

    rkv_head(evict_cache & c, const int32_t * step, int h, int n_embd) :
        n(step[LIL_STEP_BEFORE]), n_embd(n_embd), slot(n), pos(n), key(n), S(n) {
        const ggml_tensor * k    = c.k;
        const int           strm = step[LIL_STEP_STREAM];
        const float *       p = (const float *) ((const char *) c.pos->data + strm * c.pos->nb[2] + h * c.pos->nb[1]);

        for (int i = 0; i < n; ++i) {
            slot[i] = i;
        }
        std::sort(slot.begin(), slot.end(), [&](int a, int b) { return p[a] < p[b]; });

        std::vector<float> row(n_embd);
        for (int j = 0; j < n; ++j) {
            const char * data =
                    (const char *) k->data + strm * k->nb[2] + slot[j] * k->nb[1] + h * ggml_row_size(k->type, n_embd);

            pos[j] = p[slot[j]];
            if (k->type == GGML_TYPE_F32) { // read as F16
                for (int i = 0; i < n_embd; ++i) {
                    row[i] = ggml_fp16_to_fp32(ggml_fp32_to_fp16(((const float *) data)[i]));
                }
            } else {
                ggml_get_type_traits(k->type)->to_float(data, row.data(), n_embd);
            }
            key[j].assign(row.begin(), row.end());
        }

        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) {
                S[i].push_back(i == j ? 0.0 : dot(key[i], key[j]) / sqrt(dot(key[i], key[i]) * dot(key[j], key[j])));
            }
        }
    }

    static double dot(const std::vector<double> & a, const std::vector<double> & b) {
        double sum = 0.0;
        for (size_t i = 0; i < a.size(); ++i) {
            sum += a[i] * b[i];
        }
        return sum;
    }

    // sink: counts in the denominator
    static void soft_max(std::vector<double> & x, int n, double sink = -INFINITY) {
        const double max = std::max(*std::max_element(x.begin(), x.begin() + n), sink);

        double sum = exp(sink - max);
        for (int j = 0; j < n; ++j) {
            sum += x[j] = exp(x[j] - max);
        }
        for (int j = 0; j < n; ++j) {
            x[j] /= sum;
        }
    }

    // by slot; q: the first of a group's query heads at position p; sink: the largest of theirs
    template <typename Q>
    std::vector<double> get_importance(
            const lil_evict_layer & layer, int p0, int p1, int n_group, double sink, Q && q) const {
        std::vector<double> mean(n, 0.0);

        for (int p = p0; p < p1; ++p) {
            const int n_seen = (int) (std::upper_bound(pos.begin(), pos.end(), (float) p) - pos.begin());
            if (n_seen == 0) {
                continue;
            }

            std::vector<double> x(n_seen, -1e30);
            for (int g = 0; g < n_group; ++g) {
                const std::vector<double> qg(q(p) + g * n_embd, q(p) + (g + 1) * n_embd);
                for (int j = 0; j < n_seen; ++j) {
                    const double l = layer.scale * dot(key[j], qg);
                    x[j] = std::max(x[j], layer.softcap != 0.0f ? layer.softcap * tanh(l / layer.softcap) : l);
                }
            }
            soft_max(x, n_seen, sink);
            for (int j = 0; j < n_seen; ++j) {
                mean[j] += x[j] / (p1 - p0);
            }
        }

        std::vector<double> res(n);
        for (int j = 0; j < n; ++j) {
            res[slot[j]] = *std::max_element(mean.begin() + std::max(0, j - 3), mean.begin() + std::min(n, j + 4));
        }
        return res;
    }

    std::vector<double> get_redundancy(double threshold, int & n_off) const {
        std::vector<double> sum(n, 0.0);
        for (int i = 0; i < n; ++i) {
            int off = n - 1;
            while (off >= 0 && S[i][off] <= threshold) {
                off--;
            }
            n_off += off >= 0;
            for (int j = 0; j < n; ++j) {
                sum[j] += j == off ? 0.0 : S[i][j] / n;
            }
        }
        soft_max(sum, n);

        std::vector<double> res(n);
        for (int j = 0; j < n; ++j) {
            res[slot[j]] = sum[j];
        }
        return res;
    }
};

static int n_let_off = 0; // by all tests

static void test_rkv(int n_embd, int n_group, ggml_type type_k, int n_slots, float lambda) {
    op_test_case t;
    evict_cache  c(t, n_embd, 4, type_k, GGML_TYPE_F16, n_slots, 0, false, true);

    const int n_ring = rand_int(1, 10);

    char name[256];
    snprintf(name, sizeof(name), "rkv_score: n_embd %d, heads %d*%d, %s, slots %d, ring %d, lambda %g", n_embd,
            c.n_head_kv, n_group, ggml_type_name(type_k), n_slots, n_ring, lambda);
    test_name = name;

    ggml_tensor * ring = t.tensor_q(n_embd * c.n_head_kv * n_group, n_ring, c.n_stream);

    // the first sequence evicts, the others do not
    for (int s = 0; s < c.n_steps; ++s) {
        c.step(s)[LIL_STEP_BEFORE] = n_slots;
        c.step(s)[LIL_STEP_EVICT]  = s == 0 ? 1 : 0;
        c.step(s)[LIL_STEP_WIN]    = rand_int(0, n_ring);
        // positions go up to 3*capacity: some keys are not seen
        c.step(s)[LIL_STEP_POS] = rand_int(0, 1) * 2 * c.capacity + 10;
    }

    const int32_t * step = c.step(0);
    const int       strm = step[LIL_STEP_STREAM];

    // keys that repeat others
    char * rows = (char *) c.k->data + strm * c.k->nb[2];
    for (int i = 0; i < n_slots / 4; ++i) {
        memmove(rows + rand_int(0, n_slots - 1) * c.k->nb[1], rows + rand_int(0, n_slots - 1) * c.k->nb[1], c.k->nb[1]);
    }

    std::vector<rkv_head> heads;
    for (int h = 0; h < c.n_head_kv; ++h) {
        heads.emplace_back(c, step, h, n_embd);
    }

    // a threshold that no cosine is near to
    std::vector<double> cosines = { 0.0, 2.0 };
    for (const auto & head : heads) {
        for (const auto & row : head.S) {
            std::copy_if(row.begin(), row.end(), std::back_inserter(cosines), [](double x) { return x > 0.0; });
        }
    }
    std::sort(cosines.begin(), cosines.end());

    size_t at = cosines.size() * rand_int(0, 9) / 10;
    while (at + 2 < cosines.size() && cosines[at + 1] - cosines[at] < 1e-5) {
        at++;
    }
    c.layer.lambda    = lambda;
    c.layer.threshold = (float) (0.5 * (cosines[at] + cosines[at + 1]));

    const auto before = get_bytes(c.score);
    const auto src    = t.with_sinks({ c.score, ring, c.k, c.pos, c.steps }, c.n_head_kv * n_group);

    for (const bool on_cpu : { true, false }) {
        ggml_tensor * dst = t.inplace(c.score);

        memcpy(c.score->data, before.data(), before.size());
        if (on_cpu) {
            t.run_cpu(&lil_ops::rkv_score, dst, src, &c.layer);
        } else if (!t.run_device(&lil_ops::rkv_score, dst, src, &c.layer)) {
            break;
        }

        for (int h = 0; h < c.n_head_kv; ++h) {
            const auto q = [&](int p) {
                return (const float *) ((const char *) ring->data + strm * ring->nb[2] + p % n_ring * ring->nb[1]) +
                        h * n_group * n_embd;
            };

            const float * sinks = src.size() > 5 ? (const float *) src[5]->data + h * n_group : nullptr;
            const double  sink  = sinks ? *std::max_element(sinks, sinks + n_group) : -INFINITY;

            const auto imp = heads[h].get_importance(
                    c.layer, step[LIL_STEP_POS] - step[LIL_STEP_WIN], step[LIL_STEP_POS], n_group, sink, q);
            const auto red = heads[h].get_redundancy(c.layer.threshold, n_let_off);

            float * score = (float *) ((char *) c.score->data + strm * c.score->nb[2] + h * c.score->nb[1]);

            for (int i = 0; i < n_slots; ++i) {
                const double i_part = lambda * imp[i];
                const double r_part = (1.0 - lambda) * red[i];

                // a key that is not let off is wrong by 1/n_slots of its redundancy
                if (!(std::fabs(score[i] - (i_part - r_part)) <= 1e-4 * i_part + 1e-5 * r_part)) {
                    fprintf(stderr, "slot %d of head %d, %s: %.9g, expected %.9g - %.9g\n", i, h,
                            on_cpu ? "CPU" : "device", score[i], i_part, r_part);
                    CHECK(!"near");
                }
                memcpy(&score[i], &before[(char *) &score[i] - (char *) c.score->data], sizeof(float));
            }
        }
        CHECK(memcmp(c.score->data, before.data(), before.size()) == 0); // and nothing else has changed
    }
}

static void test_evict_slots_all() {
    for (int n_slots : { 1, 2, 31, 32, 33, 64, 257, 1000, 3000 }) {
        for (int n_evict : { 1, 2, 31, 32, 33, 200, 1000, 1024, 1030, 2000 }) {
            if (n_evict <= n_slots && is_wanted()) {
                test_evict_slots(n_slots, n_evict);
                test_evict_slots(n_slots, n_evict);
            }
        }
    }

    // more moves than are planned at once
    for (int n_evict : { 2000, 2500, 3000 }) {
        if (is_wanted()) {
            test_evict_slots(5000, n_evict);
        }
    }
}

static void test_score_step_all() {
    for (int n_embd : { 64, 80, 96, 112, 128, 256 }) {
        for (int n_group : GROUPS) {
            if (is_wanted()) {
                test_score_step(n_embd, n_group, rand_type(n_embd),
                        n_group <= 2 && rand_bool() ? rand_int(1, 300) : SIZES[rng() % 7]);
            }
        }
    }
    for (int n_group : MLA_GROUPS) {
        if (is_wanted()) {
            test_score_step(MLA_EMBD, n_group, rand_type(MLA_EMBD), SIZES[rng() % 5]);
        }
    }
}

static void test_rkv_all() {
    n_let_off = 0;

    for (int n_embd : { 32, 64, 80, 128, 256 }) {
        for (int n_group : { 1, 2, 3, 8, 9 }) {
            if (is_wanted()) {
                test_rkv(n_embd, n_group, rand_type(n_embd), SIZES[rng() % 8], (float) rand_int(0, 10) / 10.0f);
                test_rkv(n_embd, n_group, rand_type(n_embd), rand_int(1, 40), rand_bool() ? 0.0f : 1.0f);
            }
        }
    }
    for (int n_group : MLA_GROUPS) {
        if (is_wanted()) {
            test_rkv(MLA_EMBD, n_group, rand_type(MLA_EMBD), SIZES[rng() % 5], 0.5f);
        }
    }
    CHECK(device.one_in > 1 || n_let_off > 1000);
}
