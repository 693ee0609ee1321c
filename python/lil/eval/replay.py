"""Guardian over recorded answers, without a model.

Guardian reads nothing but the text, and changes nothing until it acts. So what it would have done to an answer can be
told afterwards, exactly and at any setting: the answer is the recorded one, cut where the alarm stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .._errors import ConfigError
from .._guardian import Guardian
from .._lz77 import LZ77
from .._text_rule import TextRule
from .records import Answer
from .splits import ALL, CaseResult, Judge, Verdicts, by_case, count

# Tokens that a stop waits for the end of a UTF-8 character, as the native sampler does.
MAX_WAIT = 3


def partial(data: bytes) -> bool:
    """Whether `data` ends within a UTF-8 character. Bytes that are no UTF-8 at all do not count as a begun one."""
    for back, byte in enumerate(reversed(data[-3:]), start=1):
        if byte & 0xC0 != 0x80:
            length = 4 if 0xF0 <= byte < 0xF8 else 3 if 0xE0 <= byte < 0xF0 else 2 if 0xC2 <= byte < 0xE0 else 1
            return back < length
    return False


def checks(n_tokens: int, interval: int) -> range:
    """The counts of generated tokens after which Guardian looks."""
    return range(interval, n_tokens + 1, interval)


def compressed_sizes(answer: Answer, at: Iterable[int]) -> dict[int, float]:
    """The LZ77-compressed size of prompt and answer after each of `at` generated tokens, in bytes, and after none.

    One pass over the text, whatever `at` is.
    """
    text = LZ77(answer.prompt.encode("utf-8", "surrogateescape"))
    data, begin = answer.data, 0
    sizes = {0: text.size}
    for n in sorted(set(at) - {0}):
        end = answer.ends[n - 1]
        text.feed(data[begin:end])
        begin = end
        sizes[n] = text.size
    return sizes


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What Guardian would have done to one answer.

    Args:
        n_tokens: That are generated with it.
        tokens_at_alarm: None without an alarm. The stop may come up to three tokens later, at a character's end.
        curve: The compressed size at the start of generation and at every check, in bytes; as the report's `curve`.
    """

    n_tokens: int
    tokens_at_alarm: int | None
    curve: list[float]


def replay(answer: Answer, guardian: Guardian, sizes: Mapping[int, float] | None = None) -> Stop:
    """
    Args:
        sizes: Of `compressed_sizes`, at least at the checks of this Guardian; one pass then serves many settings.

    Raises:
        ConfigError: Another action than "stop": what the model would have written after it was not recorded.
    """
    check_action(guardian)
    at = checks(answer.n_tokens, guardian.interval)
    if sizes is None:
        sizes = compressed_sizes(answer, at)
    curve = [sizes[0]]
    alarms = (_paper_alarms if guardian.rule == "paper" else _text_alarms)(answer, guardian, sizes)
    for n, alarm in zip(at, alarms, strict=False):
        curve.append(sizes[n])
        if alarm:
            return Stop(n_tokens=_end_of_character(answer, n), tokens_at_alarm=n, curve=curve)
    return Stop(n_tokens=answer.n_tokens, tokens_at_alarm=None, curve=curve)


def _paper_alarms(answer: Answer, guardian: Guardian, sizes: Mapping[int, float]) -> Iterator[bool]:
    """Whether the rule says so, check by check."""
    before, streak = sizes[0], 0
    for n in checks(answer.n_tokens, guardian.interval):
        streak = streak + 1 if sizes[n] - before < guardian.threshold else 0
        before = sizes[n]
        yield streak >= guardian.patience


def _text_alarms(answer: Answer, guardian: Guardian, sizes: Mapping[int, float]) -> Iterator[bool]:
    rule, data, before, begin = TextRule(), answer.data, sizes[0], 0
    for n in checks(answer.n_tokens, guardian.interval):
        end = answer.ends[n - 1]
        rule.feed(data[begin:end])
        yield rule.check(sizes[n] - before, threshold=guardian.threshold, patience=guardian.patience)
        before, begin = sizes[n], end


def check_action(guardian: Guardian) -> None:
    """
    Raises:
        ConfigError: Not "stop".
    """
    if guardian.action != "stop":
        raise ConfigError(
            f"Guardian: action={guardian.action!r} cannot be replayed: what the model would have written after it is "
            'not in the recording; use action="stop"'
        )


def _end_of_character(answer: Answer, n: int) -> int:
    data, last = answer.data, min(n + MAX_WAIT, answer.n_tokens)
    while n < last and partial(data[: answer.ends[n - 1]]):
        n += 1
    return n


# Runs


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A run under one Guardian.

    Args:
        guardian: The settings.
        cases: One a method and budget, in the order of the run.
        total: All of them together.
    """

    guardian: Guardian
    cases: list[CaseResult]
    total: CaseResult


def sweep(
    answers: Sequence[Answer],
    guardians: Sequence[Guardian],
    *,
    judge: Judge | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Replay]:
    """Replays a run under each Guardian. Every answer is compressed once, whatever the number of settings.

    Args:
        judge: None: `lil.eval.judging.judge`.
        tick: Called after each answer is compressed, and after each Guardian is judged.

    Raises:
        ConfigError: No answers, or an action that cannot be replayed.
    """
    if not answers:
        raise ConfigError("no answers to replay")
    for guardian in guardians:
        check_action(guardian)
    every = {guardian.interval for guardian in guardians}
    sizes = []
    for answer in answers:
        sizes.append(compressed_sizes(answer, (n for step in every for n in checks(answer.n_tokens, step))))
        tick()
    verdicts = Verdicts(judge)
    places = {id(answer): i for i, answer in enumerate(answers)}
    cases = by_case(answers)
    for guardian in guardians:
        kept = [replay(answer, guardian, known).n_tokens for answer, known in zip(answers, sizes, strict=True)]
        yield Replay(
            guardian=guardian,
            cases=[
                count(of, [kept[places[id(answer)]] for answer in of], verdicts, method=method, budget=budget)
                for (method, budget), of in cases.items()
            ],
            total=count(answers, kept, verdicts, method=ALL, budget=None),
        )
        tick()


def replay_run(answers: Sequence[Answer], guardian: Guardian, *, judge: Judge | None = None) -> Replay:
    """A run under one Guardian. Raises as `sweep`."""
    return next(sweep(answers, [guardian], judge=judge))
