"""Upstream's programs, which come with the package."""

from __future__ import annotations

import sys
from pathlib import Path

from ._errors import ConfigError

_PACKAGE = Path(__file__).parent
# on Windows a program finds its libraries in its own folder
_FOLDERS = (_PACKAGE / "bin", _PACKAGE / "llama_cpp" / "lib")


def program(name: str) -> str:
    """The path of a program, such as "llama-server".

    Raises:
        ConfigError: This build has none of that name.
    """
    file = f"{name}.exe" if sys.platform == "win32" else name
    for folder in _FOLDERS:
        if (folder / file).is_file():
            return str(folder / file)
    raise ConfigError(
        f"{name} is not part of this build; build it with the programs: "
        'CMAKE_ARGS="-DLIL_PROGRAMS=ON" pip install ... (LLAVA_BUILD must be on)'
    )
