#pragma once

// Nodes of our ops on a device against the CPU's, from the same random state: what is chosen, moved or copied has to be
// the same bit by bit, sums are near. Outputs are poisoned; poison that the CPU leaves has to be left, also around
// every tensor.
//
// A test makes its tensors on the host. Each has a twin on the device, in a buffer of its own, to which the host's data
// go before the op runs, and from which all that it could have written comes back. Attention's partial results are the
// device's own matter: they stay there, and only the logits behind them are compared.

#include "op-case.h"

#include "ggml-cpp.h"

#include <functional>
#include <map>

struct op_device {
    ggml_backend_dev_t dev = nullptr;
    ggml_backend_ptr   backend;
    const lil_ops *    ops = nullptr;

    bool is_emulated = false;
    int  n_runs      = 1; // from the same state: a real device may capture a graph

    std::function<void()>                         begin;  // each test
    std::function<void(const ggml_tensor * node)> before; // each node
    std::function<void(const ggml_tensor * node)> after;

    // Metal: whether the dispatcher knows that a node writes to its sources
    std::function<bool(const ggml_tensor * node)> writes_src;

    int one_in = 1; // test is run of so many

    int  n_nodes    = 0;
    int  n_refused  = 0;
    bool may_refuse = false; // the test's sizes are such as the device need not take
};

static op_device       device;
static const lil_ops * ops; // the CPU's

// in the tests that go through many shapes: whether this one is run
static inline bool is_wanted() {
    return rng() % (unsigned) device.one_in == 0;
}

static const std::vector<int> GROUPS = { 1, 2, 3, 5, 7, 8, 16 };

// MLA, absorbed: DeepSeek-V2-Lite and V3
static const std::vector<int> MLA_GROUPS = { 16, 128 };

static const int MLA_EMBD   = 576;
static const int MLA_EMBD_V = 512;

// How near sums must be. A model's cap of logits is a tanh, which CUDA's fast math computes with an error of 2^-11
static inline double get_tol(double tol, float softcap) {
    return device.is_emulated || softcap == 0.0f ? tol : std::max(tol, 5e-3);
}

struct op_test_case : test_case {
    struct work_shape {
        int64_t n_embd_v;
        int64_t n_head;
        int64_t n_max;
        int64_t n_steps;
        bool    kq;
    };

    struct twin {
        ggml_backend_buffer_ptr buffer;
        ggml_tensor *           raw; // all of the buffer, as bytes
        ggml_tensor *           t;
        size_t                  offset; // of t
    };

    ggml_context_ptr ctx_dev{ ggml_init(
            { 256 * ggml_tensor_overhead() + ggml_graph_overhead_custom(1, false) * 32, nullptr, true }) };

    std::map<const ggml_tensor *, work_shape> works;
    std::map<const ggml_tensor *, twin>       twins;

    op_test_case() {
        if (device.begin) {
            device.begin();
        }
    }

    // Attention's work, with the shapes of where it comes from
    ggml_tensor * tensor_work(int64_t n_embd_v, int64_t n_head, int64_t n_max, int64_t n_steps, bool kq) {
        ggml_tensor * t = tensor(GGML_TYPE_F32, ops->attn_n_work(n_embd_v, n_head, n_max, n_steps, kq));
        works[t]        = { n_embd_v, n_head, n_max, n_steps, kq };
        return t;
    }

    // the same with random logits, and sources that only have shapes
    ggml_tensor * tensor_logits(int levels, float scale, int64_t n_embd_v, int64_t n_head, int64_t n_head_kv,
            ggml_tensor * list, ggml_tensor * steps) {
        ggml_tensor * t = tensor_work(n_embd_v, n_head, list->ne[0] - 1, steps->ne[1], true);

        fill_levels(get_logits(t), (list->ne[0] - 1) * n_head * steps->ne[1], levels, scale);
        set_op(t, ops->attn,
                { tensor(GGML_TYPE_F32, 16, n_head, steps->ne[1]), tensor(GGML_TYPE_F16, 16 * n_head_kv, 4),
                        tensor(GGML_TYPE_F16, n_embd_v * n_head_kv, 4), list, steps },
                nullptr);
        return t;
    }

    // of a work tensor on the host
    float * get_logits(const ggml_tensor * t) {
        const auto & w = works.at(t);
        return (float *) t->data + ops->attn_kq_offset(w.n_embd_v, w.n_head, w.n_max, w.n_steps);
    }

    // what is compared and copied: the same bytes in a tensor and its twin
    struct range {
        size_t host;
        size_t dev;
        size_t size;
    };

    range get_range(const ggml_tensor * t) {
        const auto it = works.find(t);
        if (it == works.end()) {
            return { 0, 0, ggml_nbytes(t) };
        }
        const auto & w = it->second;
        return {
            sizeof(float) * ops->attn_kq_offset(w.n_embd_v, w.n_head, w.n_max, w.n_steps),
            sizeof(float) * device.ops->attn_kq_offset(w.n_embd_v, w.n_head, w.n_max, w.n_steps),
            sizeof(float) * (w.kq ? w.n_max * w.n_head * w.n_steps : 0),
        };
    }

    // the sources of an op that takes learned sinks: with some, or without
    std::vector<ggml_tensor *> with_sinks(std::vector<ggml_tensor *> src, int64_t n_head) {
        if (rand_bool()) {
            src.push_back(tensor_f32(0, 6.0f, n_head));
        }
        return src;
    }

    static ggml_tensor * get_base(ggml_tensor * t) { return t->view_src ? t->view_src : t; }

    twin & get_twin(ggml_tensor * t) {
        t = get_base(t);

        const auto it = twins.find(t);
        if (it != twins.end()) {
            return it->second;
        }

        twin & res = twins[t];

        const auto work = works.find(t);
        if (work != works.end()) {
            const auto & w = work->second;

            // which says where it comes from: it is not computed again
            res.t = ggml_new_tensor_1d(ctx_dev.get(), GGML_TYPE_F32,
                    device.ops->attn_n_work(w.n_embd_v, w.n_head, w.n_max, w.n_steps, w.kq));
            std::vector<ggml_tensor *> src;
            for (int i = 0; i < 5; ++i) {
                src.push_back(get_twin(t->src[i]).t);
            }
            set_op(res.t, device.ops->attn, src, nullptr);
        } else {
            res.t = ggml_new_tensor(ctx_dev.get(), t->type, GGML_MAX_DIMS, t->ne);
        }

        ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(device.dev);

        // an emulated device has pages behind a buffer that may not be read: there the tensor ends where the buffer
        // does
        const size_t size  = ggml_backend_buft_get_alloc_size(buft, res.t);
        const size_t total = GGML_PAD(size + 64, 4096);

        res.offset = device.is_emulated ? (total - size) / 16 * 16 : 0;
        res.buffer.reset(ggml_backend_buft_alloc_buffer(buft, total));
        CHECK(res.buffer);

        char * base = (char *) ggml_backend_buffer_get_base(res.buffer.get());

        res.raw = ggml_new_tensor_1d(ctx_dev.get(), GGML_TYPE_I8, total);
        CHECK(ggml_backend_tensor_alloc(res.buffer.get(), res.t, base + res.offset) == GGML_STATUS_SUCCESS);
        CHECK(ggml_backend_tensor_alloc(res.buffer.get(), res.raw, base) == GGML_STATUS_SUCCESS);

        const std::vector<int32_t> poison(total / sizeof(int32_t), POISON);
        ggml_backend_tensor_set(res.raw, poison.data(), 0, total);

        return res;
    }

    void upload(ggml_tensor * t) {
        const range r = get_range(t);
        ggml_backend_tensor_set(get_twin(t).t, (const char *) t->data + r.host, r.dev, r.size);
    }

    // and looks at what is around it
    void download(ggml_tensor * t) {
        const range  r  = get_range(t);
        const twin & tw = get_twin(t);

        const size_t n = ggml_nbytes(tw.t);

        std::vector<char> all(ggml_nbytes(tw.raw));
        ggml_backend_tensor_get(tw.raw, all.data(), 0, all.size());

        memcpy((char *) t->data + r.host, all.data() + tw.offset + r.dev, r.size);

        for (size_t i = 0; i < all.size(); ++i) {
            if (i == tw.offset) {
                i += n;
            }
            if (i < all.size() && all[i] != ((const char *) &POISON)[i % 4]) {
                fprintf(stderr, "byte %zd of [%d, %d, %d, %d] is written\n", (ssize_t) (i - tw.offset), (int) t->ne[0],
                        (int) t->ne[1], (int) t->ne[2], (int) t->ne[3]);
                CHECK(!"whole");
            }
        }
    }

    // all that a node may read or write, once
    static std::vector<ggml_tensor *> get_all(ggml_tensor * dst, const std::vector<ggml_tensor *> & src) {
        std::vector<ggml_tensor *> res = { get_base(dst) };
        for (ggml_tensor * t : src) {
            if (std::find(res.begin(), res.end(), get_base(t)) == res.end()) {
                res.push_back(get_base(t));
            }
        }
        return res;
    }

    // an op of the CPU's; n_threads one after the other
    void run_cpu(ggml_custom_op_t lil_ops::* op, ggml_tensor * dst, const std::vector<ggml_tensor *> & src,
            const void * layer, int n_threads = 1) {
        set_op(dst, ops->*op, src, layer);
        for (int i = 0; i < n_threads; ++i) {
            (ops->*op)(dst, i, n_threads, const_cast<void *>(layer));
        }
    }

    // The same on the device, from the host's data and back. False: it does not take the node
    template <typename T>
    bool run_device(ggml_custom_op_t lil_ops::* op, ggml_tensor * dst, const std::vector<ggml_tensor *> & src,
            const T * layer) {
        if (is_refused) {
            return false;
        }

        // A captured graph holds the constants that it was captured with: a layer's never change. So here each node has
        // its own
        static std::list<T> layers;
        layers.push_back(*layer);

        set_op(dst, ops->*op, src, layer); // a work's twin asks for its sources

        std::vector<ggml_tensor *> dev_src;
        for (ggml_tensor * t : src) {
            dev_src.push_back(get_twin(t).t);
        }

        ggml_tensor * node = get_twin(dst).t;
        if (dst->view_src) {
            node = ggml_view_tensor(ctx_dev.get(), node);
            CHECK(ggml_backend_view_init(node) == GGML_STATUS_SUCCESS);
        }
        set_op(node, device.ops->*op, dev_src, &layers.back());

        if (device.before) {
            device.before(node);
        }

        device.n_nodes++;
        if (!ggml_backend_dev_supports_op(device.dev, node)) {
            if (!device.may_refuse) {
                fprintf(stderr, "%s does not take it\n", ggml_backend_dev_name(device.dev));
                CHECK(!"supported");
            }
            device.n_refused++;
            is_refused = true;
            return false;
        }

        ggml_cgraph * graph = ggml_new_graph_custom(ctx_dev.get(), 1, false);
        ggml_graph_add_node(graph, node);

        for (int i = 0; i < device.n_runs; ++i) {
            for (ggml_tensor * t : get_all(dst, src)) {
                upload(t);
            }
            CHECK(ggml_backend_graph_compute(device.backend.get(), graph) == GGML_STATUS_SUCCESS);
        }
        for (ggml_tensor * t : get_all(dst, src)) {
            download(t);
        }

        if (device.after) {
            device.after(node);
        }
        if (device.writes_src) {
            is_known_writer = device.writes_src(node);
        }
        return true;
    }

    bool is_refused      = false; // a node, so that those behind it have no input
    bool is_known_writer = true;  // the last node

    // An op on both, and compares every tensor that it could have written. The CPU's result stays. n_threads: the
    // CPU's, 0: any
    template <typename T>
    void check_op(ggml_custom_op_t lil_ops::* op, ggml_tensor * dst, const std::vector<ggml_tensor *> & src,
            const T * layer, double tol, int n_threads = 0) {
        const auto all = get_all(dst, src);

        const auto get = [&] {
            std::vector<std::vector<char>> res;
            for (const ggml_tensor * t : all) {
                res.push_back(get_bytes(t));
            }
            return res;
        };
        const auto set = [&](const std::vector<std::vector<char>> & data) {
            for (size_t i = 0; i < all.size(); ++i) {
                memcpy(all[i]->data, data[i].data(), data[i].size());
            }
        };

        const auto before = get();

        run_cpu(op, dst, src, layer, n_threads ? n_threads : rand_int(1, 3));
        const auto ref = get();

        set(before);
        if (run_device(op, dst, src, layer)) {
            const auto got = get();

            for (size_t i = 0; i < all.size(); ++i) {
                const range r = get_range(all[i]);
                compare(all[i], got[i], ref[i], r.host, r.host + r.size, tol);

                // what else it writes to has to be known, or it would run beside those that read it
                CHECK(i == 0 || ref[i] == before[i] || is_known_writer);
            }
        }
        set(ref);
    }

    // An op that makes partial sums: on the CPU into ref, which has one part, on the device into part, which may have
    // several. Their sums are compared, for step s the first n_sums[s] of each head
    template <typename T>
    void check_parts(ggml_custom_op_t lil_ops::* op, ggml_tensor * ref, ggml_tensor * part,
            const std::vector<ggml_tensor *> & src, const T * layer, const std::vector<int> & n_sums, double tol) {
        run_cpu(op, ref, src, layer);
        if (!run_device(op, part, src, layer)) {
            return;
        }

        const auto at = [](const ggml_tensor * t, int64_t i, int64_t h, int64_t p, int64_t s) {
            return *(
                    const float *) ((const char *) t->data + s * t->nb[3] + p * t->nb[2] + h * t->nb[1] + i * t->nb[0]);
        };

        for (int64_t s = 0; s < ref->ne[3]; ++s) {
            for (int64_t h = 0; h < ref->ne[1]; ++h) {
                for (int64_t i = 0; i < n_sums[s]; ++i) {
                    double sum = 0.0;
                    for (int64_t p = 0; p < part->ne[2]; ++p) {
                        sum += at(part, i, h, p, s);
                    }
                    check_near(sum, at(ref, i, h, 0, s), tol);
                }
            }
        }
    }
};
