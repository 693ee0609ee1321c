#include "lil-ops-cpu.h"

#include "select.h"

const lil_ops * lil_ops_cpu(void) {
    static const lil_ops ops = [] {
        lil_ops res = {};

        res.name           = "CPU";
        res.shares_lists   = true;
        res.has_parts      = true;
        res.has_adds       = true;
        res.attn_n_work    = lil_cpu_attn_n_work;
        res.attn_kq_offset = lil_cpu_attn_kq_offset;
        res.attn_wins      = lil_attn_wins;

#define LIL_CPU_ENTRY(op) res.op = lil_##op;
        LIL_OPS(LIL_CPU_ENTRY)
#undef LIL_CPU_ENTRY

        return res;
    }();

    return &ops;
}
