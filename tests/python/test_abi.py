"""Programs made for the pinned llama.cpp run unchanged on our libraries (tests/c/test-abi.c is the other half)."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import lil
import pytest
from lil import llama_cpp as ours

LIBS = Path(ours.__file__).parent / "lib"

stock_spec = importlib.util.find_spec("llama_cpp")
needs_stock = pytest.mark.skipif(stock_spec is None, reason="stock llama-cpp-python is not installed")


def stock_libs() -> Path:
    assert stock_spec is not None and stock_spec.origin is not None
    return Path(stock_spec.origin).parent / "lib"


def elf_sections(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """(type, content, link) of each section of a 64-bit little-endian ELF file."""
    offset, size, count = (struct.unpack_from(f, data, at)[0] for f, at in (("<Q", 0x28), ("<H", 0x3A), ("<H", 0x3C)))
    for i in range(count):
        _, kind, _, _, start, length, link = struct.unpack_from("<IIQQQQI", data, offset + i * size)
        yield kind, data[start : start + length] if kind != 8 else b"", link


def exported(path: Path) -> set[str]:
    """The names that a shared library defines for others."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        pytest.skip(f"{path.name} is not a 64-bit little-endian ELF file")
    sections = list(elf_sections(data))
    names = set()
    for kind, content, link in sections:
        if kind == 11:  # SHT_DYNSYM
            strings = sections[link][1]
            for at in range(0, len(content), 24):
                name, info, other, section = struct.unpack_from("<IBBH", content, at)
                if section != 0 and info >> 4 in (1, 2, 10) and other & 3 in (0, 3):  # defined; global, weak, unique
                    names.add(strings[name : strings.index(b"\0", name)].decode())
    return names


def dynamic(path: Path) -> dict[str, list[str]]:
    """A library's own name, what it needs and where it looks for it."""
    tags = {1: "needed", 14: "soname", 15: "rpath", 29: "runpath"}
    found: dict[str, list[str]] = {tag: [] for tag in tags.values()}
    sections = list(elf_sections(path.read_bytes()))
    for kind, content, link in sections:
        if kind == 6:  # SHT_DYNAMIC
            strings = sections[link][1]
            for at in range(0, len(content), 16):
                tag, value = struct.unpack_from("<QQ", content, at)
                if tag in tags:
                    found[tags[tag]].append(strings[value : strings.index(b"\0", value)].decode())
    return found


@needs_stock
def test_every_stock_symbol_is_exported() -> None:
    public = re.compile(r"(llama|ggml|gguf)_\w+")
    here = set().union(*(exported(p) for p in LIBS.glob("liblil-*.so")))
    checked = 0
    for path in sorted(stock_libs().glob("lib*.so")):
        if path.name == "libmtmd.so":
            continue
        names = {n for n in exported(path) if public.fullmatch(n)}
        checked += len(names)
        assert not names - here, f"{path.name} exports what ours do not"
    assert checked > 1000


@needs_stock
def test_one_public_api() -> None:
    """The functions that stock's headers declare are there, and so are ours."""
    here = set().union(*(exported(p) for p in LIBS.glob("liblil-*.so")))
    include = Path(lil.__file__).parent / "include"
    declared = set(re.findall(r"\bLLAMA_API\b[^;(]*?\b(\w+) *\(", (include / "lil.h").read_text()))
    assert declared and not declared - here
    assert {n for n in declared if not n.startswith("lil_")} == set()


@needs_stock
@pytest.mark.parametrize(
    "name", ["llama_context_params", "llama_model_params", "llama_batch", "llama_token_data_array"]
)
def test_structs_keep_their_shape(name: str) -> None:
    import llama_cpp as stock

    a, b = getattr(stock, name), getattr(ours, name)
    assert a is not b
    assert ctypes.sizeof(a) == ctypes.sizeof(b)
    assert [f[0] for f in a._fields_] == [f[0] for f in b._fields_]
    for field, *_ in a._fields_:
        x, y = getattr(a, field), getattr(b, field)
        assert (x.offset, x.size) == (y.offset, y.size), field


@needs_stock
def test_default_params_are_equal() -> None:
    import llama_cpp as stock

    def values(module: object) -> dict[str, object]:
        params = module.llama_context_default_params()  # type: ignore[attr-defined]
        return {
            f: getattr(params, f) for f, *_ in params._fields_ if isinstance(getattr(params, f), int | float | bool)
        }

    assert values(stock) == values(ours)


@needs_stock
def test_same_headers() -> None:
    """Upstream's headers come unchanged; what is new is in lil.h."""
    assert stock_spec is not None and stock_spec.origin is not None
    theirs = Path(stock_spec.origin).parent.parent / "include"
    include = Path(lil.__file__).parent / "include"
    for name in ("llama.h", "ggml.h", "ggml-backend.h", "ggml-cpu.h", "gguf.h"):
        assert (theirs / name).read_bytes() == (include / name).read_bytes(), name


def test_names_of_their_own() -> None:
    """No soname of ours is one of stock's, and nothing of ours needs a library of stock's."""
    libs = sorted(LIBS.glob("*.so"))
    assert libs
    if libs[0].read_bytes()[:6] != b"\x7fELF\x02\x01":
        pytest.skip("not 64-bit little-endian ELF")
    for path in libs:
        tags = dynamic(path)
        assert not path.is_symlink()
        # a backend that is loaded at run time (GGML_BACKEND_DL) keeps its file name, and has no soname
        assert tags["soname"] == ([path.name] if path.name.startswith("liblil-") else [])
        assert [n for n in tags["needed"] if re.match(r"lib(llama|ggml|mtmd)", n)] == []
        if any(n.startswith("liblil-") for n in tags["needed"]):
            assert tags["runpath"] + tags["rpath"] == ["$ORIGIN"]


@needs_stock
def test_both_in_one_process() -> None:
    """Stock and ours are loaded side by side and do not share what they should not."""
    import llama_cpp as stock

    assert stock.llama_cpp._lib._handle != ours.llama_cpp._lib._handle
    one = ctypes.cast(stock.llama_cpp._lib.llama_init_from_model, ctypes.c_void_p).value
    other = ctypes.cast(ours.llama_cpp._lib.llama_init_from_model, ctypes.c_void_p).value
    assert one != other
    assert not hasattr(stock.llama_cpp._lib, "lil_last_error")
