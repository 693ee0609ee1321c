#include "lil-error.h"

#include "lil.h"

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

static thread_local std::string lil_error;

static void set_last_error(const char * fmt, va_list args) {
    va_list args_size;
    va_copy(args_size, args);

    const int size = vsnprintf(nullptr, 0, fmt, args_size);

    va_end(args_size);

    // an error on the way to an error must not become an exception in a C caller
    try {
        lil_error.clear();
        if (size > 0) {
            lil_error.resize((size_t) size + 1);
            vsnprintf(&lil_error[0], lil_error.size(), fmt, args);
            lil_error.resize((size_t) size);
        }
    } catch (...) {
        lil_error.clear();
    }
}

void lil_set_last_error(const char * fmt, ...) {
    va_list args;

    va_start(args, fmt);
    set_last_error(fmt, args);
    va_end(args);
}

void lil_throw(const char * fmt, ...) {
    va_list args;

    va_start(args, fmt);
    set_last_error(fmt, args);
    va_end(args);

    throw std::runtime_error(lil_error);
}

const char * lil_last_error(void) {
    return lil_error.c_str();
}
