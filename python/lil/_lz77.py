from __future__ import annotations

from ._errors import NativeError
from ._native import last_error, lib


class LZ77:
    """The greedy LZ77 factorisation of a text that grows: the compressor under `Guardian`.

    The window is unbounded and a match may overlap itself. A phrase is the longest earlier match or one literal.
    Feeding bytes one by one gives the factorisation of the whole text at once.

    Examples:
        >>> text = LZ77()
        >>> text.feed("and over and over and over")
        >>> text.size < text.bytes
        True
    """

    def __init__(self, text: bytes | str = b"") -> None:
        self._handle: int | None = lib.lil_lz77_init()
        if not self._handle:
            raise NativeError(f"LZ77: {last_error()}")
        if text:
            self.feed(text)

    def feed(self, text: bytes | bytearray | memoryview | str) -> None:
        """Appends to the text; a str as UTF-8. Amortised O(1) a byte.

        Raises:
            TypeError: Neither bytes nor a str.
            NativeError: Out of memory, or more than 2**31 - 1 bytes; the text is as it was.
        """
        if isinstance(text, str):
            data = text.encode()
        elif isinstance(text, (bytes, bytearray, memoryview)):
            data = bytes(text)
        else:
            raise TypeError(f"LZ77.feed: {text!r} is a {type(text).__name__}; give bytes or a str")
        if not lib.lil_lz77_feed(self._handle, data, len(data)):
            raise NativeError(f"LZ77.feed of {len(data)} bytes: {last_error()}")

    @property
    def size(self) -> float:
        """The compressed size so far, in bytes."""
        return lib.lil_lz77_size(self._handle)

    @property
    def phrases(self) -> int:
        """Phrases so far, the open one included."""
        return lib.lil_lz77_phrases(self._handle)

    @property
    def bytes(self) -> int:
        """Bytes fed."""
        return lib.lil_lz77_bytes(self._handle)

    @property
    def memory(self) -> int:
        """Bytes of memory held."""
        return lib.lil_lz77_memory(self._handle)

    def copy(self) -> LZ77:
        """Another one with the same text."""
        handle = lib.lil_lz77_clone(self._handle)
        if not handle:
            raise NativeError(f"LZ77.copy: {last_error()}")
        other = LZ77.__new__(LZ77)
        other._handle = handle
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: object) -> LZ77:
        return self.copy()

    def __reduce__(self) -> str:
        raise TypeError("LZ77 holds native memory and cannot be pickled; keep the text and feed it again")

    def reset(self) -> None:
        """Back to the empty text."""
        lib.lil_lz77_reset(self._handle)

    def __repr__(self) -> str:
        return f"<LZ77 bytes={self.bytes} size={self.size:.1f} phrases={self.phrases}>"

    def __del__(self) -> None:
        handle, self._handle = getattr(self, "_handle", None), None
        if handle and lib is not None:
            lib.lil_lz77_free(handle)
