#pragma once

// Threads of a GPU's thread group on one CPU thread: fibers that take turns and change hands only at barriers.
//
//   lockstep_run(n, body)        body(0) ... body(n - 1), all under way at once; returns when all have returned
//   lockstep_barrier()           waits for all n
//   lockstep_sub_barrier(width)  waits for the aligned group of `width` threads (a simd-group, a warp) that the caller
//                                is in; the last group may be smaller. It orders no memory: lockstep_order() after it
//                                does (race.h)
//
// In each round about half of the groups of 32 threads run once, up to their next barrier, and for some rounds the same
// ones: so they drift apart as far as the barriers let them. Where a round begins and in which direction it goes
// changes from round to round. So a result which hangs on the order of threads (a barrier that is missing) changes too.
//
// A thread that waits for one that has returned, or that stands at another line's barrier, waits for ever on a GPU, or
// goes on with wrong data: here the program aborts and says which threads wait where.
//
// Memory: LOCKSTEP_STACK bytes of address space for each thread of the largest group, kept. Not for Windows. Address
// sanitizers do not know the fibers' stacks.

#if defined(__APPLE__) && !defined(_XOPEN_SOURCE)
#define _XOPEN_SOURCE 600
#endif

#include "race.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include <ucontext.h>

#ifndef LOCKSTEP_STACK
#define LOCKSTEP_STACK (256 * 1024)
#endif

enum lockstep_state {
    LOCKSTEP_READY,
    LOCKSTEP_WAITS,
    LOCKSTEP_DONE,
};

struct lockstep_fiber {
    std::unique_ptr<char[]> stack;

    ucontext_t context; // where it begins
    jmp_buf    jump;    // where it goes on
    bool       begun = false;
};

// where a thread is
struct lockstep_place {
    lockstep_state state = LOCKSTEP_DONE;
    int            width = 0; // waits for the group of so many threads, 0: for all
    int            line  = 0; // of the barrier
    const char *   file  = "";
};

struct lockstep_group {
    std::vector<std::unique_ptr<lockstep_fiber>> fibers; // kept from run to run
    std::vector<lockstep_place>                  places; // of theirs, side by side: each round looks at all of them

    int      n       = 0; // threads of the current run, 0: none
    int      current = 0;
    unsigned order   = 1;

    const std::function<void(int)> * body = nullptr;

    ucontext_t context;
    jmp_buf    jump;
};

inline lockstep_group & lockstep_get() {
    static thread_local lockstep_group g;
    return g;
}

// a fiber's turn ends
inline void lockstep_leave() {
    lockstep_group & g = lockstep_get();
    if (_setjmp(g.fibers[g.current]->jump) == 0) {
        _longjmp(g.jump, 1);
    }
}

inline void lockstep_main() {
    while (true) {
        lockstep_group & g = lockstep_get();
        (*g.body)(g.current);
        g.places[g.current].state = LOCKSTEP_DONE;
        lockstep_leave();
    }
}

// and begins
inline void lockstep_enter(int i) {
    lockstep_group & g = lockstep_get();
    g.current          = i;
    race_thread        = i;
    if (_setjmp(g.jump) == 0) {
        if (g.fibers[g.current]->begun) {
            _longjmp(g.fibers[g.current]->jump, 1);
        }
        g.fibers[g.current]->begun = true;
        setcontext(&g.fibers[g.current]->context);
    }
    race_thread = -1;
}

inline void lockstep_wait(int width, const char * file, int line) {
    lockstep_group & g = lockstep_get();
    if (g.n == 0) {
        fprintf(stderr, "%s:%d: a barrier outside lockstep_run\n", file, line);
        abort();
    }

    lockstep_place & f = g.places[g.current];
    f.state            = LOCKSTEP_WAITS;
    f.width            = width;
    f.file             = file;
    f.line             = line;

    lockstep_leave();
}

inline void lockstep_barrier(const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    lockstep_wait(0, file, line);
    race_barrier();
}

inline void lockstep_sub_barrier(int width, const char * file = __builtin_FILE(), int line = __builtin_LINE()) {
    lockstep_wait(width, file, line);
}

inline void lockstep_order() {
    race_warp_barrier();
}

// lets the threads [i0, i1) go if all of them wait at one barrier
inline bool lockstep_release(int i0, int i1, int width) {
    lockstep_group & g = lockstep_get();

    const lockstep_place & first = g.places[i0];

    for (int i = i0; i < i1; ++i) {
        const lockstep_place & f = g.places[i];
        if (f.state != LOCKSTEP_WAITS || f.width != width || f.line != first.line || f.file != first.file) {
            return false;
        }
    }
    for (int i = i0; i < i1; ++i) {
        g.places[i].state = LOCKSTEP_READY;
    }
    return true;
}

[[noreturn]] inline void lockstep_abort() {
    const lockstep_group & g = lockstep_get();

    fprintf(stderr, "lockstep: %d threads have diverged:\n", g.n);
    for (int i0 = 0, i1; i0 < g.n; i0 = i1) {
        const lockstep_place & f = g.places[i0];
        for (i1 = i0 + 1; i1 < g.n; ++i1) {
            const lockstep_place & o = g.places[i1];
            if (o.state != f.state ||
                    (f.state == LOCKSTEP_WAITS && (o.width != f.width || o.line != f.line || o.file != f.file))) {
                break;
            }
        }
        if (f.state == LOCKSTEP_DONE) {
            fprintf(stderr, "  [%d, %d) have returned\n", i0, i1);
        } else {
            fprintf(stderr, "  [%d, %d) wait at %s:%d, for %s of %d\n", i0, i1, f.file, f.line,
                    f.width ? "a sub-group" : "the group", f.width ? f.width : g.n);
        }
    }
    abort();
}

inline void lockstep_run(int n_threads, const std::function<void(int)> & body) {
    lockstep_group & g = lockstep_get();

    while ((int) g.fibers.size() < n_threads) {
        auto f = std::make_unique<lockstep_fiber>();
        f->stack.reset(new char[LOCKSTEP_STACK]);

        getcontext(&f->context);
        f->context.uc_stack.ss_sp   = f->stack.get();
        f->context.uc_stack.ss_size = LOCKSTEP_STACK;
        f->context.uc_link          = &g.context;
        makecontext(&f->context, lockstep_main, 0);

        g.fibers.push_back(std::move(f));
        g.places.emplace_back();
    }

    g.n    = n_threads;
    g.body = &body;

    for (int i = 0; i < n_threads; ++i) {
        g.places[i].state = LOCKSTEP_READY;
    }

    unsigned idle    = 0;    // a bit for each group of 32
    bool     entered = true; // whether any thread ran in the last round

    for (int n_done = 0; n_done < n_threads;) {
        g.order = g.order * 1664525u + 1013904223u;

        const int  at   = (int) ((g.order >> 8) % (unsigned) n_threads);
        const bool back = (g.order >> 7 & 1) != 0;

        if (!entered || g.order >> 29 == 0) { // for some rounds the same ones
            idle = g.order;
            idle = (idle ^ idle >> 16) * 0x45d9f3bu;
            idle = (idle ^ idle >> 16) * 0x45d9f3bu;
            idle = idle ^ idle >> 16;
        }
        entered = false;

        bool moved = false;

        for (int j = 0, i = at; j < n_threads; ++j) {
            if (g.places[i].state == LOCKSTEP_READY) {
                if ((idle >> i / 32 % 32 & 1) == 0) {
                    lockstep_enter(i);
                    entered = true;
                    n_done += g.places[i].state == LOCKSTEP_DONE;
                }
                moved = true;
            }
            i = back ? (i > 0 ? i : n_threads) - 1 : (i + 1 < n_threads ? i + 1 : 0);
        }

        moved = lockstep_release(0, n_threads, 0) || moved;

        for (int i0 = 0; i0 < n_threads;) {
            const lockstep_place & f = g.places[i0];
            if (f.state != LOCKSTEP_WAITS || f.width == 0) {
                ++i0;
                continue;
            }
            const int b0 = i0 / f.width * f.width;
            const int b1 = b0 + f.width < n_threads ? b0 + f.width : n_threads;
            if (b0 == i0 && lockstep_release(b0, b1, f.width)) {
                moved = true;
            }
            i0 = i0 + 1 > b1 || b0 != i0 ? i0 + 1 : b1;
        }

        if (!moved && n_done < n_threads) {
            lockstep_abort();
        }
    }

    g.n = 0;
}
