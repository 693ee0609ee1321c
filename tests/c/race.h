#pragma once

// Data races of kernels that run in lock step (lockstep.h): two threads of a launch at one byte, one of them writing,
// and no barrier between them that orders memory. It does not hang on the order in which the threads run.
//
// The kernels' files are compiled with -fsanitize=thread and linked without: the compiler calls __tsan_read4(p) and the
// like before every access, and race.cpp, not the sanitizer's library, answers. Without LIL_RACES nothing is looked at.
//
// What orders: a barrier of the group orders its threads; a warp's (simd-group's) barrier orders those of the warp;
// shuffles order nothing, and so do atomics, which only do not race with each other. Threads of different groups are
// not ordered at all, those of different launches are.

#include <cstddef>

#if defined(LIL_RACES)

// memory that threads share: until it is unwatched, or a group's own until race_end_group()
void race_watch(const void * p, size_t size);
void race_unwatch(const void * p);

void race_begin_launch();
void race_begin_group(const void * shared, size_t size);
void race_end_group();

// threads of the group; the one that runs, set when its turn begins
extern int race_thread; // negative: none, accesses do not count

// a thread passes a barrier
void race_barrier();
void race_warp_barrier();

extern volatile bool race_is_atomic; // the accesses that follow; the compiler does not know that its calls read it

#else

inline void race_watch(const void *, size_t) {}
inline void race_unwatch(const void *) {}
inline void race_begin_launch() {}
inline void race_begin_group(const void *, size_t) {}
inline void race_end_group() {}
inline void race_barrier() {}
inline void race_warp_barrier() {}

inline int           race_thread;
inline volatile bool race_is_atomic;

#endif
