"""Runs as a report, and `lil report`."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lil
import numpy as np
import pytest
from lil import ConfigError, Guardian
from lil._guardian import RULES
from lil.cli import main
from lil.eval.records import ANSWERS_FILE, RUN_FILE, Answer, AnswersFile, Run, read_answers, to_text, write_run
from lil.eval.replay import replay
from lil.eval.report import HTML_FILE, MARKDOWN_FILE, measure, read_groups, stats, text, times, write_report
from lil.eval.report.growth import examples
from lil.eval.report.palette import FULL, looks
from lil.eval.report.stats import Estimate

WORDS = (Path(lil.__file__).parent / "data" / "calibration.txt").read_text(encoding="utf-8").split()
CAP = 1000

# Recorded runs, made of words: (method, budget, problem) -> what becomes of it


def answer(method: str, budget: int | None, id: int, *, fresh: int, loop: int = 0, right: str = "end") -> Answer:
    """`fresh` tokens that say something, then a loop of `loop` tokens up to the cap. A token is a word.

    Args:
        right: Where "the answer is ID" stands: "begin", "end" (of the fresh part), "last" (after the loop), or nowhere.
    """
    draw = random.Random(f"{method}/{budget}/{id}")
    stated = ["The", "answer", "is", f"\\boxed{{{100 + id}}}."]
    words = draw.sample(WORDS, fresh)
    words = stated + words if right == "begin" else words + stated if right == "end" else words
    if loop:
        words = (words + draw.sample(WORDS, loop) * CAP)[: CAP - 4]
        words += stated if right == "last" else ["and", "so", "it", "goes"]
    data = " ".join(words).encode()
    ends = [end - 1 for end in itertools.accumulate(len(word.encode()) + 1 for word in words)]
    return Answer(
        id=f"problem {id}",
        method=method,
        budget=budget,
        prompt="What is it, and why? Give a number.",
        n_prompt=10,
        tokens=[len(word) for word in words],
        ends=ends,
        text=to_text(data),
        stop="length" if loop else "end",
        gold=str(100 + id),
        predicted=str(100 + id) if right else None,
        correct=bool(right),
        seconds=1.0,
    )


def make_run(folder: Path, answers: Sequence[Answer], **fields: Any) -> str:
    run = {
        "task": "gsm8k",
        "model": "tiny.gguf",
        "fingerprint": "llama-2x64-tiny",
        "methods": list(dict.fromkeys(a.method for a in answers)),
        "budgets": sorted({a.budget for a in answers if a.budget is not None}),
        "n_problems": len({a.id for a in answers}),
        "max_tokens": CAP,
        "sampling": {"temperature": 0.0, "seed": 0},
        "n_parallel": 8,
        "system": None,
        "suffix": "Think.",
        "data": "problems.jsonl",
        "lil": "0.1.0",
        "machine": {"cores": 2},
    }
    write_run(folder, Run(**{**run, **fields}))
    with AnswersFile(folder) as out:
        for each in answers:
            out.append(each)
    return str(folder)


FULL_ANSWERS = [answer(FULL, None, i, fresh=200 + i, right="end" if i else "") for i in range(6)]
SPARSE_ANSWERS = [
    # right, wrong by itself, wrong without end, right and lost by the stop, right early and kept, changing without end
    answer("quest", 64, 0, fresh=210),
    answer("quest", 64, 1, fresh=300, right=""),
    answer("quest", 64, 2, fresh=120, loop=7, right=""),
    answer("quest", 64, 3, fresh=120, loop=9, right="last"),
    answer("quest", 64, 4, fresh=120, loop=11, right="begin"),
    answer("quest", 64, 5, fresh=120, loop=790, right=""),
    *(answer("quest", 128, i, fresh=220 + i) for i in range(6)),
    *(answer("sink", 64, i, fresh=100, loop=5, right="") for i in range(6)),
]


@pytest.fixture
def run(tmp_path: Path) -> str:
    return make_run(tmp_path / "run", FULL_ANSWERS + SPARSE_ANSWERS)


def write_bench(path: Path, steps: dict[tuple[str, int | None], Any], fingerprint: str = "llama-2x64-tiny") -> str:
    """Steps of a + b * context seconds."""
    rows = [
        {
            "runtime": "lil", "method": method, "budget": budget, "measure": "decode", "context": context,
            "seconds": a + b * context, "low": a, "high": a + 2 * b * context, "ratio": 1.0, "ratio_low": 1.0,
            "ratio_high": 1.0,
        }
        for (method, budget), (a, b) in steps.items()
        for context in (1, 400, 4000)
    ]  # fmt: skip
    record = {"kind": "bench", "model": {"file": "tiny.gguf", "fingerprint": fingerprint}, "results": rows}
    path.write_text(json.dumps(record | {"machine": {"cores": 2}}), encoding="utf-8")
    return str(path)


@pytest.fixture
def bench(tmp_path: Path) -> str:
    steps = {(FULL, None): (0.01, 1e-5), ("quest", 64): (0.006, 0.0), ("quest", 128): (0.007, 0.0)}
    return write_bench(tmp_path / "bench.json", steps)


# intervals


def test_intervals_of_shares() -> None:
    p = stats.proportion(8, 10)
    assert (p.value, p.low, p.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    none = stats.change([True] * 8 + [False] * 2, [True] * 8 + [False] * 2)
    assert none.value == 0
    # one more in each direction of 12: 1.96 * sqrt((2 / 12) / 12)
    assert (none.low, none.high) == pytest.approx((-0.2310, 0.2310), abs=1e-4)
    lost = stats.change([True, True, True, False], [True, False, False, False])
    assert lost.value == -0.5
    assert lost.low < -0.5 < lost.high
    assert not stats.proportion(0, 0).known
    assert math.isnan(stats.change([], []).value)


def test_the_bootstrap_agrees_with_the_normal_distribution() -> None:
    x = np.random.default_rng(1).normal(100, 20, 400)
    found = stats.mean(x)
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.15 * half)
    assert stats.mean(x) == found
    assert stats.mean([3]).value == 3
    assert not stats.mean([3]).known
    assert math.isnan(stats.mean([]).value)


def test_ratios_are_paired() -> None:
    x = np.array([1.0, 50.0, 1000.0, 3.0])
    assert stats.ratio(2 * x, x) == pytest.approx((2, 2, 2))
    assert math.isnan(stats.ratio([1.0], [0.0]).value)
    assert stats.ratio([1.0, 2.0], [0.0, 4.0]).value == 0.75


def test_numbers_are_written_plainly() -> None:
    assert text.count(1234567.4).replace(text.THIN, " ") == "1 234 567"
    assert text.count(-12) == "−12"
    assert text.points(-0.0401) == "−4.0"
    assert text.points(-0.0001) == "0.0"
    assert text.points(0.02) == "+2.0"
    assert text.percent(-0.0001, 1).replace(text.SPACE, " ") == "0.0 %"
    assert [text.seconds(s) for s in (0.1234, 9.994, 9.996, 12.34, 99.96, 1234.5)] == [
        "0.12", "9.99", "10.0", "12.3", "100", f"1{text.THIN}234",
    ]  # fmt: skip
    assert text.share(Estimate(0.825, 0.7, 0.9)).replace(text.SPACE, " ") == "82.5 % (70 to 90)"
    assert text.with_interval(Estimate(1.5, math.nan, math.nan), text.fixed) == "1.50"
    for write in (text.count, text.fixed, text.percent, text.points, text.seconds):
        assert write(math.nan) == text.NONE
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b", "c"]) == "a, b and c"


# reading


def test_parts_of_a_run_are_one_group(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", FULL_ANSWERS)
    second = make_run(tmp_path / "second", SPARSE_ANSWERS[:6] + FULL_ANSWERS[:1], lil="0.2.0", machine={"cores": 9})
    short = make_run(tmp_path / "short", FULL_ANSWERS[:2], max_tokens=500, suffix=None)
    other = make_run(tmp_path / "other", FULL_ANSWERS[:3], task="aime")
    groups = read_groups([first, second, short, other, first + "/"])
    assert [len(group.answers) for group in groups] == [12, 2, 3]
    assert [len(group.parts) for group in groups] == [2, 1, 1]
    assert groups[0].title == "gsm8k, tiny, max_tokens 1000, suffix Think."
    assert groups[1].title == "gsm8k, tiny, max_tokens 500, suffix None"
    assert groups[2].title == "aime, tiny"


def test_runs_that_contradict_each_other(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", FULL_ANSWERS)
    second = make_run(tmp_path / "second", [answer(FULL, None, 3, fresh=50)])
    with pytest.raises(ConfigError, match=r"second: problem 'problem 3' under full has another answer in .*first"):
        read_groups([first, second])


# counting


def test_cases(run: str) -> None:
    (group,) = read_groups([run])
    ticks: list[None] = []
    measured = measure(group, Guardian(), tick=lambda: ticks.append(None))
    assert len(ticks) == len(group.answers)
    assert [case.label for case in measured.cases] == ["full", "quest 64", "quest 128", "sink 64"]
    assert measured.methods == ["quest", "sink"]
    full, quest, large, sink = measured.cases
    assert measured.full is full
    assert (full.result.correct_before, full.result.n_cut) == (5, 0)
    assert full.tokens(guardian=False).value == pytest.approx(np.mean([a.n_tokens for a in FULL_ANSWERS]))
    assert full.saved == pytest.approx((0, 0, 0))

    # problems 2, 3 and 4 go round in circles, from token 124 on: the third check finds nothing new in its stretch
    assert [stop.tokens_at_alarm for stop in quest.stops] == [None, None, 375, 375, 375, None]
    assert quest.right_before == [True, False, False, True, True, False]
    assert quest.right_after == [True, False, False, False, True, False]
    assert quest.accuracy_change.value == pytest.approx(-1 / 6)
    saved = sum(before - after for before, after in zip(quest.before, quest.after, strict=True))
    assert saved == 3 * 625
    assert quest.saved.value == pytest.approx(saved / sum(quest.before))
    assert quest.saved.low < quest.saved.value < quest.saved.high
    assert quest.length_against(full).value == pytest.approx(sum(quest.before) / sum(full.before))
    assert quest.length_against(full, guardian=True).value == pytest.approx(sum(quest.after) / sum(full.after))
    assert large.accuracy_against(full).value == pytest.approx(1 / 6)
    assert (sink.result.n_cut, sink.accuracy(guardian=True).value) == (6, 0)
    assert sink.ratio.high < 0.5 < full.ratio.low
    assert measured.total.n == 24
    assert measured.total.tokens_before == sum(a.n_tokens for a in group.answers)
    assert (measured.total.right_to_wrong, measured.total.wrong_ends_early) == (1, 7)


def test_what_is_compared_was_answered_by_both(tmp_path: Path) -> None:
    (group,) = read_groups([make_run(tmp_path / "run", FULL_ANSWERS[2:] + SPARSE_ANSWERS[:4])])
    full, quest = measure(group, Guardian()).cases
    mine, theirs = quest.common(full)
    assert [quest.answers[i].id for i in mine] == ["problem 2", "problem 3"]
    assert [full.answers[i].id for i in theirs] == ["problem 2", "problem 3"]
    assert quest.length_against(full).value == pytest.approx(2 * CAP / sum(full.before[theirs]))


def test_examples_are_chosen_by_rule(run: str) -> None:
    (group,) = read_groups([run])
    chosen = examples(measure(group, Guardian()))
    assert [(e.case.label, e.answer.id, e.kind) for e in chosen] == [
        ("full", "problem 5", "right; ended by itself"),
        ("sink 64", "problem 2", "wrong; stopped, still wrong"),
        ("quest 64", "problem 3", "right; stopped, then wrong"),
        ("quest 64", "problem 5", "wrong; ran to the cap without a stop"),
    ]


# time


def test_time_is_steps_by_time_per_step(run: str, bench: str) -> None:
    (group,) = read_groups([run])
    measured = measure(group, Guardian())
    full, quest, large = times.case_times(measured, times.read(bench))
    assert [time.case.label for time in (full, quest, large)] == ["full", "quest 64", "quest 128"]
    assert times.left_out(measured, [full, quest, large]) == ["sink 64"]
    assert quest.before == pytest.approx(0.006 * quest.case.before)
    assert quest.after == pytest.approx(0.006 * quest.case.after)
    assert quest.step == pytest.approx(0.006)
    # 10 tokens of prompt: steps after 10, 11, ... tokens
    expected = [sum(0.01 + 1e-5 * (10 + i) for i in range(n)) for n in full.case.before]
    assert full.before == pytest.approx(expected)
    ratio = large.against(full, guardian=False)
    assert ratio.value == pytest.approx(large.before.sum() / full.before.sum())
    assert times.verdict(ratio) == "faster"
    assert times.verdict(quest.against(full, guardian=False)) == "slower"
    assert times.verdict(Estimate(0.9, 0.7, 1.1)) == "open"
    assert times.verdict(Estimate(0.9, math.nan, math.nan)) == "open"


# the report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two groups, one of them timed."""
    root = tmp_path_factory.mktemp("report")
    first = make_run(root / "run", FULL_ANSWERS + SPARSE_ANSWERS)
    second = make_run(
        root / "long",
        [answer(FULL, None, 1, fresh=260), answer("infllm:block=64:window=128:positions=clipped", 256, 1, fresh=280)],
        model="<b>&|$x_1$.gguf",
        fingerprint="other",
        n_problems=7,
    )
    steps = {(FULL, None): (0.01, 1e-5), ("quest", 64): (0.006, 0.0), ("quest", 128): (0.007, 0.0)}
    file = write_bench(root / "bench.json", steps)
    assert main(["report", first, second, "--bench", file, "--out", str(root / "out")]) == 0
    return root / "out"


class _Page(HTMLParser):
    """Tags with their attributes, and the text of table cells."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_is_whole_and_needs_nothing(made: Path) -> None:
    source = (made / HTML_FILE).read_text(encoding="utf-8")
    page = _Page(source)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs.get("href") or attrs.get("xlink:href") or "" for _, attrs in page.tags]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    used = set(re.findall(r"url\(#([^)]+)\)", source))
    assert used
    assert used <= set(ids)
    assert not page.all("script")
    assert not page.all("img")
    assert all(attrs["href"] == "data:," for attrs in page.all("link"))
    assert not any("src" in attrs for _, attrs in page.tags)
    assert "@import" not in source
    # what a reader without eyes needs
    assert page.all("html")[0]["lang"] == "en"
    drawings = page.all("svg")
    assert len(drawings) == 12 + 7
    assert all(svg["role"] == "img" and len(svg["aria-label"] or "") > 40 for svg in drawings)
    assert all(attrs.get("scope") in ("col", "colgroup", "row", "rowgroup") for attrs in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 1 + 5 + 4
    words = " ".join("".join(page.words).split())
    assert "<b>&|$x_1$" in words
    assert "5 of 6 answers right" in words
    assert (
        "Not all of the 7 problems are answered: full 1 and infllm:block=64:window=128:positions=clipped 256 1."
        in words
    )


def test_tables_say_what_was_counted(made: Path, run: str) -> None:
    (group,) = read_groups([run])
    measured = measure(group, Guardian())
    lines = (made / MARKDOWN_FILE).read_text(encoding="utf-8").replace(text.SPACE, " ").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| quest | 64 |")]
    lengths, guardian, split, moves, time = rows
    case = measured.cases[1]
    assert lengths[2] == "6"
    assert lengths[3].startswith("50.0 % (")
    assert lengths[5].startswith(f"{round(case.before.mean())} (")
    assert lengths[7] == "4"
    assert guardian[2:4] == ["6", "3"]
    assert guardian[4:6] == [str(round(case.before.mean())), str(round(case.after.mean()))]
    assert guardian[6].startswith(f"{100 * case.saved.value:.1f} % (")
    assert guardian[9].startswith("−16.7 (")
    assert split[-1] == "33.3 % of 1 875".replace(" 8", f"{text.THIN}8")
    assert moves[2:] == ["2", "1", "0", "1", "2"]
    assert time[2] == "6.0"
    assert time[4] == f"{0.006 * case.before.mean():.2f}"
    assert time[6] == "slower"
    assert f"No answer is longer than 1{text.THIN}000 tokens." in "\n".join(lines)


def test_markdown_tables_are_even_and_plots_are_there(made: Path) -> None:
    source = (made / MARKDOWN_FILE).read_text(encoding="utf-8")
    tables: list[list[str]] = []
    for blank, lines in itertools.groupby(source.splitlines(), key=lambda line: not line.startswith("|")):
        if not blank:
            tables.append(list(lines))
    assert len(tables) == 10 + 4  # tables, and settings of report, two runs and bench
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]
    plots = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", source)
    assert len(plots) == 19
    assert {path.name for path in (made / "plots").iterdir()} == {Path(name).name for name in plots}
    for name in plots:
        root = ElementTree.parse(made / name).getroot()
        letters = "".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
        assert "tokens" in letters or "budget" in letters  # text is text


def test_the_same_runs_give_the_same_bytes(run: str, bench: str, tmp_path: Path) -> None:
    write_report([run], tmp_path / "one", benches=[bench])
    code = (
        "import sys; from lil.eval.report import write_report; "
        "write_report(sys.argv[1:2], sys.argv[2], benches=sys.argv[3:])"
    )
    subprocess.run(
        [sys.executable, "-c", code, run, str(tmp_path / "two"), bench],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 2 + 12
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


ODD = {
    "full alone": FULL_ANSWERS,
    "no full": SPARSE_ANSWERS,
    "one answer": SPARSE_ANSWERS[:1],
    "nothing said": [answer(FULL, None, 1, fresh=0, right=""), answer("quest", 64, 1, fresh=0, right="")],
    "other problems": FULL_ANSWERS[:2] + SPARSE_ANSWERS[3:6],
    "names": [
        answer(method, budget, 1, fresh=300, loop=loop)
        for method in ("quest", "quest:first_page=true", "tova", "new", "sink:positions=cache")
        for budget, loop in ((64, 3), (100, 0))
    ],
}


@pytest.mark.parametrize("answers", ODD.values(), ids=ODD)
def test_odd_runs(answers: list[Answer], tmp_path: Path, bench: str) -> None:
    folder = make_run(tmp_path / "run", answers)
    html, markdown = write_report([folder], tmp_path / "out", benches=[bench])
    page = _Page(html.read_text(encoding="utf-8"))
    assert len(page.all("svg")) == len(list((tmp_path / "out" / "plots").iterdir()))
    for path in (html, markdown):
        assert not re.search(r"\bnan\b|\bNone\b", path.read_text(encoding="utf-8").replace('"None"', ""))


def test_looks_differ() -> None:
    methods = ["sink", "h2o", "tova", "rkv", "quest", "infllm", "tidal", "lessismore", "raas", "quest:first_page=true"]
    found = looks(methods)
    assert len({(look.color, look.marker) for look in found.values()}) == len(methods) + 1
    assert len({found[method].color for method in methods[:-1]}) == 9
    assert found["quest"].color == found["quest:first_page=true"].color
    assert looks(["lessismore", "quest"])["quest"] == found["quest"]


def test_settings_of_guardian(run: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ["report", run, "--out", str(out), "--rule", "paper"]
    assert main([*args, "--every", "100", "--threshold", "0", "--patience", "2"]) == 0
    source = (out / MARKDOWN_FILE).read_text(encoding="utf-8")
    assert "a check every 100 tokens, a threshold of 0 bytes and a patience of 2" in source
    assert "Guardian stops no answer" in source
    assert "--rule paper --every 100 --threshold 0 --patience 2" in source
    assert "Run lil bench MODEL" in source
    assert main([*args, "--every", "500", "--patience", "2"]) == 0
    assert "Guardian could not stop anything" in (out / MARKDOWN_FILE).read_text(encoding="utf-8")


def test_the_rule_of_guardian(run: str, tmp_path: Path) -> None:
    """Each rule stops what it stops in a replay, and the report says which it was."""
    answers = list(read_answers(run))
    found = {}
    for rule in RULES:
        out = tmp_path / rule
        assert main(["report", run, "--out", str(out), "--rule", rule]) == 0
        source = (out / MARKDOWN_FILE).read_text(encoding="utf-8")
        assert f'rule "{rule}"' in source
        assert f"--rule {rule} --every 250" in source
        assert ("Shaded: the plateau" in source) == (rule == "paper")
        n = sum(replay(one, Guardian(rule=rule)).n_tokens < one.n_tokens for one in answers)
        assert n
        assert f"Guardian stops {text.plural(n, 'answer')} of {len(answers)}" in source
        found[rule] = source
    assert f"a check every {(250 + 1) // 2} tokens" in found["text"]


# bad input

BAD = [
    (["NONE"], ["none", RUN_FILE, "No such file", "lil eval"]),
    (["BENCH"], ["Not a directory"]),
    (["EMPTY"], [ANSWERS_FILE, "no answers yet"]),
    (["BROKEN"], [f"{ANSWERS_FILE}:2", "not an answer"]),
    (["RUN", "AGAIN"], ["'problem 0'", "give only one"]),
    (["RUN", "--bench", "NONE"], ["none", "No such file"]),
    (["RUN", "--bench", "NOTHING"], ["nothing.json", "lil bench --json"]),
    (["RUN", "--bench", "OTHER"], ["other.json", "somebody", "llama-2x64-tiny"]),
    (["RUN", "--bench", "BENCH", "--bench", "BENCH"], ["same model"]),
    (["RUN", "--bench", "NOFULL"], ["full attention"]),
    (["RUN", "--out", "BENCH"], ["--out", "bench.json", "give a folder"]),
    (["RUN", "--rule", "other"], ["rule='other'", "paper"]),
    (["RUN", "--every", "0"], ["every=0", "at least 1"]),
    (["RUN", "--threshold", "-1"], ["threshold=-1"]),
    (["RUN", "--patience", "x"], ["--patience", "integer"]),
    ([], ["RUN..."]),
]


@pytest.mark.parametrize(("args", "words"), BAD, ids=lambda value: " ".join(value))
def test_bad_input_is_one_line_and_status_2(
    args: list[str], words: list[str], run: str, bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "empty", [])
    make_run(tmp_path / "broken", FULL_ANSWERS[:1])
    with open(tmp_path / "broken" / ANSWERS_FILE, "a", encoding="utf-8") as out:
        out.write('{"id": "2"}\n')
    (tmp_path / "nothing.json").write_text("[1]")
    names = {
        "RUN": run,
        "AGAIN": make_run(tmp_path / "again", [answer(FULL, None, 0, fresh=11)]),
        "NONE": str(tmp_path / "none"),
        "EMPTY": str(tmp_path / "empty"),
        "BROKEN": str(tmp_path / "broken"),
        "BENCH": bench,
        "NOTHING": str(tmp_path / "nothing.json"),
        "OTHER": write_bench(tmp_path / "other.json", {(FULL, None): (0.01, 0.0)}, "somebody"),
        "NOFULL": write_bench(tmp_path / "nofull.json", {("quest", 64): (0.01, 0.0)}),
    }
    before = sorted(tmp_path.rglob("*"))
    out_folder = [] if "--out" in args else ["--out", str(tmp_path / "out")]
    assert main(["report", *(names.get(arg, arg) for arg in args), *out_folder]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lil: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written before all is read


@pytest.mark.parametrize("package", ["matplotlib", "math_verify"])
def test_a_missing_package_is_named(
    package: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["report", run, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert package.replace("_", "-") in err
    assert 'pip install "lil-cpp[eval]"' in err
    assert not (tmp_path / "out").exists()


# in a browser


_BOXES = """() => [...document.querySelectorAll("svg")].map((svg) => {
  const box = svg.getBoundingClientRect(), style = getComputedStyle(svg);
  const shown = style.visibility === "visible" && style.display !== "none";
  const lines = [...svg.querySelectorAll("path")].filter((path) => path.getBBox().width > 0).length;
  const texts = svg.querySelectorAll("text").length;
  return {width: box.width, height: box.height, right: box.right, shown, lines, texts};
})"""

_COLORS = """() => [
  getComputedStyle(document.body).backgroundColor,
  getComputedStyle(document.body).color,
  getComputedStyle(document.querySelector("svg text")).fill,
]"""


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(made: Path, browser: Any, width: int, script: bool) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    url = (made / HTML_FILE).as_uri()
    page.goto(url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(_BOXES)
    assert len(boxes) == 19
    for box in boxes:
        assert box["shown"]
        assert 300 < box["width"] <= 520
        assert box["height"] > 200
        assert box["right"] <= width
        assert box["lines"] >= 3
        assert box["texts"] >= 5
    assert page.title().startswith("Sparse attention and Guardian")
    assert said == []
    assert asked == [url]
    context.close()


def test_dark_light_and_paper(made: Path, browser: Any) -> None:
    found = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto((made / HTML_FILE).as_uri())
        found[scheme] = page.evaluate(_COLORS)
        page.emulate_media(media="print", color_scheme=scheme)
        found[f"{scheme} paper"] = page.evaluate(_COLORS)
        context.close()
    assert found["light"] == ["rgb(255, 255, 255)", "rgb(31, 35, 40)", "rgb(31, 35, 40)"]
    assert found["dark"] == ["rgb(18, 22, 28)", "rgb(230, 237, 243)", "rgb(230, 237, 243)"]
    assert found["light paper"] == found["dark paper"] == found["light"]
