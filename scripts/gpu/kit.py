"""What `make gpu-kit` does beside building: the CMake flags of its tree, and the kit itself.

    python scripts/gpu/kit.py flags DEPS       what CMake must know about CUDA here; what the toolkit lacks goes to DEPS
    python scripts/gpu/kit.py pack KIT --site SITE --tests TESTS [--emulated] [--limit MIB]

A kit is a folder that needs nothing but Python 3.10 or newer with NumPy, and the CUDA libraries, on a machine with a
GPU: the package with its native libraries, the programs that test them, the makers of random models, and `run.sh`
(run.py). `pack` packs it as KIT.tar.xz too and fails where that is larger than the limit.

With --emulated the kit holds the programs of the emulated CUDA device in place of the GPU's, for a rehearsal.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = ["test-gpu-ops", "test-gpu-methods", "test-gpu-greedy", "bench_attention"]

# pure Python, whatever the version there; NumPy is not
PACKAGES = [
    "jinja2",
    "markupsafe",
    "typing_extensions",
    "diskcache",
    "platformdirs",
    "gguf",
    "tqdm",
    "pyyaml",
    "requests",
]

# what ggml-cuda takes of the driver's library, which a machine without a GPU has not
DRIVER = [
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuGetErrorString",
    "cuMemAddressFree",
    "cuMemAddressReserve",
    "cuMemCreate",
    "cuMemGetAllocationGranularity",
    "cuMemMap",
    "cuMemRelease",
    "cuMemSetAccess",
    "cuMemUnmap",
]


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def flags(deps: Path) -> list[str]:
    """For a toolkit that came without cuBLAS, with cuBLAS from a wheel; for a machine without a driver."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        sys.exit("lil: make gpu-kit needs nvcc in PATH")
    found = re.search(r"release (\d+)\.(\d+)", run(nvcc, "--version"))
    assert found, "nvcc says no version"
    major, minor = map(int, found.groups())
    top = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    toolkit = Path(re.search(r"TOP=(.*)", top)[1].strip()).resolve()  # type: ignore[index]

    res = ["-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90", "-DGGML_CUDA_COMPRESSION_MODE=size"]
    res += ["-DGGML_CUDA_NCCL=OFF", "-DGGML_NATIVE=OFF"]
    deps.mkdir(parents=True, exist_ok=True)
    if not list(toolkit.glob("**/cublas_v2.h")):
        package = "nvidia-cublas" if major >= 13 else f"nvidia-cublas-cu{major}"
        if not list(deps.glob("nvidia/*/include/cublas_v2.h")):
            # the oldest that goes with the toolkit: a newer one takes its place where the kit runs
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", deps]
            subprocess.run([*map(str, pip), f"{package}<{major}.{minor + 1}"], check=True)
        include = next(deps.glob("nvidia/*/include/cublas_v2.h")).parent.resolve()
        for name in ("cublas", "cublasLt"):
            res.append(f"-DCUDA_{name}_LIBRARY={next(include.parent.glob(f'lib/lib{name}.so*'))}")
        res += [f"-DCMAKE_CUDA_FLAGS=-I{include}", f"-DCMAKE_CXX_FLAGS=-I{include}"]
    if not list(toolkit.glob("**/libcuda.so")):
        stub = deps.resolve() / "libcuda.so"
        if not stub.exists():
            source = "".join(f"void {name}(void) {{}}\n" for name in DRIVER)
            linked = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-Wl,-soname,libcuda.so.1", "-o", str(stub)]
            subprocess.run(linked, input=source, text=True, check=True)
        res.append(f"-DCUDA_cuda_driver_LIBRARY={stub}")
    if shutil.which("ccache"):  # of all languages: ggml, where it finds C's, puts no second one before them
        res += [f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX", "CUDA")]
    return res


def pack(kit: Path, site: Path, tests: Path, *, emulated: bool, limit: int) -> None:
    shutil.rmtree(kit, ignore_errors=True)
    for folder in ("bin", "python"):
        (kit / folder).mkdir(parents=True)

    package = kit / "python" / "lil"
    ignored = shutil.ignore_patterns("__pycache__", "llama_cpp")
    shutil.copytree(ROOT / "python" / "lil", package, ignore=ignored)
    shutil.copytree(site / "lil" / "llama_cpp", package / "llama_cpp", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", kit / "python", *PACKAGES]
    subprocess.run(list(map(str, pip)), check=True)
    for compiled in (kit / "python").glob("**/*.so"):  # of this Python's version; all have a fallback
        if package not in compiled.parents:
            compiled.unlink()
    for useless in [*(kit / "python").glob("**/__pycache__"), *(kit / "python").glob("bin")]:
        shutil.rmtree(useless)

    for program in PROGRAMS:
        source = tests / (f"{program.replace('test-gpu', 'test-emu-gpu')}-cuda" if emulated else program)
        shutil.copy2(tests / program if program == "bench_attention" else source, kit / "bin" / program)
    for script in ("run.sh", "run.py", "decode.py"):
        shutil.copy2(ROOT / "scripts" / "gpu" / script, kit)
    # models are made there: random numbers do not pack
    for maker in ("benchmarks/random_gguf.py", "tests/python/reference/gguf_models.py"):
        shutil.copy2(ROOT / maker, kit)
    for binary in [*(kit / "bin").iterdir(), *package.glob("llama_cpp/lib/*.so")]:
        subprocess.run(["strip", "--strip-unneeded", str(binary)], check=True)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    (kit / "VERSION").write_text(f"{commit}{' (emulated)' if emulated else ''}\n")

    archive = kit.with_name(kit.name + ".tar.xz")
    with tarfile.open(archive, "w:xz", preset=6) as out:
        out.add(kit, kit.name)
    size = archive.stat().st_size / 2**20
    print(f"lil: {kit} and {archive.name}, {size:.1f} MiB packed")
    if size > limit:
        sys.exit(f"lil: {archive.name} is larger than {limit} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("flags")
    command.add_argument("deps", type=Path)
    command = commands.add_parser("pack")
    command.add_argument("kit", type=Path)
    command.add_argument("--site", type=Path, required=True)
    command.add_argument("--tests", type=Path, required=True)
    command.add_argument("--emulated", action="store_true")
    command.add_argument("--limit", type=int, default=60)
    args = parser.parse_args()

    if args.command == "flags":
        print(" ".join(flags(args.deps)))
    else:
        pack(args.kit, args.site, args.tests, emulated=args.emulated, limit=args.limit)


if __name__ == "__main__":
    main()
