"""Files that are whole at every moment: written beside, then renamed."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import time
from collections.abc import Iterable

_STALE = 60.0  # seconds since the last write into a part that nobody finishes any more


def replace_file(path: str, parts: Iterable[bytes]) -> None:
    """Writes `parts` to `path`, readable by its owner only. Whatever ends the process meanwhile, and the machine: the
    name stands for what was there before or for all of the new, which is on the disk when this returns. A link keeps
    pointing where it does.

    Parts that processes left behind which were killed while they wrote are removed by a later call.

    Raises:
        OSError: It cannot be written. What was there before is whole.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    part = ""
    try:
        handle, part = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
        with os.fdopen(handle, "wb") as file:
            for data in parts:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        if part:
            with contextlib.suppress(OSError):
                os.unlink(part)
        raise
    if os.name == "posix":  # the name too; elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    for stray in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name)}.*.part")):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(stray).st_mtime > _STALE:
                os.unlink(stray)
