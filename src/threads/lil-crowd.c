#include "lil-crowd.h"

#include <string.h>

// A number of threads is judged after that many graphs and that much time: a good few turns of other programs. Where
// graphs take very long, as they do when two threads keep missing each other, fewer must do.
#define WINDOW_GRAPHS 6
#define WINDOW_US     100000
#define HASTE_GRAPHS  3
#define HASTE_US      300000

#define LOST_SHARE 0.20 // where a larger share of the time is lost, others want the cores
#define BETTER     0.97 // a change must make graphs that much faster

// between trials that changed nothing; doubled after each
#define PAUSE_MIN_US 300000
#define PAUSE_MAX_US 5000000

#define OTHER_KIND 8 // graphs of another kind in a row, before the search goes over to that

void lil_crowd_init(struct lil_crowd * c, int32_t n_max) {
    memset(c, 0, sizeof(*c));

    c->n_max   = n_max;
    c->n       = n_max;
    c->step    = -1;
    c->t_pause = PAUSE_MIN_US;
}

int32_t lil_crowd_threads(struct lil_crowd * c, uint64_t kind) {
    return kind == c->kind ? c->n : c->n_max;
}

static void start_trial(struct lil_crowd * c, double per_graph) {
    c->n_before  = c->n;
    c->per_graph = per_graph;
    c->n += c->step;
}

// What helped is tried further at once. What did not is tried the other way round, after a pause.
static void end_trial(struct lil_crowd * c, bool better, int64_t t_now) {
    if (better) {
        c->t_pause = PAUSE_MIN_US;
        c->t_next  = t_now;
    } else {
        c->n       = c->n_before;
        c->step    = -c->step;
        c->t_next  = t_now + c->t_pause;
        c->t_pause = c->t_pause < PAUSE_MAX_US / 2 ? 2 * c->t_pause : PAUSE_MAX_US;
    }
    c->n_before = 0;
}

void lil_crowd_add(struct lil_crowd * c, uint64_t kind, int32_t n, int64_t t_now, int64_t t_wall, int64_t t_lost) {
    if (c->n_max <= 1 || t_lost < 0) {
        return;
    }

    if (kind != c->kind) {
        if (++c->n_other >= OTHER_KIND || c->kind == 0) {
            lil_crowd_init(c, c->n_max);
            c->kind = kind;
        }
        return;
    }
    c->n_other = 0;

    if (n != c->n) {
        return;
    }

    struct lil_crowd_window * w = &c->window;

    w->n_graphs += 1;
    w->t_wall += t_wall;
    w->t_lost += t_lost;

    const bool full  = w->n_graphs >= WINDOW_GRAPHS && w->t_wall >= WINDOW_US;
    const bool haste = w->n_graphs >= HASTE_GRAPHS && w->t_wall >= HASTE_US;
    if (!full && !haste) {
        return;
    }

    const double per_graph = (double) w->t_wall / w->n_graphs;
    const bool   crowded   = (double) w->t_lost > LOST_SHARE * (double) w->t_wall;

    c->crowded = crowded;
    memset(w, 0, sizeof(*w));

    if (c->n_before > 0) {
        // at the same speed the larger number wins, unless others want the cores
        const double most = c->n < c->n_before || crowded ? BETTER : 1.0 / BETTER;

        const bool better = per_graph < most * c->per_graph;

        end_trial(c, better, t_now);
        if (!better) {
            return;
        }
    }

    if (t_now < c->t_next) {
        return;
    }

    if (c->n == c->n_max) {
        c->step = -1;
    } else if (c->n == 1 || !crowded) {
        c->step = 1;
    }

    if (c->n < c->n_max || crowded) {
        start_trial(c, per_graph);
    }
}
