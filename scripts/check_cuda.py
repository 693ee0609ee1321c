"""Compiles src/ops/cuda for several GPU architectures and prints what each kernel needs: registers, spills, shared
memory.

    python scripts/check_cuda.py [--arch sm_75 ...] [--ggml FOLDER] [--limit 255] [FILE.cu ...]
    python scripts/check_cuda.py --clang clang-19 --toolkit /usr/local/cuda-12.9 [...]

The second compiles with clang and another toolkit's headers and ptxas: what of the toolkit the files need is there.
Spills are then printed and no failure: they are clang's, and wheels are made with nvcc.

Needs nvcc (on the PATH, in CUDA_HOME, or named by NVCC) and ggml's headers (the sources that `make vendor` or a build
unpacks); needs no GPU. Fails where a file does not compile, a kernel spills, has a stack frame, or uses more registers
than --limit, and where a header of ours has the name of one of the toolkit's. Without nvcc it says so and succeeds;
with --require it fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHS = ["sm_75", "sm_80", "sm_90"]

KERNEL = re.compile(
    r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>[^']+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel on one architecture; stack and spills in bytes."""

    file: str
    name: str
    arch: str
    registers: int
    stack: int
    spills: int


def find_nvcc() -> str | None:
    """The path of nvcc, None where there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(os.environ.get("NVCC", "nvcc")) or shutil.which(str(Path(home, "bin", "nvcc")))


def find_ggml(given: str | None) -> Path:
    """The folder with ggml.h: as given, or from this checkout's sources."""
    if given:
        return Path(given)
    for folder in (".vendor/vendor/llama.cpp/ggml/include", ".venv/include"):
        if (ROOT / folder / "ggml.h").exists():
            return ROOT / folder
    for header in sorted((ROOT / "build").glob("**/ggml/include/ggml.h")):
        return header.parent
    sys.exit("check_cuda: no ggml.h in this checkout; `make vendor` unpacks it, or name its folder: --ggml FOLDER")


def short_name(name: str) -> str:
    """A mangled kernel name without its parameters: name<template arguments>."""
    demangled = (
        subprocess.run(["c++filt", name], capture_output=True, text=True, check=False).stdout.strip()
        if shutil.which("c++filt")
        else name
    )
    return re.sub(r"\((int|bool)\)", "", demangled.removeprefix("void ").split("(lil_")[0]).split("(float")[0]


def nvcc_command(nvcc: str, arch: str) -> list[str]:
    return [nvcc, "-std=c++17", "-O3", f"-arch={arch}", "-Xptxas", "-v"]


def clang_command(clang: str, toolkit: str, arch: str) -> list[str]:
    return [
        clang, "-x", "cuda", "-std=c++17", "-O3", f"--cuda-path={toolkit}", f"--cuda-gpu-arch={arch}",
        "--cuda-device-only",
        "-Wno-unknown-cuda-version", "-Xcuda-ptxas", "-v",
    ]  # fmt: skip


def taken_names(command: list[str]) -> list[str]:
    """Our headers that have the name of one of the toolkit's: upstream's files, which see our folder first, would get
    ours."""

    def is_taken(header: Path) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "x.cu")
            source.write_text(f"#include <{header.name}>\n")
            done = subprocess.run([*command, "-E", str(source)], capture_output=True, check=False)
        return done.returncode == 0

    return [
        h.name for folder in ("src/ops", "src/ops/cuda") for h in sorted((ROOT / folder).glob("*.h")) if is_taken(h)
    ]


def compile_file(command: list[str], file: Path, arch: str, ggml: Path) -> list[Kernel]:
    """Compiles one file for one architecture.

    Raises RuntimeError with the compiler's output where it does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        rest = ["-I", str(ROOT / "src/ops"), "-I", str(ggml), "-c", str(file), "-o", str(Path(folder, "x.o"))]
        done = subprocess.run([*command, *rest], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{file.name} does not compile for {arch}:\n{done.stdout}{done.stderr}")
    return [
        Kernel(
            file.name,
            short_name(m["name"]),
            m["arch"],
            int(m["registers"]),
            int(m["stack"]),
            int(m["stores"]) + int(m["loads"]),
        )
        for m in KERNEL.finditer(done.stdout + done.stderr)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.cu")
    parser.add_argument("--arch", action="append", help=f"an architecture; default: {' '.join(ARCHS)}")
    parser.add_argument("--ggml", help="the folder of ggml.h")
    parser.add_argument("--limit", type=int, default=255, help="most registers of a kernel")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clang", help="compile with this clang; needs --toolkit")
    parser.add_argument(
        "--toolkit", help="the folder of a CUDA toolkit, for --clang: include, bin/ptxas, nvvm/libdevice"
    )
    parser.add_argument("--require", action="store_true", help="fail where there is no nvcc")
    args = parser.parse_args()

    if bool(args.clang) != bool(args.toolkit):
        parser.error("--clang and --toolkit belong together")

    nvcc = args.clang or find_nvcc()
    if not nvcc:
        print("check_cuda: no nvcc here: the CUDA kernels were NOT compiled and NOT checked", file=sys.stderr)
        return 1 if args.require else 0

    ggml = find_ggml(args.ggml)
    archs = args.arch or ARCHS
    files = args.files or sorted((ROOT / "src/ops/cuda").glob("*.cu"))

    kernels: dict[tuple[str, str], dict[str, Kernel]] = {}
    failed = []

    if not args.clang:
        failed += [f"{name}: the CUDA toolkit has a header of that name" for name in taken_names([nvcc])]

    with ThreadPoolExecutor(args.jobs) as pool:
        commands = {
            arch: clang_command(nvcc, args.toolkit, arch) if args.clang else nvcc_command(nvcc, arch) for arch in archs
        }
        jobs = [pool.submit(compile_file, commands[arch], file, arch, ggml) for file in files for arch in archs]
        for job in jobs:
            try:
                found = job.result()
            except RuntimeError as error:
                failed.append(str(error))
                continue
            for kernel in found:
                kernels.setdefault((kernel.file, kernel.name), {})[kernel.arch] = kernel

    print(f"registers{''.join(f'{arch:>8}' for arch in archs)}  kernel")
    for (file, name), by_arch in sorted(kernels.items()):
        cells = []
        for arch in archs:
            kernel = by_arch.get(arch)
            bad = kernel is not None and (kernel.spills > 0 or kernel.stack > 0 or kernel.registers > args.limit)
            cells.append(f"{'-' if kernel is None else kernel.registers:>7}{'!' if bad else ' '}")
            if bad and not args.clang:
                failed.append(
                    f"{file}: {name}, {arch}: {kernel.registers} registers, {kernel.stack} bytes of stack, "
                    f"{kernel.spills} bytes spilled"
                )
        print(f"         {''.join(cells)}  {file.removesuffix('.cu')}: {name}")

    for line in failed:
        print(f"check_cuda: {line}", file=sys.stderr)
    if not kernels:
        print("check_cuda: no kernel was found", file=sys.stderr)
        return 1
    if not failed:
        what = "compiled" if args.clang else f"no spills, at most {args.limit} registers"
        print(f"check_cuda: {len(files)} files, {len(kernels)} kernels, {', '.join(archs)}: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
