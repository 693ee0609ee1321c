"""Guardian and others over recorded answers, and `lil replay`."""

from __future__ import annotations

import csv
import ctypes
import dataclasses
import itertools
import json
import random
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lil
import pytest
from conftest import LOOP
from lil import LZ77, ConfigError, Guardian
from lil._watch import Watch
from lil.cli import main
from lil.eval.compare import compare
from lil.eval.intervals import wilson
from lil.eval.records import ANSWERS_FILE, RUN_FILE, Answer, AnswersFile, Run, to_text, write_run
from lil.eval.replay import Stop, compressed_sizes, partial, replay, replay_run, sweep
from lil.eval.splits import ALL, Part, by_case
from lil.eval.stops import Dry, GuardianStop, NGrams, ZlibRatio, usual
from lil.llama_cpp import llama_cpp as bindings

PROSE = (Path(lil.__file__).parent / "data" / "calibration.txt").read_text(encoding="utf-8")


def answer(text: str | bytes, *, width: int = 4, tokens: Sequence[int] | None = None, **fields: Any) -> Answer:
    """An answer whose tokens are `width` bytes each, equal where their bytes are."""
    data = text.encode() if isinstance(text, str) else text
    pieces = [data[i : i + width] for i in range(0, len(data), width)]
    known: dict[bytes, int] = {}
    ids = [known.setdefault(piece, len(known)) for piece in pieces]
    return Answer(
        **{
            "id": "1",
            "method": "full",
            "budget": None,
            "prompt": "What is six times three?",
            "n_prompt": 6,
            "tokens": ids,
            "ends": list(itertools.accumulate(map(len, pieces))),
            "text": to_text(data),
            "stop": "end",
            "gold": "18",
            "predicted": None,
            "correct": False,
            "seconds": 1.0,
            **fields,
        }
    )


def words(n: int, seed: int = 0) -> str:
    """`n` bytes that do not repeat, of letters."""
    draw = random.Random(seed)
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=n))


def looping(n_fresh: int, period: int, n_tokens: int, seed: int = 0) -> str:
    """A text of 4-byte tokens: `n_fresh` that do not repeat, then a loop of `period`, `n_tokens` in all."""
    loop = words(4 * period, seed + 1)
    return (words(4 * n_fresh, seed) + loop * (n_tokens // period + 1))[: 4 * n_tokens]


def last_number(text: str, gold: str) -> tuple[str | None, bool]:
    """A judge: the number after the last "answer"."""
    found = text.split("answer ")[1:]
    predicted = found[-1][:2] if found else None
    return predicted, predicted == gold


# the rule


def test_the_alarm_comes_at_the_exact_token() -> None:
    # the check at 150 still sees the loop's first pass
    made = answer(looping(100, 20, 400))
    stop = replay(made, Guardian(rule="paper", every=50))
    assert (stop.n_tokens, stop.tokens_at_alarm) == (200, 200)
    assert len(stop.curve) == 5
    for i, size in enumerate(stop.curve):  # from scratch, as the paper does it
        assert size == LZ77(made.prompt.encode() + made.data[: 4 * 50 * i]).size
    growth = [after - before for before, after in itertools.pairwise(stop.curve)]
    assert [one < 20 for one in growth] == [False, False, False, True]
    # the threshold is not part of what alarms
    assert replay(made, Guardian(rule="paper", every=50, threshold=growth[3])).tokens_at_alarm == 250
    assert replay(made, Guardian(rule="paper", every=50, threshold=growth[2] + 0.01)).tokens_at_alarm == 150
    assert replay(made, Guardian(rule="paper", every=30)).tokens_at_alarm == 150
    assert replay(made, Guardian(rule="paper", every=401)) == Stop(
        n_tokens=400, tokens_at_alarm=None, curve=stop.curve[:1]
    )


def test_patience_counts_checks_in_a_row() -> None:
    text = looping(100, 20, 200) + looping(100, 20, 400, seed=5)
    made = answer(text)
    assert replay(made, Guardian(rule="paper", every=50, patience=1)).tokens_at_alarm == 200
    # one check at 200; those at 250 and 300 see new text, as the one at 350 sees a new loop
    assert replay(made, Guardian(rule="paper", every=50, patience=2)).tokens_at_alarm == 450
    assert replay(made, Guardian(rule="paper", every=50, patience=5)).tokens_at_alarm == 600
    assert replay(made, Guardian(rule="paper", every=50, patience=6)) == replay(
        made, Guardian(rule="paper", every=50, threshold=0)
    )


def test_a_loop_with_a_long_period() -> None:
    """A pass of 300 tokens: Guardian needs the second one, zlib's window and short n-grams do not reach."""
    made = answer(looping(0, 300, 1200))
    assert replay(made, Guardian(rule="paper", every=100)).tokens_at_alarm == 400
    assert replay(made, Guardian(rule="paper")).tokens_at_alarm == 750
    far = answer(looping(0, 10_000, 22_000))  # 40 kB
    assert replay(far, Guardian(rule="paper")).tokens_at_alarm == 10_250
    assert NGrams(min_size=1, max_size=20, min_count=3).first(made) is None
    assert NGrams(min_size=16, max_size=1024, min_count=4).first(made) == 1200


@pytest.mark.parametrize("every", [50, 250])
def test_prose_never_alarms(every: int) -> None:
    made = answer(PROSE)
    assert made.n_tokens > 1500
    stop = replay(made, Guardian(rule="paper", every=every))
    assert stop.tokens_at_alarm is None
    assert stop.n_tokens == made.n_tokens
    assert len(stop.curve) == 1 + made.n_tokens // every


def test_the_prompt_is_text_that_counts() -> None:
    fresh = words(400)
    assert replay(answer(fresh), Guardian(rule="paper", every=50)).tokens_at_alarm is None
    assert replay(answer(fresh, prompt="Repeat: " + fresh), Guardian(rule="paper", every=50)).tokens_at_alarm == 50


def test_a_stop_waits_for_the_end_of_a_character() -> None:
    text = "🜁🜂" * 100  # tokens of a byte, four to a character
    for every, kept in ((80, 80), (81, 84), (82, 84), (83, 84)):
        stop = replay(answer(text, width=1), Guardian(rule="paper", every=every))
        assert (stop.tokens_at_alarm, stop.n_tokens) == (every, kept)
    broken = answer(b"\xf0" * 800, width=1)  # never complete: three tokens, no more
    assert replay(broken, Guardian(rule="paper", every=100)).n_tokens == 103
    assert replay(answer(b"\xf0" * 101, width=1), Guardian(rule="paper", every=100)).n_tokens == 101


def test_partial_characters() -> None:
    for character in "aé€🜁":
        data = character.encode()
        assert [partial(b"x" + data[:i]) for i in range(1, len(data) + 1)] == [True] * (len(data) - 1) + [False]
    for data in (b"", b"\x80\x80\x80", b"x\x80", b"\xc0", b"\xff", b"\xf8"):
        assert not partial(data), data


def test_one_pass_serves_every_setting() -> None:
    made = answer(looping(100, 20, 400))
    sizes = compressed_sizes(made, [400, 50, 0, 50])
    assert list(sizes) == [0, 50, 400]
    assert sizes[400] == LZ77(made.prompt.encode() + made.data).size
    settings = [
        Guardian(rule="paper", every=every, threshold=threshold, patience=patience)
        for every in (30, 50)
        for threshold in (0, 20, 60)
        for patience in (1, 2)
    ]
    answers = [made, answer(PROSE, id="2", correct=True), answer("", id="3")]
    found = list(sweep(answers, settings, judge=last_number))
    assert [one.guardian for one in found] == settings
    for one in found:
        assert one == replay_run(answers, one.guardian, judge=last_number)
        assert one.total.tokens_after == sum(replay(a, one.guardian).n_tokens for a in answers)


def test_what_cannot_be_replayed() -> None:
    for action in ("close_think", "flag"):
        with pytest.raises(ConfigError, match=f"action='{action}' cannot be replayed"):
            replay_run([answer("x")], Guardian(action=action))
    with pytest.raises(ConfigError, match="no answers"):
        replay_run([], Guardian())


# what becomes of the answers


def mixed() -> list[Answer]:
    """Answers of 100 tokens, or of 400 that run into a loop, which Guardian(rule="paper", every=50) cuts after 200."""
    cut = looping(100, 20, 396)
    cases = {
        "stays": ("answer 18. " + cut[11:] + "the", True, "length"),
        "stays whole": (words(389) + " answer 18.", True, "end"),
        "lost": (cut + " and the answer 18", True, "end"),
        "won": ("answer 18. " + cut[11:] + " so the answer 7.", False, "end"),
        "early": (cut + "the", False, "length"),
        "wrong whole": (words(389) + " answer 17.", False, "end"),
    }
    return [answer(text, id=name, correct=right, stop=stop) for name, (text, right, stop) in cases.items()]


def test_transitions() -> None:
    answers = mixed()
    others = [dataclasses.replace(one, method="quest", budget=64) for one in answers[:2]]
    found = replay_run([*answers, *others], Guardian(rule="paper", every=50), judge=last_number)
    full, quest = found.cases
    assert (full.method, full.budget, full.n, full.n_cut, full.n_length) == ("full", None, 6, 4, 2)
    assert (full.right_stays, full.right_to_wrong, full.wrong_to_right, full.wrong_ends_early) == (2, 1, 1, 1)
    assert (full.correct_before, full.correct_after) == (3, 3)
    n = {one.id: one.n_tokens for one in answers}
    assert full.right == Part(n=3, n_cut=2, tokens_before=n["stays"] + 100 + n["lost"], tokens_after=200 + 100 + 200)
    assert full.wrong == Part(n=3, n_cut=2, tokens_before=n["won"] + n["early"] + 100, tokens_after=500)
    assert full.tokens_before == sum(n.values())
    assert full.tokens_after == 1000
    assert full.saved == 1 - 1000 / sum(n.values())
    assert full.wrong.saved == 1 - 500 / full.wrong.tokens_before
    assert full.interval_before == full.interval_after == wilson(3, 6)
    assert (quest.method, quest.budget, quest.right_stays, quest.accuracy_after) == ("quest", 64, 2, 1.0)
    assert quest.wrong.saved == 0  # of none
    assert (found.total.method, found.total.n, found.total.tokens_after) == (ALL, 8, 1300)
    assert (found.total.right_stays, found.total.right_to_wrong) == (4, 1)
    assert full.as_dict()["right"]["saved"] == full.right.saved


def test_the_judge_is_asked_once_and_only_of_what_was_cut() -> None:
    asked: list[str] = []

    def judge(text: str, gold: str) -> tuple[str | None, bool]:
        asked.append(text)
        return last_number(text, gold)

    answers = mixed()
    list(
        sweep(
            answers,
            [
                Guardian(rule="paper", every=50),
                Guardian(rule="paper", every=50, threshold=19),
                Guardian(rule="paper", every=1000),
            ],
            judge=judge,
        )
    )
    assert len(asked) == 4
    assert {len(text) for text in asked} == {800}


def test_the_real_judge_reads_what_is_left() -> None:
    loop = looping(0, 20, 400, seed=3)
    texts = {"kept": r"So it is \boxed{18}. " + loop, "lost": loop + r" So it is \boxed{18}."}
    answers = [answer(text, id=name, correct=True) for name, text in texts.items()]
    total = replay_run(answers, Guardian(rule="paper", every=50)).total
    assert (total.right_stays, total.right_to_wrong) == (1, 1)


def test_cases_are_in_order() -> None:
    order = [("quest", 128), ("sink", 64), ("full", None), ("quest", 64)]
    answers = [answer("x", method=method, budget=budget) for method, budget in order]
    assert list(by_case(answers)) == [("full", None), ("quest", 64), ("quest", 128), ("sink", 64)]


def test_wilson() -> None:
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 10) == (0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I


# others


def test_n_grams_are_those_at_the_end() -> None:
    def first(tokens: Sequence[int], low: int, high: int, times: int) -> int | None:
        for n in range(1, len(tokens) + 1):
            for size in range(low, high + 1):
                tail = list(tokens[n - size * times : n]) if size * times <= n else []
                if tail and tail == tail[:size] * times:
                    return n
        return None

    draw = random.Random(7)
    seen = set()
    for _ in range(200):
        tokens = [draw.randrange(2) for _ in range(30)]
        low, times = draw.randint(1, 4), draw.randint(2, 4)
        high = low + draw.randrange(6)
        expected = first(tokens, low, high, times)
        made = answer(bytes(tokens), width=1, tokens=tokens)
        assert NGrams(min_size=low, max_size=high, min_count=times).first(made) == expected, (tokens, low, high, times)
        seen.add(expected)
    assert None in seen
    assert len(seen) > 10


def test_zlib_ratio() -> None:
    assert ZlibRatio().first(answer(words(4000))) is None
    made = answer(looping(100, 20, 400))
    n = ZlibRatio().first(made)
    assert n is not None
    assert n % 25 == 0
    ratios = [4 * k / len(zlib.compress(made.data[: 4 * k])) for k in (n - 25, n)]
    assert ratios[0] <= 2.4 < ratios[1]
    # the whole answer's ratio is still low where the last tokens are nothing but the loop
    late = answer(looping(1000, 20, 1400))
    assert ZlibRatio().first(late) is None
    window = ZlibRatio(window=100).first(late)
    assert window is not None
    assert 1000 < window < 1150
    begin = 4 * (window - 100)
    assert 400 / len(zlib.compress(late.data[begin : 4 * window])) > 2.4


@pytest.mark.parametrize("last_n", [64, None])
@pytest.mark.parametrize("least", [0.0, 10.0])
def test_dry_is_llama_cpps(shared_llama: lil.Llama, last_n: int | None, least: float) -> None:
    texts = [
        "It rains today, and it rains tomorrow, and it rains today, and it rains tomorrow, and so on and so on.",
        'He said: "no"\nHe said: "no"\nHe said: "no"\nand went home, and went home, and went home, and went home.',
        PROSE[:1500],
    ]
    breakers = (ctypes.c_char_p * 4)(b"\n", b":", b'"', b"*")
    vocab = shared_llama._model.vocab
    found = []
    for text in texts:
        tokens = shared_llama.tokenize(text.encode(), add_bos=False)
        ends = list(itertools.accumulate(len(shared_llama.detokenize([token])) for token in tokens))
        sampler = bindings.llama_sampler_init_dry(vocab, 0.8, 1.75, 2, last_n or 100_000, breakers, 4)
        expected = None
        for i, token in enumerate(tokens):
            candidate = bindings.llama_token_data(id=token, logit=0.0, p=0.0)
            array = bindings.llama_token_data_array(data=ctypes.pointer(candidate), size=1, selected=-1, sorted=False)
            bindings.llama_sampler_apply(sampler, ctypes.byref(array))
            if candidate.logit < 0 and -candidate.logit >= least:
                expected = i
                break
            bindings.llama_sampler_accept(sampler, token)
        bindings.llama_sampler_free(sampler)
        recorded = dataclasses.replace(answer(text), tokens=tokens, ends=ends)
        assert Dry(last_n=last_n, least=least).first(recorded) == expected, text
        found.append(expected)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] != found[1]


def test_dry_does_not_overflow() -> None:
    made = answer("x" * 3000, width=1)
    assert Dry().first(made) == 3
    assert Dry(last_n=None, least=1e300).first(made) is None


def test_comparison() -> None:
    answers = mixed()
    guardian, grams, dry = compare(
        answers,
        [
            GuardianStop(guardian=Guardian(rule="paper", every=50)),
            NGrams(min_size=16, max_size=64, min_count=4),
            Dry(least=10, breakers=b""),
        ],
        judge=last_number,
    )
    assert (guardian.n, guardian.n_runaway, guardian.n_sound, guardian.correct_before) == (6, 2, 2, 3)
    assert (guardian.n_runaway_met, guardian.runaway_tokens, guardian.n_sound_met) == (2, 200, 1)
    assert (guardian.tokens_after, guardian.correct_after) == (1000, 3)
    assert guardian.saved == 1 - 1000 / guardian.tokens_before
    # a pass of 20 tokens, four times: 80 after the 100 that are new, where the answer has not been overwritten
    assert (grams.n_runaway_met, grams.runaway_tokens, grams.n_sound_met) == (2, 180, 1)
    assert grams.tokens_after == 4 * 180 + 200
    assert grams.as_dict()["saved"] == grams.saved
    # the second pass begins after 120; six tokens later the odds are 1/13000, seven 1/22000
    assert (dry.n_runaway_met, dry.n_sound_met, dry.ends) == (2, 1, False)
    assert dry.runaway_tokens == 127
    assert dry.saved is dry.tokens_after is dry.correct_after is None
    with pytest.raises(ConfigError, match="no answers"):
        compare([], usual([Guardian()]))


# with a model


def test_replay_is_the_sampler_in_the_loop(shared_llama: lil.Llama) -> None:
    """Recorded without Guardian and replayed, against generated with it."""
    text = "<|im_start|>user\n" + LOOP[0]["content"] + "<|im_end|>\n<|im_start|>assistant\n"
    prompt = shared_llama.tokenize(text.encode(), add_bos=False, special=True)
    tokens = list(itertools.islice(shared_llama.generate(prompt, temp=0.0), 320))
    assert not any(shared_llama._is_end(token) for token in tokens)
    pieces = [shared_llama.detokenize([token], special=True) for token in tokens]
    made = dataclasses.replace(
        answer(b"".join(pieces), prompt=shared_llama.detokenize(prompt, special=True).decode()),
        tokens=tokens,
        ends=list(itertools.accumulate(map(len, pieces))),
        stop="length",
    )

    config = Guardian(rule="paper", every=60)
    choice = shared_llama.create_completion(prompt, temperature=0, max_tokens=320, guardian=config)["choices"][0]
    stop, report = replay(made, config), choice["guardian"]
    assert report["stopped"]
    assert (stop.tokens_at_alarm, stop.n_tokens, stop.curve) == (
        report["tokens_at_alarm"],
        report["tokens"],
        report["curve"],
    )
    assert made.data[: made.ends[stop.n_tokens - 1]].decode() == choice["text"]

    alarms = set()
    rules: tuple[Any, ...] = ("paper", "text")
    for rule, every, threshold, patience in itertools.product(rules, (7, 25, 60, 150), (0, 10, 20, 45.5), (1, 2, 3)):
        config = Guardian(rule=rule, every=every, threshold=threshold, patience=patience)
        watch = Watch(shared_llama._ctx, config)
        watch.feed(prompt)
        for token in tokens:
            if shared_llama._is_end(watch.pick(token)):
                break
        report, stop = watch.report(), replay(made, config)
        watch.close()
        assert (stop.tokens_at_alarm, stop.n_tokens, stop.curve) == (
            report["tokens_at_alarm"],
            report["tokens"],
            report["curve"],
        ), config
        alarms.add((rule, stop.tokens_at_alarm))
    for rule in rules:
        assert (rule, None) in alarms
        assert len({alarm for one, alarm in alarms if one == rule}) > 5


# the command


RUN = Run(
    task="gsm8k",
    model="model.gguf",
    fingerprint="llama-2x64-model",
    methods=["full", "quest"],
    budgets=[64],
    n_problems=6,
    max_tokens=400,
    sampling={"temperature": 0.0, "seed": 0},
    n_parallel=1,
    system=None,
    suffix="",
    data="test.jsonl",
    lil="0",
    machine={"cores": 2},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run of two cases, by the real judge's lights."""
    folder = tmp_path / "run"
    write_run(folder, RUN)
    loop = looping(100, 20, 390)
    with AnswersFile(folder) as file:
        for method, budget in (("full", None), ("quest", 64)):
            fields: dict[str, Any] = {"method": method, "budget": budget}
            file.append(answer(words(390) + r" \boxed{18}", id="a", correct=True, **fields))
            file.append(answer(r"\boxed{18} " + loop, id="b", correct=True, stop="length", **fields))
            file.append(answer(loop + r" \boxed{18}", id="c", correct=budget is None, **fields))
    return folder


@pytest.fixture
def lil_replay(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["replay", *map(str, args)])
        return status, *capsys.readouterr()

    return call


def test_command(run: Path, tmp_path: Path, lil_replay: Any) -> None:
    out, rows = tmp_path / "out.json", tmp_path / "out.csv"
    status, text, err = lil_replay(run, "--every", 50, "--json", out, "--csv", rows)
    assert status == 0, err
    assert "gsm8k, model.gguf: 6 answers in 2 cases, at most 400 tokens each" in text
    setting = "Guardian, rule text, every 50, threshold 20, patience 1"
    for words_of_it in (setting, "quest 64", "right to wrong", "right: saved"):
        assert words_of_it in text
    record = json.loads(out.read_text())
    assert (record["kind"], record["run"]["task"], record["comparison"]) == ("replay", "gsm8k", [])
    (result,) = record["results"]
    assert result["guardian"] == {"rule": "text", "every": 50, "threshold": 20.0, "patience": 1}
    full, quest = result["cases"]
    assert (full["n_cut"], full["right_to_wrong"], full["correct_after"]) == (2, 1, 2)
    assert (quest["right_to_wrong"], quest["wrong_ends_early"], quest["right_stays"]) == (0, 1, 2)
    assert f"{100 * full['saved']:.1f} %" in text
    table = list(csv.DictReader(rows.open()))
    assert [row["method"] for row in table] == ["full", "quest", "all"]
    assert float(table[0]["saved"]) == full["saved"]
    assert float(table[2]["interval_after.1"]) == result["total"]["interval_after"][1]


def test_a_sweep_has_a_table_and_a_plot(run: Path, tmp_path: Path, lil_replay: Any) -> None:
    rows = tmp_path / "out.csv"
    args = (
        run,
        "--every",
        "50,100",
        "--threshold",
        "0,20,40,80",
        "--csv",
        rows,
        "--plot",
        tmp_path / "plots" / "sweep.png",
    )
    status, text, err = lil_replay(*args)
    assert status == 0, err
    assert "without Guardian" in text
    assert "100, 80, 1" in text
    assert len(list(csv.DictReader(rows.open()))) == 8 * 3
    png, svg = (tmp_path / "plots" / f"sweep.{kind}" for kind in ("png", "svg"))
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = svg.read_text()
    for words_of_it in ("every 50", "every 100", "tokens saved, %", "without Guardian", "threshold, compressed bytes"):
        assert words_of_it in drawn
    assert lil_replay(*args)[0] == 0
    assert svg.read_text() == drawn


def test_both_rules_in_one_sweep(run: Path, tmp_path: Path, lil_replay: Any) -> None:
    args = (run, "--rule", "paper,text", "--every", "20,50", "--plot", tmp_path / "rules", "--json", tmp_path / "j")
    status, text, err = lil_replay(*args)
    assert status == 0, err
    assert "text, 50, 20, 1" in text
    results = json.loads((tmp_path / "j").read_text())["results"]
    settings = [(one["guardian"]["rule"], one["guardian"]["every"]) for one in results]
    assert settings == [("paper", 20), ("paper", 50), ("text", 20), ("text", 50)]
    assert results[2]["total"]["tokens_after"] != results[0]["total"]["tokens_after"]
    drawn = (tmp_path / "rules.svg").read_text()
    assert "rule paper" in drawn
    assert "rule text" in drawn


def test_the_comparison_is_printed(run: Path, tmp_path: Path, lil_replay: Any) -> None:
    out, rows = tmp_path / "out.json", tmp_path / "out.csv"
    status, text, err = lil_replay(run, "--every", 50, "--compare", "--json", out, "--csv", rows)
    assert status == 0, err
    assert "Runaways: answers that the cap ended." in text
    record = json.loads(out.read_text())["comparison"]
    assert [row["settings"].split(",")[0] for row in record[:2]] == ["rule text", "rule paper"]
    assert [row["name"] for row in record] == [*["Guardian"] * 2, *["n-grams"] * 3, *["zlib ratio"] * 2, *["DRY"] * 4]
    for row in record:
        assert row["settings"] in text
    beside = list(csv.DictReader((tmp_path / "out-compare.csv").open()))
    assert [row["settings"] for row in beside] == [row["settings"] for row in record]
    assert beside[-1]["saved"] == ""


BAD = [
    (["NONE"], ["none", RUN_FILE, "No such file", "lil eval"]),
    (["EMPTY"], [ANSWERS_FILE, "no answers yet"]),
    (["RUN", "--threshold", "-1"], ["--threshold '-1'", "at least 0"]),
    (["RUN", "--threshold", "20,nan"], ["--threshold '20,nan'", "finite"]),
    (["RUN", "--threshold", "few"], ["--threshold 'few'", "10,20,40"]),
    (["RUN", "--rule", "zlib"], ["--rule 'zlib'", "paper, text"]),
    (["RUN", "--every", "0"], ["--every '0'", "at least 1"]),
    (["RUN", "--every", "250;500"], ["--every '250;500'"]),
    (["RUN", "--patience", "1,0"], ["--patience", "at least 1"]),
    (["RUN", "--csv", "NONE/out.csv"], ["--csv", "no folder"]),
    (["RUN", "--json", "NONE/out.json"], ["--json", "no folder"]),
    (["RUN", "--action", "flag"], ["--action"]),
    ([], ["RUN"]),
]


@pytest.mark.parametrize(("args", "expected"), BAD, ids=lambda value: " ".join(value))
def test_bad_input_is_one_line_and_status_2(
    args: list[str], expected: list[str], run: Path, tmp_path: Path, lil_replay: Any
) -> None:
    write_run(tmp_path / "empty", RUN)
    names = {"NONE": tmp_path / "none", "EMPTY": tmp_path / "empty", "RUN": run}
    places = [arg.replace("NONE", str(names["NONE"])) if "/" in arg else str(names.get(arg, arg)) for arg in args]
    status, out, err = lil_replay(*places)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    for part in expected:
        assert part in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "x"', "not an answer"),
        ('{"id": "x"}', "missing"),
        ("[]", "not an answer"),
        ("ENDS", "100 tokens, but the ends of 99"),
        ("OUTSIDE", "do not ascend within the text's 400 bytes"),
        ("TEXT", "text is 7, not a text"),
    ],
)
def test_a_malformed_line_is_named(line: str, expected: str, run: Path, lil_replay: Any) -> None:
    good = dataclasses.asdict(answer(words(400)))
    made = {
        "ENDS": good | {"ends": good["ends"][1:]},
        "OUTSIDE": good | {"ends": [*good["ends"][:-1], 401]},
        "TEXT": good | {"text": 7},
    }
    path = run / ANSWERS_FILE
    path.write_text(path.read_text() + (json.dumps(made[line]) if line in made else line) + "\n")
    status, _, err = lil_replay(run)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{path}:7: " in err
    assert expected in err


@pytest.mark.parametrize(("package", "args"), [("math_verify", []), ("matplotlib", ["--plot", "x"])])
def test_a_missing_package_is_named(
    package: str, args: list[str], run: Path, lil_replay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    status, out, err = lil_replay(run, *args)
    assert (status, out) == (2, "")
    assert 'pip install "lil-cpp[eval]"' in err
