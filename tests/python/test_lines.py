"""Lines end at 120 columns, so that a diff can be read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST = 120
TEXT = {".c", ".cpp", ".cu", ".h", ".metal", ".py", ".md", ".cmake", ".toml", ""}
NOT = ("tests/data/", "vendor/patches/", "LICENSE")  # what others wrote


def test_lines() -> None:
    try:
        files = ["git", "ls-files", "-co", "--exclude-standard"]  # also what is not added yet
        listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    long: list[str] = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in TEXT or name.startswith(NOT) or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            # of Markdown, tables and commands have lines of their own
            prose = path.suffix != ".md" or not line.startswith(("|", "    "))
            if len(line) > MOST and prose:
                long.append(f"{name}:{number}: {len(line)}")
    assert not long
