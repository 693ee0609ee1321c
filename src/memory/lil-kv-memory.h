#pragma once

#include "lil.h"

#include "llama-kv-cache.h"

#include <vector>

// What a cache takes of the memory (lil-kv-buffer.h) follows the cells that hold tokens: where many tokens were removed
// or evicted theirs goes back to the system. The next tokens take it anew.

// fewer free cells in a row keep theirs
static constexpr uint32_t LIL_RELEASE_CELLS = 256;

// Gives back runs of cells of these streams that hold no token. No computation may be under way, nor a copy of streams
// be waiting.
void lil_release_cells(llama_kv_cache & kv, const std::vector<uint32_t> & streams);

lil_memory_info lil_get_memory_info(llama_memory_i * memory);
