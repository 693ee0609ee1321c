"""What was found out about models: re-selection layers, and from which length on a sparse step is the faster one.

Two files of one structure, the user's first:

    platformdirs' cache folder/lil-cpp/calibration.json     by `lil calibrate`; LIL_CALIBRATION names another file
    lil/calibration.json                                    ships with the package; re-selection layers only

    {"version": 1,
     "models": {"llama-30x576-smollm2-135m-instruct": {
         "lessismore": {"reselect": 18, "min_ctx": {"128": 1024}, ...},     further keys say where it comes from
         "tidal": {...}}}}

`min_ctx` is per budget; the nearest one that was measured counts.

A model is known by its architecture, layers, embedding length and name, all from the file's metadata, which
quantisation copies. The name is `general.name` without what it says of the quantisation, and where there is none, base
name, size and fine-tune. So the quantisations of one model share an entry. Two conversions of the same weights whose
authors named them differently do not, and neither does a fine-tune with its base: a model that is not found gets a
warning, one that is mistaken for another would get a wrong layer in silence.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from ._errors import ConfigError
from .methods import Select

VERSION = 1
ENV = "LIL_CALIBRATION"

# What file names and names of models say of types and quantisation.
_QUANTISATION = re.compile(
    r"\b(i?q\d+(_[a-z0-9]+)*|bf16|f16|f32|fp(8|16|32)|int[48]|w\d+a\d+|[2-8]-?bit|"
    r"mxfp4|nvfp4|awq|gptq|bnb|imat(rix)?|i1|gguf|ggml)\b"
)


def fingerprint(metadata: Mapping[str, str]) -> str:
    """The name under which a model is kept, from a GGUF file's metadata."""
    arch = metadata.get("general.architecture", "unknown")
    layers = metadata.get(f"{arch}.block_count", "0")
    width = metadata.get(f"{arch}.embedding_length", "0")
    parts = [metadata.get(f"general.{key}", "") for key in ("basename", "size_label", "finetune")]
    name = metadata.get("general.name") or " ".join(filter(None, parts))
    name = _QUANTISATION.sub(" ", name.lower())
    name = re.sub(r"[^a-z0-9.]+", "-", name).strip("-.")
    return f"{arch}-{layers}x{width}-{name or 'unnamed'}"


def user_file() -> Path:
    """Where `lil calibrate` saves."""
    named = os.environ.get(ENV)
    return Path(named) if named else Path(platformdirs.user_cache_dir("lil-cpp", appauthor=False)) / "calibration.json"


def _read(path: Path) -> dict[str, Any]:
    """A table's models; empty where the file is missing, of another version, or damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(table, dict) or table.get("version") != VERSION or not isinstance(table.get("models"), dict):
        return {}
    return table["models"]


def _shipped() -> dict[str, Any]:
    with resources.as_file(resources.files(__package__) / "calibration.json") as path:
        return _read(path)


def _dict(value: Any) -> dict[str, Any]:
    """`value`, or an empty dict in place of what a damaged file holds."""
    return value if isinstance(value, dict) else {}


def _layer(entry: dict[str, Any]) -> int | None:
    value = entry.get("reselect")
    return value if type(value) is int and value > 0 else None


def _length(entry: dict[str, Any], budget: int) -> int | None:
    table = _dict(entry.get("min_ctx"))
    known = {int(key): value for key, value in table.items() if key.isdecimal() and int(key) > 0}
    known = {key: value for key, value in known.items() if type(value) is int and value >= 0}
    if not known:
        return None
    return known[min(known, key=lambda key: abs(math.log(key / budget)))]


def lookup(model: str, method: Select) -> dict[str, int]:
    """What is known for the parameters of `method` that are "auto".

    Args:
        model: A fingerprint.
    """
    found: dict[str, int] = {}
    if not method.uncalibrated:
        return found

    def entry(table: Mapping[str, Any]) -> dict[str, Any]:
        return _dict(_dict(table.get(model)).get(method.name))

    users = entry(_read(user_file()))
    if "reselect" in method.uncalibrated:
        layer = _layer(users) or _layer(entry(_shipped()))
        if layer is not None:
            found["reselect"] = layer
    if "min_ctx" in method.uncalibrated:
        found["min_ctx"] = _length(users, method.budget) or 0
    return found


def save(model: str, method: str, values: Mapping[str, Any]) -> Path:
    """Writes what was found for a model's method into the user's file, over what was there. Returns the file.

    `min_ctx` of other budgets stays. Another process sees the file as it was or as it is, never half of it.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = user_file()
    models = _read(path)
    methods = _dict(models.get(model))
    earlier = _dict(methods.get(method))
    lengths = {**_dict(earlier.get("min_ctx")), **values.get("min_ctx", {})}
    methods[method] = {**earlier, **values, **({"min_ctx": lengths} if lengths else {})}
    models[model] = methods
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump({"version": VERSION, "models": models}, file, indent=1, sort_keys=True)
            file.write("\n")
        os.replace(file.name, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; {ENV} names another file") from None
    return path
