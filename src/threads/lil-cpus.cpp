#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE // sched_getaffinity
#endif

#include "lil-cpus.h"

#include "lil.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <cerrno>
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#endif

//
// Linux: a CPU quota, as a container has one, physical cores, performance cores
//

static std::string read_line(const std::string & path) {
    std::ifstream file(path);
    std::string   line;

    std::getline(file, line);

    return line;
}

// "0-3,8" -> 0 1 2 3 8
static std::set<int> parse_list(const std::string & text) {
    std::set<int>     res;
    std::stringstream stream(text);
    std::string       part;

    while (std::getline(stream, part, ',')) {
        int first = 0;
        int last  = 0;

        const int n = sscanf(part.c_str(), "%d-%d", &first, &last);
        for (int i = first; n >= 1 && i <= (n == 2 ? last : first); ++i) {
            res.insert(i);
        }
    }

    return res;
}

// CPUs per wall time; 0: no limit. v2: "200000 100000" or "max 100000" in cpu.max; v1: two files
static double read_quota(const std::string & dir, bool v2) {
    std::string quota;
    std::string period;

    if (v2) {
        std::stringstream(read_line(dir + "/cpu.max")) >> quota >> period;
    } else {
        quota  = read_line(dir + "/cpu.cfs_quota_us");
        period = read_line(dir + "/cpu.cfs_period_us");
    }

    const double q = atof(quota.c_str()); // "max" and nothing: 0
    const double p = atof(period.c_str());

    return q > 0 && p > 0 ? q / p : 0;
}

// The least quota of this process' group and of those around it, in every hierarchy that limits CPU time; 0: no limit.
static double find_quota(const std::string & root) {
    double res = 0;

    std::ifstream mounts(root + "/proc/self/mountinfo");
    std::string   mount;

    while (std::getline(mounts, mount)) {
        // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [...] - TYPE SOURCE SUPER
        std::stringstream stream(mount);
        std::string       skip, top, point, word, type, source, super;

        stream >> skip >> skip >> skip >> top >> point;
        while (stream >> word && word != "-") {}
        stream >> type >> source >> super;

        const bool v2 = type == "cgroup2";
        if (!v2 && (type != "cgroup" || ("," + super + ",").find(",cpu,") == std::string::npos)) {
            continue;
        }

        // ID:CONTROLLERS:PATH, no controllers for v2
        std::ifstream groups(root + "/proc/self/cgroup");
        std::string   group;

        while (std::getline(groups, group)) {
            const size_t a = group.find(':');
            const size_t b = a == std::string::npos ? a : group.find(':', a + 1);
            if (b == std::string::npos) {
                continue;
            }

            const std::string controllers = group.substr(a + 1, b - a - 1);
            if (v2 ? !controllers.empty() : ("," + controllers + ",").find(",cpu,") == std::string::npos) {
                continue;
            }

            // the mount may show a part of the hierarchy only: a container's own group, seen from inside
            std::string path = group.substr(b + 1);
            if (top != "/" && path.compare(0, top.size(), top) == 0) {
                path = path.substr(top.size());
            }

            for (;;) {
                const double quota = read_quota(root + point + (path == "/" ? "" : path), v2);
                if (quota > 0 && (res == 0 || quota < res)) {
                    res = quota;
                }

                const size_t slash = path.rfind('/');
                if (slash == std::string::npos || path.empty()) {
                    break;
                }
                path = path.substr(0, slash);
            }
        }
    }

    return res;
}

int32_t lil_count_cpus(const std::string & root, const std::vector<int> & cpus) {
    const std::string sys = root + "/sys/devices";

    std::vector<int> usable = cpus;

    // Intel's hybrids: an efficiency core makes the performance cores wait at every operation
    const std::set<int> fast = parse_list(read_line(sys + "/cpu_core/cpus"));
    if (!fast.empty()) {
        std::vector<int> both;
        std::copy_if(cpus.begin(), cpus.end(), std::back_inserter(both), [&](int cpu) { return fast.count(cpu) > 0; });
        if (!both.empty()) {
            usable = both;
        }
    }

    // hyperthreads of a core share its vector units
    std::set<std::string> cores;
    for (const int cpu : usable) {
        const std::string dir      = sys + "/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        const std::string siblings = read_line(dir + "thread_siblings_list");

        cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
    }

    int32_t res = (int32_t) cores.size();

    // a thread that the quota does not cover stops all of them for the rest of a period: half a CPU more is worth one
    const double quota = find_quota(root);
    if (quota > 0) {
        res = std::min(res, (int32_t) std::max(1.0, std::floor(quota + 0.5)));
    }

    return std::max(1, res);
}

#if defined(__linux__)

static std::vector<int> get_affinity() {
    for (int n = 1024; n <= 1 << 20; n *= 4) { // a machine may have more CPUs than a cpu_set_t
        cpu_set_t * set = CPU_ALLOC(n);
        if (!set) {
            break;
        }

        const size_t size = CPU_ALLOC_SIZE(n);
        CPU_ZERO_S(size, set);

        const int rc  = sched_getaffinity(0, size, set);
        const int err = errno;

        std::vector<int> res;
        for (int cpu = 0; rc == 0 && cpu < n; ++cpu) {
            if (CPU_ISSET_S(cpu, size, set)) {
                res.push_back(cpu);
            }
        }
        CPU_FREE(set);

        if (rc == 0) {
            return res;
        }
        if (err != EINVAL) {
            break;
        }
    }

    return {};
}

static int32_t count() {
    const auto cpus = get_affinity();

    return cpus.empty() ? 0 : lil_count_cpus("", cpus);
}

#elif defined(__APPLE__)

static int32_t count() {
    for (const char * name : { "hw.perflevel0.physicalcpu", "hw.physicalcpu" }) {
        int32_t n    = 0;
        size_t  size = sizeof(n);
        if (sysctlbyname(name, &n, &size, nullptr, 0) == 0 && n > 0) {
            return n;
        }
    }

    return 0;
}

#elif defined(_WIN32)

static int32_t count() {
    DWORD_PTR allowed = 0;
    DWORD_PTR system  = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &allowed, &system)) {
        allowed = 0; // several processor groups: a process starts in one, and may use all
    }

    DWORD size = 0;
    GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &size);
    if (size == 0) {
        return 0;
    }

    std::vector<uint8_t> buf(size);
    auto *               infos = (SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *) buf.data();
    if (!GetLogicalProcessorInformationEx(RelationProcessorCore, infos, &size)) {
        return 0;
    }

    // the cores of the highest efficiency class, which is the fastest
    int32_t n[256] = { 0 };
    int     best   = 0;
    for (DWORD i = 0; i < size;) {
        const auto * info = (const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX *) (buf.data() + i);
        const auto & core = info->Processor;

        if (allowed == 0 || core.GroupMask[0].Group != 0 || (core.GroupMask[0].Mask & allowed) != 0) {
            const uint8_t efficiency = ((const uint8_t *) &core)[1]; // EfficiencyClass, which older headers do not name

            n[efficiency] += 1;
            best = std::max(best, (int) efficiency);
        }
        i += info->Size;
    }

    return n[best];
}

#else

static int32_t count() {
    return 0;
}

#endif

int32_t lil_n_threads(void) {
    const int32_t n = count();

    return n > 0 ? n : std::max(1, (int32_t) std::thread::hardware_concurrency());
}
