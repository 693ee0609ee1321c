#include "lil-kv-cache-reselect.h"

#include "lil-keys.h"

#include <algorithm>
#include <cmath>

lil_kv_cache_reselect::lil_kv_cache_reselect(const args & a) : lil_kv_cache_select(a) {
    const uint32_t L = readers.size();

    if (L < n_dense_layers + 2) {
        lil_throw(
                "the model has %u full-attention layers, and dense_layers is %u: two more are needed, one that selects "
                "and the re-selection layer",
                L, n_dense_layers);
    }
    if (params.reselect == 0) {
        params.reselect = std::max((uint32_t) std::floor(0.55 * L + 0.5), n_dense_layers + 1);
    }
    if (params.reselect <= n_dense_layers || params.reselect >= L) {
        lil_throw("reselect = %u: the re-selection layer is one of %u to %u, counted among the %u full-attention "
                  "layers of this model",
                params.reselect, n_dense_layers + 1, L - 1, L);
    }
}

void lil_kv_cache_reselect::build_after(const layer_graph & lg, ggml_tensor * work, ggml_tensor * list) {
    GGML_UNUSED(list);

    const bool sparse = std::any_of(lg.steps.begin(), lg.steps.end(), [](const auto & step) { return step.sparse; });

    if (selects(lg.ir) && sparse) {
        ggml_tensor * res = build_select(lg, work);
        lg.expand(res);

        lg.inp->kept = { res };
    }
}

ggml_tensor * lil_kv_cache_reselect::build_list(const layer_graph & lg) {
    return lg.inp->kept.at(0);
}

void lil_kv_cache_reselect::build_after_dense(const layer_graph & lg) {
    if (fused || !selects(lg.ir) || !lg.steps[0].decode) {
        return;
    }

    lg.inp->kept.assign(lg.steps.size(), nullptr);

    for (size_t i = 0; i < lg.steps.size(); ++i) {
        if (!lg.steps[i].sparse) {
            continue;
        }

        ggml_tensor * q = ggml_reshape_3d(lg.ctx, step_q(lg, i), lg.n_embd_k, lg.n_group(), lg.n_head_kv);
        ggml_tensor * k = lil_build_keys(lg.ctx, ggml_permute(lg.ctx, step_k(lg, i), 0, 2, 1, 3));

        ggml_tensor * kq = ggml_mul_mat(lg.ctx, k, q); // [n_kv, n_group, n_head_kv]
        ggml_prec_set_acc(kq, GGML_PREC_F32);

        ggml_tensor * rows = cells_to_rows(lg, build_select(lg, kq, i));
        lg.expand(rows);

        lg.inp->kept[i] = rows;
    }
}

lil_select_rows lil_kv_cache_reselect::build_rows(const layer_graph & lg, size_t i) {
    return { lg.inp->kept.at(i), nullptr };
}

ggml_tensor * lil_kv_cache_reselect::cell_bias(const layer_graph & lg, const char * name, size_t i, float otherwise,
        std::function<float(uint32_t rank, uint32_t n)> value) const {
    const int64_t n_kv = lg.n_kv;

    ggml_tensor * t =
            input<float>(lg, name, n_kv, 1, [n_kv, otherwise, value](float * dst, const lil_select_step & step) {
                std::fill_n(dst, n_kv, otherwise);
                for (uint32_t r = 0; r < step.n; ++r) {
                    dst[step.index->cell(r)] = value(r, step.n);
                }
            });

    return ggml_view_1d(lg.ctx, t, n_kv, i * t->nb[2]);
}
