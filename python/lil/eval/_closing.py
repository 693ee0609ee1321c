from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closing(ABC):
    """Something that holds memory, a file or a process, and lets go of it at the end of a `with`."""

    @abstractmethod
    def close(self) -> None:
        """Lets go. A second time is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
