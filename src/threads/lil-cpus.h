#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Linux: how many of these CPUs are worth a thread each, see lil_n_threads(). root stands before /proc and /sys, so
// that a test can bring its own; empty: the machine's.
int32_t lil_count_cpus(const std::string & root, const std::vector<int> & cpus);
