#pragma once

// How many threads are best on a machine that does something else: a search that costs nothing while it does not.
//
// Plain arithmetic on what it is told, no clocks, no threads, so that a test can play any machine.

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What was measured with one number of threads.
struct lil_crowd_window {
    int32_t n_graphs;
    int64_t t_wall; // microseconds
    int64_t t_lost; // of these the calling thread had no core, or slept because another thread was late
};

struct lil_crowd {
    int32_t  n_max;     // threads allowed
    int32_t  n;         // threads in use
    int32_t  n_before;  // during a trial: the number that it is compared with; else 0
    int32_t  step;      // of the next trial: -1 fewer, +1 more
    double   per_graph; // microseconds of a graph with n_before
    uint64_t kind;      // of the graphs that are compared
    int32_t  n_other;   // graphs of another kind in a row
    int64_t  t_next;    // no trial before
    int64_t  t_pause;   // between the last trial and that

    bool crowded; // whether others want the cores, as the last whole window tells

    struct lil_crowd_window window;
};

void lil_crowd_init(struct lil_crowd * c, int32_t n_max);

// How many threads are to compute a graph of this kind: 1 to n_max. Graphs of one kind take about the same time.
int32_t lil_crowd_threads(struct lil_crowd * c, uint64_t kind);

// It was computed with that many, by the time t_now: in t_wall, of which t_lost was lost (< 0: not known).
void lil_crowd_add(struct lil_crowd * c, uint64_t kind, int32_t n, int64_t t_now, int64_t t_wall, int64_t t_lost);

#ifdef __cplusplus
}
#endif
