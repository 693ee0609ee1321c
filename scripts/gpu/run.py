"""Runs a kit: every test and measurement that wants a GPU, each with a limit of its own.

    run.py OUT [MODEL.gguf] [--small] [--only NAME ...] [--seconds 480]

In this order, so that what matters most comes first; one that fails or runs out of time costs the others nothing:

    ops        every op against the CPU's
    methods    every method against the CPU, in both forms, on tiny models
    memcheck   compute-sanitizer over a sample of the ops; racecheck the same
    attention  a layer's attention at 4k, 32k, 128k: all methods against FlashAttention, and a copy's bandwidth
    decode     steps of a random 8B model at 32k and 128k, with and without CUDA graphs
    greedy     texts of MODEL (SmolLM2-135M-Instruct, F16) against the CPU's; skipped without it

OUT/results.json is written anew after each part, OUT/log.txt has all that was printed. --small is for a rehearsal on a
machine without a GPU. The exit status is the number of parts that failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KIT = Path(__file__).resolve().parent
SKIPPED = 77  # the exit status of a test that finds no device


@dataclass
class Run:
    """What the parts share: where they write, how long they may take, what they are to run on."""

    out: Path
    small: bool
    model: Path | None
    deadline: float
    env: dict[str, str]
    log: Any
    scratch: Path
    parts: list[dict[str, Any]] = field(default_factory=list)

    def call(self, *command: str | Path, limit: float, env: dict[str, str] | None = None) -> tuple[int | None, str]:
        """Exit status and what was printed; None: out of time, with all the processes that it started gone."""
        words = [str(word) for word in command]
        self.log.write(f"\n$ {' '.join(words)}\n")
        self.log.flush()
        begin = self.log.tell()
        process = subprocess.Popen(
            words, stdout=self.log, stderr=subprocess.STDOUT, env={**self.env, **(env or {})}, start_new_session=True
        )
        status: int | None
        try:
            status = process.wait(max(1.0, min(limit, self.deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with (self.out / "log.txt").open(encoding="utf-8", errors="replace") as log:
            log.seek(begin)
            return status, log.read()


class FailedError(Exception):
    """A part found something; its text says what."""


class SkippedError(Exception):
    """A part could not run here; its text says why."""


def last_lines(text: str, n: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-n:])


def check(status: int | None, text: str) -> str:
    """The last line of a test that passed."""
    if status == SKIPPED:
        raise SkippedError(last_lines(text, 1))
    if status is None:
        raise FailedError(f"out of time\n{last_lines(text)}")
    if status != 0:
        raise FailedError(f"status {status}\n{last_lines(text)}")
    return last_lines(text, 1)


def ops(run: Run, limit: float) -> dict[str, Any]:
    return {"says": check(*run.call(KIT / "bin" / "test-gpu-ops", limit=limit, env=few(run, 20)))}


def methods(run: Run, limit: float) -> dict[str, Any]:
    says = {}
    models = ["gemma3"] if run.small else ["gemma3", "llama64", "qwen2"]
    only = ["quest"] if run.small else []
    check(*run.call(sys.executable, KIT / "gguf_models.py", run.scratch, *models, limit=30))
    for model in models:
        command = [KIT / "bin" / "test-gpu-methods", "--quick", run.scratch / f"tiny-{model}.gguf", *only]
        says[model] = check(*run.call(*command, limit=limit / len(models)))
    return says


def few(run: Run, one_in: int) -> dict[str, str]:
    """An emulated device is slow."""
    return {"LIL_ONE_IN": str(one_in)} if run.small else {}


def sanitizer(tool: str) -> Callable[[Run, float], dict[str, Any]]:
    def part(run: Run, limit: float) -> dict[str, Any]:
        program = shutil.which("compute-sanitizer", path=run.env["PATH"])
        if program is None:
            raise SkippedError("no compute-sanitizer here")
        command = [program, "--tool", tool, "--error-exitcode", "9", KIT / "bin" / "test-gpu-ops"]
        status, text = run.call(*command, limit=limit, env={"LIL_ONE_IN": "32"})
        found = [line for line in text.splitlines() if line.startswith("=========") and "Error" in line]
        summary = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        if status is None and not found:
            return {"says": f"no error in the {limit:.0f} seconds that it was given; it did not end"}
        if status == 9 or found:
            raise FailedError("\n".join(found[:20]) or last_lines(text))
        check(status, text)
        return {"says": summary[-1].strip("= ") if summary else last_lines(text, 1)}

    return part


def attention(run: Run, limit: float) -> dict[str, Any]:
    found = run.scratch / "attention.json"
    shape = ["--heads", "8", "--heads-kv", "2", "--head-size", "64", "--budget", "256"] if run.small else []
    contexts = "256,1024" if run.small else "2048,4096,32768,131072"
    rounds = "3" if run.small else "50"
    command = [KIT / "bin" / "bench_attention", *shape, "--contexts", contexts, "--rounds", rounds, "--json", found]
    status, text = run.call(*command, limit=limit)
    rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    if not rows:
        check(status, text)
    run.parts[-1]["data"] = {"device": text.splitlines()[0], "rows": rows}
    check(status, text)
    return run.parts[-1]["data"]


def decode(run: Run, limit: float) -> dict[str, Any]:
    model = run.scratch / "random.gguf"
    shape = ["--shape", "qwen-0.5b", "--layers", "6", "--type", "q8_0"] if run.small else ["--type", "q8_0"]
    begin = time.monotonic()
    check(*run.call(sys.executable, KIT / "random_gguf.py", model, *shape, limit=90))
    made = time.monotonic() - begin
    found = run.scratch / "decode.json"
    command = [sys.executable, KIT / "decode.py", model, found, "--states", run.scratch, *(["--small"] * run.small)]
    status, text = run.call(*command, limit=limit - made)
    rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    run.parts[-1]["data"] = {"seconds_to_make_the_model": round(made, 1), "rows": rows}
    if status is None and rows:
        run.parts[-1]["data"]["says"] = "out of time: the rows are those that were ready"
    else:
        check(status, text)
    return run.parts[-1]["data"]


def greedy(run: Run, limit: float) -> dict[str, Any]:
    if run.model is None:
        raise SkippedError("no MODEL was given")
    n = "4" if run.small else "200"
    command = [KIT / "bin" / "test-gpu-greedy", run.model, n, *(["quest"] if run.small else [])]
    return {"says": check(*run.call(*command, limit=limit))}


# seconds at most
PARTS: dict[str, tuple[Callable[[Run, float], dict[str, Any]], float]] = {
    "ops": (ops, 60),
    "methods": (methods, 60),
    "memcheck": (sanitizer("memcheck"), 45),
    "racecheck": (sanitizer("racecheck"), 45),
    "attention": (attention, 60),
    "decode": (decode, 240),
    "greedy": (greedy, 60),
}


def environment() -> dict[str, str]:
    """With the kit's libraries and CUDA's: the system's, or those that other Python packages brought."""
    env = dict(os.environ)
    folders = [KIT / "python" / "lil" / "llama_cpp" / "lib"]
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or [] if spec else []:
        folders += sorted(Path(place).glob("*/lib"))
    folders += [Path("/usr/local/cuda/lib64")]
    env["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, folders), env.get("LD_LIBRARY_PATH", "")])
    env["PYTHONPATH"] = os.pathsep.join([str(KIT / "python"), env.get("PYTHONPATH", "")])
    env["PATH"] = os.pathsep.join([env.get("PATH", ""), "/usr/local/cuda/bin"])
    env["LIL_REQUIRE_GPU"] = "1"
    return env


def machine() -> dict[str, Any]:
    res: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.platform()}
    res["kit"] = (KIT / "VERSION").read_text().strip()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem"]
    try:
        done = subprocess.run([*query, "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=True)
        res["gpu"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        res["gpu"] = None
    return res


def roomy() -> str | None:
    """Memory, where there is room for a model and a state of 128k tokens."""
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 40 << 30 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=480)
    args = parser.parse_args()
    if args.model is not None and not args.model.exists():
        parser.error(f"{args.model}: no such file")
    args.out.mkdir(parents=True, exist_ok=True)

    with (
        (args.out / "log.txt").open("w") as log,
        tempfile.TemporaryDirectory(prefix="lil-gpu-", dir=roomy()) as scratch,
    ):
        deadline = time.monotonic() + args.seconds
        run = Run(args.out, args.small, args.model, deadline, environment(), log, Path(scratch))
        results = {"machine": machine(), "small": args.small, "parts": run.parts}
        for name in [name for name in PARTS if name in args.only]:
            what, limit = PARTS[name]
            part: dict[str, Any] = {"name": name}
            run.parts.append(part)
            begin = time.monotonic()
            try:
                if begin > deadline - 5:
                    raise SkippedError(f"the {args.seconds:.0f} seconds were over")
                part["data"] = what(run, limit)
                part["status"] = "ok"
            except SkippedError as error:
                part |= {"status": "skipped", "why": str(error)}
            except FailedError as error:
                part |= {"status": "failed", "why": str(error)}
            except Exception as error:  # noqa: BLE001 (one part must not cost the others)
                part |= {"status": "failed", "why": repr(error)}
            part["seconds"] = round(time.monotonic() - begin, 1)
            (args.out / "results.json").write_text(json.dumps(results, indent=1))
            print(f"{name:10} {part['status']:8} {part['seconds']:6.1f} s  {part.get('why', '')}", flush=True)
    return sum(part["status"] == "failed" for part in run.parts)


if __name__ == "__main__":
    sys.exit(main())
