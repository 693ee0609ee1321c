from __future__ import annotations

import copy
import pickle
import random

import pytest
from lil import LZ77


def test_counts() -> None:
    text = LZ77()
    assert (text.bytes, text.phrases, text.size) == (0, 0, 0.0)
    text.feed("ab")
    text.feed(b"ab" * 50)
    assert text.bytes == 102
    assert text.phrases == 3  # a, b, and one match that overlaps itself
    assert text.memory <= 80 * 102 + 65536


@pytest.mark.parametrize("seed", range(5))
def test_any_way_of_feeding_gives_the_same(seed: int) -> None:
    draw = random.Random(seed)
    data = bytes(draw.choice(b"abc") for _ in range(3000))
    whole, pieces = LZ77(data), LZ77()
    at = 0
    while at < len(data):
        step = draw.randint(1, 40)
        pieces.feed(data[at : at + step])
        at += step
    assert (pieces.size, pieces.phrases, pieces.bytes) == (whole.size, whole.phrases, whole.bytes)


def test_str_is_utf8() -> None:
    assert LZ77("naïve").bytes == len("naïve".encode())
    assert LZ77(bytearray(b"xy")).bytes == 2
    text = LZ77(b"\0\0zero")
    assert text.bytes == 6


def test_a_loop_costs_nothing_and_prose_does() -> None:
    loop = LZ77("I must think about this again. " * 30)
    before = loop.size
    loop.feed("I must think about this again. " * 33)
    assert loop.size - before <= 11
    draw = random.Random(0)
    prose = LZ77()
    words = ["".join(draw.choice("etaoinshrdlu") for _ in range(draw.randint(2, 9))) for _ in range(4000)]
    prose.feed(" ".join(words[:2000]))
    before, fed = prose.size, prose.bytes
    prose.feed(" ".join(words[2000:]))
    assert (prose.size - before) / (prose.bytes - fed) > 0.3


def test_copy_and_reset() -> None:
    text = LZ77("once and once and")
    other = text.copy()
    third = copy.deepcopy(text)
    other.feed(" something else")
    assert other.bytes > text.bytes == third.bytes
    text.reset()
    assert (text.bytes, text.phrases, text.size) == (0, 0, 0.0)
    assert other.bytes == 32


def test_refuses() -> None:
    text = LZ77()
    for bad in (None, 3, ["a"]):
        with pytest.raises(TypeError, match="give bytes or a str"):
            text.feed(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(text)
