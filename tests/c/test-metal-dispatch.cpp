// How Metal's dispatcher (src/ops/metal/lil-metal.cpp) tells our nodes from others, what it refuses, and when it
// compiles.
//
//   test-metal-dispatch [seed]

#include "metal-ops-common.h"

#include <csignal>

#include <sys/wait.h>
#include <unistd.h>

// the node of an attn that can be computed
struct attn_node {
    test_case t;

    lil_select_layer layer = {};
    ggml_tensor *    node;

    explicit attn_node(ggml_type type = GGML_TYPE_F16, int n_embd = 64, int n_embd_v = 64) {
        layer.n_head_kv = 2;

        node = t.tensor(GGML_TYPE_F32, lil_attn_n_work(n_embd_v, 4, 16, 1, false));

        ggml_tensor * list  = t.tensor(GGML_TYPE_I32, 1 + 16, 1, 1);
        ggml_tensor * steps = t.tensor(GGML_TYPE_I32, LIL_SEL_COUNT, 1);

        row_i32(list, 0)[0] = 1;
        row_i32(list, 0)[1] = 0;
        memset(steps->data, 0, ggml_nbytes(steps));

        set_op(node, metal->attn,
                { t.tensor(GGML_TYPE_F32, n_embd, 4, 1), t.tensor(type, 2 * n_embd, 16),
                        t.tensor(type, 2 * n_embd_v, 16), list, steps },
                &layer);
    }

    bool is_supported(int dev = 0) const { return lil_metal_supports(emu_metal_device(dev), node); }
};

// The library is compiled by the first node of ours, once, and pipelines once for each pair of types. So this goes
// first
static void test_compile() {
    test_name = "compile";

    auto & state = emu_metal_get();

    attn_node a;
    attn_node b(GGML_TYPE_Q8_0);

    // nodes of others compile nothing
    ggml_tensor * add = ggml_add(a.t.ctx, a.node->src[0], a.node->src[0]);
    CHECK(!lil_metal_supports(emu_metal_device(), add));
    CHECK(state.n_compiled == 0);

    for (int i = 0; i < 3; ++i) {
        CHECK(a.is_supported());
        CHECK(state.n_compiled == 1 && state.n_pipelines == 1);
    }
    for (int i = 0; i < 3; ++i) {
        CHECK(b.is_supported());
        CHECK(state.n_compiled == 1 && state.n_pipelines == 2);
    }

    // a pipeline that does not compile is not tried again; others are not affected, nor is it on another device
    attn_node c(GGML_TYPE_Q4_0);

    state.compiles = false;
    CHECK(!c.is_supported());
    state.compiles = true;
    CHECK(!c.is_supported());
    CHECK(a.is_supported());
    CHECK(state.n_compiled == 1 && state.n_pipelines == 3);
    CHECK(c.is_supported(1));
    CHECK(state.n_compiled == 2 && state.n_pipelines == 4);

    // a library that does not compile is not tried again
    state.compiles = false;
    CHECK(!a.is_supported(2));
    state.compiles = true;
    CHECK(!a.is_supported(2));
    CHECK(!b.is_supported(2));
    CHECK(state.n_compiled == 3 && state.n_pipelines == 4);
}

// a node is told by its function
static void test_identity() {
    test_name = "identity";

    attn_node        a;
    lil_metal_launch l;

    CHECK(a.is_supported());

    // the CPU's op of the same name is not Metal's
    set_op(a.node, ops->attn, { a.node->src[0], a.node->src[1], a.node->src[2], a.node->src[3], a.node->src[4] },
            &a.layer);
    CHECK(!a.is_supported() && !lil_metal_writes_src(a.node));
    CHECK(std::string(lil_metal_plan(a.node, l)) == "not one of our ops");

    // and a function of ours in another kind of node is none
    set_op(a.node, metal->attn, { a.node->src[0], a.node->src[1], a.node->src[2], a.node->src[3], a.node->src[4] },
            &a.layer);
    a.node->op = GGML_OP_MAP_CUSTOM1;
    CHECK(!a.is_supported());

    // every op of the table is there, and no two are the same
    std::vector<ggml_custom_op_t> all = {
#define GET_OP(op) metal->op,
        LIL_OPS(GET_OP)
    };
    CHECK(all.size() == 22);
    std::sort(all.begin(), all.end());
    CHECK(all[0] != nullptr && std::unique(all.begin(), all.end()) == all.end());

    CHECK(std::string(metal->name) == "Metal");
    CHECK(metal->attn_n_work(64, 4, 1000, 2, true) == lil_attn_n_work(64, 4, 1000, 2, true));
    CHECK(metal->attn_kq_offset(64, 4, 1000, 2) == lil_attn_kq_offset(64, 4, 1000, 2));
}

// what no kernel can compute has a reason
static void test_refusals() {
    test_name = "refusals";

    const struct {
        ggml_type type;
        int       n_embd;
        bool      ok;
    } cases[] = {
        { GGML_TYPE_F16, 64, true },
        { GGML_TYPE_Q4_0, 64, true },
        { GGML_TYPE_Q5_1, 64, false },
        { GGML_TYPE_F16, 66, false },
        { GGML_TYPE_F16, 512, true },
        { GGML_TYPE_F16, 1024, false },
    };

    for (const auto & c : cases) {
        attn_node        a(c.type, c.n_embd, c.n_embd);
        lil_metal_launch l;

        CHECK((lil_metal_plan(a.node, l) == nullptr) == c.ok);
        CHECK(a.is_supported(3) == c.ok);

        // the table says so before there is a node
        const lil_ops_shape shape = { c.type, c.type, c.n_embd, c.n_embd, 4, 2, false, false };
        CHECK((metal->check(&shape) == nullptr) == c.ok);

        const lil_ops_shape k = { c.type, GGML_TYPE_F16, c.n_embd, 64, 4, 2, false, false };
        const lil_ops_shape v = { GGML_TYPE_F16, c.type, 64, c.n_embd, 4, 2, false, false };
        CHECK((metal->check(&k) == nullptr) == c.ok);
        CHECK((metal->check(&v) == nullptr) == c.ok);
    }

    // MLA's, and values that are longer
    for (const int n_embd : { 576, 580 }) {
        const lil_ops_shape mla = { GGML_TYPE_F16, GGML_TYPE_F16, n_embd, 512, 128, 1, false, false };
        const lil_ops_shape v   = { GGML_TYPE_F16, GGML_TYPE_F16, 576, n_embd - 64, 16, 1, false, false };
        CHECK((metal->check(&mla) == nullptr) == (n_embd == 576));
        CHECK((metal->check(&v) == nullptr) == (n_embd == 576));
    }

    // queries that do not fit: one for each KV head
    for (const int n_head : { 64, 65 }) {
        const lil_ops_shape heads = { GGML_TYPE_F16, GGML_TYPE_F16, 128, 128, n_head, n_head, false, false };
        CHECK((metal->check(&heads) == nullptr) == (n_head == 64));
    }

    // R-KV: a float for each slot has to fit beside 8 rows
    for (const int n_slots : { 7296, 7297 }) {
        test_case t;

        lil_evict_layer layer = {};
        layer.n_head_kv       = 1;

        ggml_tensor * score = t.tensor(GGML_TYPE_F32, n_slots);

        ggml_tensor * node = t.inplace(score);
        set_op(node, metal->rkv_score,
                { score, t.tensor(GGML_TYPE_F32, 64, 8), t.tensor(GGML_TYPE_F16, 64, n_slots),
                        t.tensor(GGML_TYPE_F32, n_slots), t.tensor(GGML_TYPE_I32, LIL_STEP_COUNT, 1) },
                &layer);

        CHECK(lil_metal_supports(emu_metal_device(), node) == (n_slots == 7296));
    }

    // devices and pipelines that cannot
    auto & state = emu_metal_get();

    attn_node a;
    CHECK(a.is_supported());

    state.props.supports_gpu_family_apple7 = false;
    CHECK(!a.is_supported());
    state.props.supports_gpu_family_apple7 = true;

    state.props.max_theadgroup_memory_size = 16384;
    CHECK(!a.is_supported());
    state.props.max_theadgroup_memory_size = 32768;

    state.n_threads = 127;
    CHECK(!a.is_supported());
    state.n_threads = 128;
    CHECK(a.is_supported());
}

// A graph asks for the ops that stand before a layer's attention before the layer's constants are set
static void test_early() {
    test_name = "early";

    test_case t;

    const lil_evict_layer unset = {};

    ggml_tensor * k     = t.tensor(GGML_TYPE_F16, 2 * 64, 32, 1);
    ggml_tensor * v     = t.tensor(GGML_TYPE_F16, 2 * 64, 32, 1);
    ggml_tensor * score = t.tensor(GGML_TYPE_F32, 32, 2, 1);
    ggml_tensor * pos   = t.tensor(GGML_TYPE_F32, 32, 2, 1);
    ggml_tensor * ring  = t.tensor(GGML_TYPE_F32, 4 * 64, 8, 1);
    ggml_tensor * steps = t.tensor(GGML_TYPE_I32, LIL_STEP_COUNT, 1);

    const auto is_supported = [&](ggml_custom_op_t op, ggml_tensor * of, const std::vector<ggml_tensor *> & src) {
        ggml_tensor * node = t.inplace(of);
        set_op(node, op, src, &unset);
        return lil_metal_supports(emu_metal_device(), node);
    };

    CHECK(is_supported(metal->evict_slots, pos, { pos, k, v, score, steps }));
    CHECK(is_supported(metal->score_window, score, { score, ring, k, pos, steps }));
    CHECK(is_supported(metal->rkv_score, score, { score, ring, k, pos, steps }));
    CHECK(is_supported(metal->new_slots, score, { score, pos, steps }));
}

// a grid of nothing, which Metal takes for an error, is left out
static void test_empty() {
    test_name = "empty";

    test_case t;

    lil_select_layer layer = {};
    layer.n_head_kv        = 1;

    ggml_tensor * bounds = t.tensor(GGML_TYPE_F32, 128, 1, 4, 1);
    ggml_tensor * dirty  = t.tensor(GGML_TYPE_I32, LIL_DIRTY_HEAD + 16, 0);

    ggml_tensor * node = t.inplace(bounds);
    set_op(node, metal->page_bounds, { bounds, t.tensor(GGML_TYPE_F16, 64, 16, 1), dirty }, &layer);

    const int n_before = emu_metal_get().n_dispatched;

    CHECK(lil_metal_supports(emu_metal_device(), node));
    lil_metal_encode(emu_metal_device(), emu_metal_encoder(), node);
    CHECK(emu_metal_get().n_dispatched == n_before);
}

// what a process says that runs an op of Metal's on the CPU, which ends it
static std::string run_on_cpu(ggml_custom_op_t fun, ggml_tensor * node) {
    int fds[2];
    CHECK(pipe(fds) == 0);

    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        setenv("GGML_NO_BACKTRACE", "1", 1);
        fun(node, 0, 1, nullptr);
        _exit(0);
    }
    close(fds[1]);

    std::string res;
    char        buf[512];
    for (ssize_t n; (n = read(fds[0], buf, sizeof(buf))) > 0;) {
        res.append(buf, (size_t) n);
    }
    close(fds[0]);

    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);

    return res;
}

static void test_stubs() {
    attn_node a;
    ggml_set_name(a.node, "some-node");

#define CHECK_STUB(op) \
    test_name = "stub of " #op; \
    CHECK(run_on_cpu(metal->op, a.node).find("node 'some-node' (" #op ") is Metal's") != std::string::npos);

    LIL_OPS(CHECK_STUB)
}

int main(int argc, char ** argv) {
    test_init(argc, argv);

    // every kernel of the text is emulated, so that none can be left out of a test
    const std::string lack = emu_metal_check_kernels();
    if (!lack.empty()) {
        fprintf(stderr, "%s is only in the text, or only in the emulation\n", lack.c_str());
        CHECK(!"the same kernels");
    }

    test_compile();
    test_identity();
    test_refusals();
    test_early();
    test_empty();
    test_stubs();

    printf("test-metal-dispatch: ok\n");

    return 0;
}
