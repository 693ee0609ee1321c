"""Patches as vendor/patches has them: read, and applied strictly.

A patch is a text that says why, then a unified diff. Lines may have moved, but every context line and every removed
line must be there, and the place must be the only one possible; of several, the one in the function that the hunk
names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class VendorError(Exception):
    """Something that the user must know; printed without a traceback."""


@dataclass
class Hunk:
    start: int  # line number in the old file, 1-based; of the line before an insertion into nothing
    within: str = ""  # the function or class that it belongs to, as HEADING finds it
    old: list[str] = field(default_factory=list)  # lines with their ends
    new: list[str] = field(default_factory=list)


@dataclass
class FilePatch:
    path: str
    create: bool
    hunks: list[Hunk] = field(default_factory=list)


@dataclass
class Patch:
    name: str  # group/file name
    header: str
    files: list[FilePatch]


_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)")

_DEFINITION = re.compile(r"( *)(?:async def|class|def) (\w+)")


def heading(lines: list[str], i: int, path: str) -> str:
    """What line i of a file lies in: the line that begins the function, the first parameter with it where that is on a
    line of its own; of Python, the names of the classes and functions. Empty: nothing."""
    if path.endswith(".py"):
        names: list[str] = []
        rest = next((line for line in lines[i:] if line.strip()), "")
        indent = len(rest) - len(rest.lstrip())
        for line in reversed(lines[:i]):
            match = _DEFINITION.match(line)
            if match and len(match[1]) < indent:
                names.insert(0, match[2])
                indent = len(match[1])
        return ".".join(names)
    for j in range(i - 1, -1, -1):
        if re.match(r"[A-Za-z_$@]", lines[j]) and not lines[j].startswith(("public:", "protected:", "private:")):
            more = lines[j + 1].strip() if lines[j].rstrip().endswith("(") and j + 1 < len(lines) else ""
            return f"{lines[j].strip()} {more}".strip()[:120].rstrip()
    return ""


def parse_patch(name: str, text: str) -> Patch:
    """Read a patch. Anything before the first `--- ` is its header; `diff` and `index` lines are ignored."""
    lines = text.splitlines(keepends=True) if "\r" not in text else re.findall(r"[^\n]*\n|[^\n]+$", text)
    files: list[FilePatch] = []
    header: list[str] = []
    i = 0

    def fail(what: str) -> VendorError:
        return VendorError(f"patch {name}, line {i + 1}: {what}")

    while i < len(lines):
        line = lines[i]
        if line.startswith("--- ") and i + 1 < len(lines) and lines[i + 1].startswith("+++ "):
            old, new = (s[4:].split("\t")[0].strip() for s in (line, lines[i + 1]))
            if new == "/dev/null":
                raise fail("removes a file, which is not supported")
            if not new.startswith("b/"):
                raise fail(f"path {new!r} does not begin with b/")
            files.append(FilePatch(path=new[2:], create=old == "/dev/null"))
            i += 2
        elif line.startswith("@@ "):
            match = _HUNK.match(line)
            if not match or not files:
                raise fail("malformed hunk")
            start = int(match[1])
            n_old, n_new = (int(match[g] or 1) if match[g] != "0" else 0 for g in (2, 4))
            hunk = Hunk(start, within=match[5].strip())
            i += 1
            while len(hunk.old) < n_old or len(hunk.new) < n_new:
                if i >= len(lines) or lines[i][0] not in " +-\n":
                    raise fail("hunk ends early")
                sign, body = (" ", lines[i]) if lines[i] == "\n" else (lines[i][0], lines[i][1:])
                if sign in " -":
                    hunk.old.append(body)
                if sign in " +":
                    hunk.new.append(body)
                last = sign
                i += 1
                if i < len(lines) and lines[i].startswith("\\"):  # no newline at the end of the file
                    for side, signs in ((hunk.old, " -"), (hunk.new, " +")):
                        if last in signs:
                            side[-1] = side[-1].rstrip("\n")
                    i += 1
            if len(hunk.old) != n_old or len(hunk.new) != n_new:
                raise fail("hunk's line counts do not add up")
            files[-1].hunks.append(hunk)
        else:
            if not files:
                header.append(line)
            i += 1

    if not files:
        raise VendorError(f"patch {name}: holds no changes")
    text = "".join(line for line in header if not line.startswith(("diff --git", "index ", "new file mode")))
    return Patch(name, text.strip() + "\n", files)


def apply_file(name: str, patch: FilePatch, text: str | None) -> tuple[str, list[tuple[int, int]]]:
    """Apply one file's hunks. Returns the new text and where each hunk lies: the numbers of its first line, 1-based, in
    the old text and in the new one.

    Raises:
        VendorError: naming the patch, the file and the hunk that does not apply.
    """

    def fail(k: int, why: str) -> VendorError:
        of = f"hunk {k + 1} of {len(patch.hunks)} (line {patch.hunks[k].start})"
        return VendorError(f"patch {name} does not apply: {patch.path}, {of}: {why}")

    if patch.create:
        if text is not None:
            raise VendorError(f"patch {name} does not apply: {patch.path} exists already")
        return "".join(line for hunk in patch.hunks for line in hunk.new), [(0, 1)]
    if text is None:
        raise VendorError(f"patch {name} does not apply: {patch.path} does not exist")

    lines = re.findall(r"[^\n]*\n|[^\n]+$", text)
    out: list[str] = []
    done = 0  # lines of the old text that are in `out`
    shift = 0  # how far the last hunk had moved
    places: list[tuple[int, int]] = []
    for k, hunk in enumerate(patch.hunks):
        n = len(hunk.old)
        expected = hunk.start - 1 if n else hunk.start
        fits = [i for i in range(done, len(lines) - n + 1) if lines[i : i + n] == hunk.old] if n else []
        alike = [i for i in fits if heading(lines, i, patch.path) == hunk.within] if hunk.within else []
        if expected in fits and (expected in alike or not alike):
            at = expected
        elif len(alike) == 1:
            at = alike[0]
        elif n and expected + shift in fits:
            at = expected + shift
        elif len(fits) == 1:
            at = fits[0]
        elif n == 0 and expected <= len(lines):
            at = expected
        elif not fits:
            raise fail(k, "the lines that it changes are not there")
        else:
            places = ", ".join(str(i + 1) for i in fits[:5])
            raise fail(k, f"the lines that it changes have moved, and fit at several places (lines {places})")
        shift = at - expected
        out += lines[done:at]
        places.append((at + 1 if n else at, len(out) + 1))
        out += hunk.new
        done = at + n
    return "".join(out + lines[done:]), places


def renumber(text: str, places: list[tuple[int, int]]) -> str:
    """A patch's text with its hunks, one after another, at these lines."""
    rest = iter(places)

    def at(match: re.Match[str]) -> str:
        old, new = next(rest)
        counts = ["" if match[group] is None else f",{match[group]}" for group in (2, 4)]
        return f"@@ -{old}{counts[0]} +{new}{counts[1]} @@ {match[5]}".rstrip()

    return re.sub(rf"^{_HUNK.pattern}$", at, text, flags=re.MULTILINE)
