#pragma once

#include "llama-io.h"

#include <vector>

// A vector's elements in a state, without their number. An empty one has no address that memcpy() may be given.

template <typename T>
void lil_write(llama_io_write_i & io, const std::vector<T> & v) {
    if (!v.empty()) {
        io.write(v.data(), v.size() * sizeof(T));
    }
}

template <typename T>
void lil_read(llama_io_read_i & io, std::vector<T> & v) {
    if (!v.empty()) {
        io.read(v.data(), v.size() * sizeof(T));
    }
}
