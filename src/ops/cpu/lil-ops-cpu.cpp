#include "lil-ops-cpu.h"

#include "h2o.h"

const lil_cpu_ops * lil_ops_cpu(void) {
    static const lil_cpu_ops ops = {
        /*.h2o_evict        =*/ lil_h2o_evict,
        /*.h2o_score        =*/ lil_h2o_score,
        /*.h2o_score_prompt =*/ lil_h2o_score_prompt,
        /*.h2o_score_add    =*/ lil_h2o_score_add,
        /*.h2o_score_window =*/ lil_h2o_score_window,
    };

    return &ops;
}
