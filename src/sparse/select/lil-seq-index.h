#pragma once

#include "llama-kv-cells.h"

#include <cstdint>
#include <vector>

// The tokens of a sequence in order of position, over the cells of a cache that lie in any order. A token's place in
// that order is its rank.
class lil_seq_index {
public:
    // Page p is the positions [p*PAGE, (p + 1)*PAGE). Pages without a token are left out. By rank: it is those ranks.
    static constexpr llama_pos PAGE = 16;

    // by_rank: positions have several dimensions, and the tokens of an image share the first one. Their order is that
    // of arrival, row by row
    explicit lil_seq_index(bool by_rank = false) : by_rank(by_rank) {}

    // Metadata of ranks [0, n_valid) have been computed.
    uint32_t n_valid = 0;

    // decode steps of the sequence (RaaS)
    uint32_t n_steps = 0;

    uint32_t size() const { return cells.size(); }

    uint32_t  cell(uint32_t rank) const { return cells[rank]; }
    llama_pos pos(uint32_t rank) const { return ps[rank]; }

    const std::vector<uint32_t> & get_cells() const { return cells; }

    // the rank of the first token of each page
    const std::vector<uint32_t> & get_pages() const { return pages; }

    // pages that hold one of the first n tokens
    uint32_t n_pages(uint32_t n) const;

    uint32_t page_end(uint32_t i) const { return i + 1 < pages.size() ? pages[i + 1] : size(); }

    // the first rank whose position is p or more
    uint32_t rank_of(llama_pos p) const;

    // positions beyond the last one (by rank: or at it), which is the rule; anything else makes the index stale
    void append(uint32_t cell, llama_pos p);

    // positions [p0, p1) go
    void remove(llama_pos p0, llama_pos p1);

    // From position p on, cells have changed in another way: they must be read again before the next use.
    void invalidate(llama_pos p);

    bool is_stale() const { return stale; }

    // reads the cells of the sequence again
    void read(const llama_kv_cells & kv_cells, llama_seq_id seq_id);

    void clear();

private:
    bool by_rank;
    bool stale = false;

    std::vector<uint32_t>  cells; // [size]
    std::vector<llama_pos> ps;    // [size] ascending, by rank not strictly
    std::vector<uint32_t>  pages;

    void age(uint32_t rank);
    void add_page(uint32_t rank);
    void cut_pages(uint32_t rank); // page starts at or behind a rank are forgotten
};
