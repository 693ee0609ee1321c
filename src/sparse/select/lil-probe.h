#pragma once

#include "lil.h"

// what lil_probe_get() asks
struct lil_probe {
    virtual ~lil_probe() = default;

    // mass [L*L]; returns L, or -1 where n_mass is too small
    virtual int32_t get(lil_sparse_method method, float * mass, int32_t n_mass) const = 0;
};
