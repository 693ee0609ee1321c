#include "race.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include <execinfo.h>

static const int WARP = 32;
static const int MANY = -2; // threads, warps or groups

int race_thread = -1;

volatile bool race_is_atomic = false;

// barriers that a thread has passed
static unsigned n_barrier[1024];
static unsigned n_warp_barrier[1024];

static unsigned launch = 0;
static unsigned group  = 0; // counted through all launches

// who was last at a byte: several readers are one where nothing orders them
struct access {
    unsigned     scope     = 0; // launch, or group, of which it was
    int          thread    = 0;
    int          warp      = 0;
    int          group     = 0;
    unsigned     n_barrier = 0;
    unsigned     n_warp    = 0;
    bool         is_atomic = false;
    const void * pc        = nullptr;
};

struct cell {
    access write;
    access read;
};

static const uintptr_t PAGE = 256;

struct region {
    uintptr_t begin;
    size_t    size;

    bool has(uintptr_t at) const { return at - begin < size; }
};

static std::vector<region> watched;         // the first one is where the last access was
static uintptr_t           shared      = 0; // of the group
static size_t              shared_size = 0;

static std::unordered_map<uintptr_t, std::unique_ptr<cell[]>> pages;

void race_watch(const void * p, size_t size) {
    watched.push_back({ (uintptr_t) p, size });
}

void race_unwatch(const void * p) {
    watched.erase(
            std::find_if(watched.begin(), watched.end(), [=](const region & r) { return r.begin == (uintptr_t) p; }));
}

void race_begin_launch() {
    launch++;
    if (pages.size() > 16384) {
        pages.clear();
    }
}

void race_begin_group(const void * p, size_t size) {
    group++;
    shared      = (uintptr_t) p;
    shared_size = size;

    std::fill(std::begin(n_barrier), std::end(n_barrier), 0);
    std::fill(std::begin(n_warp_barrier), std::end(n_warp_barrier), 0);
}

void race_end_group() {
    shared_size = 0;
}

void race_barrier() {
    n_barrier[race_thread]++;
}

void race_warp_barrier() {
    n_warp_barrier[race_thread]++;
}

// whether it was before what the current thread does now
static bool is_before(const access & a, const access & now) {
    if (a.scope != now.scope) {
        return true;
    }
    if (a.group != now.group) {
        return false;
    }
    return a.n_barrier < now.n_barrier || a.thread == now.thread || (a.warp == now.warp && a.n_warp < now.n_warp);
}

[[noreturn]] static void report(
        bool now_writes, bool a_writes, const access & a, const access & now, uintptr_t at, bool in_shared) {
    fprintf(stderr, "race at byte %zu of %s memory: thread %d %s it, and with no barrier between thread %d %s it:\n",
            (size_t) (at - (in_shared ? shared : watched[0].begin)), in_shared ? "shared" : "device", a.thread,
            a_writes ? "writes" : "reads", now.thread, now_writes ? "writes" : "reads");

    void * pcs[] = { const_cast<void *>(a.pc), const_cast<void *>(now.pc) };
    backtrace_symbols_fd(pcs, 2, 2);
    abort();
}

static bool is_race(const access & a, const access & now) {
    return !is_before(a, now) && !(a.is_atomic && now.is_atomic);
}

static void on_access(const void * p, size_t size, bool is_write, const void * pc) {
    if (race_thread < 0) {
        return;
    }

    const uintptr_t begin     = (uintptr_t) p;
    const bool      in_shared = begin - shared < shared_size;

    if (!in_shared && (watched.empty() || !watched[0].has(begin))) {
        const auto it = std::find_if(watched.begin(), watched.end(), [=](const region & r) { return r.has(begin); });
        if (it == watched.end()) {
            return;
        }
        std::swap(*it, watched[0]);
    }

    access now;
    now.scope     = in_shared ? group : launch;
    now.thread    = race_thread;
    now.warp      = race_thread / WARP;
    now.group     = (int) group;
    now.n_barrier = n_barrier[race_thread];
    now.n_warp    = n_warp_barrier[race_thread];
    now.is_atomic = race_is_atomic;
    now.pc        = pc;

    cell *    page    = nullptr;
    uintptr_t page_at = 0;

    for (uintptr_t at = begin; at < begin + size; ++at) {
        if (!page || at / PAGE != page_at) {
            page_at      = at / PAGE;
            auto & cells = pages[page_at];
            if (!cells) {
                cells = std::make_unique<cell[]>(PAGE);
            }
            page = cells.get();
        }
        cell & c = page[at % PAGE];

        if (is_race(c.write, now)) {
            report(is_write, true, c.write, now, at, in_shared);
        }

        if (is_write) {
            if (is_race(c.read, now)) {
                report(is_write, false, c.read, now, at, in_shared);
            }
            c.write = now;
        } else if (is_before(c.read, now)) {
            c.read = now;
        } else { // beside other readers
            c.read.thread    = c.read.thread == now.thread ? now.thread : MANY;
            c.read.warp      = c.read.warp == now.warp ? now.warp : MANY;
            c.read.group     = c.read.group == now.group ? now.group : MANY;
            c.read.n_warp    = std::max(c.read.n_warp, now.n_warp);
            c.read.is_atomic = c.read.is_atomic && now.is_atomic;
        }
    }
}

//
// what the compiler calls
//

#define PC __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void **) {}
void __tsan_vptr_update(void **, void *) {}

#define ACCESS(n) \
    void __tsan_read##n(void * p) { \
        on_access(p, n, false, PC); \
    } \
    void __tsan_write##n(void * p) { \
        on_access(p, n, true, PC); \
    } \
    void __tsan_unaligned_read##n(void * p) { \
        on_access(p, n, false, PC); \
    } \
    void __tsan_unaligned_write##n(void * p) { \
        on_access(p, n, true, PC); \
    } \
    void __tsan_volatile_read##n(void * p) { \
        on_access(p, n, false, PC); \
    } \
    void __tsan_volatile_write##n(void * p) { \
        on_access(p, n, true, PC); \
    } \
    void __tsan_read_write##n(void * p) { \
        on_access(p, n, false, PC); \
        on_access(p, n, true, PC); \
    } \
    void __tsan_unaligned_read_write##n(void * p) { \
        on_access(p, n, false, PC); \
        on_access(p, n, true, PC); \
    }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

// of variables that are made at their first use
unsigned char __tsan_atomic8_load(const volatile unsigned char * p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

// clang's
void * __tsan_memcpy(void * dst, const void * src, size_t n) {
    on_access(src, n, false, PC);
    on_access(dst, n, true, PC);
    return memcpy(dst, src, n);
}
void * __tsan_memmove(void * dst, const void * src, size_t n) {
    on_access(src, n, false, PC);
    on_access(dst, n, true, PC);
    return memmove(dst, src, n);
}
void * __tsan_memset(void * dst, int x, size_t n) {
    on_access(dst, n, true, PC);
    return memset(dst, x, n);
}

void __tsan_read_range(void * p, size_t n) {
    on_access(p, n, false, PC);
}
void __tsan_write_range(void * p, size_t n) {
    on_access(p, n, true, PC);
}
}
