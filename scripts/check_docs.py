"""python scripts/check_docs.py: whether what the documentation points at is there.

Links between Markdown files, with their headings, files named in backticks (`src/...`, `docs/...`), and pages that
comments in the code name (docs/gpu.md).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:benchmarks|cmake|docs|examples|python|scripts|src|tests|vendor|\.ci|\.github)/[\w./-]*\w)`")
IN_CODE = re.compile(r"\b(docs/[\w-]+\.md)\b")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def files(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "-co", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in names if (ROOT / name).exists()]


def anchors(text: str) -> set[str]:
    """The names of a page's headings, as links write them."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def wrong_in_page(page: Path) -> list[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for link in LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else page.parent / name
        if not target.exists():
            wrong.append(f"the link {link} leads nowhere")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            wrong.append(f"the link {link}: {target.name} has no such heading")
    for name in NAMED.findall(text):
        is_ours = "NAME" not in name and not name.startswith("vendor/llama.cpp")
        if is_ours and not (ROOT / name).exists():
            wrong.append(f"`{name}` is not there")
    return wrong


def main() -> int:
    wrong = [(page, what) for page in files("*.md") for what in wrong_in_page(page)]
    for file in files("*.py", "*.c", "*.h", "*.cpp", "*.cu", "*.metal", "*.cmake", "*CMakeLists.txt", "Makefile"):
        for name in IN_CODE.findall(file.read_text(encoding="utf-8")):
            if not (ROOT / name).exists():
                wrong.append((file, f"{name} is not there"))
    for file, what in wrong:
        print(f"{file.relative_to(ROOT)}: {what}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
