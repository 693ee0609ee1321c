#pragma once

// What lil_last_error() returns from now on in this thread: printf-style, one sentence, without a line break, that says
// what was wrong, with the value, and what would work. Out of memory leaves an empty message.

#ifdef __cplusplus
extern "C"
#endif
#if defined(__GNUC__) && !(defined(__MINGW32__) && !defined(__clang__))
__attribute__((format(printf, 1, 2)))
#endif
void lil_set_last_error(const char * fmt, ...);
