"""Upstream's own tests of llama-server, on ours and on the unpatched one, side by side.

    make stock-server
    python scripts/server_tests.py .cache/models/tiny-llama.gguf --stock build/stock-server/bin/llama-server
        [--infill MODEL.gguf] [--ours FILE] [-k EXPRESSION] [--write docs/doors-tests.md]

The tests come from the pinned source distribution at run time. They want models from Hugging Face; in their place stand
a small one and one that fills in (scripts/local_models.py says which for what), so that what looks for the words of a
certain model fails with both servers, and what no model stands for is skipped.
What ends otherwise with ours than with upstream's is run again, --again times, with both; it is a regression where ours
never passes and upstream's does. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import vendor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDERS = ("vendor/llama.cpp/tools/server/tests/", "vendor/llama.cpp/models/templates/")
OTHERWISE = {  # what is meant to end otherwise with ours
    "unit/test_compat_anthropic.py::test_anthropic_tool_result_with_image": "wants 500 for an image, which is 400",
    "unit/test_compat_anthropic.py::test_anthropic_vision_format_accepted": "wants 500 for an image, which is 400",
}
# of upstream's requirements: those that its unit tests import
NEEDED = ("aiohttp", "filelock", "numpy", "openai", "prometheus-client", "pytest", "requests", "wget")


@dataclass
class Result:
    what: str  # passed, failed or skipped
    why: str


def unpack(folder: Path) -> Path:
    with tarfile.open(vendor.fetch()) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if member.isfile() and name.startswith(FOLDERS):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                data = archive.extractfile(member)
                assert data is not None
                path.write_bytes(data.read())
    return folder / FOLDERS[0]


def make_environment(tests: Path) -> Path:
    """An environment with what the tests import, in the build tree."""
    folder = ROOT / "build" / "server-tests"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = [line for line in (tests / "requirements.txt").read_text().split() if line.startswith(NEEDED)]
        wanted = [line for line in wanted if not line.startswith("pytest-")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / ".ready").touch()
    return python


def why(case: ElementTree.Element) -> Result:
    for child in case:
        if child.tag == "skipped":
            return Result("skipped", (child.get("message") or "").strip())
        if child.tag in ("failure", "error"):
            lines = (child.get("message") or child.text or "").strip().splitlines()
            return Result("failed", lines[0][:160] if lines else "")
    return Result("passed", "")


def run(python: Path, tests: Path, server: str, models: dict[str, str], select: list[str]) -> dict[str, Result]:
    """The results by test."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("LIL_SPARSE", "LIL_GUARDIAN")},
            "LLAMA_SERVER_BIN_PATH": str(Path(server).resolve()),
            **models,
            "PYTHONPATH": os.pathsep.join((str(tests), str(HERE))),
        }
        command = [python, "-m", "pytest", "-q", "-p", "local_models", "-p", "no:cacheprovider", f"--junitxml={report}"]
        with Path(folder, "log").open("w") as log:
            subprocess.run([*command, *select], cwd=tests, env=environment, stdout=log, stderr=log, check=False)
        if not report.exists():
            raise SystemExit(Path(folder, "log").read_text(errors="replace")[-3000:])
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}": why(case) for case in cases}


def count(results: dict[str, Result], file: str) -> list[str]:
    counts = Counter(result.what for name, result in results.items() if name.startswith(file))
    return [str(counts[what]) for what in ("passed", "failed", "skipped")]


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reason(text: str) -> str:
    """Without addresses and paths, and the numbers that assertions compare."""
    text = re.sub(r"https?://\S*/", "", text)
    text = re.sub(r"(?<![\w.-])/[\w.-]+/\S*", "..", text)
    if not text.startswith(("no local", "downloads")):
        text = re.sub(r"(?<![\w.])-?\d+(\.\d+)?(?![\w.])", "N", text)
    return text if len(text) <= 100 else text[:100] + " ..."


def table(ours: dict[str, Result], stock: dict[str, Result], regressions: list[str], unsteady: list[str]) -> str:
    files = sorted({name.partition("::")[0] for name in (*ours, *stock)})
    lines = [row("file", "ours: passed", "failed", "skipped", "upstream's: passed", "failed", "skipped")]
    lines += [row(*["---"] * 7)]
    lines += [row(file.removeprefix("unit/"), *count(ours, file), *count(stock, file)) for file in files]
    lines += [row("all", *count(ours, ""), *count(stock, "")), ""]
    said = [
        "Passed by upstream's and never by ours: " + (", ".join(f"`{name}`" for name in regressions) or "none") + ".",
        "Meant to end otherwise: " + "; ".join(f"`{name}` {text}" for name, text in OTHERWISE.items()) + ".",
        "Ended otherwise at first, and not always: " + (", ".join(f"`{name}`" for name in unsteady) or "none") + ".",
    ]
    for text in said:
        lines += [*textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False), ""]
    for what in ("failed", "skipped"):
        reasons = Counter(reason(result.why) for result in ours.values() if result.what == what)
        lines += [f"Why {what}, with ours:", "", row("tests", "reason"), row("---", "---")]
        lines += [row(str(n), f"`{text}`" if text else "") for text, n in reasons.most_common()] + [""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--infill", type=Path, help="a model with tokens to fill in, such as Qwen2.5-Coder")
    parser.add_argument("--stock", required=True)
    parser.add_argument("--ours")
    parser.add_argument("-k", default="", help="as pytest's")
    parser.add_argument("--again", type=int, default=2)
    parser.add_argument("--write", type=Path, help="put the tables behind the heading Results of this page")
    args = parser.parse_args()
    if args.ours is None:
        from lil._programs import program

        args.ours = program("llama-server")

    models = {"LIL_SMALL": str(args.model.resolve()), "LIL_INFILL": str(args.infill.resolve()) if args.infill else ""}
    with tempfile.TemporaryDirectory() as folder:
        tests = unpack(Path(folder))
        python = make_environment(tests)
        results = {}
        for name, server in (("ours", args.ours), ("stock", args.stock)):
            results[name] = run(python, tests, server, models, ["-k", args.k] if args.k else [])
            print(name, *count(results[name], ""), flush=True)
        ours, stock = results["ours"], results["stock"]
        regressions, unsteady = [], []
        for name in sorted(set(ours) | set(stock)):
            if name in OTHERWISE or (name in ours and name in stock and ours[name].what == stock[name].what):
                continue
            runs = [
                [run(python, tests, server, models, [name]).get(name, Result("failed", "")).what
                 for _ in range(args.again)]
                for server in (args.ours, args.stock)
            ]  # fmt: skip
            print(name, "ours", runs[0], "upstream's", runs[1], flush=True)
            ever = ["passed" in found for found in runs]
            (regressions if ever[1] and not ever[0] else unsteady).append(name)
    text = table(ours, stock, regressions, unsteady)
    print(text)
    if args.write:
        head = args.write.read_text(encoding="utf-8").partition("## Results\n")[0]
        args.write.write_text(f"{head}## Results\n\n{text}", encoding="utf-8")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
