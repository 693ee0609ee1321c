#include "lil-hooks.h"

#include "lil-state-io.h"

#include "llama-impl.h"

#include <algorithm>
#include <vector>

// A state of a context without FlashAttention holds V transposed, [n_cells] for each channel, a cache with it has rows.

namespace {

// dst[j][i] = src[i][j], in blocks that stay in the first level cache
template <typename T>
void transpose(const T * src, T * dst, size_t n_rows, size_t n_cols) {
    constexpr size_t B = 32;

    for (size_t i0 = 0; i0 < n_rows; i0 += B) {
        for (size_t j0 = 0; j0 < n_cols; j0 += B) {
            for (size_t i = i0; i < std::min(i0 + B, n_rows); ++i) {
                for (size_t j = j0; j < std::min(j0 + B, n_cols); ++j) {
                    dst[j * n_rows + i] = src[i * n_cols + j];
                }
            }
        }
    }
}

void transpose(size_t size, const uint8_t * src, uint8_t * dst, size_t n_rows, size_t n_cols) {
    switch (size) {
        case 2:  transpose((const uint16_t *) src, (uint16_t *) dst, n_rows, n_cols); break;
        case 4:  transpose((const uint32_t *) src, (uint32_t *) dst, n_rows, n_cols); break;
        default: GGML_ABORT("a transposed V has elements of 2 or 4 bytes, not of %zu", size);
    }
}

}

void lil_state_write_v(llama_io_write_i & io, const ggml_tensor * v, uint32_t n_embd,
        const std::vector<std::pair<uint32_t, uint32_t>> & ranges) {
    const size_t size = ggml_type_size(v->type);
    const size_t row  = n_embd * size;

    size_t n_cells = 0;
    for (const auto & range : ranges) {
        n_cells += range.second - range.first;
    }

    std::vector<uint8_t> rows(n_cells * row);
    std::vector<uint8_t> trans(n_cells * row);

    size_t i = 0;
    for (const auto & range : ranges) {
        const size_t n = range.second - range.first;

        ggml_backend_tensor_get(v, rows.data() + i * row, range.first * row, n * row);
        i += n;
    }

    transpose(size, rows.data(), trans.data(), n_cells, n_embd);

    lil_write(io, trans);
}

bool lil_state_read_v(llama_io_read_i & io, ggml_tensor * v, uint32_t n_embd, uint32_t n_cells,
        const llama_kv_cache::slot_info & sinfo) {
    uint32_t n_saved;
    io.read(&n_saved, sizeof(n_saved));
    if (n_saved != n_embd) {
        LLAMA_LOG_ERROR("%s: %s: values of %u channels in the state, %u here\n", __func__, v->name, n_saved, n_embd);
        return false;
    }

    const size_t size = ggml_type_size(v->type);
    const size_t row  = n_embd * size;

    std::vector<uint8_t> rows(n_cells * row);
    std::vector<uint8_t> trans(n_cells * row);

    lil_read(io, trans);

    transpose(size, trans.data(), rows.data(), n_embd, n_cells);

    for (uint32_t i = 0, n = 0; i < n_cells; i += n) {
        const auto & idxs = sinfo.idxs[0];

        n = 1;
        while (i + n < n_cells && idxs[i + n] == idxs[i] + n) {
            ++n;
        }

        ggml_backend_tensor_set(v, rows.data() + i * row, idxs[i] * row, n * row);
    }

    return true;
}
