"""`lil bench`: the processes that measure, what they find on tiny models, and the files it is written to."""

from __future__ import annotations

import csv
import json
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from lil import ConfigError, NativeError, _calibration
from lil.cli import main
from lil.eval import bench, bench_plots, bench_runtimes, bench_worker
from lil.eval.bench_rows import BenchRow, read_bench, step_seconds
from lil.eval.bench_runtimes import PACKAGES, Worker, find_runtime
from lil.methods import METHODS
from reference import write_tiny

N_LAYER, N_HEAD_KV, HEAD_DIM = 6, 2, 32
TRAINED = 4096

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says what is looked for")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    return str(write_tiny(path, "llama", n_layer=N_LAYER, n_head_kv=N_HEAD_KV, head_dim=HEAD_DIM, n_ctx_train=TRAINED))


@pytest.fixture(autouse=True)
def calibrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_calibration.ENV, str(tmp_path / "mine.json"))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line with which a command ends that is not run."""
    capsys.readouterr()
    assert main(["bench", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if "warning: " not in line]
    assert len(lines) == 1
    assert lines[0].startswith("lil: ")
    return lines[0]


# bad input


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--methods", "snapkv"], ["--methods", "'snapkv'", "quest"]),
        (["--budgets", "many"], ["--budgets", "'many'"]),
        (["--methods", "quest", "--budgets", "8"], ["Quest: budget=8", "at least 16"]),
        (["--contexts", "8"], ["--contexts", "at least 16"]),
        (["--contexts", "4k"], ["--contexts", "'4k'"]),
        (["--contexts", "64,5000"], ["--contexts 5000", "trained for 4096"]),
        (["--prompt", "5000"], ["--prompt 5000", "trained for 4096"]),
        (["--prompt", "1"], ["--prompt 1", "at least 2"]),
        (["--rounds", "0"], ["--rounds"]),
        (["--json", "NOWHERE/x.json"], ["--json", "no directory"]),
        (["--csv", "FOLDER"], ["--csv", "is a directory"]),
        (["--plots", "FILE/plots"], ["--plots", "give a folder"]),
        (["--stock", "NOWHERE"], ["--stock", "No such file", "llama-cpp-python"]),
        (["--methods", "sink:capacity=100", "--budgets", "32", "--contexts", "1024"], ["capacity=100", "at least"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input(
    args: list[str], words: list[str], tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    names = {"NOWHERE": tmp_path / "nowhere", "FOLDER": tmp_path, "FILE": tmp_path / "file"}
    for name, path in names.items():
        args = [arg.replace(name, str(path)) for arg in args]
    line = refused(capsys, tiny, *(["--stock", "none"] if "--stock" not in args else []), "--ik", "none", *args)
    for word in words:
        assert word in line


def test_no_such_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = ["--stock", "none", "--ik", "none"]
    assert "does not exist" in refused(capsys, str(tmp_path / "none.gguf"), *without)
    (tmp_path / "text.gguf").write_text("no model")
    assert "not a GGUF file" in refused(capsys, str(tmp_path / "text.gguf"), *without)


def test_a_method_that_the_model_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_tiny(tmp_path / "one.gguf", "llama", n_layer=1))
    line = refused(capsys, path, "--methods", "lessismore", "--budgets", "32", "--stock", "none", "--ik", "none")
    assert "LessIsMore" in line
    assert "layers" in line


def test_a_python_without_the_package(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PACKAGES, "ik", bench_runtimes._Package("ik-llama-cpp-python", "no_such_runtime"))
    assert find_runtime("ik") is None
    line = refused(capsys, tiny, "--stock", "none", "--ik", sys.executable)
    assert f"--ik {sys.executable}: ik-llama-cpp-python cannot be used there" in line
    assert "No module named 'no_such_runtime'" in line


def test_plots_without_matplotlib(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_plots.importlib.util, "find_spec", lambda name: None)
    line = refused(capsys, tiny, "--plots", str(tmp_path / "plots"))
    assert 'pip install "lil-cpp[eval]"' in line
    assert not (tmp_path / "plots").exists()


# the processes that measure


def test_a_vocabulary_without_a_mark_for_spaces(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "no-mark.gguf"  # each space is three tokens
    path.write_bytes(Path(tiny).read_bytes().replace("\u2581".encode(), b"<_>"))
    assert (
        main(
            [
                "bench",
                str(path),
                *["--methods", "quest", "--budgets", "48", "--contexts", "64", "--prompt", "0", "--rounds", "1"],
                *["--steps", "1", "--threads", "1"],
            ]
        )
        == 0
    )


def test_batches() -> None:
    for n in range(1, 1100):
        parts = list(bench_worker.batches(0, n))
        assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])]
        assert parts[-1][1] == n
        lengths = [end - begin for begin, end in parts]
        assert max(lengths) <= bench_worker.N_BATCH


def test_every_method_is_sparse_where_it_is_measured(tiny: str, tmp_path: Path) -> None:
    with Worker("lil", tiny, threads=1) as worker:
        for name, method in {"full": None, **{name: make(budget=144) for name, make in METHODS.items()}}.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case = bench.Case(runtime=bench_runtimes.OURS, label=name, method=method)
            state = str(tmp_path / case.state(600))
            assert worker("fill", n=600, state=state, options=case.options, slot=name, room=600)
            assert worker("decode", n=1, slot=name) > 0
            before = worker("steps", slot=name)
            worker("decode", n=3, slot=name)
            after = worker("steps", slot=name)
            if method is None:
                assert (before, after) == (None, None)
            else:
                assert after - before == 3, name
            assert worker("prompt", n=100, options=case.options) > 0
        assert 1e6 < worker("peak", slot="full") < 4e9
    # the others go on from full attention's
    own = ["h2o", "infllm", "raas", "rkv", "sink", "tova"]
    states = {path.name for path in tmp_path.iterdir() if path.name.startswith("lil-")}
    assert states == {"lil-full-600", *(f"lil-{name}-144-600" for name in own)}


def test_a_process_that_ends(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(NativeError, match=r"measured lil ended \(status 1\): .*none.gguf: cannot be loaded"):
        Worker("lil", str(tmp_path / "none.gguf"), threads=1)
    with Worker("lil", tiny, threads=1) as worker:
        with pytest.raises(NativeError, match=r"status 1.*KeyError: 'nothing'"):
            worker("decode", n=1, slot="nothing")
        with pytest.raises(NativeError, match="ended"):
            worker("decode", n=1, slot="nothing")
    with Worker("lil", tiny, threads=1) as worker:
        worker.process.kill()
        with pytest.raises(NativeError, match="killed"):
            worker("decode", n=1)


@on_linux
@pytest.mark.parametrize("stops", [True, False])
def test_a_process_is_stopped_while_others_have_their_turn(
    stops: bool, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stops:  # as on Windows
        monkeypatch.delattr(signal, "SIGSTOP")

    def state() -> str:
        return Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    with Worker("lil", tiny, threads=1) as worker:
        for _ in range(2):
            assert worker("prompt", n=20, options={}) > 0
            until = time.monotonic() + (10 if stops else 0.2)
            while state() != "T" and time.monotonic() < until:  # it stops a moment after it was told to
                time.sleep(0.01)
            assert (state() == "T") is stops


# a run


@pytest.fixture(scope="module")
def run(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a run printed, and the folder of its files: full attention, H2O, Quest, and stock."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_calibration.ENV, str(folder / "mine.json"))
        patch.setitem(PACKAGES, "ik", bench_runtimes._Package("ik-llama-cpp-python", "no_such_runtime"))
        from lil.cli import app
        from typer.testing import CliRunner

        args = ["bench", tiny, "--methods", "h2o,quest", "--budgets", "96", "--contexts", "128,64", "--prompt", "64"]
        args += ["--rounds", "2", "--steps", "4", "--threads", "1", "--json", str(folder / "out.json")]
        args += ["--csv", str(folder / "out.csv"), "--plots", str(folder / "plots")]
        result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return result.stdout, folder


def test_tables(run: tuple[str, Path]) -> None:
    out = run[0]
    assert "A prompt of 64 tokens, median of 2" in out
    assert out.index("After 64 tokens") < out.index("After 128 tokens")
    assert "llama-cpp-python 0." in out
    assert "Not measured: ik-llama-cpp-python" in out
    assert "--ik PYTHON" in out
    assert "h2o:capacity=" in out
    assert "Only these ratios mean much" in out
    short, long = out.split("After 64 tokens")[1].split("After 128 tokens")
    for name in ("h2o 96", "quest 96"):
        assert f"{name} (dense)" in short
        assert name in long
        assert f"{name} (dense)" not in long


def test_json(run: tuple[str, Path], tiny: str) -> None:
    record = json.loads((run[1] / "out.json").read_text())
    assert record["kind"] == "bench"
    assert record["model"]["file"] == Path(tiny).name
    assert record["options"]["contexts"] == [64, 128]
    assert set(record["options"]["runtimes"]) == {"stock"}
    rows = read_bench(run[1] / "out.json")
    assert [row.to_record() for row in rows] == record["results"]

    found = {(row.runtime, row.case, row.measure, row.context): row for row in rows}
    assert len(found) == len(rows)
    cases = [("lil", "full"), ("lil", "h2o 96"), ("lil", "quest 96"), ("stock", "full")]
    wanted = {(*case, measure, n) for case in cases for measure in ("decode", "peak_bytes") for n in (64, 128)}
    wanted |= {(*case, "kv_bytes", n) for case in cases[:3] for n in (64, 128)}
    wanted |= {(*case, "prompt", 64) for case in cases}
    assert set(found) == wanted

    for (_, case, measure, n), row in found.items():
        assert 0 < row.low <= row.value <= row.high
        assert row.ratio is not None
        assert row.ratio == pytest.approx(row.value / found["lil", "full", measure, n].value)
        assert row.ratio_low is not None
        assert row.ratio_high is not None
        assert 0 < row.ratio_low <= row.ratio_high
        assert row.dense == (measure == "decode" and case != "full" and n == 64)
        unit = "bytes" if measure.endswith("bytes") else "seconds"
        assert row.to_record()[unit] == row.value


def test_equal_things_measure_alike(run: tuple[str, Path]) -> None:
    found = {(r.runtime, r.case, r.measure, r.context): r for r in read_bench(run[1] / "out.json")}
    # wide, and the fastest rounds: the steps are short, and others use the machine
    full = {n: found["lil", "full", "decode", n].low for n in (64, 128)}
    for case in ("h2o 96", "quest 96"):
        assert 0.2 < found["lil", case, "decode", 64].low / full[64] < 5
    for n in (64, 128):
        assert 0.2 < found["stock", "full", "decode", n].low / full[n] < 5
        assert 0.5 < found["stock", "full", "peak_bytes", n].ratio < 2
        # keys and values, F16, of the 256 cells that llama.cpp allocates at least
        kv = 256 * N_LAYER * N_HEAD_KV * 2 * HEAD_DIM * 2
        assert found["lil", "full", "kv_bytes", n].value == kv
        assert 1 < found["lil", "quest 96", "kv_bytes", n].ratio < 1.5
    assert 0.1 < found["stock", "full", "prompt", 64].low / found["lil", "full", "prompt", 64].low < 10


def test_csv(run: tuple[str, Path]) -> None:
    with open(run[1] / "out.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = read_bench(run[1] / "out.json")
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert (line["runtime"], line["method"], line["measure"]) == (row.runtime, row.method, row.measure)
        assert line["budget"] == ("" if row.budget is None else str(row.budget))
        unit, other = ("bytes", "seconds") if row.measure.endswith("bytes") else ("seconds", "bytes")
        assert float(line[unit]) == row.value
        assert line[other] == ""


def test_plots(run: tuple[str, Path], tmp_path: Path) -> None:
    names = ["decode", "decode-ratio", "kv", "peak", "prompt"]
    folder = run[1] / "plots"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{n}.{kind}" for n in names for kind in ("png", "svg")
    )
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    rows = read_bench(run[1] / "out.json")
    for i in range(2):  # the same rows, the same picture
        (tmp_path / str(i)).mkdir()
        bench_plots.write_plots(str(tmp_path / str(i)), rows, title="tiny", names={})
    assert (tmp_path / "0/decode.svg").read_bytes() == (tmp_path / "1/decode.svg").read_bytes()


def test_memory_of_a_bounded_cache(tiny: str) -> None:
    """A capacity shows in the cache's bytes, before anything is run."""
    method = METHODS["sink"](budget=64, capacity=1024, kept_prompts=0)  # type: ignore[call-arg]
    plan = bench.make_plan(tiny, [("full", None), ("sink", method)], contexts=[4096], threads=1)
    full, sink = (case.kv_bytes[4096] for case in plan.cases)
    assert full / sink == pytest.approx(4, rel=0.1)
    assert plan.prompt == 1024
    assert bench.keeps_n_ctx(plan) == []
    defaults = bench.make_plan(tiny, [("full", None)], threads=1)
    assert defaults.contexts == [1024, 4096]  # the model was trained for no more


# the rows


def make_row(context: int, value: float, **fields: Any) -> BenchRow:
    known: dict[str, Any] = {"runtime": "lil", "method": "full", "budget": None, "measure": "decode"}
    known |= {"low": value, "high": value, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0} | fields
    return BenchRow(context=context, value=value, **known)


def test_step_seconds() -> None:
    rows = [
        make_row(4096, 0.04),
        make_row(1024, 0.01),
        make_row(1024, 0.005, method="quest", budget=64),
        make_row(1024, 9.0, runtime="stock"),
        make_row(2048, 9.0, measure="prompt"),
    ]
    assert step_seconds(rows, "full", None, 100) == pytest.approx(0.01)
    assert step_seconds(rows, "full", None, 1024) == pytest.approx(0.01)
    assert step_seconds(rows, "full", None, 2560) == pytest.approx(0.025)
    assert step_seconds(rows, "full", None, 8192) == pytest.approx(0.08)
    assert step_seconds(rows, "quest", 64, 8192) == pytest.approx(0.005)
    falling = [make_row(1024, 0.02), make_row(2048, 0.01)]
    assert step_seconds(falling, "full", None, 1e6) == pytest.approx(0.01)
    with pytest.raises(ConfigError, match="quest 128 was measured, there is: full, quest 64; lil bench"):
        step_seconds(rows, "quest", 128, 100)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "bench"}', '{"kind": "bench", "results": [{}]}'])
def test_a_damaged_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not what lil bench --json writes"):
        read_bench(path)


def test_another_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    with pytest.raises(ConfigError, match="No such file"):
        read_bench(path)
    path.write_text('{"kind": "ppl", "results": []}')
    with pytest.raises(ConfigError, match="lil ppl wrote it"):
        read_bench(path)
