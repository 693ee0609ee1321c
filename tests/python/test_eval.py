"""`lil eval`: tasks, the judge, several answers at once, and runs that are interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lil
import numpy as np
import pytest
from lil import H2O, ConfigError, Quest, Sink
from lil.cli import main
from lil.cli.eval import Pace
from lil.eval import Session
from lil.eval._chat import chat_text
from lil.eval.evaluation import SUFFIX, Pieces, ask, evaluate, summarize
from lil.eval.generation import Generation, Sampling, generate
from lil.eval.judging import SECONDS, judge, last_boxed
from lil.eval.records import Answer, AnswersFile, Run, case_label, extend_run, read_answers, read_run, to_text
from lil.eval.tasks import TASKS, Problem, load_problems, read_problems
from lil.methods import METHODS, Method
from reference import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    # re-selection needs layers 0 to 3
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", n_layer=6))


@pytest.fixture(scope="module")
def session(tiny: str) -> Iterator[Session]:
    with Session(tiny, n_threads=1) as opened:
        yield opened


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl"
    lines = [{"id": f"q{i}", "question": f"What is {i} and {i * i}?", "answer": i + i * i} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def make(name: str) -> Method | None:
    """A method, at a budget that most prompts here are over."""
    return None if name == "full" else METHODS[name](budget=144 if name == "rkv" else 48)


# tasks


def test_problems_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"question": "1+1?", "answer": 2, "level": "easy"}\n'
        "\n"
        '{"question": "Pi, roughly?", "answer": "22/7", "id": "pi"}\r\n'
        '{"question": "½?", "answer": 0.5, "id": 17}'
    )
    found, source = load_problems("mine", path)
    assert source == "mine.jsonl"
    assert found == [Problem("1", "1+1?", "2"), Problem("pi", "Pi, roughly?", "22/7"), Problem("17", "½?", "0.5")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "x"', "not JSON"),
        ("[1, 2]", "a list; give an object"),
        ('{"answer": "1"}', "no 'question'; it has 'answer'"),
        ('{"question": "x"}', "no 'answer'"),
        ('{"question": "x", "answer": null}', "no 'answer'"),
        ('{"question": "x", "answer": true}', "'answer' is a bool"),
        ('{"question": ["x"], "answer": 1}', "'question' is a list"),
        ('{"question": " ", "answer": 1}', "'question' is empty"),
        ('{"question": "x", "answer": 1, "id": "a"}', "the id 'a' is an earlier line's"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | bytes, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    good = b'{"question": "x", "answer": "1", "id": "a"}\n'
    path.write_bytes(good + b"\n" + (line.encode() if isinstance(line, str) else line) + b"\n")
    with pytest.raises(ConfigError) as raised:
        read_problems(path)
    assert str(raised.value).startswith(f"--data {path}:3: ")
    assert words in str(raised.value)


def test_public_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` takes a folder of that name for the data set, so what it loads here is loaded as from its hub."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "gsm8k": {"question": "How many?", "answer": "3+4=<<3+4=7>>7\n#### 1,007"},
        "math500": {"unique_id": "test/algebra/1.json", "problem": "$x$?", "answer": "\\frac12", "level": 1},
        "aime": {"ID": "1983-1", "Question": "Find $w$.", "Answer": "060", "Year": 1983},
    }
    wanted = {
        "gsm8k": Problem("gsm8k-test-0000", "How many?", "1,007"),
        "math500": Problem("test/algebra/1.json", "$x$?", "\\frac12"),
        "aime": Problem("aime-1983-1", "Find $w$.", "060"),
    }
    for task, row in rows.items():
        known = TASKS[task]
        folder = tmp_path / known.path
        folder.mkdir(parents=True)
        (folder / f"{known.split}.jsonl").write_text(json.dumps(row) + "\n")
        files = f"data_files:\n  - split: {known.split}\n    path: {known.split}.jsonl\n"
        config = "".join(f"  {line}\n" for line in files.splitlines())
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {known.config or 'default'}\n{config}---\n")
        assert load_problems(task) == ([wanted[task]], known.label)
        assert judge(rf"\boxed{{{wanted[task].answer}}}", wanted[task].answer).correct
    other = tmp_path / "other" / TASKS["aime"].path
    other.mkdir(parents=True)
    (other / "train.jsonl").write_text('{"ID": 1}\n')
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"TASK aime: the data set .*/aime-1983-2024 could not be loaded.*--data"):
        load_problems("aime")


# the judge


@pytest.mark.parametrize(
    ("text", "gold", "predicted", "correct"),
    [
        ("16 - 7 = 9, times 2\n#### 18", "18", "18", True),
        (r"so \boxed{18}.", "18", "18", True),
        ("The answer is $18.", "18", "18", True),
        ("**Answer:** She makes $18.00 a day", "18", "18.00", True),
        (r"\boxed{17}, no: \boxed{18 \text{ dollars}}. That is 5 more.", "18", r"18 \text{ dollars}", True),
        (r"\boxed{18 dollars per day}", "18", "18 dollars per day", True),
        (r"\boxed{\$70,000.00}", "70000", r"\$70,000.00", True),
        ("#### 1,800 dollars", "1800", "1,800 dollars", True),
        ("#### 2. Add them\n3 + 4 is 7.", "7", "7", True),  # a headline
        (r"\boxed{x = 18}", "18", "x = 18", True),
        (r"\boxed{50\%}", "0.5", r"50\%", True),
        (r"\boxed{\dfrac{1}{2}}", r"\frac12", r"\dfrac{1}{2}", True),
        (r"\boxed{(3, \pi/2)}", r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", True),
        (r"\boxed{Evelyn}", r"\text{Evelyn}", "Evelyn", True),
        (r"\boxed{33}", "033", "33", True),
        (r"\boxed{19}", "18", "19", False),
        (r"\boxed{180}", "18", "180", False),
        (r"\boxed{18", "18", None, False),  # cut short
        (r"\boxed{}", "18", None, False),
        ("I do not know.", "18", None, False),
        ("", "18", None, False),
    ],
)
def test_judge(text: str, gold: str, predicted: str | None, correct: bool) -> None:
    assert judge(text, gold) == (predicted, correct)


# text, the right answer, whether it is right
WRITINGS = [
    (r"\boxed{\$18 per day}", "18", True),
    (r"\boxed{\text{18 dollars}}", "18", True),
    (r"\boxed{18~\text{eggs}}", "18", True),
    (r"\boxed{£18}", "18", True),
    (r"\boxed{\$1,800 per month}", "1800", True),
    (r"\boxed{10\,000}", "10000", True),
    (r"\boxed{5 1/2}", "5.5", True),
    ("#### −5", "-5", True),
    (r"\boxed{20 \text{ minutes and } 30 \text{ seconds}}", "20", False),
    ("#### 18\n\nQuestion: How many?\n#### 7", "18", True),
    ("#### 18\n\nTom has 5 pens. How many pens are left?\nHe has 3.\n#### 3", "18", True),
    ("#### 18\n\nTom has 5 pens. How many pens are left?\nHe has 3.\n#### 3", "3", False),
    ("#### 17\nWait, how many eggs does she eat? Three.\n#### 18", "18", True),
    ("\\boxed{18}\n\nProblem 2: x? \\boxed{7}", "18", True),
    ("\\boxed{9}\nHow much does she make? \\boxed{18}", "18", True),
    (r"\boxed{18\text{ €}}", "18", True),
    (r"\boxed{€ 18}", "18", True),
    (r"\boxed{18 \text{ USD}}", "18", True),
    (r"\boxed{\text{\$}18}", "18", True),
    (r"\boxed{\mathrm{18\ cm}}", "18", True),
    (r"\boxed{18\ \mathrm{cm}^2}", "18", True),
    (r"\boxed{18 \text{ m}/\text{s}}", "18", True),
    (r"\boxed{18 km/h}", "18", True),
    (r"\boxed{10{,}000}", "10000", True),
    (r"\boxed{10,\!000}", "10000", True),
    (r"\boxed{10 000}", "10000", True),
    (r"\boxed{10'000}", "10000", True),
    (r"\boxed{10_000}", "10000", True),
    ("\\boxed{10\u202f000}", "10000", True),
    (r"\boxed{1,00,000}", "100000", True),
    (r"\boxed{1.234.567}", "1234567", True),
    (r"\boxed{5\frac{1}{2}}", "5.5", True),
    (r"\boxed{5½}", "5.5", True),
    (r"\boxed{5 \tfrac12 \text{ hours}}", "5.5", True),
    (r"\boxed{-5\frac12}", "-5.5", True),
    (r"\boxed{½}", "0.5", True),
    (r"\boxed{−\frac{1}{2}}", "-0.5", True),
    ("The answer is −5.", "-5", True),
    ("The answer is 5 1/2.", "5.5", True),
    ("The answer is 10 000.", "10000", True),
    (r"\boxed{50\%}", "0.5", True),
    (r"\boxed{50 percent}", "50", True),
    (r"\boxed{0.5\%}", r"50\%", False),
    (r"\boxed{2 million}", "2000000", True),
    (r"\boxed{2 \text{ million}}", "2000000", True),
    (r"\boxed{20 minutes 30 seconds}", "20", False),
    (r"\boxed{18 or 19}", "18", False),
    (r"\boxed{18 \text{ or } 19}", "18", False),
    (r"\boxed{3 hours and 18 minutes}", "18", False),
    (r"\boxed{9 \times 2 = 18 \text{ dollars}}", "18", True),
    (r"\boxed{9 × 2}", "18", True),
    (r"\boxed{\sqrt{324}}", "18", True),
    (r"\boxed{sqrt(18)}", "18", False),
    (r"\boxed{3\pi}", "3π", True),
    (r"\boxed{2x²}", "2x^2", True),
    (r"\boxed{3\sqrt 2}", "3√2", True),
    (r"\boxed{(3, 100)}", "(3,100)", True),
    (r"\boxed{(1, 800)}", "1800", False),
    (r"\boxed{90^\circ}", "90", True),
    (r"\boxed{90°}", "90", True),
    ("#### $18", "18", True),
    ("#### 18 dollars per day.", "18", True),
    ("#### **18**", "18", True),
    ("#### 1/2", "0.5", True),
    ("#### £1,800", "1800", True),
    ("#### 2. Add them\n3 + 4 is 7.", "7", True),
    ("#### 3) Sum\n The answer is 12.", "12", True),
    ("#### Step 2\nThe answer is 7.", "7", True),
    (r"\boxed{\text{minus } 5}", "-5", True),
    (r"\boxed{5!}", "5", False),
    (r"\boxed{18 \text{ minutes}}", "20", False),
    (r"\boxed{\text{18}}", "18", True),
    (r"\boxed{18.0}", "18", True),
    (r"\boxed{\text{(C)}}", r"\text{(C)}", True),
    (r"\boxed{2516_8}", "2516_8", True),
    (r"\boxed{3x+2}", "2+3x", True),
    (r"\boxed{(-\infty, 3)}", "(-∞,3)", True),
    (r"\boxed{1800}", "1{,}800", True),
    (r"\boxed{\frac{18}{1}}", "18", True),
    (r"\boxed{18,19}", "18", False),
    (r"\boxed{1,8}", "18", False),
    (r"\boxed{0.333}", r"\frac13", False),
    (r"\boxed{9 - 1/2}", "8.5", True),
    (r"\boxed{x = 18}", "18", True),
    (r"\boxed{10^3}", "1000", True),
    (r"\boxed{1.8 \times 10^3}", "1800", True),
    (r"\boxed{Janet makes 18 dollars a day}", "18", True),
    (r"\boxed{-$5}", "-5", True),
    (r"\boxed{\$-5}", "-5", True),
    (r"\boxed{＋１８}", "18", True),
    ("The answer is 18.\n\nQ: What is 3+4?\nA: The answer is 7.", "18", True),
    ("The answer is 18.<|im_end|>\n<|im_start|>user\nhi the answer is 3", "18", True),
    ("16 - 7 = 9. The answer is 9.\nWait, what about the price? It is 2.\nThe answer is 18.", "18", True),
    (r"\boxed{9 m/s^2}", "9", True),
    (r"\boxed{3√2}", r"3\sqrt{2}", True),
    (r"\boxed{\dfrac{18}{100}}", "0.18", True),
    (r"\boxed{18¢}", "18", True),
    (r"\boxed{\text{Rs. } 18}", "18", True),
]


@pytest.mark.parametrize(("text", "gold", "correct"), WRITINGS)
def test_judge_reads_every_writing(text: str, gold: str, correct: bool) -> None:
    assert judge(text, gold).correct == correct


def test_judging_ends() -> None:
    begin = time.monotonic()
    texts = [r"\boxed{" * 2000, r"\boxed{18}" * 2000, r"\frac{1}{" * 500, "{" * 9000, "$$x = 18" * 500, "\ud800 18"]
    assert [judge(text, "18").correct for text in texts] == [False, True, False, False, True, True]
    assert time.monotonic() - begin < SECONDS
    assert last_boxed(r"\boxed{\{1, \boxed{2}\}} } \fbox{ }") == r"\{1, \boxed{2}\}"


def test_judging_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lil.eval.judging.SECONDS", 1)
    begin = time.monotonic()
    assert judge(r"\boxed{9^{9^{9^9}}}", "18") == ("9^{9^{9^9}}", False)
    assert 0.9 < time.monotonic() - begin < 10


def test_judging_in_a_thread() -> None:
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(judge(r"That is \boxed{\frac{36}{2}}", "18")))
    thread.start()
    thread.join()
    assert verdicts == [(r"\frac{36}{2}", True)]


# several answers at once


def prompts_of(n: int, *, least: int = 5, most: int = 90) -> list[tuple[str, list[int]]]:
    rng = np.random.default_rng(0)
    return [
        (str(i), rng.integers(3, 500, size=int(rng.integers(least, most))).tolist())
        for i in range(n)
    ]  # fmt: skip


def lead(session: Session, method: Method | None, prompt: Sequence[int], a: list[int], b: list[int]) -> float:
    """By how much the likelier of two tokens leads where two answers part, as a share of the best one's lead over the
    average of all."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    with session.context(method, n_ctx=len(prompt) + at + 1) as context:
        logits = context.eval(prompt)
        for token in a[:at]:
            logits = context.eval([token])

    def logit(answer: list[int]) -> float:
        if at < len(answer):
            return float(logits[answer[at]])
        return max(float(logits[token]) for token in range(session.n_vocab) if session.llama._is_end(token))

    return abs(logit(a) - logit(b)) / float(logits.max() - logits.mean())


@pytest.mark.parametrize("name", ["full", *METHODS])
def test_at_once_is_as_one_at_a_time(session: Session, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random model does not end its answers. Ends at other tokens give answers of all lengths, so that places are
    # refilled, and sequences move at the end.
    monkeypatch.setattr(session.llama, "_is_end", lambda token: token % 13 == 0)
    method, prompts = make(name), prompts_of(11)

    def answers(n_parallel: int) -> dict[str, Generation]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lil.CalibrationWarning)
            made = list(generate(session, method, prompts, n_ctx=256, max_tokens=100, n_parallel=n_parallel))
        assert len(made) == len(prompts)
        return {one.name: one for one in made}

    alone, beside = answers(1), answers(4)
    assert len({len(one.tokens) for one in alone.values()}) > 3
    same = [n for n in alone if alone[n].tokens == beside[n].tokens and alone[n].stop == beside[n].stop]
    assert len(same) >= 9
    for n in alone.keys() - set(same):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lil.CalibrationWarning)
            assert lead(session, method, dict(prompts)[n], alone[n].tokens, beside[n].tokens) < 0.01


def test_sparse_steps_are_sparse(session: Session) -> None:
    """Beside others too, a method decodes by itself: over its budget no answer is full attention's."""
    prompts = prompts_of(4, least=60)

    def answers(method: Method | None) -> list[list[int]]:
        made = generate(session, method, prompts, n_ctx=256, max_tokens=60, n_parallel=4)
        return [one.tokens for one in sorted(made, key=lambda one: one.name)]

    full = answers(None)
    assert answers(Quest(budget=256)) == full
    for method in (Sink(budget=16), H2O(budget=16), Quest(budget=16)):
        assert all(a != b for a, b in zip(answers(method), full, strict=True))


def test_sampling(session: Session) -> None:
    prompts = prompts_of(5)

    def answers(n_parallel: int, **keywords: Any) -> dict[str, list[int]]:
        sampling = Sampling(**keywords)
        made = generate(session, None, prompts, n_ctx=256, max_tokens=12, n_parallel=n_parallel, sampling=sampling)
        return {one.name: one.tokens for one in made}

    hot = {"temperature": 2.0, "top_k": 100, "top_p": 0.99, "min_p": 0.001}
    first = answers(5, **hot)
    assert answers(5, **hot) == first
    beside_one = answers(2, **hot)
    assert sum(beside_one[name] == first[name] for name in first) >= 4  # another product's rounding may tip one
    other = answers(5, **hot, seed=1)
    assert all(other[name] != first[name] for name in first)
    assert answers(5, temperature=2.0, top_k=1) == answers(5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0"),
        ({"temperature": 1.0, "top_k": -1}, "top_k=-1"),
        ({"temperature": 1.0, "min_p": 1.0}, "min_p=1.0"),
        ({"top_p": 0.9}, "top_p=0.9 has no effect at temperature 0"),
    ],
)
def test_sampling_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sampling(**values)


def test_what_does_not_fit_is_refused(session: Session) -> None:
    for keywords, words in (
        ({"n_ctx": 99}, "0: 30 tokens and max_tokens=70 do not fit n_ctx=99"),
        ({"n_parallel": 257}, "at most 256"),
        ({"max_tokens": 0}, "max_tokens"),
    ):
        with pytest.raises(ConfigError, match=words):
            arguments: dict[str, Any] = {"n_ctx": 100, "max_tokens": 70, **keywords}
            list(generate(session, None, [("0", [5] * 30)], **arguments))
    assert list(generate(session, None, [], n_ctx=100)) == []


def test_at_once_on_a_real_model(model_path: str) -> None:
    problems = [Problem(str(i), f"What is {i} plus {i}?", str(2 * i)) for i in (2, 3, 4, 5)]
    with Session(model_path, n_threads=2) as real:
        asked = ask(real, problems, suffix=" Just the sum.", system="Be brief.")
        assert "Be brief.<|im_end|>" in asked[0].text
        assert "What is 2 plus 2? Just the sum.<|im_end|>" in asked[0].text
        assert asked[0].text.endswith("<|im_start|>assistant\n")
        prompts = [(one.problem.id, one.tokens) for one in asked]
        for method in (None, H2O(budget=24), Quest(budget=32)):
            alone, beside = (
                {g.name: g.tokens for g in generate(real, method, prompts, n_ctx=128, max_tokens=12, n_parallel=n)}
                for n in (1, 4)
            )
            for name, tokens in alone.items():
                if tokens != beside[name]:
                    assert lead(real, method, dict(prompts)[name], tokens, beside[name]) < 0.03


# answers


def test_answers_spell_their_tokens(session: Session) -> None:
    problems = [Problem("a", "What is ½?", "0.5"), Problem("b", "Two?", "2")]
    asked = ask(session, problems, suffix=" Say it.")
    assert chat_text(session, "x") is None  # the tiny model has no template
    assert asked[0].text.endswith("What is ½? Say it.\n")
    cases = [("full", None), ("h2o", H2O(budget=16))]
    ticks: list[int] = []
    skipped = [("b", "h2o 16")]
    answers = list(
        evaluate(
            session,
            cases,
            asked,
            max_tokens=20,
            done=lambda id, case: (id, case) in skipped,
            tick=lambda case, n: ticks.append(n),
        )
    )
    assert sorted((a.id, a.case) for a in answers) == [("a", "full"), ("a", "h2o 16"), ("b", "full")]
    assert sum(ticks) == sum(a.n_tokens for a in answers) == 60
    pieces = Pieces(session)
    for answer in answers:
        assert answer.n_prompt == len({one.problem.id: one.tokens for one in asked}[answer.id])
        assert (answer.data, answer.ends) == pieces.join(answer.tokens)
        assert answer.ends[-1] == len(answer.data)
        assert answer.stop == "length"
        assert answer.seconds > 0
    with pytest.raises(ConfigError, match="a system prompt needs a chat template"):
        ask(session, problems, system="Be brief.")


def an_answer(**values: Any) -> Answer:
    made: dict[str, Any] = {
        "id": "1",
        "method": "full",
        "budget": None,
        "prompt": "p",
        "n_prompt": 1,
        "tokens": [1, 2],
        "ends": [1, 2],
        "text": "ab",
        "stop": "end",
        "gold": "1",
        "predicted": None,
        "correct": False,
        "seconds": 0.5,
    }
    return Answer(**made | values)


def test_summary() -> None:
    assert summarize([]) is None
    summary = summarize(
        [an_answer(correct=i < 3, stop="length" if i == 0 else "end", tokens=[1] * i, ends=[2] * i) for i in range(5)]
    )
    assert summary is not None
    assert (summary.n, summary.accuracy, summary.tokens, summary.at_length) == (5, 0.6, 2.0, 0.2)
    assert summary.interval == pytest.approx((0.2307, 0.8824), abs=1e-4)


def test_pace() -> None:
    pace = Pace([100, 300], total=10, now=5.0)
    assert pace.left(5.0) is None
    pace.decode(400)
    assert pace.speed(15.0) == 40
    assert pace.left(15.0) == pytest.approx((8 * 200 - 400) / 40)
    pace.finish(200)
    assert (pace.done, pace.left(15.0)) == (3, pytest.approx((7 * 200 - 200) / 40))
    pace.decode(10_000)
    assert pace.left(20.0) == 0  # never less


# runs


def a_run(**values: Any) -> Run:
    made: dict[str, Any] = {
        "task": "mine",
        "model": "m.gguf",
        "fingerprint": "m",
        "methods": ["full", "h2o"],
        "budgets": [64],
        "n_problems": 5,
        "max_tokens": 100,
        "sampling": {"temperature": 0.0, "seed": 0},
        "n_parallel": 8,
        "system": None,
        "suffix": "s",
        "data": "d",
        "lil": "0",
        "machine": {},
    }
    return Run(**made | values)


def test_runs_are_extended(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert extend_run(folder, a_run(max_tokens=7)) == a_run(max_tokens=7) == read_run(folder)
    assert extend_run(folder, a_run()) == a_run() == read_run(folder)  # nothing has been answered yet
    with AnswersFile(folder) as file:
        file.append(an_answer())
    more = a_run(methods=["quest"], budgets=[32, 64], n_problems=3, lil="1", machine={"cores": 2})
    whole = dataclasses.replace(more, methods=["full", "h2o", "quest"], budgets=[32, 64], n_problems=5)
    assert extend_run(folder, more) == whole == read_run(folder)
    extend_run(folder, dataclasses.replace(more, n_problems=9))
    assert read_run(folder).n_problems == 9
    for name, value in {
        "max_tokens": 101,
        "task": "other",
        "fingerprint": "n",
        "suffix": "t",
        "system": "s",
        "data": "e",
        "plain": True,
        "n_parallel": 4,
    }.items():
        with pytest.raises(ConfigError, match=f"holds a run with {name} = .*and this one has {value!r}.*--out"):
            extend_run(folder, dataclasses.replace(more, **{name: value}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="holds a run with seed = 0, and this one has 1"):
        extend_run(folder, dataclasses.replace(more, sampling={"temperature": 0.0, "seed": 1}))


def test_answers_are_kept(tmp_path: Path) -> None:
    assert list(read_answers(tmp_path)) == []
    odd = an_answer(id="ü", text=to_text(b"\xff \xe2\x82\xac"), method="quest", budget=64)
    with AnswersFile(tmp_path) as file:
        file.append(an_answer())
        file.append(odd)
        file.append(an_answer())  # again
        with pytest.raises(ConfigError, match="another process is writing there"):
            AnswersFile(tmp_path)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    assert list(read_answers(tmp_path)) == [an_answer(), odd]
    assert odd.data == b"\xff \xe2\x82\xac"
    path.write_bytes(whole + b'{"id": "2", "meth')
    assert list(read_answers(tmp_path)) == [an_answer(), odd]
    with AnswersFile(tmp_path) as file:
        assert path.read_bytes() == whole
        file.append(an_answer(id="2"))
    assert [answer.id for answer in read_answers(tmp_path)] == ["1", "ü", "2"]
    path.write_bytes(whole + b'{"id": "2"}\n')
    with pytest.raises(ConfigError, match=r"answers.jsonl:4: not an answer"):
        list(read_answers(tmp_path))


def test_a_file_in_place_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match=r"run: a file, no folder"):
        AnswersFile(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


# the command


BAD = [
    (["eval", "mine", "NONE", "--data", "QUESTIONS"], ["does not exist", "none.gguf"]),
    (["eval", "mine", "QUESTIONS", "--data", "QUESTIONS"], ["not a GGUF file"]),
    (["eval", "mine", "NONE"], ["'mine' is unknown", "gsm8k, math500, aime", "--data FILE"]),
    (["eval", "a/b", "NONE", "--data", "QUESTIONS"], ["TASK 'a/b'"]),
    (["eval", "mine", "NONE", "--data", "NONE"], ["--data", "No such file"]),
    (["eval", "mine", "NONE", "--data", "EMPTY"], ["no problems"]),
    (["eval", "mine", "NONE", "--data", "QUESTIONS", "--limit", "0"], ["--limit"]),
    (["eval", "mine", "NONE", "--data", "QUESTIONS", "--no-full"], ["--no-full", "--methods quest"]),
    (["eval", "mine", "NONE", "--data", "QUESTIONS", "--methods", "fall"], ["'fall' is no method"]),
    (["eval", "mine", "NONE", "--data", "QUESTIONS", "--methods", "quest", "--budgets", "8"], ["budget=8"]),
    (["eval", "mine", "NONE", "--data", "QUESTIONS", "--top-k", "5"], ["top_k=5", "temperature 0"]),
    (["eval", "mine", "NONE", "--data", "QUESTIONS", "--parallel", "0"], ["--parallel"]),
    (["eval", "mine", "TINY", "--data", "QUESTIONS", "--system", "Be brief"], ["chat template"]),
    (["eval", "mine", "TINY", "--data", "QUESTIONS", "--out", "EMPTY"], ["empty.jsonl"]),
]


@pytest.mark.parametrize(("args", "words"), BAD, ids=lambda value: " ".join(value))
def test_bad_input_is_one_line_and_status_2(
    args: list[str],
    words: list[str],
    tiny: str,
    questions: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    names = {"NONE": "none.gguf", "TINY": tiny, "QUESTIONS": questions, "EMPTY": "empty.jsonl"}
    assert main([names.get(arg, arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lil: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not (tmp_path / "mine-tiny").exists()


def test_without_the_judge_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, questions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["eval", "mine", "none.gguf", "--data", questions]) == 2
    assert 'math-verify, which is not installed; pip install "lil-cpp[eval]"' in capsys.readouterr().err


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r'needs the package datasets; pip install "lil-cpp\[eval\]", or give --data'):
        load_problems("gsm8k")


def test_eval(tiny: str, questions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "run", tmp_path / "out.json"
    args = ["eval", "mine", tiny, "--data", questions, "--max-tokens", "20", "--parallel", "3", "--threads", "1"]
    args += ["--out", str(folder), "--json", str(out)]
    assert main([*args, "--limit", "4", "--methods", "h2o:recent=8", "--budgets", "32"]) == 0
    shown = capsys.readouterr().out
    assert "mine, tiny.gguf: 4 problems, at most 20 tokens" in shown
    assert "h2o:recent=8 32" in shown
    run = read_run(folder)
    assert (run.methods, run.budgets, run.n_problems) == (["full", "h2o:recent=8"], [32], 4)
    answers = {(answer.id, answer.case): answer for answer in read_answers(folder)}
    assert answers.keys() == {(f"q{i}", case) for i in range(4) for case in ("full", "h2o:recent=8 32")}
    assert answers["q3", "full"].gold == "12"
    assert SUFFIX in answers["q3", "full"].prompt
    results = json.loads(out.read_text())["results"]
    assert [(row["case"], row["n"], row["tokens"]) for row in results] == [("full", 4, 20), ("h2o:recent=8 32", 4, 20)]

    # more of everything; what is there stays
    assert main([*args, "--methods", "quest", "--budgets", "32,48", "--no-full"]) == 0
    assert "h2o" not in capsys.readouterr().out
    run = read_run(folder)
    assert (run.methods, run.budgets, run.n_problems) == (["full", "h2o:recent=8", "quest"], [32, 48], 6)
    more = {(answer.id, answer.case): answer for answer in read_answers(folder)}
    assert more.keys() == answers.keys() | {(f"q{i}", f"quest {b}") for i in range(6) for b in (32, 48)}
    assert all(more[key] == answer for key, answer in answers.items())

    # what does not belong to it is refused
    before = (folder / "answers.jsonl").read_bytes()
    assert main([*args, "--max-tokens", "21"]) == 2
    assert "max_tokens = 20, and this one has 21" in capsys.readouterr().err
    Path(questions).write_text(Path(questions).read_text().replace("What is 3", "What was 3"))
    assert main(args) == 2
    assert "answers to q3 with another prompt" in capsys.readouterr().err
    assert (folder / "answers.jsonl").read_bytes() == before


def start(args: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lil", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
    )


def slow_run(tiny: str, tmp_path: Path, n: int = 16) -> tuple[list[str], Path, set[tuple[str, str]]]:
    """A command that takes some seconds, its folder, and what it answers."""
    data, folder = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text("".join(f'{{"question": "{i}?", "answer": {i}, "id": "{i}"}}\n' for i in range(n)))
    args = ["eval", "mine", tiny, "--data", str(data), "--out", str(folder), "--threads", "1", "--parallel", "3"]
    args += ["--methods", "h2o,quest", "--budgets", "64", "--max-tokens", "200"]
    return args, folder, {(str(i), case) for i in range(n) for case in ("full", "h2o 64", "quest 64")}


def wait_for(answers: int, folder: Path, process: subprocess.Popen[str]) -> None:
    path, end = folder / "answers.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= answers:
            return
        time.sleep(0.002)


def test_killed_again_and_again(tiny: str, tmp_path: Path) -> None:
    args, folder, wanted = slow_run(tiny, tmp_path)
    rng, kills, kept = random.Random(4), 0, b""
    while True:
        process = start(args)
        wait_for(kept.count(b"\n") + rng.choice((0, 1, 5, 9)), folder, process)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is None and kills < 5:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, err = process.communicate()
        lines = (folder / "answers.jsonl").read_bytes() if folder.exists() else b""
        whole = lines[: lines.rfind(b"\n") + 1]
        assert whole.startswith(kept)  # nothing that was on the disk is lost
        kept = whole
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    assert kills >= 3
    rows = [json.loads(line) for line in kept.splitlines()]
    assert len(rows) == len(wanted)
    assert {(row["id"], case_label(row["method"], row["budget"])) for row in rows} == wanted


def test_interrupted(tiny: str, tmp_path: Path, interruptible: None) -> None:
    args, folder, wanted = slow_run(tiny, tmp_path, 400)
    process = start(args)
    wait_for(1, folder, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    done = len(list(read_answers(folder)))
    assert 0 < done < len(wanted)
    assert f"lil: interrupted; {done} of {len(wanted)} answers are in {folder}, and the same command goes on" in err
