"""The parts of `benchmarks/server_load.py` that need no server."""

from __future__ import annotations

import random
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from server_load import SLOT, Tally, make_chat, moved


def test_chats_are_the_same_from_the_same_seed_and_fit() -> None:
    chats = [make_chat(random.Random(i)) for i in range(200)]
    assert chats == [make_chat(random.Random(i)) for i in range(200)]
    assert len({str(chat.body) for chat in chats}) == 200
    longest = max(len(chat.body["messages"][0]["content"].split()) + chat.body["max_tokens"] for chat in chats)
    assert longest < SLOT - 80  # words are a token each, or two; the template's come on top
    most = make_chat(random.Random(1), longest=True)
    assert len(most.body["messages"][0]["content"].split()) + most.body["max_tokens"] >= longest


def test_a_share_is_hung_up() -> None:
    rng = random.Random(1)
    chats = [make_chat(rng, 1 / 3) for _ in range(3000)]
    waiting = [chat for chat in chats if chat.after_seconds is not None]
    talking = [chat for chat in chats if chat.after_pieces is not None]
    assert len(waiting) + len(talking) == pytest.approx(1000, rel=0.1)
    assert len(waiting) == pytest.approx(200, rel=0.3)
    assert all(0 < (chat.after_pieces or 0) < chat.body["max_tokens"] for chat in talking)
    assert all(chat.after_seconds is chat.after_pieces is None for chat in (make_chat(rng) for _ in range(100)))


def test_memory_is_looked_at_once_it_is_warm() -> None:
    assert moved([10, *[100] * 9]) == 0.0
    assert moved([10, *[100] * 8, 103]) == pytest.approx(0.03)
    assert moved([10, 100, 95, *[100] * 7]) == pytest.approx(5 / 95)


def test_errors_are_what_is_no_sound_end() -> None:
    tally = Tally(seconds=2.0, pieces=30)
    tally.ends.update({"ended": 5, "hung up": 2, "ended by Guardian": 1, "no end": 1, "status 500: b''": 2})
    assert tally.rate == 15.0
    assert tally.errors == {"no end": 1, "status 500: b''": 2}
