// Threads that give way: the meeting of threads (barrier), sleep and wake-up, the search for their number, the count of
// CPUs.
//
//   test-threads [rounds]
//
// The barrier is ggml's own, in the installed library: graphs of many small operations, each of which counts who was
// there. rounds: meetings per number of threads, 20000 by default.

#include "lil-cpus.h"
#include "lil-crowd.h"
#include "lil-wait.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "lil.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#define CHECK(cond, ...) \
    do { \
        if (!(cond)) { \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond); \
            fprintf(stderr, __VA_ARGS__); \
            fprintf(stderr, "\n"); \
            exit(1); \
        } \
    } while (0)

//
// barrier
//

// What all threads of a graph write to. Every thread leaves its round behind in each operation; where one comes before
// the others have finished the operation before it, it sees an old one.
struct meeting {
    static const int MAX = 32;

    struct alignas(64) line {
        std::atomic<int> round{ 0 };
        uint32_t         random = 1;
    };

    line threads[MAX];

    int              delay  = 0;     // mean of a thread's work, in rounds of an empty loop
    bool             sleepy = false; // and now and then one of them sleeps
    std::atomic<int> n_wrong{ 0 };
};

static void meet(ggml_tensor * dst, int ith, int nth, void * userdata) {
    auto & m  = *(meeting *) userdata;
    auto & me = m.threads[ith];

    (void) dst;

    // all have done the operation before this one, and none has done more than this one
    const int round = me.round.load(std::memory_order_relaxed);
    for (int i = 0; i < nth; ++i) {
        const int other = m.threads[i].round.load(std::memory_order_relaxed);
        if (other != round && other != round + 1) {
            m.n_wrong++;
        }
    }

    me.random         = me.random * 1664525u + 1013904223u + (uint32_t) ith;
    volatile int sink = 0;
    for (int i = m.delay > 0 ? (int) ((me.random >> 8) % (2 * m.delay)) : 0; i > 0; --i) {
        sink = sink + 1;
    }
    if (m.sleepy && (me.random >> 12) % 2000 == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds((me.random >> 4) % 3000));
    }

    me.round.store(round + 1, std::memory_order_relaxed);
}

static void test_barrier(int n_rounds) {
    const int n_ops = 500;

    for (const int n_threads : { 2, 3, 4, 8, 16 }) {
        for (const int mode : { 0, 1, 2 }) { // no work; some; some that sleeps
            const size_t size = 4096 * ggml_tensor_overhead() + ggml_graph_overhead_custom(4096, false);

            ggml_init_params params = { size, nullptr, true };
            ggml_context *   ctx    = ggml_init(params);
            ggml_tensor *    cur    = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 16);
            ggml_cgraph *    gf     = ggml_new_graph_custom(ctx, 4096, false);

            meeting m;
            m.delay  = mode == 0 ? 0 : 300;
            m.sleepy = mode == 2;

            for (int i = 0; i < n_ops; ++i) {
                cur = ggml_custom_4d(ctx, GGML_TYPE_F32, 16, 1, 1, 1, &cur, 1, meet, GGML_N_TASKS_MAX, &m);
            }
            ggml_build_forward_expand(gf, cur);

            ggml_backend_t        backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
            ggml_backend_buffer_t buf     = ggml_backend_alloc_ctx_tensors(ctx, backend);
            CHECK(backend && buf, "no CPU backend");

            auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
                    ggml_backend_dev_backend_reg(ggml_backend_get_device(backend)), "ggml_backend_set_n_threads");
            CHECK(set_n_threads, "no ggml_backend_set_n_threads");
            set_n_threads(backend, n_threads);

            // the search may use fewer threads; rounds are then uneven between graphs
            const int n_graphs = std::max(1, (mode == 2 ? n_rounds / 10 : n_rounds) / n_ops);
            for (int i = 0; i < n_graphs; ++i) {
                for (auto & t : m.threads) {
                    t.round = 0;
                }
                CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS, "graph %d", i);
            }
            CHECK(m.n_wrong == 0, "%d threads, mode %d: %d meetings were left early", n_threads, mode,
                    m.n_wrong.load());
            CHECK(m.threads[0].round == n_ops, "%d operations", m.threads[0].round.load());

            ggml_backend_buffer_free(buf);
            ggml_backend_free(backend);
            ggml_free(ctx);
        }
    }
}

// Backends come and go, with more threads and fewer, several at a time, and in a child process.
static bool compute_once(int n_threads, ggml_backend_t backend) {
    ggml_init_params params = { 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
    ggml_context *   ctx    = ggml_init(params);
    ggml_tensor *    a      = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 64, 64);
    ggml_tensor *    b      = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 64, 1);
    ggml_tensor *    c      = ggml_mul_mat(ctx, a, b);
    ggml_cgraph *    gf     = ggml_new_graph(ctx);
    ggml_build_forward_expand(gf, c);

    ggml_backend_buffer_t buf = ggml_backend_alloc_ctx_tensors(ctx, backend);

    std::vector<float> va(64 * 64), vb(64, 1.0f), vc(64);
    for (size_t i = 0; i < va.size(); ++i) {
        va[i] = (float) (i / 64);
    }
    ggml_backend_tensor_set(a, va.data(), 0, ggml_nbytes(a));
    ggml_backend_tensor_set(b, vb.data(), 0, ggml_nbytes(b));

    auto set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(ggml_backend_get_device(backend)), "ggml_backend_set_n_threads");
    set_n_threads(backend, n_threads);

    bool ok = ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS;
    ggml_backend_tensor_get(c, vc.data(), 0, ggml_nbytes(c));
    for (int i = 0; i < 64; ++i) {
        ok = ok && std::fabs(vc[i] - 64.0f * i) < 1e-3f;
    }

    ggml_backend_buffer_free(buf);
    ggml_free(ctx);

    return ok;
}

static void test_pools() {
    std::vector<std::thread> users;
    std::atomic<int>         n_bad{ 0 };

    for (int i = 0; i < 4; ++i) {
        users.emplace_back([i, &n_bad] {
            ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
            for (const int n_threads : { 1, 2, 5, 3, 1, 4, 2 + i }) {
                for (int k = 0; k < 20; ++k) {
                    n_bad += !compute_once(n_threads, backend);
                }
            }
            ggml_backend_free(backend);
        });
    }
    for (auto & user : users) {
        user.join();
    }
    CHECK(n_bad == 0, "%d wrong results", n_bad.load());

#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__) && !defined(LIL_EMULATED) // those know no threads in a fork
    // the threads of a pool do not come along into a fork: it makes its own
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    CHECK(compute_once(4, backend), "before the fork");

    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        const bool ok = compute_once(4, backend) && compute_once(2, backend);
        ggml_backend_free(backend);
        _exit(ok ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status of the child: %d", status);

    CHECK(compute_once(4, backend), "after the fork");
    ggml_backend_free(backend);
#endif
}

static void test_sleep() {
    std::atomic<int> value{ 0 };
    std::atomic<int> n_awake{ 0 };

    std::vector<std::thread> sleepers;
    for (int i = 0; i < 3; ++i) {
        sleepers.emplace_back([&] {
            while (value.load() == 0) {
                lil_sleep_while(&value, 0);
            }
            n_awake++;
        });
    }
    lil_sleep_while(&value, 1); // it is not 1: returns at once

    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(n_awake == 0, "%d woke up by themselves", n_awake.load());

    value = 1;
    lil_wake_all(&value);
    for (auto & t : sleepers) {
        t.join();
    }
    CHECK(n_awake == 3, "%d of 3 woke up", n_awake.load());

    // a wait spins, yields, and says when it is time to sleep
    lil_waiter         waiter   = { 0, 0 };
    const lil_patience patience = { 10, 2000 };
    const int64_t      t0       = lil_time_us();
    do {
        waiter.n += LIL_WAIT_ROUND;
    } while (lil_wait_round(&waiter, &patience));
    CHECK(lil_time_us() - t0 >= 2000, "gave up after %d us", (int) (lil_time_us() - t0));
}

//
// the search for the number of threads
//

// A machine that tells how long a graph takes with n threads, and how much of it is lost.
struct machine {
    virtual ~machine()                    = default;
    virtual double per_graph(int n) const = 0; // microseconds
    virtual double lost(int n) const      = 0; // share
};

struct idle : machine {
    double per_graph(int n) const override { return 40000.0 / n; }
    double lost(int n) const override {
        (void) n;
        return 0.02;
    }
};

// k of n_cpus cores are taken: a thread there has half of it, and the others wait for it
struct busy : machine {
    busy(int n_cpus, int k) : n_cpus(n_cpus), k(k) {}
    double per_graph(int n) const override { return 40000.0 / n * (n > n_cpus - k ? 2 : 1); }
    double lost(int n) const override { return n > n_cpus - k ? 0.5 : 0.02; }
    int    n_cpus, k;
};

// graphs for t microseconds; the share of them with n threads
static double play(lil_crowd & c, const machine & m, int64_t & t, int64_t dt, int n, std::mt19937 & rng) {
    const uint64_t kind = 7;

    std::uniform_real_distribution<double> noise(0.9, 1.1);

    int64_t       t_n = 0;
    const int64_t t0  = t;
    while (t < t0 + dt) {
        const int now = lil_crowd_threads(&c, kind);
        CHECK(now >= 1 && now <= c.n_max, "%d threads of %d", now, c.n_max);
        const int64_t wall = (int64_t) (m.per_graph(now) * noise(rng));
        t += wall;
        t_n += now == n ? wall : 0;
        lil_crowd_add(&c, kind, now, t, wall, (int64_t) (m.lost(now) * wall));
    }

    return (double) t_n / (t - t0);
}

static void test_crowd() {
    for (const int n_cpus : { 2, 4, 8, 16 }) {
        std::mt19937 rng(n_cpus);

        lil_crowd c;
        lil_crowd_init(&c, n_cpus);
        int64_t t = 1000000;

        const idle quiet;
        CHECK(play(c, quiet, t, 20000000, n_cpus, rng) == 1.0, "%d idle cores: a smaller number was tried", n_cpus);

        // one core taken: fewer threads pay where n - 1 whole cores are more than n halves
        const busy one(n_cpus, 1);
        play(c, one, t, 4000000, 0, rng);
        if (n_cpus > 2) {
            const double share = play(c, one, t, 20000000, n_cpus - 1, rng);
            CHECK(share > 0.85, "%d cores, one taken: %.2f of the time with one thread fewer", n_cpus, share);
        }

        // half of them taken
        const busy half(n_cpus, n_cpus / 2);
        play(c, half, t, 10000000, 0, rng);
        if (n_cpus > 2) {
            const double share = play(c, half, t, 20000000, n_cpus - n_cpus / 2, rng);
            const double all   = play(c, half, t, 20000000, n_cpus, rng);
            CHECK(share + all > 0.7, "%d cores, half taken: %.2f of the time with half, %.2f with all", n_cpus, share,
                    all);
        }

        // free again: back to all of them, soon, and for good
        play(c, quiet, t, 12000000, 0, rng);
        const double share = play(c, quiet, t, 20000000, n_cpus, rng);
        CHECK(share == 1.0, "%d cores, free again: %.2f of the time with all", n_cpus, share);
    }

    // single graphs of another kind (the end of a prompt) run with all threads and change nothing
    std::mt19937 rng(1);
    lil_crowd    c;
    lil_crowd_init(&c, 4);
    int64_t    t = 1000000;
    const busy one(4, 1);
    play(c, one, t, 10000000, 0, rng);
    CHECK(lil_crowd_threads(&c, 7) < 4 || c.n_before > 0, "4 threads with a core taken");
    const int n = lil_crowd_threads(&c, 7);
    CHECK(lil_crowd_threads(&c, 8) == 4, "a graph of another kind gets all threads");
    lil_crowd_add(&c, 8, 4, t, 1000, 0);
    CHECK(lil_crowd_threads(&c, 7) == n, "a graph of another kind changed the number");

    // where the time lost is not known, nothing is tried
    lil_crowd_init(&c, 4);
    for (int i = 0; i < 1000; ++i) {
        lil_crowd_add(&c, 7, 4, t += 10000, 10000, -1);
    }
    CHECK(lil_crowd_threads(&c, 7) == 4, "tried without knowing");
}

//
// CPUs
//

#if !defined(_WIN32)

static void write_file(const std::string & root, const std::string & path, const std::string & text) {
    for (size_t i = 1; i < path.size(); ++i) {
        if (path[i] == '/') {
            mkdir((root + path.substr(0, i)).c_str(), 0700);
        }
    }
    std::ofstream file(root + path);
    file << text << "\n";
    CHECK(file.good(), "cannot write %s", path.c_str());
}

static std::string new_root() {
    const char * tmp = getenv("TMPDIR");

    std::string dir = std::string(tmp ? tmp : "/tmp") + "/lil-cpus-XXXXXX";
    CHECK(mkdtemp(&dir[0]), "no temporary folder");
    return dir;
}

static void test_cpus() {
    const std::string topology = "/sys/devices/system/cpu/cpu";
    const std::string siblings = "/topology/thread_siblings_list";

    // nothing is known: every CPU counts
    std::string root = new_root();
    CHECK(lil_count_cpus(root, { 0, 1, 2, 3 }) == 4, "unknown machine");
    CHECK(lil_count_cpus(root, { 5 }) == 1, "one CPU");
    CHECK(lil_count_cpus(root, {}) == 1, "at least one");

    // two hyperthreads a core
    for (int i = 0; i < 8; ++i) {
        const std::string both = std::to_string(i % 4) + "," + std::to_string(i % 4 + 4);
        write_file(root, topology + std::to_string(i) + siblings, both);
    }
    CHECK(lil_count_cpus(root, { 0, 1, 2, 3, 4, 5, 6, 7 }) == 4, "4 cores of two threads");
    CHECK(lil_count_cpus(root, { 0, 4 }) == 1, "both threads of one core");
    CHECK(lil_count_cpus(root, { 0, 1, 4 }) == 2, "affinity to two cores");

    // a hybrid: efficiency cores do not count, unless there is nothing else
    write_file(root, "/sys/devices/cpu_core/cpus", "0-1,4-5");
    CHECK(lil_count_cpus(root, { 0, 1, 2, 3, 4, 5, 6, 7 }) == 2, "2 performance cores");
    CHECK(lil_count_cpus(root, { 2, 3 }) == 2, "efficiency cores only");

    // cgroup v2, a container that sees its own group as the root
    root = new_root();
    write_file(root, "/proc/self/mountinfo", "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw");
    write_file(root, "/proc/self/cgroup", "0::/");
    const std::vector<int>             cpus     = { 0, 1, 2, 3, 4, 5, 6, 7 };
    const std::pair<const char *, int> quotas[] = {
        { "max 100000", 8 },
        { "200000 100000", 2 },
        { "250000 100000", 3 },
        { "140000 100000", 1 },
        { "1000 100000", 1 },
        { "1600000 100000", 8 },
        { "nonsense", 8 },
    };
    for (const auto & q : quotas) {
        write_file(root, "/sys/fs/cgroup/cpu.max", q.first);
        const int n = lil_count_cpus(root, cpus);
        CHECK(n == q.second, "cpu.max %s: %d, not %d", q.first, n, q.second);
    }

    // a group in a group: the smaller quota counts
    write_file(root, "/proc/self/cgroup", "0::/a.slice/b.scope");
    write_file(root, "/sys/fs/cgroup/cpu.max", "max 100000");
    write_file(root, "/sys/fs/cgroup/a.slice/cpu.max", "300000 100000");
    write_file(root, "/sys/fs/cgroup/a.slice/b.scope/cpu.max", "500000 100000");
    CHECK(lil_count_cpus(root, cpus) == 3, "quota of the outer group");

    // cgroup v1, with the container's group mounted as the root of the hierarchy
    root = new_root();
    write_file(root, "/proc/self/mountinfo",
            "31 25 0:27 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "32 25 0:28 /docker/x /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct");
    write_file(root, "/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x");
    write_file(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000");
    write_file(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
    CHECK(lil_count_cpus(root, cpus) == 4, "v1: %d", lil_count_cpus(root, cpus));
    write_file(root, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1");
    CHECK(lil_count_cpus(root, cpus) == 8, "v1 without a quota: %d", lil_count_cpus(root, cpus));
}

#endif

int main(int argc, char ** argv) {
    const int n_rounds = argc > 1 ? atoi(argv[1]) : 20000;

    ggml_backend_load_all();

    test_crowd();
    test_sleep();
    test_pools();
    test_barrier(n_rounds);
#if !defined(_WIN32)
    test_cpus();
#endif
    CHECK(lil_n_threads() >= 1, "%d", lil_n_threads());

    printf("threads: ok\n");

    return 0;
}
