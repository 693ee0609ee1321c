#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE // syscall
#endif

#include "lil-wait.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <sched.h>
#include <time.h>
#endif

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

// An ordinary wait between two operations lasts a microsecond or two; one for an operation that a single thread
// computes, ten. Whoever is later than that does not run, and its turn comes in a millisecond or more: offering the
// core for longer than a tenth of that gains nothing.
const struct lil_patience lil_patience_barrier = { /*.t_spin =*/20, /*.t_yield =*/100 };

// Between two steps the host picks a token, and Python may format it: waking up sleeping threads would cost some 50 us.
const struct lil_patience lil_patience_work = { /*.t_spin =*/20, /*.t_yield =*/2000 };

#if defined(_WIN32)

int64_t lil_time_us(void) {
    static LARGE_INTEGER freq; // the same value whichever thread writes it
    if (freq.QuadPart == 0) {
        QueryPerformanceFrequency(&freq);
    }

    LARGE_INTEGER t;
    QueryPerformanceCounter(&t);

    return t.QuadPart / freq.QuadPart * 1000000 + t.QuadPart % freq.QuadPart * 1000000 / freq.QuadPart;
}

// what Windows tells has steps of 15 ms
int64_t lil_thread_time_us(void) {
    return -1;
}

static void yield_core(void) {
    SwitchToThread();
}

#else

int64_t lil_time_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);

    return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t lil_thread_time_us(void) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
        return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
    }
#endif
    return -1;
}

static void yield_core(void) {
    sched_yield();
}

#endif

bool lil_wait_round(struct lil_waiter * w, const struct lil_patience * p) {
    const int64_t t = lil_time_us();

    if (w->n <= LIL_WAIT_ROUND) {
        w->t0 = t;
    }

    const int64_t waited = t - w->t0;

    if (waited < p->t_spin) {
        return true;
    }
    if (waited < p->t_yield) {
        yield_core();
        return true;
    }

    return false;
}

//
// sleep
//

#if defined(__linux__)

void lil_sleep_while(volatile void * value, int old) {
    syscall(SYS_futex, value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
}

void lil_wake_all(volatile void * value) {
    syscall(SYS_futex, value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#elif defined(_WIN32)

// found at run time: they are in a library of their own, which not every toolchain links
typedef BOOL(WINAPI * wait_on_address_t)(volatile VOID *, PVOID, SIZE_T, DWORD);
typedef VOID(WINAPI * wake_by_address_t)(PVOID);

static wait_on_address_t wait_on_address;
static wake_by_address_t wake_by_address;
static INIT_ONCE         once = INIT_ONCE_STATIC_INIT;

static BOOL CALLBACK find_functions(PINIT_ONCE o, PVOID parameter, PVOID * context) {
    (void) o;
    (void) parameter;
    (void) context;

    HMODULE lib = LoadLibraryA("api-ms-win-core-synch-l1-2-0.dll");
    if (lib) {
        wait_on_address = (wait_on_address_t) (void (*)(void)) GetProcAddress(lib, "WaitOnAddress");
        wake_by_address = (wake_by_address_t) (void (*)(void)) GetProcAddress(lib, "WakeByAddressAll");
    }

    return TRUE;
}

void lil_sleep_while(volatile void * value, int old) {
    InitOnceExecuteOnce(&once, find_functions, NULL, NULL);

    if (wait_on_address && wake_by_address) {
        wait_on_address(value, &old, sizeof(old), INFINITE);
    } else {
        Sleep(0); // Windows 7
    }
}

void lil_wake_all(volatile void * value) {
    InitOnceExecuteOnce(&once, find_functions, NULL, NULL);

    if (wait_on_address && wake_by_address) {
        wake_by_address((PVOID) (uintptr_t) value);
    }
}

#else

// One lock for all: who sleeps here has waited for long, and so has nothing to hurry for.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t  cond  = PTHREAD_COND_INITIALIZER;

void lil_sleep_while(volatile void * value, int old) {
    pthread_mutex_lock(&mutex);
    // the value is changed before lil_wake_all() takes the lock: a change that is not seen here is followed by a call
    if (__atomic_load_n((volatile int *) value, __ATOMIC_SEQ_CST) == old) {
        pthread_cond_wait(&cond, &mutex);
    }
    pthread_mutex_unlock(&mutex);
}

void lil_wake_all(volatile void * value) {
    (void) value;

    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
}

#endif

//
// turns
//

#if defined(__linux__) && defined(SYS_sched_setattr) && defined(SYS_sched_getattr)

// the kernel's struct sched_attr, whose header not every libc has and some have twice
struct turns {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t  nice;
    uint32_t priority;
    uint64_t runtime; // ordinary policies: the length of a turn, nanoseconds
    uint64_t deadline;
    uint64_t period;
};

#define SHORTEST_TURN 100000 // what the kernel allows, nanoseconds

static bool get_turns(struct turns * t) {
    memset(t, 0, sizeof(*t));

    // old kernels say 0 for ordinary policies
    return syscall(SYS_sched_getattr, 0, t, sizeof(*t), 0) == 0 && t->policy == SCHED_OTHER && t->runtime > 0;
}

static void set_turns(struct turns * t, uint64_t runtime) {
    t->size    = sizeof(*t);
    t->flags   = 0;
    t->runtime = runtime;

    syscall(SYS_sched_setattr, 0, t, 0);
}

int64_t lil_turns_shorten(void) {
    struct turns t;
    if (!get_turns(&t) || t.runtime <= SHORTEST_TURN) {
        return 0;
    }

    const int64_t before = (int64_t) t.runtime;
    set_turns(&t, SHORTEST_TURN);

    return before;
}

void lil_turns_restore(int64_t before) {
    struct turns t;
    if (before > 0 && get_turns(&t)) {
        set_turns(&t, (uint64_t) before);
    }
}

#else

int64_t lil_turns_shorten(void) {
    return 0;
}

void lil_turns_restore(int64_t before) {
    (void) before;
}

#endif
