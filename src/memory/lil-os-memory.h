#pragma once

#include <cstddef>
#include <cstdint>

// What the operating system does with memory. Nothing of llama.cpp in here.

// n, rounded up to whole pages
size_t lil_os_pad(size_t n);

// n bytes of fresh memory in whole pages: they read as zeros, and a page takes memory where it is first written. Null:
// no room.
void * lil_os_map(size_t n);
void   lil_os_unmap(void * p, size_t n);

// Gives the whole pages inside [p, p + n), part of what lil_os_map() returned, back to the system: they read as zeros
// again. The rest of the range keeps what it holds. False: the system would not, and nothing has changed.
bool lil_os_discard(void * p, size_t n);

// bytes of [p, p + n), as lil_os_map() returned it, that take memory now; n where the system does not tell
size_t lil_os_resident(void * p, size_t n);

// Bytes that this process can still take: what the machine and, on Linux, the cgroups around the process leave, files
// that others have mapped counted as free, this one's (a model's weights) not. UINT64_MAX where the system does not
// tell.
//   root  stands before /proc and /sys; for tests
uint64_t lil_os_available(const char * root = "");
