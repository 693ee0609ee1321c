"""`lil models`, models by Hugging Face's names (against a hub of this test's own), and `lil doctor`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import lil
import pytest
from lil import _hub, _machine
from lil.cli import app
from reference.gguf_models import write_tiny
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty ones, where the user's own would be."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "xdg"


def put(hub: Path, repo: str, *files: str, revision: str = "aaaa", main: bool = True) -> Path:
    """Files as the hub's library lays them out: links to blobs."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    for file in files:
        blob = folder / "blobs" / hashlib.sha256(f"{revision}{file}".encode()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"x" * 2**20)
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).symlink_to(blob)
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return snapshot


def test_quant() -> None:
    for file, want in {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "Q4_1",
        "model-Q4_K_M-00001-of-00003.gguf": "Q4_K_M",
        "UD-Q2_K_XL/big-q8_0.gguf": "Q8_0",
        "model.gguf": "",
    }.items():
        assert _hub.quant(file) == want


def test_what_is_in_the_caches(caches: Path) -> None:
    hub = caches / "huggingface" / "hub"
    (hub / "models--only--config" / "snapshots" / "a").mkdir(parents=True)
    put(hub, "ann/a-GGUF", "a-Q8_0.gguf", "a-Q4_K_M.gguf", "mmproj-a-F16.gguf", "config.json")
    old = put(hub, "bob/b", "b-Q4_0.gguf", "old-Q4_1.gguf", main=False)
    new = put(hub, "bob/b", "b-Q4_0.gguf", revision="0000")
    put(hub, "cy/split", *_hub.parts("deep/c-F16-00001-of-00003.gguf"))
    put(hub, "dee/same", "x-Q4_0.gguf", "y-Q4_0.gguf", "z.gguf")
    for file in (
        caches / "llama.cpp" / "eve_e_e-Q4_0.gguf",
        Path(".cache/models/mine.gguf"),
        Path(".cache/some/other/program/deep.gguf"),
    ):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 2**21)
    found = {model.name: model for model in _hub.found()}
    assert {name: model.size // 2**20 for name, model in found.items()} == {
        "hf:ann/a-GGUF:Q4_K_M": 1,
        "hf:ann/a-GGUF:Q8_0": 1,
        "hf:bob/b:Q4_0": 1,
        "hf:bob/b:Q4_1": 1,
        "hf:cy/split:F16": 3,
        "hf:dee/same:x-Q4_0.gguf": 1,
        "hf:dee/same:y-Q4_0.gguf": 1,
        "hf:dee/same:z.gguf": 1,
        str(caches / "llama.cpp" / "eve_e_e-Q4_0.gguf"): 2,
        ".cache/models/mine.gguf": 2,
    }
    assert {model.cache for model in found.values()} == {"Hugging Face", "llama.cpp", ".cache"}
    for name, model in found.items():  # every name means its own file
        assert _hub.resolve(name) == model.path

    assert _hub.resolve("hf:bob/b:q4_0") == str(new / "b-Q4_0.gguf")
    assert _hub.resolve("hf:Bob/B:old*") == str(old / "old-Q4_1.gguf")
    assert _hub.resolve("hf:ann/a-gguf").endswith("a-Q4_K_M.gguf")
    assert _hub.resolve("hf:dee/same").endswith("x-Q4_0.gguf")
    assert _hub.resolve("models/any.gguf") == "models/any.gguf"

    shown = CliRunner().invoke(app, ["models"]).stdout
    assert all(name in shown for name in found)


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LLAMA_CACHE", "HF_HOME"])
def test_where_caches_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert _hub.found() == []
    assert "lil models get OWNER/REPO:QUANT" in CliRunner().invoke(app, ["models"]).stdout
    put(tmp_path / "mine" / ("hub" if name == "HF_HOME" else ""), "ann/a", "a-Q8_0.gguf")
    monkeypatch.setenv(name, str(tmp_path / "mine"))
    assert [model.name for model in _hub.found()] == ["hf:ann/a:Q8_0"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("hf:ann", "'ann' is no repository; give hf:owner/repo or hf:owner/repo:quant"),
        ("hf:../x/y", "is no repository"),
        ("hf:ann/a:Q4_0", "is in no cache and cannot be fetched: .*; lil models lists what is here"),
    ],
)
@pytest.mark.parametrize("command", [["run", "MODEL", "hi"], ["ppl", "MODEL", "text"], ["models", "get", "MODEL"]])
def test_names_that_mean_nothing(command: list[str], model: str, said: str) -> None:
    pytest.importorskip("huggingface_hub")
    result = CliRunner().invoke(app, [model if word == "MODEL" else word for word in command])
    assert result.exit_code == 2
    assert re.search(said, " ".join(result.stderr.split()))


class Hub(BaseHTTPRequestHandler):
    """As much of huggingface.co as a download takes."""

    files: ClassVar[dict[str, bytes]] = {}
    fetched: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api, file = "/api/models/ann/tiny", path.removeprefix("/ann/tiny/resolve/main/")
        if path.startswith(f"{api}/tree/main"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "1"} for name, data in self.files.items()
            ]
            self._answer(json.dumps(entries).encode())
        elif path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(json.dumps({"id": "ann/tiny", "sha": "a" * 40, "siblings": siblings}).encode())
        elif file in self.files:
            if self.command == "GET":
                self.fetched.append(file)
            self._answer(self.files[file])
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process whose hub is this one."""
    pytest.importorskip("huggingface_hub")
    Hub.files = {"README.md": b"", "tiny-mmproj-Q4_0.gguf": b"GGUF"}
    for n_layer, name in enumerate(("tiny-Q8_0.gguf", "tiny-Q4_0.gguf"), 1):
        write_tiny(tmp_path / "tiny.gguf", "llama", n_layer=n_layer)
        Hub.files[name] = (tmp_path / "tiny.gguf").read_bytes()
    Hub.fetched = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
    server.shutdown()
    thread.join()
    server.server_close()


def test_get(hub: dict[str, str], caches: Path) -> None:
    def lil_(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "lil", *args], env=hub, capture_output=True, text=True)

    got = lil_("models", "get", "ann/tiny")
    assert got.returncode == 0, got.stderr
    assert Path(got.stdout.strip()).read_bytes() == Hub.files["tiny-Q8_0.gguf"]
    assert "fetching tiny-Q8_0.gguf of ann/tiny" in got.stderr and str(caches) in got.stdout
    assert lil_("models", "get", "hf:ann/tiny:Q8_0").stdout == got.stdout
    ran = lil_("run", "hf:ann/tiny:q4_0", "Once", "--raw", "--temp", "0", "-n", "4", "-c", "64")
    assert ran.returncode == 0 and len(ran.stdout) >= 4, ran.stderr
    assert Hub.fetched == ["tiny-Q8_0.gguf", "tiny-Q4_0.gguf"]
    refused = lil_("run", "hf:ann/tiny:Q2_K", "hi")
    assert refused.returncode == 2
    assert "ann/tiny has no Q2_K; it has tiny-Q8_0.gguf, tiny-Q4_0.gguf" in refused.stderr
    assert "hf:ann/tiny:Q4_0" in lil_("models").stdout


@pytest.mark.parametrize("images", [False, True])
def test_a_projector_beside_the_model(hub: dict[str, str], images: bool) -> None:
    """`lil serve` takes images."""
    code = f"from lil import _hub; print(_hub.projector(_hub.resolve('hf:ann/tiny:Q4_0', images={images})))"
    done = subprocess.run([sys.executable, "-c", code], env=hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == ("tiny-mmproj-Q4_0.gguf" if images else "None")
    assert Hub.fetched == ["tiny-Q4_0.gguf", *["tiny-mmproj-Q4_0.gguf"] * images]


def test_from_pretrained(hub: dict[str, str]) -> None:
    code = "import lil; print(lil.Llama.from_pretrained('ann/tiny', '*Q8_0.gguf', n_ctx=64, verbose=False).model_path)"
    done = subprocess.run([sys.executable, "-c", code], env=hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("tiny-Q8_0.gguf") and Hub.fetched == ["tiny-Q8_0.gguf"]


# lil doctor


def test_doctor(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for word in (lil.__version__, "processors", "vector code", "memory", "device CPU"):
        assert word in result.stdout
    path = str(tmp_path / "tiny.gguf")
    write_tiny(tmp_path / "tiny.gguf", "llama", n_layer=3)
    result = CliRunner().invoke(app, ["doctor", path])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["model"].startswith("llama, ")
    assert set(lines["methods"].split(", ")) == set(lil.METHODS)
    assert "TidalDecode: this model has not been calibrated; re-selection layer 2 of 3 is a guess" in result.stdout
    write_tiny(tmp_path / "tiny.gguf", "llama", n_layer=1)
    result = CliRunner().invoke(app, ["doctor", path])
    assert re.search(r"not tidal +no context for TidalDecode", result.stdout)
    assert not re.search(r"methods.*tidal", result.stdout)


SOUND = _machine.Machine(
    cpu="A processor",
    processors=8,
    threads=8,
    has=["AVX2", "FMA"],
    built=["AVX2", "FMA", "AVX512"],
    devices=[],
    memory=(16 << 30, 8 << 30),
    swapped=0,
    busy=0.5,
    governor="performance",
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"memory": None, "swapped": None, "busy": None, "governor": None}, None),
        ({"has": ["AVX2", "FMA", "F16C"]}, "has F16C, and this build does not use it"),
        ({"has": [], "built": ["SSE3"]}, "no vector code"),
        ({"has": [], "built": ["NEON"]}, None),
        ({"built": ["AVX2", "FMA", "OPENMP"]}, "OpenMP's threads, which spin"),
        ({"idle_gpus": ["CUDA"]}, "-DGGML_CUDA=ON"),
        ({"busy": 4.5}, "4.5 processes wanted to run at once"),
        ({"memory": (16 << 30, 1 << 30)}, "of 16384 MiB memory 1024 MiB are left"),
        ({"swapped": 2 << 30}, "2048 MiB of memory lie in swap"),
        ({"governor": "powersave"}, "governor powersave"),
        ({"governor": "powersave", "cpu": "Intel(R) Core"}, None),
    ],
)
def test_what_is_slow(change: dict[str, Any], said: str | None) -> None:
    warned = list(_machine.slow(dataclasses.replace(SOUND, **change)))
    assert len(warned) == (said is not None)
    assert said is None or said in warned[0]


def test_look(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, text in {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma\n\nmodel name\t: Another\n",
        "proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 40 kB\nSwapTotal: 9 kB\nSwapFree: 4 kB\nHugePages_Total: 0\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "dev/nvidia0": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    machine = _machine.look(str(root))
    assert (machine.cpu, list(machine.has), machine.governor) == ("Some CPU", ["AVX2", "FMA"], "powersave")
    assert (machine.memory, machine.swapped) == ((102400, 40960), 5120)
    assert machine.idle_gpus == ([] if any("CUDA" in device.name for device in machine.devices) else ["CUDA"])
    assert any(device.name == "CPU" for device in machine.devices) and machine.threads >= 1
    nothing = _machine.look(str(tmp_path / "nowhere"))
    assert (nothing.memory, nothing.swapped, nothing.governor, list(nothing.has)) == (None, None, None, [])
