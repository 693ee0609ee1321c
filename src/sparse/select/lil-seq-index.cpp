#include "lil-seq-index.h"

#include <algorithm>
#include <tuple>

uint32_t lil_seq_index::rank_of(llama_pos p) const {
    return std::lower_bound(ps.begin(), ps.end(), p) - ps.begin();
}

uint32_t lil_seq_index::n_pages(uint32_t n) const {
    return std::lower_bound(pages.begin(), pages.end(), n) - pages.begin();
}

// What is at rank r or behind it has changed. So has the page of the token before, which may have lost some of its own.
void lil_seq_index::age(uint32_t r) {
    n_valid = std::min(n_valid, r > 0 ? r - 1 : 0);
}

void lil_seq_index::add_page(uint32_t rank) {
    if (by_rank ? rank % PAGE == 0 : pages.empty() || ps[rank] / PAGE != ps[pages.back()] / PAGE) {
        pages.push_back(rank);
    }
}

void lil_seq_index::cut_pages(uint32_t rank) {
    while (!pages.empty() && pages.back() >= rank) {
        pages.pop_back();
    }
}

void lil_seq_index::append(uint32_t cell, llama_pos p) {
    if (!ps.empty() && (p < ps.back() || (p == ps.back() && !by_rank))) {
        invalidate(p);
    }
    if (stale) {
        return; // the next read finds it
    }

    cells.push_back(cell);
    ps.push_back(p);
    add_page(ps.size() - 1);
}

void lil_seq_index::remove(llama_pos p0, llama_pos p1) {
    if (stale) {
        age(rank_of(p0));
        return;
    }

    const uint32_t r0 = rank_of(p0);
    const uint32_t r1 = std::max(r0, rank_of(p1));

    if (r0 == r1) {
        return;
    }

    cut_pages(r0);

    cells.erase(cells.begin() + r0, cells.begin() + r1);
    ps.erase(ps.begin() + r0, ps.begin() + r1);

    for (uint32_t r = r0; r < size(); ++r) {
        add_page(r);
    }

    age(r0);
}

void lil_seq_index::invalidate(llama_pos p) {
    age(rank_of(p));
    stale = true;
}

void lil_seq_index::read(const llama_kv_cells & kv_cells, llama_seq_id seq_id) {
    struct token {
        llama_pos pos;
        llama_pos y, x; // in an image
        uint32_t  cell;

        bool operator<(const token & other) const {
            return std::tie(pos, y, x, cell) < std::tie(other.pos, other.y, other.x, other.cell);
        }
    };

    std::vector<token> found;

    for (uint32_t i = 0; i < kv_cells.size(); ++i) {
        if (kv_cells.seq_has(i, seq_id)) {
            const auto & ext = kv_cells.ext_get(i);
            found.push_back({ kv_cells.pos_get(i), by_rank ? ext.y : 0, by_rank ? ext.x : 0, i });
        }
    }

    std::sort(found.begin(), found.end());

    cells.clear();
    ps.clear();
    pages.clear();

    for (const auto & token : found) {
        cells.push_back(token.cell);
        ps.push_back(token.pos);
        add_page(ps.size() - 1);
    }

    n_valid = std::min(n_valid, size());
    stale   = false;
}

void lil_seq_index::clear() {
    *this = lil_seq_index(by_rank);
}
