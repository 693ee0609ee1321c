"""The build: patches and their errors, the generated bindings, what the wheel holds."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import lil
import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = Path(lil.__file__).parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lil_script_{name}", REPO / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(REPO / "scripts"))  # for patching, which vendor imports
vendor = script("vendor")
sys.path.pop(0)
patching = sys.modules["patching"]
bindings = script("bindings")

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

PATCH = """Why it is needed.

--- a/src/x.txt
+++ b/src/x.txt
@@ -2,3 +2,4 @@
 two
-three
+THREE
+and a half
 four
"""
TEXT = "one\ntwo\nthree\nfour\nfive\n"
PATCHED = "one\ntwo\nTHREE\nand a half\nfour\nfive\n"


def apply(patch: str, text: str | None) -> tuple[str, bool]:
    """The patched text, and whether a hunk has moved."""
    file = patching.parse_patch("llama.cpp/0001-x.patch", patch).files[0]
    result, places = patching.apply_file("llama.cpp/0001-x.patch", file, text)
    return result, [hunk.start for hunk in file.hunks] != [old for old, _ in places]


# the applier


def test_patch_applies() -> None:
    assert apply(PATCH, TEXT) == (PATCHED, False)
    assert patching.parse_patch("x", PATCH).header == "Why it is needed.\n"


def test_patch_follows_lines_that_moved() -> None:
    assert apply(PATCH, "new\nnew\n" + TEXT) == ("new\nnew\n" + PATCHED, True)
    assert apply(PATCH, TEXT.removeprefix("one\n")) == (PATCHED.removeprefix("one\n"), True)


def test_patch_has_no_fuzz() -> None:
    with pytest.raises(patching.VendorError, match=r"0001-x\.patch.*src/x\.txt, hunk 1 of 1 \(line 2\).*not there"):
        apply(PATCH, TEXT.replace("four", "vier"))


def test_patch_takes_no_ambiguous_place() -> None:
    with pytest.raises(patching.VendorError, match=r"several places \(lines 3, 8\)"):
        apply(PATCH, "new\n" + TEXT + TEXT)
    assert apply(PATCH, TEXT + TEXT) == (PATCHED + TEXT, False)  # where the place is the exact one there is no doubt


def test_patch_takes_the_place_in_its_function() -> None:
    text = "".join(f"void f{i}(\n        int x) {{\n    one();\n\n    end();\n}}\n" for i in range(3))
    patch = "Why.\n\n--- a/x.cpp\n+++ b/x.cpp\n@@ -{},2 +{},3 @@ {}\n     one();\n+    two();\n \n"
    for i in range(3):
        inside = f"void f{i}( int x) {{"
        parts = text.split("    one();\n")
        wanted = "    one();\n".join(parts[: i + 1]) + "    one();\n    two();\n" + "    one();\n".join(parts[i + 1 :])
        assert apply(patch.format(40, 40, inside), text) == (wanted, True)
        assert patching.heading(text.splitlines(keepends=True), 6 * i + 3, "x.cpp") == inside
    with pytest.raises(patching.VendorError, match="several places"):
        apply(patch.format(40, 40, ""), text)
    lines = [
        "class A:\n",
        "    def b(\n",
        "        self,\n",
        "    ):\n",
        "        def c():\n",
        "            return 1\n",
        "\n",
        "        return c\n",
    ]
    assert [patching.heading(lines, i, "x.py") for i in (0, 1, 5, 7)] == ["", "A", "A.b.c", "A.b"]


def test_patch_is_renumbered() -> None:
    text = "new\nnew\n" + TEXT
    file = patching.parse_patch("x", PATCH).files[0]
    _, places = patching.apply_file("x", file, text)
    assert places == [(4, 4)]
    renumbered = patching.renumber(PATCH, places)
    assert renumbered == PATCH.replace("@@ -2,3 +2,4 @@", "@@ -4,3 +4,4 @@")
    assert apply(renumbered, text) == ("new\nnew\n" + PATCHED, False)


def test_patch_is_not_applied_twice() -> None:
    with pytest.raises(patching.VendorError, match="not there"):
        apply(PATCH, PATCHED)


def test_patch_makes_a_file() -> None:
    new = "Why.\n\n--- /dev/null\n+++ b/n.txt\n@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n"
    assert apply(new, None) == ("a\nb", False)
    with pytest.raises(patching.VendorError, match="exists already"):
        apply(new, "a\n")
    with pytest.raises(patching.VendorError, match="does not exist"):
        apply(PATCH, None)


@pytest.mark.parametrize(
    "bad", [PATCH.replace("+and a half\n", ""), PATCH.replace("@@ -2,3", "@@ 2,3"), "No change.\n"]
)
def test_patch_that_is_damaged(bad: str) -> None:
    with pytest.raises(patching.VendorError, match=r"0001-x\.patch"):
        apply(bad, TEXT)


@needs_git
@pytest.mark.parametrize("old", [TEXT, "a\n" * 30 + TEXT + "b\n" * 30, "no newline at the end"])
def test_patch_round_trip(old: str) -> None:
    for new in (old.replace("three", "3"), "first\n" + old, old + "last", old[: len(old) // 2]):
        if new != old:
            assert apply("Why.\n\n" + vendor.diff_text(old, new, "src/x.txt"), old) == (new, False)


def test_every_patch_says_why() -> None:
    series = vendor.read_series()
    assert series
    for patch in series:
        assert len(patch.header) > 40, patch.name
    for group in vendor.GROUPS:
        numbers = [p.name.split("/")[1][:4] for p in series if p.name.startswith(group + "/")]
        assert numbers == [f"{i:04d}" for i in range(1, len(numbers) + 1)]


# fetching


def make_sdist(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"pkg-1.0/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


@pytest.fixture
def small_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny source distribution with one patch in place of the real ones."""
    sdist = tmp_path / "pkg-1.0.tar.gz"
    make_sdist(
        sdist, {"vendor/llama.cpp/src/x.txt": TEXT, "vendor/llama.cpp/src/y.txt": "y\n", "llama_cpp/a.py": "a\n"}
    )
    lock = {"package": "pkg", "version": "1.0", "file": sdist.name, "bytes": 1}
    (tmp_path / "lock.json").write_text(json.dumps(lock | {"sha256": hashlib.sha256(sdist.read_bytes()).hexdigest()}))
    patches = tmp_path / "patches" / "llama.cpp"
    patches.mkdir(parents=True)
    (patches / "0001-x.patch").write_text(PATCH)
    for name, value in {"LOCK": tmp_path / "lock.json", "PATCHES": patches.parent, "ROOT": tmp_path}.items():
        monkeypatch.setattr(vendor, name, value)
    monkeypatch.setattr(vendor, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(vendor.ENV, str(sdist))
    return sdist


def test_lay_out(small_upstream: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    vendor.lay(tree)
    x, y = tree / "vendor/llama.cpp/src/x.txt", tree / "vendor/llama.cpp/src/y.txt"
    assert x.read_text() == PATCHED and y.read_text() == "y\n" and (tree / "llama_cpp/a.py").exists()

    # another patch: only the file that changes is written, and a file that is no longer upstream's goes
    os.utime(y, (1, 1))
    (tree / "stray.txt").write_text("")
    patch = tmp_path / "patches/llama.cpp/0001-x.patch"
    patch.write_text(PATCH.replace("+THREE", "+3"))
    vendor.lay(tree)
    assert "3\n" in x.read_text() and y.stat().st_mtime == 1 and not (tree / "stray.txt").exists()


def test_lay_out_with_a_patch_that_does_not_apply(small_upstream: Path, tmp_path: Path) -> None:
    (tmp_path / "patches/llama.cpp/0001-x.patch").write_text(PATCH.replace(" four", " vier"))
    with pytest.raises(patching.VendorError, match=r"llama\.cpp/0001-x\.patch does not apply: src/x\.txt, hunk 1"):
        vendor.lay(tmp_path / "tree")
    assert vendor.check(small_upstream, None) == 1


def test_wrong_hash(small_upstream: Path, tmp_path: Path) -> None:
    small_upstream.write_bytes(small_upstream.read_bytes() + b"\0")
    with pytest.raises(patching.VendorError, match=r"is not the pinned pkg-1\.0\.tar\.gz(.|\n)*wanted [0-9a-f]{64}"):
        vendor.lay(tmp_path / "tree")


def test_named_file_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(vendor.ENV, str(tmp_path / "nothing.tar.gz"))
    with pytest.raises(patching.VendorError, match=f"{vendor.ENV} names .*not a file"):
        vendor.fetch()


def test_cached_file_is_checked(small_upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vendor.ENV)
    cached = tmp_path / "cache" / "upstream" / "pkg-1.0.tar.gz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a download")
    monkeypatch.setattr(vendor, "pip_download", lambda package, version, into: shutil.copy(small_upstream, cached))
    assert Path(vendor.fetch()).read_bytes() == small_upstream.read_bytes()


@needs_git
def test_vendor_and_patches(small_upstream: Path, tmp_path: Path) -> None:
    """`make vendor` then `make patches` changes nothing; a new commit becomes a new patch."""
    tree = tmp_path / "work"
    vendor.edit(tree)
    vendor.export(tree)
    patch = tmp_path / "patches/llama.cpp/0001-x.patch"
    assert apply(patch.read_text(), TEXT) == (PATCHED, False)
    before = patch.read_text()
    vendor.edit(tree)
    vendor.export(tree)
    assert patch.read_text() == before

    # one that was written by hand, with other context, stays; its numbers are put right
    by_hand = before[: before.index("@@")] + "@@ -9,1 +9,2 @@\n-three\n+THREE\n+and a half\n"
    patch.write_text(by_hand)
    vendor.edit(tree)
    vendor.export(tree)
    assert patch.read_text() == by_hand.replace("-9,1 +9,2", "-3,1 +3,2")
    before = patch.read_text()

    (tree / "vendor/llama.cpp/src/y.txt").write_text("y\nz\n")
    with pytest.raises(patching.VendorError, match="uncommitted"):
        vendor.export(tree)
    vendor.git(tree, "commit", "--all", "--message", "A hook for z\n\nBecause of z.")
    with pytest.raises(patching.VendorError, match="commits that vendor/patches lacks"):
        vendor.edit(tree)
    vendor.export(tree)
    text = (tmp_path / "patches/llama.cpp/0002-a-hook-for-z.patch").read_text()
    assert text == "A hook for z\n\nBecause of z.\n\n--- a/src/y.txt\n+++ b/src/y.txt\n@@ -1 +1,2 @@\n y\n+z\n"
    assert patch.read_text() == before


def test_missing_compiler(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    env = os.environ | {"CC": "no-such-compiler", "CXX": "no-such-compiler"}
    command = ["cmake", "-S", str(REPO), "-B", str(tmp_path), "-G", "Ninja"]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode != 0
    assert "lil: no working C compiler was found" in result.stderr
    assert "apt install g++" in result.stderr


# the generated bindings


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import llama_cpp\n", "import lil.llama_cpp as llama_cpp\n"),
        ("import llama_cpp.llama as l, os\n", "import lil.llama_cpp.llama as l; import os\n"),
        ("import llama_cpp.llama\n", "import lil.llama_cpp.llama; import lil.llama_cpp as llama_cpp\n"),
        (
            "if x:\n    from llama_cpp.a import (\n        b,\n    )\n",
            "if x:\n    from lil.llama_cpp.a import (\n        b,\n    )\n",
        ),
        ("from . import llama_cpp\nfrom .llama_cpp import x\n", "from . import llama_cpp\nfrom .llama_cpp import x\n"),
        ("import llama_cpp_other\n", "import llama_cpp_other\n"),
        ("s = 'import llama_cpp'  # import llama_cpp\n", "s = 'import llama_cpp'  # import llama_cpp\n"),
    ],
)
def test_imports_are_rewritten(old: str, new: str) -> None:
    assert bindings.rewrite(old, "lil.llama_cpp") == new


def test_no_import_of_stock_is_left() -> None:
    files = list((PACKAGE / "llama_cpp").rglob("*.py"))
    assert len(files) > 20
    for path in files:
        assert not bindings.absolute_imports(ast.parse(path.read_text(encoding="utf-8"))), path


def test_importing_lil_does_not_import_stock() -> None:
    code = (
        "import sys, lil, lil.llama_cpp.llama_chat_format, lil.llama_cpp.mtmd_cpp, lil.llama_cpp._ggml;"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'llama_cpp'], 'stock was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_server_help() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    result = subprocess.run([sys.executable, "-m", "lil.llama_cpp.server", "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--model" in result.stdout


# the wheel


def test_wheel_holds_what_it_needs() -> None:
    for name in ("llama.h", "ggml.h", "ggml-backend.h", "gguf.h", "lil.h"):
        assert (PACKAGE / "include" / name).is_file()
    assert (PACKAGE / "llama_cpp/py.typed").is_file()
    assert (PACKAGE / "llama_cpp/server/app.py").is_file()
    assert (PACKAGE / "cmake/lil-config.cmake").is_file()
    if sys.platform == "linux":
        names = {p.name for p in (PACKAGE / "llama_cpp/lib").iterdir()}
        assert {"liblil-llama.so", "liblil-ggml.so", "liblil-ggml-base.so", "liblil-mtmd.so"} <= names


def test_wheel_metadata() -> None:
    dist = metadata.distribution("lil-cpp")
    assert dist.metadata["Requires-Python"] == ">=3.10"
    wheel = dist.read_text("WHEEL")
    assert wheel is not None and "Tag: py3-none-" in wheel
    files = [str(f) for f in dist.files or []]
    inside = [f for f in files if f.startswith("lil_cpp-") and "/licenses/" in f]
    for name in ("LICENSE", "llama-cpp-python/LICENSE.md", "llama.cpp/LICENSE", "llama.cpp/licenses/LICENSE-jsonhpp",
                 "llama.cpp/vendor/hash/xxhash/LICENSE"):  # fmt: skip
        assert any(f.endswith(f"/licenses/{name}") for f in inside), name
    # nothing of upstream's outside our own folder
    assert {f.split("/")[0] for f in files if not f.startswith("..")} == {"lil", f"lil_cpp-{dist.version}.dist-info"}
