"""What this machine has, what of it this build uses, and what is known to make it slow."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._native import lib
from .llama_cpp import llama_cpp as native

# What the processor calls it, what llama.cpp does: the vector code that decides the speed of products and attention.
_VECTOR = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}

# A device file, and which of ggml's backends is for what is behind it.
_GPUS = {"/dev/nvidia0": "CUDA", "/dev/kfd": "HIP"}


@dataclass(frozen=True)
class Device:
    """One of ggml's. Memory in bytes; 0: it does not say."""

    name: str
    description: str
    free: int
    total: int


@dataclass(frozen=True)
class Machine:
    """Facts, gathered by `look`. None and nothing: the system does not say.

    Attributes:
        cpu: The processor's name.
        processors: How many this process may run on, hyperthreads counted.
        threads: How many `Llama` takes.
        has: Vector code that the processor has, in llama.cpp's words.
        built: What llama.cpp's CPU backend was built with.
        devices: What ggml computes on.
        idle_gpus: Backends for devices that are here and that this build lacks.
        memory: Bytes in all, and available.
        swapped: Bytes of memory that lie in swap.
        busy: Processes that wanted to run during the last minute, in the mean.
        governor: How the processor's clock is chosen.
    """

    cpu: str
    processors: int
    threads: int
    has: Sequence[str]
    built: Sequence[str]
    devices: Sequence[Device]
    idle_gpus: Sequence[str] = ()
    memory: tuple[int, int] | None = None
    swapped: int | None = None
    busy: float | None = None
    governor: str | None = None


def look(root: str = "") -> Machine:
    """
    Args:
        root: Stands before /proc, /sys and /dev.
    """
    info = _fields(root + "/proc/cpuinfo")
    memory = {name: int(text.split()[0]) * 1024 for name, text in _fields(root + "/proc/meminfo").items()}
    flags = (info.get("flags") or info.get("Features") or "").split()
    devices = _devices()
    governor = _read(root + "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    backends = " ".join(device.name for device in devices)
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=lib.lil_n_threads(),
        has=[name for flag, name in _VECTOR.items() if flag in flags],
        built=_built(),
        devices=devices,
        idle_gpus=[name for file, name in _GPUS.items() if os.path.exists(root + file) and name not in backends],
        memory=(memory["MemTotal"], memory["MemAvailable"]) if "MemAvailable" in memory else None,
        swapped=memory["SwapTotal"] - memory["SwapFree"] if "SwapFree" in memory else None,
        busy=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        governor=governor or None,
    )


def slow(machine: Machine) -> Iterator[str]:
    """What is known to make this machine slower than it is, and what to do."""
    lacks = [name for name in machine.has if name not in machine.built]
    if lacks:
        yield (
            f"the processor has {', '.join(lacks)}, and this build does not use it; build it on this machine: "
            "pip install ."
        )
    if not set(_VECTOR.values()) & set(machine.built) and "NEON" not in machine.built:
        yield "this build has no vector code that lil's attention has a fast form for (AVX2 and up, NEON)"
    if "OPENMP" in machine.built:
        yield (
            "this build computes with OpenMP's threads, which spin at each barrier: beside other busy programs a step "
            "takes many times as long; build without GGML_OPENMP=ON"
        )
    for name in machine.idle_gpus:
        yield f'a GPU is here that this build does not use; CMAKE_ARGS="-DGGML_{name}=ON" pip install .'
    if machine.busy is not None and machine.busy > machine.processors / 2:
        yield (
            f"{machine.busy:.1f} processes wanted to run at once during the last minute, on {machine.processors} "
            "processors: every step waits for the slowest of its threads"
        )
    if machine.memory and machine.memory[1] < machine.memory[0] / 10:
        total, left = map(mib, machine.memory)
        yield f"of {total} memory {left} are left: what does not fit is read from the disk again and again"
    if machine.swapped and machine.memory and machine.swapped > machine.memory[0] / 20:
        yield f"{mib(machine.swapped)} of memory lie in swap; close what needs them"
    if machine.governor == "powersave" and "Intel" not in machine.cpu:  # Intel's own is no low clock
        yield "the processor's clock is kept low (governor powersave); choose performance"


def mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"


def _built() -> list[str]:
    """The flags of `llama_print_system_info`: "CPU : AVX2 = 1 | FMA = 1 | ..."."""
    text = native.llama_print_system_info().decode()
    pairs = [part.rpartition(":")[2].split("=") for part in text.split("|") if "=" in part]
    return [name.strip() for name, value in pairs if value.strip() != "0"]


def _devices() -> list[Device]:
    count, get, name, description, memory = (
        getattr(lib, f"ggml_backend_dev_{what}") for what in ("count", "get", "name", "description", "memory")
    )
    count.restype, count.argtypes = ctypes.c_size_t, []
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    for text in (name, description):
        text.restype, text.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    memory.restype, memory.argtypes = None, [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    out = []
    for i in range(count()):
        device, free, total = get(i), ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        out.append(Device(name(device).decode(), description(device).decode(), free.value, total.value))
    return out


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(path: str) -> dict[str, str]:
    """Lines `name : value`; of several of one name the first."""
    out: dict[str, str] = {}
    for line in _read(path).splitlines():
        name, sign, value = line.partition(":")
        if sign:
            out.setdefault(name.strip(), value.strip())
    return out
