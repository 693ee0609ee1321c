#include "lil-ops-cpu.h"

#include "h2o.h"
#include "select.h"

const lil_ops * lil_ops_cpu(void) {
    static const lil_ops ops = {
        /*.name                =*/ "CPU",
        /*.has_parts           =*/ true,
        /*.attn_n_work         =*/ lil_attn_n_work,
        /*.attn_kq_offset      =*/ lil_attn_kq_offset,
        /*.check               =*/ nullptr,
        /*.attn_wins           =*/ lil_attn_wins,
        /*.h2o_evict           =*/ lil_h2o_evict,
        /*.h2o_score           =*/ lil_h2o_score,
        /*.h2o_score_prompt    =*/ lil_h2o_score_prompt,
        /*.h2o_score_add       =*/ lil_h2o_score_add,
        /*.h2o_score_window    =*/ lil_h2o_score_window,
        /*.attn                =*/ lil_attn,
        /*.attn_join           =*/ lil_attn_join,
        /*.page_bounds         =*/ lil_page_bounds,
        /*.page_scores         =*/ lil_page_scores,
        /*.page_select         =*/ lil_page_select,
        /*.tidal_select        =*/ lil_tidal_select,
        /*.lessismore_select   =*/ lil_lessismore_select,
        /*.infllm_score        =*/ lil_infllm_score,
        /*.infllm_score_prompt =*/ lil_infllm_score_prompt,
        /*.infllm_score_add    =*/ lil_infllm_score_add,
        /*.block_repr          =*/ lil_block_repr,
        /*.block_scores        =*/ lil_block_scores,
        /*.block_select        =*/ lil_block_select,
        /*.raas_stamp          =*/ lil_raas_stamp,
        /*.raas_select         =*/ lil_raas_select,
        /*.new_slots           =*/ lil_new_slots,
        /*.rkv_score           =*/ lil_rkv_score,
    };

    return &ops;
}
