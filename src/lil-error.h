#pragma once

#if defined(__GNUC__) && !(defined(__MINGW32__) && !defined(__clang__))
#define LIL_FORMAT(i, j) __attribute__((format(printf, i, j)))
#else
#define LIL_FORMAT(i, j)
#endif

// What lil_last_error() returns from now on in this thread: printf-style, one sentence, without a line break, that says
// what was wrong, with the value, and what would work. Out of memory leaves an empty message.
#ifdef __cplusplus
extern "C"
#endif
        LIL_FORMAT(1, 2) void lil_set_last_error(const char * fmt, ...);

#ifdef __cplusplus
// The same, and throws it as a std::runtime_error: what hooks inside of llama.cpp's own calls do.
[[noreturn]] LIL_FORMAT(1, 2) void lil_throw(const char * fmt, ...);
#endif
