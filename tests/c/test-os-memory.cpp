// What src/memory/lil-os-memory.h promises, and how it reads the limits of cgroups. No llama.cpp in here.

#undef NDEBUG

#include "lil-os-memory.h"

#include <cassert>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace fs = std::filesystem;

static const size_t N = 8 << 20;

static bool all_are(const char * p, size_t n, char value) {
    return n == 0 || (p[0] == value && memcmp(p, p + 1, n - 1) == 0);
}

static void test_pages() {
    assert(lil_os_pad(0) == 0 && lil_os_pad(1) >= 4096 && lil_os_pad(lil_os_pad(1)) == lil_os_pad(1));

    const size_t page = lil_os_pad(1);

    char * p = (char *) lil_os_map(N + 1);
    assert(p && (uintptr_t) p % page == 0);

    assert(lil_os_resident(p, N) == 0);
    assert(all_are(p, N, 0));

    size_t n_max = N; // reading may take memory too
#ifdef __linux__
    assert(lil_os_resident(p, N) == 0);
    n_max = N / 2 + N / 16;
#endif

    memset(p, 7, N / 2);
    assert(lil_os_resident(p, N) >= N / 2 && lil_os_resident(p, N) <= n_max);

    // only whole pages go, and they come back as zeros; their neighbours stay
    assert(lil_os_discard(p + 1, 3 * page));
    assert(all_are(p, page, 7) && all_are(p + page, 2 * page, 0) && all_are(p + 3 * page, N / 2 - 3 * page, 7));

    assert(lil_os_discard(p + 5 * page + 1, page - 2)); // less than a page: nothing
    assert(lil_os_discard(p + 5 * page, 0));
    assert(all_are(p + 3 * page, N / 2 - 3 * page, 7));

    assert(lil_os_discard(p, lil_os_pad(N + 1)));
    assert(lil_os_resident(p, N) == 0 && all_are(p, N + 1, 0));

    p[N] = 1; // and can be written again
    assert(p[N] == 1);

    lil_os_unmap(p, N + 1);

    assert(!lil_os_map((size_t) 1 << 60));
}

#ifdef __linux__
static void write(const fs::path & path, const std::string & text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
}
#endif

static void test_available() {
    assert(lil_os_available() > 0);

#ifdef __linux__
    const uint64_t MB = 1 << 20;

    const fs::path root = fs::temp_directory_path() / ("lil-os-memory-" + std::to_string((uintptr_t) &root));

    const auto available = [&] { return lil_os_available(root.c_str()); };

    assert(available() == UINT64_MAX); // nothing is known

    // the files of this process are in use
    write(root / "proc/meminfo",
            "MemTotal:       16384000 kB\nMemFree:         1000 kB\nMemAvailable:    1024000 kB\n");
    assert(available() == 1000 * MB);
    write(root / "proc/self/status", "Name:\tx\nVmRSS:\t  900000 kB\nRssAnon:\t  1 kB\nRssFile:\t  102400 kB\n");
    assert(available() == 900 * MB);

    // version 2: the tightest level counts; files that nobody here uses can be dropped
    write(root / "proc/self/cgroup", "0::/user/job\n");
    assert(available() == 900 * MB);
    write(root / "sys/fs/cgroup/user/job/memory.max", "max\n");
    write(root / "sys/fs/cgroup/user/job/memory.current", std::to_string(400 * MB) + "\n");
    assert(available() == 900 * MB);
    write(root / "sys/fs/cgroup/user/job/memory.max", std::to_string(1000 * MB) + "\n");
    assert(available() == 600 * MB);
    write(root / "sys/fs/cgroup/user/job/memory.stat",
            "anon 1\nfile 99999999999\ninactive_file " + std::to_string(100 * MB) + "\nactive_file " +
                    std::to_string(200 * MB) + "\n");
    assert(available() == 800 * MB); // 300 MB of files, 100 of them ours
    write(root / "sys/fs/cgroup/user/job/memory.high", std::to_string(900 * MB) + "\n");
    assert(available() == 700 * MB);
    write(root / "sys/fs/cgroup/user/memory.max", std::to_string(500 * MB) + "\n");
    write(root / "sys/fs/cgroup/user/memory.current", std::to_string(450 * MB) + "\n");
    assert(available() == 50 * MB);
    write(root / "sys/fs/cgroup/user/memory.current", std::to_string(600 * MB) + "\n");
    assert(available() == 0);
    fs::remove_all(root / "sys/fs/cgroup");

    // in a container the path is the host's, the limit at the root
    write(root / "sys/fs/cgroup/memory.max", std::to_string(300 * MB) + "\n");
    write(root / "sys/fs/cgroup/memory.current", std::to_string(100 * MB) + "\n");
    assert(available() == 200 * MB);
    fs::remove_all(root / "sys/fs/cgroup");

    // version 1
    write(root / "proc/self/cgroup", "12:cpu,cpuacct:/a\n7:memory:/docker/b\n0::/\n");
    write(root / "sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes", "9223372036854771712\n");
    write(root / "sys/fs/cgroup/memory/docker/b/memory.usage_in_bytes", std::to_string(100 * MB) + "\n");
    assert(available() == 900 * MB);
    write(root / "sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes", std::to_string(600 * MB) + "\n");
    write(root / "sys/fs/cgroup/memory/docker/b/memory.stat",
            "cache 5\ntotal_inactive_file " + std::to_string(150 * MB) + "\ntotal_active_file 0\n");
    assert(available() == 550 * MB);

    fs::remove_all(root);
#endif
}

int main() {
    test_pages();
    test_available();

    printf("test-os-memory: ok\n");

    return 0;
}
