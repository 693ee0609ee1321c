#!/usr/bin/env python3
"""Run a long command with its progress in sight: step.py TITLE LOG -- COMMAND...

All output goes to the file LOG. Shown are our own messages, a build's counter every few percent, a sign of life where
nothing else was shown for 15 seconds, and, if the command fails, the errors and the end of the log.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

COUNTER = re.compile(r"^\s*\[(\d+)/(\d+)\] ")
OURS = re.compile(r"^\s*lil: |^\s*(Downloading|Collecting) |^\s*\*\*\* ")
ERROR = re.compile(r"(^|\s)(fatal )?error\b|CMake Error|ERROR:|FAILED:", re.IGNORECASE)


def main() -> int:
    title, log = sys.argv[1], Path(sys.argv[2])
    command = sys.argv[sys.argv.index("--") + 1 :]
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = shown = time.monotonic()
    tenth = -1
    last = ""

    def show(text: str) -> None:
        nonlocal shown
        shown = time.monotonic()
        print(f"  {int(shown - begin):4d} s  {text}", flush=True)

    print(f"lil: {title} (log: {log})", flush=True)
    with log.open("w", encoding="utf-8", errors="replace") as out:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       errors="replace")  # fmt: skip
        except OSError as e:
            print(f"lil: {title}: cannot run {command[0]}: {e.strerror}", file=sys.stderr)
            return 127
        done = threading.Event()

        def tick() -> None:
            while not done.wait(1):
                if time.monotonic() - shown >= 15:
                    show(last[:100] or "...")

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            out.flush()
            line = line.strip()
            if match := COUNTER.match(line):
                n, total = int(match[1]), int(match[2])
                last = f"[{n}/{total}]"
                if n * 20 // max(total, 1) != tenth or n == total:
                    tenth = n * 20 // max(total, 1)
                    show(last)
            elif OURS.match(line):
                show(line)
        process.wait()
        done.set()
        ticker.join()
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if ERROR.search(line)][:10]
        print("\n".join(["", *lines[-40:], "", f"lil: {title} failed; first errors:", *errors, f"(all of it: {log})"]),
              file=sys.stderr)  # fmt: skip
        return process.returncode if process.returncode > 0 else 1
    show("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
