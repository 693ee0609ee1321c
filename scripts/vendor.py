#!/usr/bin/env python3
"""Upstream's sources: fetch, check, unpack, patch. Needs Python and pip only; `edit` and `export` need git.

    vendor.py fetch                 print the path of the pinned source distribution, downloading it if need be
    vendor.py lay DIR               unpack and patch it into DIR; files that would not change are not touched
    vendor.py check [--sdist FILE] [--version V]
                                    report, patch by patch, what applies (to another version, before a version bump)
    vendor.py edit DIR              a git repository of the sources, one commit per patch        (make vendor)
    vendor.py export DIR            write vendor/patches anew from that repository's commits     (make patches)

Patches are applied strictly, see patching.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from patching import Patch, VendorError, apply_file, heading, parse_patch, renumber

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "vendor" / "lock.json"
PATCHES = ROOT / "vendor" / "patches"
CACHE = ROOT / ".cache"
ENV = "LIL_LLAMA_CPP_PYTHON_SDIST"

# The groups of patches, and what the paths in them are relative to.
GROUPS = {"llama.cpp": "vendor/llama.cpp/", "bindings": ""}

# Parts that no build needs, most of the size.
UNUSED = re.compile(
    r"(\.git|\.github|docs|docker|examples|tests|vendor/llama\.cpp/(docs|models|media|benches|tests|\.github))/"
)

# What the build copies there itself (cmake/page.cmake), and npm takes for new when its time is.
OURS = "vendor/llama.cpp/tools/ui/src/lib/lil/"


def say(text: str) -> None:
    print(f"lil: {text}", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Patches
# ---------------------------------------------------------------------------------------------------------------------


def read_exact(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def read_series() -> list[Patch]:
    """All patches: group by group, in the order of their names."""
    series = []
    for group in GROUPS:
        for path in sorted((PATCHES / group).glob("*.patch")):
            series.append(parse_patch(f"{group}/{path.name}", read_exact(path)))
    return series


def apply_patch(patch: Patch, files: dict[str, bytes]) -> bool:
    """Apply a patch to files in memory (path in the source distribution -> content). All or nothing.

    Returns whether any of its hunks had moved.
    """
    prefix = GROUPS[patch.name.split("/")[0]]
    result: dict[str, bytes] = {}
    moved = False
    for file in patch.files:
        path = prefix + file.path
        data = result.get(path, files.get(path))
        text = None if data is None else data.decode("utf-8", "surrogateescape")
        text, places = apply_file(patch.name, file, text)
        moved = moved or any(hunk.start != old for hunk, (old, _) in zip(file.hunks, places, strict=True))
        result[path] = text.encode("utf-8", "surrogateescape")
    files.update(result)
    return moved


# ---------------------------------------------------------------------------------------------------------------------
# The source distribution
# ---------------------------------------------------------------------------------------------------------------------


def read_lock() -> dict[str, str]:
    return json.loads(LOCK.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(path: Path, lock: dict[str, str], origin: str) -> None:
    got = sha256(path)
    if got != lock["sha256"]:
        raise VendorError(
            f"{path} ({origin}) is not the pinned {lock['file']}:\n"
            f"  sha256 {got}\n  wanted {lock['sha256']} (vendor/lock.json)"
        )


def pip_download(package: str, version: str, into: Path) -> Path:
    """Fetch a source distribution with pip, so that the user's own index settings apply."""
    into.mkdir(parents=True, exist_ok=True)
    pips = [[sys.executable, "-m", "pip"]]
    pips += [[exe, "-m", "pip"] for exe in map(shutil.which, ("python3", "python")) if exe]
    pip = next((p for p in pips if subprocess.run([*p, "--version"], capture_output=True).returncode == 0), None)
    what = f"{package}=={version}"
    by_hand = f"Fetch it by hand and name the file with {ENV}: pip download --no-deps --no-binary :all: {what}"
    if pip is None:
        raise VendorError(f"pip is needed to fetch {what}. {by_hand}")

    with tempfile.TemporaryDirectory(dir=into) as tmp:
        command = [*pip, "download", "--no-deps", "--no-binary", ":all:", "--dest", tmp, "--disable-pip-version-check"]
        # pip asks the file's build backend for its metadata. It need not install a second copy of the backend for that.
        alone = ["--no-build-isolation"] if pip[0] == sys.executable and _have_backend() else []
        result = subprocess.run([*command, *alone, what], stderr=subprocess.PIPE, text=True)
        if result.returncode != 0 and alone:
            result = subprocess.run([*command, what], stderr=subprocess.PIPE, text=True)
        found = list(Path(tmp).glob("*.tar.gz"))
        if result.returncode != 0 or len(found) != 1:
            raise VendorError(f"pip could not fetch {what}:\n{result.stderr.strip()}\n{by_hand}")
        target = into / found[0].name
        os.replace(found[0], target)
    return target


def _have_backend() -> bool:
    try:
        import scikit_build_core  # noqa: F401
    except ImportError:
        return False
    return True


def fetch() -> Path:
    """The pinned source distribution: the file that the environment names, the cached one, or a fresh download."""
    lock = read_lock()
    if named := os.environ.get(ENV):
        path = Path(named)
        if not path.is_file():
            raise VendorError(f"{ENV} names {named}, which is not a file")
        check_hash(path, lock, f"named by {ENV}")
        return path
    path = CACHE / "upstream" / lock["file"]
    if path.is_file():
        if sha256(path) == lock["sha256"]:
            return path
        say(f"{path} is damaged, fetching it again")
        path.unlink()
    say(f"fetching {lock['package']} {lock['version']} with pip ({int(lock['bytes']) >> 20} MiB)")
    path = pip_download(lock["package"], lock["version"], CACHE / "upstream")
    try:
        check_hash(path, lock, "as pip fetched it")
    except VendorError:
        path.unlink()
        raise
    return path


def read_sdist(path: Path, everything: bool = False) -> Iterator[tuple[str, bytes]]:
    """The files of a source distribution, without its top folder. git's own files never come along."""
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                if not member.isfile() or ".git" in PurePosixPath(name).parts or ".." in PurePosixPath(name).parts:
                    continue
                if everything or not UNUSED.match(name):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, file.read()
    except (tarfile.TarError, EOFError, OSError) as e:
        raise VendorError(f"cannot read {path}: {e}") from e


# ---------------------------------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------------------------------


def series_digest() -> str:
    digest = hashlib.sha256(read_lock()["sha256"].encode())
    for path in sorted(PATCHES.glob("*/*.patch")):
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def lay(target: Path) -> None:
    """Unpack and patch into `target`. Files that would not change keep their times, so that a rebuild is short."""
    digest = f"{series_digest()} {sha256(Path(__file__))}"
    stamp = target / ".lil-stamp"
    if stamp.is_file() and stamp.read_text() == digest:
        return

    series = read_series()
    sdist = fetch()
    say(f"unpacking {sdist.name}")
    files = dict(read_sdist(sdist))
    say(f"applying {len(series)} patches")
    for patch in series:
        apply_patch(patch, files)

    stamp.unlink(missing_ok=True)
    present = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()} if target.is_dir() else set()
    for name in present - files.keys():
        if not name.startswith(OURS):
            (target / name).unlink()
    changed = 0
    for name, data in files.items():
        path = target / name
        if name not in present or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            changed += 1
    stamp.write_text(digest)
    say(f"{len(files)} files of upstream in place, {changed} of them written")


def check(sdist: Path | None, version: str | None) -> int:
    """Report which patches apply. A patch that does not is skipped, the next ones are still tried."""
    if version:
        say(f"fetching {read_lock()['package']} {version} with pip")
        sdist = pip_download(read_lock()["package"], version, CACHE / "upstream")
    sdist = sdist or fetch()
    say(f"checking against {sdist.name}, sha256 {sha256(sdist)}")
    files = dict(read_sdist(sdist))
    bad = 0
    for patch in read_series():
        try:
            moved = apply_patch(patch, files)
            print(f"  {'moved' if moved else 'ok   '}  {patch.name}")
        except VendorError as e:
            bad += 1
            print(f"  FAILS  {patch.name}\n         {e}")
    say(f"{bad} patches do not apply" if bad else "every patch applies")
    return 1 if bad else 0


def git(tree: Path, *args: str, stdin: str | None = None) -> str:
    identity = {"GIT_AUTHOR_NAME": "lil", "GIT_AUTHOR_EMAIL": "lil@localhost"}
    identity |= {k.replace("AUTHOR", "COMMITTER"): v for k, v in identity.items()}
    command = ["git", "-c", "core.autocrlf=false", "-c", "core.quotePath=false", "-C", str(tree), *args]
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | identity
    try:
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env, encoding="utf-8",
                                errors="surrogateescape")  # fmt: skip
    except FileNotFoundError as e:
        raise VendorError("git is needed for this") from e
    if result.returncode != 0:
        raise VendorError(f"git {args[0]}: {result.stderr.strip()}")
    return result.stdout


def edit(tree: Path) -> None:
    """Lay out the sources as a git repository: upstream's as the commit tagged `upstream`, then a commit per patch."""
    if tree.exists():
        if git(tree, "status", "--porcelain").strip():
            raise VendorError(f"{tree} has uncommitted changes; commit them and `make patches`, or remove the folder")
        if git(tree, "rev-parse", "HEAD") != git(tree, "rev-parse", "refs/lil/laid") and not _matches(render(tree)):
            raise VendorError(f"{tree} has commits that vendor/patches lacks; `make patches`, or remove the folder")
        shutil.rmtree(tree)
    files = dict(read_sdist(fetch(), everything=True))
    say(f"laying out {len(files)} files in {tree}")

    def write(names: list[str]) -> None:
        for name in names:
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])

    write(list(files))
    git(tree, "init", "--quiet", "--initial-branch=lil")
    git(tree, "add", "--all", "--force")
    git(tree, "commit", "--quiet", "--message", f"{read_lock()['file']}")
    git(tree, "tag", "upstream")
    for patch in read_series():
        apply_patch(patch, files)
        prefix = GROUPS[patch.name.split("/")[0]]
        write([prefix + file.path for file in patch.files])
        git(tree, "add", "--all", "--force")
        git(tree, "commit", "--quiet", "--file", "-", stdin=f"{patch.header}\nPatch: {patch.name}\n")
    mark_laid(tree)
    say(f"edit in {tree}: one commit per patch since the tag `upstream`")
    say("a commit's message is the patch's text, its last line (Patch: group/name.patch) its file; then `make patches`")


def diff_text(old: str | None, new: str, path: str) -> str:
    """A unified diff with one line of context, the same whoever makes it."""
    with tempfile.TemporaryDirectory() as tmp:
        sides = [Path(tmp, side, Path(path).name) for side in "ab"]
        for side, text in zip(sides, (old, new), strict=True):
            side.parent.mkdir()
            side.write_bytes((text or "").encode("utf-8", "surrogateescape"))
        command = ["git", "diff", "--no-index", "--no-color", "--no-ext-diff", "-U1", *map(str, sides)]
        env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        out = subprocess.run(command, capture_output=True, env=env).stdout.decode("utf-8", "surrogateescape")
    if "\n@@ " not in out:
        raise VendorError(f"{path} does not change")
    lines = (old or "").splitlines(keepends=True)

    def with_heading(match: re.Match[str]) -> str:
        """Our own, where git shows one: what it takes for a function depends on its settings."""
        start, n = int(match[2]), int(match[3] or 1)
        return f"{match[1]} {heading(lines, start - 1 if n else start, path)}".rstrip()

    body = re.sub(
        r"^(@@ -(\d+)(?:,(\d+))? [^@]*@@).*$", with_heading, out[out.index("\n@@ ") + 1 :], flags=re.MULTILINE
    )
    return f"--- {'a/' + path if old is not None else '/dev/null'}\n+++ b/{path}\n{body}"


def render(tree: Path) -> dict[str, str]:
    """The patch files that the repository's commits since `upstream` stand for: group/name.patch -> text."""
    out: dict[str, str] = {}
    count = dict.fromkeys(GROUPS, 0)

    def at(rev: str, path: str) -> str | None:
        try:
            return git(tree, "show", f"{rev}:{path}")
        except VendorError:
            return None

    for commit in git(tree, "rev-list", "--reverse", "--no-merges", "upstream..HEAD").split():
        message = git(tree, "show", "--no-patch", "--format=%B", commit).strip()
        paths = git(tree, "diff-tree", "-r", "--no-commit-id", "--name-only", "-z", commit).split("\0")[:-1]
        title = message.splitlines()[0]
        groups = {g for p in paths for g in GROUPS if p.startswith(GROUPS[g])
                  and (g != "bindings" or not p.startswith(GROUPS["llama.cpp"]))}  # fmt: skip
        if len(groups) != 1:
            raise VendorError(
                f"commit {title!r} changes {' and '.join(sorted(groups)) or 'nothing'}; one patch, one group"
            )
        group = groups.pop()
        count[group] += 1
        trailer = re.search(r"^Patch: (\S+)/(\S+\.patch)\s*\Z", message, flags=re.MULTILINE)
        slug = (
            re.sub(r"^\d+-", "", trailer[2])
            if trailer
            else re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".patch"
        )
        header = message[: trailer.start()].strip() if trailer else message
        text = header + "\n\n"
        for path in sorted(paths):
            new = at(commit, path)
            if new is None:
                raise VendorError(f"commit {title!r} removes {path}, which a patch cannot")
            text += diff_text(at(f"{commit}^", path), new, path[len(GROUPS[group]) :])
        name = f"{group}/{count[group]:04d}-{slug}"
        out[name] = (
            kept(name, header, {p[len(GROUPS[group]) :]: (at(f"{commit}^", p), at(commit, p)) for p in paths}) or text
        )
    return out


def kept(name: str, header: str, sides: dict[str, tuple[str | None, str | None]]) -> str | None:
    """The patch that is there, with the numbers of its lines put right, where it already does to these files (old and
    new text) what it is to do: it may be written with more care for where its hunks find their place than a diff's are.
    """
    path = PATCHES / name
    if not path.is_file():
        return None
    text = read_exact(path)
    patch = parse_patch(name, text)
    if patch.header.strip() != header or {file.path for file in patch.files} != set(sides):
        return None
    places: list[tuple[int, int]] = []
    for file in patch.files:
        old, new = sides[file.path]
        try:
            result, lines = apply_file(name, file, old)
        except VendorError:
            return None
        if result != new:
            return None
        places += lines
    return renumber(text, places)


def _matches(patches: dict[str, str]) -> bool:
    on_disk = {f"{p.parent.name}/{p.name}": read_exact(p) for p in PATCHES.glob("*/*.patch")}
    return on_disk == patches


def write_series(patches: dict[str, str]) -> None:
    """Make vendor/patches hold exactly these patches, and say what changed."""
    for path in PATCHES.glob("*/*.patch"):
        if f"{path.parent.name}/{path.name}" not in patches:
            path.unlink()
            say(f"removed  {path.relative_to(ROOT)}")
    for name, text in patches.items():
        path = PATCHES / name
        data = text.encode("utf-8", "surrogateescape")
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            say(f"wrote    {path.relative_to(ROOT)}")
    say(f"{len(patches)} patches in vendor/patches")


def export(tree: Path) -> None:
    """Write vendor/patches anew from the commits of `edit`'s repository."""
    if git(tree, "status", "--porcelain").strip():
        raise VendorError(f"{tree} has uncommitted changes; commit them (git commit, or git commit --amend / --fixup)")
    patches = render(tree)
    if (tree / ".git" / "lil-series").read_text() != series_digest() and not _matches(patches):
        raise VendorError(
            f"vendor/patches has changed since {tree} was laid out, and would be overwritten; move one aside"
        )
    write_series(patches)
    mark_laid(tree)


def mark_laid(tree: Path) -> None:
    """Remember that the tree's commits and vendor/patches are the same."""
    git(tree, "update-ref", "refs/lil/laid", "HEAD")
    (tree / ".git" / "lil-series").write_text(series_digest())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch")
    commands.add_parser("lay").add_argument("dir", type=Path)
    sub = commands.add_parser("check")
    sub.add_argument("--sdist", type=Path)
    sub.add_argument("--version")
    commands.add_parser("edit").add_argument("dir", type=Path)
    commands.add_parser("export").add_argument("dir", type=Path)
    args = parser.parse_args()
    try:
        match args.command:
            case "fetch":
                sys.stdout = sys.stderr  # only the path goes to stdout
                path = fetch()
                sys.stdout = sys.__stdout__
                print(path)
            case "lay":
                lay(args.dir)
            case "check":
                return check(args.sdist, args.version)
            case "edit":
                edit(args.dir)
            case "export":
                export(args.dir)
    except VendorError as e:
        print(e if args.command == "lay" else f"lil: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
