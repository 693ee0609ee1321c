"""Guardian's rule "text": against its reference, at its edges, and over the set that it was chosen on."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import lil
import pytest
from conftest import ROOT
from lil import LZ77, Guardian
from lil._text_rule import Stretch, TextRule
from lil.eval.stops import GuardianStop
from reference.text_rule import fold, stretches

sys.path.insert(0, str(ROOT / "benchmarks"))
from texts import PARTS, Text, make_texts
from texts.measure import Sample, make_samples, score

CALIBRATION = Path(lil.__file__).parent / "data" / "calibration.txt"


def native(data: bytes, ends: Sequence[int], *, threshold: float = 20.0, patience: int = 1) -> list[Stretch]:
    rule, text, begin, found = TextRule(), LZ77(), 0, []
    for end in ends:
        before = text.size
        text.feed(data[begin:end])
        middle = (begin + end) // 2  # in two pieces
        rule.feed(data[begin:middle])
        rule.feed(data[middle:end])
        rule.check(text.size - before, threshold=threshold, patience=patience)
        found.append(rule.last)
        begin = end
    return found


def checked(text: str | bytes, step: int = 500, **settings: float) -> list[Stretch]:
    data = text.encode() if isinstance(text, str) else text
    return native(data, range(step, len(data) + 1, step), **settings)  # type: ignore[arg-type]


def alarms(text: str | bytes, step: int = 500, **settings: float) -> list[int]:
    """The checks, counted from 0, at which there is an alarm."""
    return [i for i, one in enumerate(checked(text, step, **settings)) if one.alarm]


def words(n: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(n))


# against the reference


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    return list(make_texts())


@pytest.mark.parametrize("part", range(6))
def test_every_decision_is_the_references(part: int, texts: list[Text]) -> None:
    """Stretches of uneven length, that end in the middle of characters and numbers."""
    draw = random.Random(part)
    some = [text for text in texts if len(text.data) < 28_000][part::6]
    seen = set()
    for text in draw.sample(some, 12):
        start = max(0, (text.onset or 0) - 1000)
        data = text.data[start:].decode(errors="ignore").encode()[:12_000]
        data = data.decode(errors="ignore").encode()
        ends = list(itertools.accumulate(draw.randint(0, 500) for _ in range(60)))
        ends = [end for end in ends if end <= len(data)]
        settings = {"threshold": draw.choice((20.0, 33.0)), "patience": draw.choice((1, 2))}
        found = native(data, ends, **settings)  # type: ignore[arg-type]
        assert found == list(stretches(data, ends, **settings)), text.family  # type: ignore[arg-type]
        seen |= {(one.kind, one.alarm) for one in found}
    assert len(seen) > 3


def test_folding() -> None:
    steps = b"".join(b"Step %d: go on.\n" % i for i in range(7, 13))
    assert fold(steps) == b"Step 7: go on.\nStep 8: go on.\nStep 9: go on.\n" + b"Step #: go on.\n" * 3
    # a place is twelve bytes: the first four differ
    assert fold(b"n 1 n 5 n 9 n 13 n 17 n 21 n 25 x") == b"n 1 n 5 n 9 n 13 n 17 n # n # x"
    assert fold(b"a 7") == b"a "  # not known to be all of it
    assert fold(b"9" * 20 + b" ") == b"9" * 20 + b" "


# at its edges


def test_a_loop_alarms_and_prose_does_not() -> None:
    prose = CALIBRATION.read_text(encoding="utf-8")
    assert not alarms(prose)
    assert not alarms(prose + "\n" + prose)  # written out again
    assert alarms("So the answer must be forty. " * 100)[0] == 1
    fresh = words(120, 1)  # some 780 bytes
    assert alarms(fresh[:750] + "Step back and look at it again. " * 100)[0] == 3


def test_a_few_steps_that_count_may_come_again() -> None:
    step = "Take the weight of the bag from that of the box, to find the weight of the rest.\n"
    steps = [f"{n}. {step}" for n in range(99)]
    begin, end = words(150, 7) + ".\n", words(150, 8)
    assert not alarms(begin + "".join(steps[:14]) + end)
    assert alarms(begin + "".join(steps[:30]) + end)


def test_numbers_that_count_are_nothing_new() -> None:
    counted = "".join(f"This was attempt number {i}, and it led nowhere at all.\n" for i in range(200))
    draw = random.Random(3)
    measured = "".join(
        f"The width of the beam was {draw.randint(0, 10**12)} before it was cut again.\n" for _ in range(200)
    )
    assert alarms(counted)
    assert not alarms(measured)


def test_what_it_is_made_of_decides() -> None:
    """The same line again: soonest in words or as blanks, later as code, latest as a grid.

    The first stretch begins the streak.
    """
    lines = ("all work and no play\n", " \n", "int x = f(a, b); {} [] // word\n", "[0, 0, 0, 0, 0, 0],\n")
    assert [alarms(line * 2000)[0] for line in lines] == [1, 1, 6, 16]
    assert [alarms(line * 2000)[0] for line in ("x[0] = [0, 0, 0, 0],\n", "ab = 1000000000000\n")] == [16, 6]
    assert [alarms(text * 4000)[0] for text in ("20 + ", "[0], ", "x * y + ")] == [3, 3, 3]  # no line, no grid
    said = "“Nobody knows how all of it began” — or so the older ones among them always said. "
    kinds = [checked(text * 100)[0].kind for text in ("Привет, мир. ", "日本語です。", "│ 12 │ 0 │\n", said)]
    assert kinds == ["text", "text", "numbers", "text"]


def test_the_same_working_again() -> None:
    """Formulas that come again are a loop at once, whatever numbers they have; one large formula is a grid."""
    steps = "".join(f"{n}. **So much for each of them:**\n\\[ 4 \\times 15 = 60 \\]\n\n" for n in range(7, 900, 3))
    lines = ("\\[\nA = 7\n\\]\n", "$$ 1 + 1 = 2 $$\n", "\\( 0 \\) ")
    assert alarms(steps)[0] == 2
    assert [alarms(line * 900)[0] for line in lines] == [2, 2, 2]
    assert alarms("\\[\n" + "0 & 0 & 0 & 0 & 0 \\\\\n" * 900)[0] == 16
    tables = "".join(f"\\[ {a} \\times {b} = {a * b} \\]\n" for a in range(3, 40) for b in range(1, 13))
    assert not alarms(tables)


def test_indentation_is_nothing() -> None:
    text = "- The alarm rings, and he turns it off.\n"
    assert [checked(f"{' ' * n}{text}" * 100)[0].kind for n in (0, 8, 60)] == ["text"] * 3
    assert checked(f"{' ' * 900}{text}" * 10)[0].kind == "blank"


def test_what_grows_has_new_words() -> None:
    """A song whose verses repeat the earlier ones and add a line; the last verse again and again is a loop."""
    draw = iter(words(28, 5).split())
    lines = [f"and then the {next(draw)} {next(draw)},\n" for _ in range(14)]
    verses = ["".join(reversed(lines[:n])) for n in range(1, 15)]
    assert not alarms("".join(verses))
    assert alarms("".join(verses) + verses[-1] * 5)[0] >= len("".join(verses)) // 500
    # letters of three bytes are words by themselves
    drawn = random.Random(6).sample([chr(i) for i in range(0x4E00, 0x5E00)], 60)
    song = ["".join(drawn[:n]) + "\n" for n in range(4, 60, 4)]
    assert not alarms("".join(song))


def test_threshold_and_patience_scale() -> None:
    loop = "So the answer must be forty. " * 200
    first = alarms(loop)[0]
    assert alarms(loop, patience=2)[0] == first + 1
    assert alarms(loop, patience=3)[0] == first + 2
    assert not alarms(loop, threshold=0)
    draw, known = random.Random(4), words(30, 4).split()
    recipe = "".join(f"{draw.choice(known)} and {draw.choice(known)} the {draw.choice(known)}. " for _ in range(400))
    assert not alarms(recipe)
    assert alarms(recipe, threshold=60)


def test_a_streak_begins_anew() -> None:
    ages = [one.age for one in checked("[0, 0, 0, 0, 0, 0],\n" * 2000)]
    assert ages[:34] == [0, *range(1, 33), 1]


def test_memory_is_bounded_and_freed() -> None:
    rule, text = TextRule(), "So the answer must be forty. " * 40
    idle = rule.memory
    assert idle < 35_000
    for _ in range(400):
        rule.feed(text.encode())
        rule.check(0.0)
        assert rule.memory <= idle + 1.5 * len(text) + 50 * 33 * len(text) + 2048
    rule.check(1e9)
    assert rule.memory <= idle + 1.5 * len(text)


def test_an_empty_stretch_is_blank() -> None:
    rule = TextRule()
    assert [rule.check(0.0) for _ in range(4)] == [False, True, True, True]
    assert rule.last == Stretch(bytes=0, growth=0.0, own_growth=0.0, age=3, kind="blank", alarm=True)


# the set


def test_the_set_is_made_from_its_seed(texts: list[Text]) -> None:
    def digest(some: list[Text]) -> str:
        return hashlib.sha256(b"\0".join(one.family.encode() + one.data for one in some)).hexdigest()

    assert digest(list(make_texts())) == digest(texts)
    assert digest(list(make_texts(1))) != digest(texts)
    loops = [text for text in texts if text.is_loop]
    assert len(loops) >= 60
    assert len(texts) - len(loops) >= 120
    parts = [{(text.is_loop, text.family) for text in texts if text.part == part} for part in PARTS]
    assert sum(map(len, parts)) == len(set().union(*parts))
    for text in texts:
        text.data.decode()
        assert text.onset is None or 700 < text.onset < 40_000


@pytest.fixture(scope="module")
def samples(texts: list[Text], model_path: str) -> list[Sample]:
    return make_samples(texts, lil.Llama(model_path, vocab_only=True, verbose=False))


@pytest.mark.parametrize(("part", "ended"), [("choose", 0.95), ("report", 0.95), ("later", 0.85)])
def test_what_the_rules_reach(part: str, ended: float, samples: list[Sample]) -> None:
    """Loose bounds; `python benchmarks/guardian_rules.py` has the figures."""
    some = [sample for sample in samples if sample.text.part == part]
    paper, text = (score(GuardianStop(guardian=Guardian(rule=rule)), some) for rule in ("paper", "text"))
    assert text.n_early == 0
    assert text.n_ended >= ended * text.n_loops > 1.5 * paper.n_ended
    assert len(text.cut) <= 0.03 * text.n_sound
    assert text.delay is not None
    assert text.delay < 1500
