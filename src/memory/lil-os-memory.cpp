#include "lil-os-memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <psapi.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <mach/mach.h>
#endif
#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif
#endif

static size_t page_size() {
#if defined(_WIN32)
    static const size_t size = [] {
        SYSTEM_INFO info;
        GetSystemInfo(&info);
        return (size_t) info.dwPageSize;
    }();
#else
    static const size_t size = (size_t) sysconf(_SC_PAGESIZE);
#endif
    return size;
}

size_t lil_os_pad(size_t n) {
    return (n + page_size() - 1) / page_size() * page_size();
}

//
// memory
//

#if defined(_WIN32)

void * lil_os_map(size_t n) {
    return VirtualAlloc(nullptr, n, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void lil_os_unmap(void * p, size_t n) {
    (void) n;
    VirtualFree(p, 0, MEM_RELEASE);
}

// A page that is decommitted and committed again is a new one. (MEM_RESET keeps a page's place and may keep what it
// holds.)
static bool discard_pages(void * p, size_t n) {
    if (!VirtualFree(p, n, MEM_DECOMMIT)) {
        return false;
    }

    // the system promised these bytes a moment ago; a process that took them meanwhile may give some back
    for (int i = 0; i < 100; ++i) {
        if (VirtualAlloc(p, n, MEM_COMMIT, PAGE_READWRITE)) {
            return true;
        }
        Sleep(10);
    }

    fprintf(stderr, "lil: the system has no memory left for %llu bytes of the KV cache, which had them before\n",
            (unsigned long long) n);
    abort();
}

static size_t resident_pages(void * p, size_t n) {
    constexpr size_t N = 1024;

    std::vector<PSAPI_WORKING_SET_EX_INFORMATION> pages;

    size_t res = 0;
    for (size_t i = 0; i < n; i += N) {
        pages.assign(std::min(N, n - i), {});
        for (size_t j = 0; j < pages.size(); ++j) {
            pages[j].VirtualAddress = (char *) p + (i + j) * page_size();
        }
        if (!K32QueryWorkingSetEx(GetCurrentProcess(), pages.data(), (DWORD) (pages.size() * sizeof(pages[0])))) {
            return n;
        }
        for (const auto & page : pages) {
            res += page.VirtualAttributes.Valid;
        }
    }

    return res;
}

#else

void * lil_os_map(size_t n) {
    void * p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return nullptr;
    }
#if defined(MADV_NOHUGEPAGE)
    // a few tokens of a tensor would take 2 MiB, where the system hands out huge pages unasked
    madvise(p, n, MADV_NOHUGEPAGE);
#endif
    return p;
}

void lil_os_unmap(void * p, size_t n) {
    munmap(p, n);
}

static bool discard_pages(void * p, size_t n) {
#if defined(__linux__)
    return madvise(p, n, MADV_DONTNEED) == 0; // private and anonymous: zeros from now on
#else
    // elsewhere MADV_DONTNEED is a hint, and what the pages hold may stay: new ones take their place
    return mmap(p, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
#endif
}

#if defined(__linux__)

// Of a page that was read and never written, only the page table knows that it is the one page of zeros which all
// share. (Where this process has forked, and the other half has not started another program, written pages are shared
// as well, and not counted.)
static bool resident_by_pagemap(void * p, size_t n, size_t & res) {
    const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }

    std::vector<uint64_t> entries(4096);

    bool ok = true;
    for (size_t i = 0; i < n && ok; i += entries.size()) {
        const size_t n_read = std::min(entries.size(), n - i) * sizeof(uint64_t);

        ok = pread(fd, entries.data(), n_read, (off_t) (((uintptr_t) p / page_size() + i) * sizeof(uint64_t))) ==
                (ssize_t) n_read;

        for (size_t j = 0; ok && j < n_read / sizeof(uint64_t); ++j) {
            res += (entries[j] >> 63 & 1) && (entries[j] >> 56 & 1); // present, and mapped here only
        }
    }

    close(fd);

    return ok;
}

#endif

static size_t resident_pages(void * p, size_t n) {
    size_t res = 0;
#if defined(__linux__)
    if (resident_by_pagemap(p, n, res)) {
        return res;
    }
    res = 0;

    std::vector<unsigned char> pages(n);
#else
    std::vector<char> pages(n);
#endif
    if (mincore(p, n * page_size(), pages.data()) != 0) {
        return n;
    }

    for (const auto page : pages) {
        res += page & 1;
    }

    return res;
}

#endif

bool lil_os_discard(void * p, size_t n) {
    const uintptr_t begin = lil_os_pad((uintptr_t) p);
    const uintptr_t end   = ((uintptr_t) p + n) / page_size() * page_size();

    return begin >= end || discard_pages((void *) begin, end - begin);
}

size_t lil_os_resident(void * p, size_t n) {
    return std::min(n, resident_pages(p, lil_os_pad(n) / page_size()) * page_size());
}

//
// what is left
//

#if defined(_WIN32)

uint64_t lil_os_available(const char * root) {
    (void) root;

    MEMORYSTATUSEX status = {};
    status.dwLength       = sizeof(status);

    return GlobalMemoryStatusEx(&status) ? (uint64_t) status.ullAvailPhys : UINT64_MAX;
}

#elif defined(__APPLE__)

uint64_t lil_os_available(const char * root) {
    (void) root;

    vm_statistics64_data_t stat;
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;

    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t) &stat, &count) != KERN_SUCCESS) {
        return UINT64_MAX;
    }

    return ((uint64_t) stat.free_count + stat.inactive_count + stat.purgeable_count) * page_size();
}

#else

static bool read_file(const std::string & path, std::string & text) {
    FILE * file = fopen(path.c_str(), "r");
    if (!file) {
        return false;
    }

    text.clear();

    char   buf[4096];
    size_t n;
    while ((n = fread(buf, 1, sizeof(buf), file)) > 0) {
        text.append(buf, n);
    }
    fclose(file);

    return true;
}

// the number behind a name at the begin of a line, or otherwise
static uint64_t find_number(const std::string & text, const char * name, uint64_t otherwise) {
    const size_t n = strlen(name);

    for (size_t i = 0; i < text.size();
            i     = text.find('\n', i) == std::string::npos ? text.size() : text.find('\n', i) + 1) {
        if (text.compare(i, n, name) == 0) {
            return strtoull(text.c_str() + i + n, nullptr, 10);
        }
    }

    return otherwise;
}

// a file with a number alone; "max" is none
static uint64_t read_number(const std::string & path, uint64_t otherwise) {
    std::string text;

    return read_file(path, text) && !text.empty() && text[0] >= '0' && text[0] <= '9'
            ? strtoull(text.c_str(), nullptr, 10)
            : otherwise;
}

// what a cgroup leaves of its limit
static uint64_t left_by_cgroup(const std::string & dir, bool v2, uint64_t rss_file) {
    uint64_t limit = read_number(dir + (v2 ? "/memory.max" : "/memory.limit_in_bytes"), UINT64_MAX);
    if (v2) {
        limit = std::min(limit, read_number(dir + "/memory.high", UINT64_MAX));
    }

    const uint64_t used = read_number(dir + (v2 ? "/memory.current" : "/memory.usage_in_bytes"), 0);
    if (limit == UINT64_MAX) {
        return UINT64_MAX;
    }

    std::string stat;
    read_file(dir + "/memory.stat", stat);

    // files can be dropped, but this process' own are in use
    const uint64_t file = find_number(stat, v2 ? "inactive_file " : "total_inactive_file ", 0) +
            find_number(stat, v2 ? "active_file " : "total_active_file ", 0);

    const uint64_t kept = used - std::min(used, file - std::min(file, rss_file));

    return limit - std::min(limit, kept);
}

uint64_t lil_os_available(const char * root_dir) {
    const std::string root = root_dir;

    std::string text;

    const uint64_t rss_file = read_file(root + "/proc/self/status", text) ? 1024 * find_number(text, "RssFile:", 0) : 0;

    uint64_t res = UINT64_MAX;

    if (read_file(root + "/proc/meminfo", text)) {
        const uint64_t n = find_number(text, "MemAvailable:", UINT64_MAX);
        if (n != UINT64_MAX) {
            res = 1024 * n - std::min(1024 * n, rss_file);
        }
    }

    // lines "number:controllers:path", controllers empty for version 2. In a container the path may be the host's: what
    // is there of it counts, up to the root
    if (!read_file(root + "/proc/self/cgroup", text)) {
        return res;
    }

    for (size_t i = 0, end; i < text.size(); i = end + 1) {
        end = std::min(text.size(), text.find('\n', i));

        const std::string line = text.substr(i, end - i);

        const size_t c0 = line.find(':');
        const size_t c1 = c0 == std::string::npos ? c0 : line.find(':', c0 + 1);
        if (c1 == std::string::npos) {
            continue;
        }

        const std::string controllers = "," + line.substr(c0 + 1, c1 - c0 - 1) + ",";

        const bool v2 = controllers == ",,";
        if (!v2 && controllers.find(",memory,") == std::string::npos) {
            continue;
        }

        const std::string mount = root + (v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");

        std::string path = line.substr(c1 + 1);
        while (true) {
            while (!path.empty() && path.back() == '/') {
                path.pop_back();
            }
            res = std::min(res, left_by_cgroup(mount + path, v2, rss_file));
            if (path.empty()) {
                break;
            }
            path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
        }
    }

    return res;
}

#endif
