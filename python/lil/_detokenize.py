"""The text of a token list that grows, at a cost per token that does not grow with it.

The bindings' completion loop asks for the whole text after every token. `Detokenizer` keeps the text and renders only
the tokens that are new, with a short context before them for tokenizers that need one. The bindings import this module
(vendor/patches/bindings/0002-flat-detokenize.patch), so it imports nothing of the package.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

# Tokens of context given to a tokenizer that renders a token by what precedes it.
CONTEXT = 64
# A UTF-8 character has at most four bytes, so more pending tokens than this are not the start of one.
PENDING = 8

_REPLACEMENT = "\ufffd".encode()


class _Tokenizer(Protocol):
    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes: ...


def _ends_inside_character(text: bytes) -> bool:
    """Whether the last bytes are the start of a UTF-8 character, or stand for one that could not be rendered yet."""
    for back, byte in enumerate(reversed(text[-3:]), start=1):
        if byte >= 0xC0:
            return back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            break
    return text.endswith(_REPLACEMENT)


class Detokenizer:
    """Follows `completion`, a list that its owner appends to.

    `llama.detokenize` must be such that the text of a list is the text of its parts one after the other, once no part
    ends inside a character; `prev_tokens` tells it what came before. A leading space after a BOS token that opens the
    list is dropped, as `llama.detokenize` does for a whole list.
    """

    def __init__(self, llama: _Tokenizer, prompt: Sequence[int], completion: list[int]) -> None:
        self._llama = llama
        self._prompt = prompt
        self._tokens = completion
        self._first = len(completion)  # tokens that were there before, without text
        self._reset()
        follow = getattr(llama, "_follow", None)  # who may take tokens back
        if follow is not None:
            follow(self)

    def _reset(self) -> None:
        self._done = self._first  # tokens whose text is in _text for good
        self._text = bytearray()
        self._tail = b""  # text of the tokens after _done
        self._ends = [0] * self._first  # bytes of text after each token
        self._searched = 0  # bytes of _text that find() has seen
        self._counted = (0, 0)  # bytes, characters that chars() has counted
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def rewind(self, tokens: Sequence[int]) -> None:
        """Makes the owner's list what it was at first, and these tokens behind it: some of those that it had."""
        del self._tokens[self._first :]
        self._reset()
        for token in tokens:
            self._tokens.append(token)
            self.update()
        self._searched = len(self._text)

    def context(self, n: int) -> list[int]:
        """The last tokens before completion token `n`, the prompt's among them: at most `CONTEXT`."""
        if n >= CONTEXT:
            return self._tokens[n - CONTEXT : n]
        rest = CONTEXT - n
        return list(self._prompt[-rest:]) + self._tokens[:n]

    def update(self) -> bytes:
        """Renders the tokens that were appended since the last call. Returns the text's last three bytes."""
        tokens, done = self._tokens, self._done
        first = tokens[:1] if done and not self._text else []
        tail = self._llama.detokenize(first + tokens[done:], prev_tokens=self.context(done))
        length = len(self._text) + len(tail)
        self._ends += [length] * (len(tokens) - len(self._ends))
        if len(tokens) - done < PENDING and _ends_inside_character(tail):
            self._tail = tail
        else:
            self._text += tail
            self._tail = b""
            self._done = len(tokens)
        return (bytes(self._text[-3:]) + self._tail)[-3:]

    def find(self, stops: Sequence[bytes]) -> list[bytes]:
        """The strings among `stops` that occur in the text, of which only what is new since the last call is read."""
        if not stops:
            return []
        start = max(0, self._searched - max(map(len, stops)) + 1)
        recent = bytes(self._text[start:]) + self._tail
        self._searched = len(self._text)
        return [stop for stop in stops if stop in recent]

    def chars(self, n: int) -> int:
        """Characters in the text of the first `n` completion tokens; `n` must not decrease from call to call."""
        if n == 0:
            return 0
        end = self._ends[n - 1]
        seen, count = self._counted
        if end > seen:
            fresh = bytes(self._text[seen:end])
            count += len(self._decoder.decode(fresh))
            self._counted = (seen + len(fresh), count)
        return count + len(self._tail[: max(0, end - len(self._text))].decode("utf-8", "ignore"))


def char_offsets(llama: _Tokenizer, tokens: Sequence[int]) -> list[int]:
    """For each token, the number of characters in the text of the tokens before it. Linear in the tokens."""
    so_far: list[int] = []
    follower = Detokenizer(llama, [], so_far)
    offsets = []
    for n, token in enumerate(tokens):
        offsets.append(follower.chars(n))
        so_far.append(token)
        follower.update()
    return offsets
