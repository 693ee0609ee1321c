"""The runner of `make gpu-kit`, and the tables made of what it writes. With programs that end, fail or hang."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the kit is for Linux")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit of two programs, in a copy of the runner."""
    kit = tmp_path / "kit"
    (kit / "bin").mkdir(parents=True)
    (kit / "VERSION").write_text("abc\n")
    for name in ("run.py", "run.sh"):
        shutil.copy2(ROOT / "scripts" / "gpu" / name, kit)
    shutil.copy2(ROOT / "tests" / "python" / "reference" / "gguf_models.py", kit)
    program(kit, "test-gpu-ops", "echo 12 nodes: ok")
    program(kit, "test-gpu-methods", "echo quest differs; exit 1")
    return kit


def program(kit: Path, name: str, body: str) -> None:
    path = kit / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def run(kit: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [str(kit / "run.sh"), str(kit / "out"), *arguments]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    results = json.loads((kit / "out" / "results.json").read_text())
    assert results["machine"]["kit"] == "abc"
    return done.returncode, {part["name"]: part for part in results["parts"]}


def test_a_part_that_fails_costs_the_others_nothing(kit: Path) -> None:
    status, parts = run(kit, "--only", "methods", "ops", "greedy")
    assert status == 1
    assert list(parts) == ["ops", "methods", "greedy"]
    assert parts["ops"]["status"] == "ok"
    assert parts["ops"]["data"]["says"] == "12 nodes: ok"
    assert parts["methods"]["status"] == "failed"
    assert "quest differs" in parts["methods"]["why"]
    assert parts["greedy"]["status"] == "skipped"
    assert "$ " in (kit / "out" / "log.txt").read_text()


def test_a_part_that_hangs_is_ended_with_all_that_it_started(kit: Path) -> None:
    program(kit, "test-gpu-ops", f"(sleep 8; touch {kit}/late) & echo begun; wait")
    status, parts = run(kit, "--only", "ops", "methods", "--seconds", "6.5")
    assert status == 1
    assert parts["ops"]["status"] == "failed"
    assert parts["ops"]["why"].startswith("out of time")
    assert "begun" in parts["ops"]["why"]
    assert parts["methods"]["status"] == "skipped"
    assert "over" in parts["methods"]["why"]
    subprocess.run(["sleep", "2.5"], check=True)
    assert not (kit / "late").exists()


def test_no_device_is_no_success(kit: Path) -> None:
    program(kit, "test-gpu-ops", "echo skipped: no device of this build has ops; exit 77")
    _, parts = run(kit, "--only", "ops")
    assert parts["ops"]["status"] == "skipped"
    assert "no device" in parts["ops"]["why"]


RESULTS: dict[str, Any] = {
    "machine": {"gpu": "NVIDIA H200, 570.1, 143771 MiB", "python": "3.12.1", "kit": "abc"},
    "small": False,
    "parts": [
        {"name": "ops", "status": "ok", "seconds": 3.0, "data": {"says": "3500 nodes: ok"}},
        {
            "name": "attention",
            "status": "ok",
            "seconds": 9.0,
            "data": {
                "device": "CUDA0",
                "rows": [
                    {
                        "context": n,
                        "budget": 2048,
                        "what": what,
                        "us": 10.0,
                        "ratio": ratio,
                        "ratio_low": ratio - 0.1,
                        "ratio_high": ratio + 0.1,
                        "bytes": 1,
                        "share": 0.5,
                    }
                    for n, what, ratio in [(32768, "Quest", 5.5), (131072, "Quest", 9.0), (2048, "Sink", 1.0)]
                ],
            },
        },
        {
            "name": "decode",
            "status": "failed",
            "seconds": 9.0,
            "why": "out of time",
            "data": {
                "rows": [
                    {
                        "context": 131072,
                        "budget": 2048,
                        "graphs": True,
                        "method": "Quest",
                        "seconds": 0.005,
                        "ratio": 0.5,
                        "low": 0.4,
                        "high": 0.6,
                    }
                ]
            },
        },
    ],
}


def test_tables_name_the_card_and_what_was_missed(tmp_path: Path) -> None:
    results = load(ROOT / "scripts" / "gpu_results.py")
    text = results.render(RESULTS)
    assert text.startswith("NVIDIA H200")
    assert "| Quest, attention at 32k | 5.00 x full attention's speed | 5.50 | met |" in text
    assert "| Quest, attention at 128k | 10.00 x full attention's speed | 9.00 | missed |" in text
    assert "| H2O, attention at 2k | 0.95 x full attention's speed |  | not measured |" in text
    assert "| Quest, decode at 128k | 1.6 x | 2.00 | met |" in text
    assert "| decode | failed | 9.0 | out of time |" in text

    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    results.write(page, text)
    results.write(page, text)
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith(f"{results.END}\nafter\n")
    assert written.count("NVIDIA H200") == 1
    assert "old" not in written
    with pytest.raises(ValueError, match="needs the lines"):
        results.write(ROOT / "README.md", text)


def test_the_page_has_the_marks() -> None:
    results = load(ROOT / "scripts" / "gpu_results.py")
    text = results.PAGE.read_text()
    assert text.count(results.BEGIN) == text.count(results.END) == 1


def test_bad_input_is_an_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    for path in (bad, tmp_path / "none.json"):
        command = [sys.executable, str(ROOT / "scripts" / "gpu_results.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert path.name in done.stderr
        assert "Traceback" not in done.stderr
