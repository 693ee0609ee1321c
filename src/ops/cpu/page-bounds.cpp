#include "select.h"

#include "rows.h"

// [2*n_embd] F32 -> the bounds of a page
static void store_bounds(const ggml_tensor * bounds, char * dst, const float * src, int64_t n) {
    if (bounds->type == GGML_TYPE_F16) {
        ggml_cpu_fp32_to_fp16(src, (ggml_fp16_t *) dst, n);
    } else {
        ggml_cpu_fp32_to_fp32(src, (float *) dst, n);
    }
}

void lil_page_bounds(ggml_tensor * dst, int ith, int nth, void * userdata) {
    static thread_local lil_scratch scratch;

    const auto * layer = (const lil_select_layer *) userdata;

    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * dirty = dst->src[2];

    GGML_ASSERT(dst->type == GGML_TYPE_F16 || dst->type == GGML_TYPE_F32);

    const int64_t n_head_kv = layer->n_head_kv;
    const int64_t n_embd    = k->ne[0]/n_head_kv;

    float * max = scratch.get(3*n_embd);
    float * min = max + n_embd;
    float * row = min + n_embd;

    for (int64_t u = ith; u < dirty->ne[1]*n_head_kv; u += nth) {
        const int64_t i_head = u%n_head_kv;

        const int32_t * entry = lil_sel_row(dirty, u/n_head_kv);
        const int32_t * cells = entry + LIL_DIRTY_HEAD;
        const auto      keys  = lil_sel_get_cells(k, n_head_kv, entry[LIL_DIRTY_STREAM], i_head);

        lil_widen_row(keys.type, keys.row(cells[0]), max, n_embd);
        std::copy(max, max + n_embd, min);

        for (int32_t j = 1; j < entry[LIL_DIRTY_N]; ++j) {
            lil_widen_row(keys.type, keys.row(cells[j]), row, n_embd);

            for (int64_t i = 0; i < n_embd; ++i) {
                max[i] = row[i] > max[i] ? row[i] : max[i];
                min[i] = row[i] < min[i] ? row[i] : min[i];
            }
        }

        store_bounds(dst, (char *) dst->data + entry[LIL_DIRTY_TABLE]*dst->nb[3] + entry[LIL_DIRTY_PAGE]*dst->nb[2] + i_head*dst->nb[1], max, 2*n_embd);
    }
}
