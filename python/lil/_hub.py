"""Models by name: what is in the caches of this machine, and `hf:owner/repo:quant`, fetched where it is not.

The hub's cache and llama.cpp's (which since 2026 has the same layout) hold models by their repository's name; older
versions of llama.cpp kept plain files.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._errors import ConfigError, ModelError

PREFIX = "hf:"

# Taken where a name has no quant, in this order, as llama.cpp does; otherwise the first file.
_USUAL = ("Q4_K_M", "Q8_0")

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(r"[-.]([A-Za-z0-9_]+)$")


@dataclass(frozen=True)
class Found:
    """A model on this machine.

    Attributes:
        name: What the commands take for it: `hf:owner/repo:quant`, or the path.
        path: The file, the first one of several parts.
        size: Bytes, of all parts.
        cache: Whose cache it is in.
    """

    name: str
    path: str
    size: int
    cache: str


def quant(file: str) -> str:
    """The quantisation that a file's name ends with, in capitals, such as "Q4_K_M". Empty: it does not say."""
    found = _QUANT.search(_SPLIT.sub("", Path(file).stem))
    return found.group(1).upper() if found else ""


def found() -> list[Found]:
    """The models in the caches, by name. Parts after the first, and projectors for images, are not listed alone."""
    out: dict[str, Found] = {}
    for cache, folder in _hubs():
        for repo, files in _repos(folder):
            for file, path in files.items():
                alike = sum(quant(other) == quant(file) for other in files)
                name = f"{PREFIX}{repo}:{quant(file) if alike == 1 and quant(file) else file}"
                out.setdefault(str(path.resolve()), Found(name, str(path), _size(path), cache))
    for cache, folder in _folders():
        for path in _models(folder, ("*.gguf", "*/*.gguf")):  # no deeper: .cache may be a home's
            out.setdefault(str(path.resolve()), Found(str(path), str(path), _size(path), cache))
    return sorted(out.values(), key=lambda model: model.name.lower())


def resolve(model: str, *, images: bool = False) -> str:
    """The path of a model: as it is, or of the file that `hf:owner/repo:quant` means. It is fetched where no cache has
    it. Instead of a quant there may be a pattern for the file's name, as in `Llama.from_pretrained`; with neither, what
    a cache has of the repository, or Q4_K_M, Q8_0 or the first file. `images`: what is fetched has its `projector`.

    Raises:
        ConfigError: The name is none.
        ModelError: There is no such file, or it cannot be fetched.
    """
    if not model.startswith(PREFIX):
        return model
    repo, _, wanted = model.removeprefix(PREFIX).partition(":")
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"{model}: {repo!r} is no repository; give hf:owner/repo or hf:owner/repo:quant")
    for _, folder in _hubs():
        for name, files in _repos(folder):
            if name.lower() == repo.lower() and (file := _choose(files, wanted)):
                return str(files[file])
    return _fetch(model, repo, wanted, images)


def _choose(files: Iterable[str], wanted: str) -> str | None:
    """Of the models in a repository the one that is meant."""
    every = [file for file in sorted(files) if is_model(file)]
    if not wanted:
        usual = [file for kind in _USUAL for file in every if quant(file) == kind]
        return next(iter([*usual, *every]), None)
    exact = [file for file in every if quant(file) == wanted.upper()]
    return next(iter([*exact, *(file for file in every if fnmatch.fnmatch(file, wanted))]), None)


def is_model(file: str) -> bool:
    """Whether it is a GGUF file, of several parts the first, and no projector."""
    name = Path(file).name
    part = _SPLIT.search(Path(file).stem)
    return name.endswith(".gguf") and "mmproj" not in name.lower() and (part is None or int(part.group(1)) == 1)


def parts(file: str) -> list[str]:
    """The names of all parts of a model, of which `file` is the first."""
    part = _SPLIT.search(Path(file).stem)
    if part is None:
        return [file]
    n = int(part.group(2))
    stem = file[: -len(".gguf")][: part.start() - len(Path(file).stem)]
    return [f"{stem}-{i:05d}-of-{n:05d}.gguf" for i in range(1, n + 1)]


def projector(path: str) -> str | None:
    """What makes tokens of images for a model, where it lies beside its file."""
    return next((str(file) for file in sorted(Path(path).parent.glob("*.gguf")) if _is_projector(file.name)), None)


def _is_projector(file: str) -> bool:
    return file.endswith(".gguf") and "mmproj" in file.lower()


def _fetch(model: str, repo: str, wanted: str, images: bool) -> str:
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ModuleNotFoundError:
        raise ConfigError(
            f"{model} is in no cache, and fetching it needs huggingface-hub: pip install huggingface-hub"
        ) from None
    try:
        files = [sibling.rfilename for sibling in HfApi().model_info(repo, timeout=30).siblings or []]
        file = _choose(files, wanted)
        if file is not None:
            print(f"lil: fetching {file} of {repo}", file=sys.stderr)
            more = sorted(filter(_is_projector, files))[:1] if images else []
            first, *_ = [hf_hub_download(repo, part) for part in [*parts(file), *more]]
            return str(first)
    except Exception as error:  # noqa: BLE001  those of the hub's library, and of what it fetches with
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{model} is in no cache and cannot be fetched: {lines[0]}; lil models lists what is here"
        ) from None
    there = ", ".join(filter(is_model, files)) or "no GGUF file"
    raise ModelError(f"{model}: {repo} has no {wanted or 'model'}; it has {there}")


# Where caches are


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _hubs() -> Sequence[tuple[str, Path]]:
    """Folders that hold models by their repository's name."""
    env = os.environ.get
    hub = env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE")
    home = Path(env("HF_HOME") or _cache_home() / "huggingface")
    out = [("Hugging Face", Path(hub) if hub else home / "hub")]
    if env("LLAMA_CACHE"):
        out.append(("llama.cpp", Path(env("LLAMA_CACHE", ""))))
    return [(cache, folder.expanduser()) for cache, folder in out]


def _folders() -> Sequence[tuple[str, Path]]:
    """Folders that hold plain files."""
    system = {
        "darwin": Path("~/Library/Caches"),
        "win32": Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local"),
    }.get(sys.platform, _cache_home())
    llama_cpp = Path(os.environ.get("LLAMA_CACHE") or system / "llama.cpp")
    return [("llama.cpp", llama_cpp.expanduser()), (".cache", Path(".cache"))]


def _models(folder: Path, patterns: Sequence[str] = ("**/*.gguf",)) -> Iterator[Path]:
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        if is_model(path.name) and path.is_file():
            yield path


def _repos(folder: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """Repositories, and the models of each by their path within it: those of the revision that `main` means, and of
    others what that does not have."""
    for repo in sorted(folder.glob("models--*--*")):
        main = repo / "refs" / "main"
        revision = main.read_text().strip() if main.is_file() else ""
        snapshots = sorted((repo / "snapshots").glob("*"), key=lambda path: (path.name != revision, path.name))
        files: dict[str, Path] = {}
        for snapshot in snapshots:
            for path in _models(snapshot):
                files.setdefault(path.relative_to(snapshot).as_posix(), path)
        if files:
            yield repo.name.removeprefix("models--").replace("--", "/", 1), files


def _size(path: Path) -> int:
    every = [path.with_name(Path(part).name) for part in parts(path.name)]
    return sum(part.stat().st_size for part in every if part.is_file())
