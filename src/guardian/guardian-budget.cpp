// The budget that a Guardian asks for. The only place here that knows of sparse attention.

#include "guardian-state.h"
#include "lil-sparse.h"

#include "llama-context.h"

#include <algorithm>
#include <cstdint>
#include <limits>

bool lil_guardian_set_budget(const llama_sampler * smpl, llama_context * ctx) {
    const lil_guardian * g = lil_guardian_get(smpl);
    if (g == nullptr) {
        return false;
    }

    const auto *   kv   = ctx != nullptr ? lil_get_sparse(llama_get_memory(ctx)) : nullptr;
    const uint64_t most = std::numeric_limits<uint32_t>::max();

    uint64_t budget = kv != nullptr ? kv->get_budget() : 0;
    for (uint32_t i = 0; i < g->report.n_wide && budget < most; i++) {
        budget = g->params.widen == 0 ? most : std::min(most, budget * g->params.widen);
    }

    return lil_set_budget(ctx, (uint32_t) budget);
}
