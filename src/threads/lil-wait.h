#pragma once

// Waiting for another thread: a little spinning, then the core is offered to whoever wants it, then sleep.
//
// ggml's threads meet some hundreds of times in a decode step, mostly within a microsecond or two. Sleeping there would
// cost more than the step. Spinning costs nothing while the core is not needed; but on a machine that does something
// else the late thread is late because the waiting one, or another program, holds the core that it needs. Then the core
// must go: to any thread that is ready (yield), and, where that does not end the wait, to the system (sleep), which
// then moves a ready thread to it. docs/performance.md has what was measured.
//
// Plain C, for ggml-cpu.c as well.

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// How long a wait is spent in which way, microseconds since it began. After t_yield it is time to sleep.
struct lil_patience {
    int64_t t_spin;
    int64_t t_yield;
};

extern const struct lil_patience lil_patience_barrier; // for the other threads of a step: they are near
extern const struct lil_patience lil_patience_work;    // for the next step: the host samples meanwhile

// pauses between two looks at the clock
#define LIL_WAIT_ROUND 64

struct lil_waiter {
    uint32_t n;  // pauses so far
    int64_t  t0; // when the first round of pauses was over, microseconds
};

// Call it after every LIL_WAIT_ROUND pauses. Yields where spinning has lasted long enough. False: it is time to sleep.
bool lil_wait_round(struct lil_waiter * w, const struct lil_patience * p);

// Sleeps while *value == old. May return early: look at the value again. value points at an atomic int.
void lil_sleep_while(volatile void * value, int old);

// Wakes all threads that sleep on value, which was changed before.
void lil_wake_all(volatile void * value);

// Microseconds of a clock that does not jump.
int64_t lil_time_us(void);

// Microseconds that the calling thread has had a core; -1 where the system does not tell.
int64_t lil_thread_time_us(void);

// Asks the scheduler for short turns for the calling thread, which then gets the core as soon as it wakes up, instead
// of after the turn of the program that has it. Linux 6.12 and later know this; elsewhere nothing happens.
// lil_turns_restore() puts back what lil_turns_shorten() returned.
int64_t lil_turns_shorten(void);
void    lil_turns_restore(int64_t before);

#ifdef __cplusplus
}
#endif
