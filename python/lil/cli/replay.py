from __future__ import annotations

import csv as csv_format
import dataclasses
import itertools
import json as json_format
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from .._errors import ConfigError
from .._guardian import RULES, Guardian, Rule
from . import _common as common

if TYPE_CHECKING:
    from ..eval.compare import Comparison
    from ..eval.records import Answer, Run
    from ..eval.replay import Replay
    from ..eval.splits import CaseResult


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A folder that lil eval wrote.", show_default=False)],
    rule: Annotated[str, typer.Option(metavar="RULES", help="Guardian's rule: paper, text, or both.")] = Guardian.rule,
    every: Annotated[str, typer.Option(metavar="NUMBERS", help="Generated tokens between two checks.")] = "250",
    threshold: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Compressed bytes that count as something new.")
    ] = "20",
    patience: Annotated[str, typer.Option(metavar="NUMBERS", help="Checks in a row.")] = "1",
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Both rules beside DRY, exact n-grams and the zlib ratio, on the same answers."),
    ] = False,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw FILE.png and FILE.svg.", show_default=False)
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write every setting and case there; --compare's table beside it."),
    ] = None,
    json: common.Json = None,
) -> None:
    """What Guardian would have done to the answers of a recorded run, without decoding again.

    Tokens saved, accuracy before and after, and which answers were won and lost, each relative to the same method
    without Guardian. Every setting may be a comma-separated list: all combinations are then replayed. With --rule text
    20 and 1 are the rule's own thresholds and patiences, other numbers scale them, and it looks every EVERY/2 tokens.
    """
    settings = _guardians(rule, every, threshold, patience)
    from ..eval.compare import compare as compare_detectors
    from ..eval.judging import check_judge
    from ..eval.records import ANSWERS_FILE, read_answers, read_run
    from ..eval.replay import sweep
    from ..eval.replay_plot import check_plot, plot_sweep
    from ..eval.stops import usual

    check_judge()
    if plot is not None:
        check_plot()
    about, answers = read_run(run), list(read_answers(run))
    if not answers:
        raise ConfigError(f"{Path(run, ANSWERS_FILE)}: no answers yet; run lil eval with --out {run}")
    _check_writable(csv=csv, json=json)

    others = [Guardian(rule=one) for one in RULES if one not in {setting.rule for setting in settings}]
    detectors = usual([*settings, *others]) if compare else []
    done, total = 0, len(answers) + len(settings) + len(detectors)
    with common.progress() as update:

        def tick() -> None:
            nonlocal done
            done += 1
            update(done, total, "replay")

        replays = list(sweep(answers, settings, tick=tick))
        rows = compare_detectors(answers, detectors, tick=tick) if compare else []

    out = common.console()
    out.print(_title(about, answers), soft_wrap=True)
    if len(replays) == 1:
        _show_cases(replays[0])
    else:
        _show_sweep(replays)
    if rows:
        _show_comparison(rows)
    _write_csv(csv, replays, rows)
    _write_json(json, about, replays, rows)
    if plot is not None:
        files = plot_sweep(replays, plot, title=f"{about.task}, {about.model}, {len(answers)} answers")
        out.print(f"Plot: {' and '.join(map(str, files))}", soft_wrap=True)


def _guardians(rule: str, every: str, threshold: str, patience: str) -> list[Guardian]:
    """All combinations.

    Raises:
        ConfigError: Not a list of rules or of numbers, or one out of range.
    """
    return [
        Guardian(rule=r, every=n, threshold=t, patience=p)
        for r in _rules("--rule", rule)
        for n, t, p in itertools.product(
            common.numbers("--every", every),
            _thresholds("--threshold", threshold),
            common.numbers("--patience", patience),
        )
    ]


def _rules(option: str, text: str) -> list[Rule]:
    found = [part.strip() for part in text.split(",")]
    for part in found:
        if part not in RULES:
            raise ConfigError(f"{option} {text!r}: {part!r} is no rule; give one of {', '.join(RULES)}, or both")
    return [rule for rule in RULES if rule in found]


def _thresholds(option: str, text: str) -> list[float]:
    found = []
    for part in text.split(","):
        try:
            number = float(part)
        except ValueError:
            raise ConfigError(
                f"{option} {text!r}: {part.strip()!r} is not a number; give a list such as 10,20,40"
            ) from None
        if not 0 <= number < float("inf"):
            raise ConfigError(f"{option} {text!r}: {part.strip()} must be a finite number of at least 0")
        found.append(number)
    return list(dict.fromkeys(found))


# The terminal

_LEGEND = (
    "Runaways: answers that the cap ended. Sound: right, and ended by themselves. Met: acted on before their end.",
    "All but DRY end what they meet. DRY lowers the logit of a token that repeats: what comes then is not known.",
)


def _title(about: Run, answers: Sequence[Answer]) -> str:
    cases = len({answer.case for answer in answers})
    return (
        f"{about.task}, {about.model}: {len(answers)} answers in {cases} case{'s' * (cases != 1)}, "
        f"at most {about.max_tokens} tokens each"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _accuracy(share: float, interval: tuple[float, float]) -> str:
    return f"{100 * share:.1f} % ({100 * interval[0]:.0f} - {100 * interval[1]:.0f})"


def _mean(tokens: int, n: int) -> str:
    return f"{tokens / n:.0f}" if n else "-"


def _name(case: CaseResult) -> str:
    from ..eval.records import case_label

    return case_label(case.method, case.budget)


def _show_cases(found: Replay) -> None:
    guardian, out = found.guardian, common.console()
    rows = found.cases if len(found.cases) == 1 else [*found.cases, found.total]
    setting = (
        f"Guardian, rule {guardian.rule}, every {guardian.every}, threshold {guardian.threshold:g}, "
        f"patience {guardian.patience}"
    )

    table = common.table(["", "answers", "cut", "tokens", "Guardian", "saved", "accuracy (95 %)", "Guardian (95 %)"])
    for case in rows:
        table.add_row(
            _name(case),
            f"{case.n}",
            f"{case.n_cut}",
            _mean(case.tokens_before, case.n),
            _mean(case.tokens_after, case.n),
            _percent(case.saved),
            _accuracy(case.accuracy_before, case.interval_before),
            _accuracy(case.accuracy_after, case.interval_after),
        )
    common.show(out, f"{setting}: mean tokens of an answer and accuracy, without and with it", table)

    moves = ["right stays right", "right to wrong", "wrong to right", "wrong ends early", "wrong, whole"]
    table = common.table(["", *moves])
    for case in rows:
        whole = case.wrong.n - case.wrong_to_right - case.wrong_ends_early
        counts = (case.right_stays, case.right_to_wrong, case.wrong_to_right, case.wrong_ends_early, whole)
        table.add_row(_name(case), *map(str, counts))
    common.show(out, "What became of the answers", table)

    columns = ["answers", "tokens", "Guardian", "saved"]
    table = common.table(["", *(f"{kind}: {name}" for kind in ("right", "wrong") for name in columns)])
    for case in rows:
        cells = []
        for part in (case.right, case.wrong):
            cells += [str(part.n), _mean(part.tokens_before, part.n), _mean(part.tokens_after, part.n)]
            cells.append(_percent(part.saved if part.n else None))
        table.add_row(_name(case), *cells)
    common.show(out, "Where the saving comes from: answers right without Guardian, and wrong ones", table)


def _show_sweep(replays: Sequence[Replay]) -> None:
    names = ["right to wrong", "wrong to right", "saved in right", "in wrong"]
    table = common.table(["rule, every, threshold, patience", "cut", "tokens", "saved", "accuracy (95 %)", *names])
    total = replays[0].total
    before = _accuracy(total.accuracy_before, total.interval_before)
    table.add_row("without Guardian", "0", _mean(total.tokens_before, total.n), "-", before, *"----")
    for found in replays:
        guardian, total = found.guardian, found.total
        table.add_row(
            f"{guardian.rule}, {guardian.every}, {guardian.threshold:g}, {guardian.patience}",
            f"{total.n_cut}",
            _mean(total.tokens_after, total.n),
            _percent(total.saved),
            _accuracy(total.accuracy_after, total.interval_after),
            f"{total.right_to_wrong}",
            f"{total.wrong_to_right}",
            _percent(total.right.saved if total.right.n else None),
            _percent(total.wrong.saved if total.wrong.n else None),
        )
    common.show(common.console(), "Guardian's settings: all answers, mean tokens of an answer", table)


def _show_comparison(rows: Sequence[Comparison]) -> None:
    table = common.table(["", "setting", "runaways met", "after tokens", "saved", "sound met", "accuracy"])
    table.columns[1].justify = "left"
    for row in rows:
        accuracy = None if row.correct_after is None else row.correct_after / row.n
        table.add_row(
            row.name,
            row.settings,
            f"{row.n_runaway_met} of {row.n_runaway}",
            "-" if row.runaway_tokens is None else f"{row.runaway_tokens:.0f}",
            _percent(row.saved),
            f"{row.n_sound_met} of {row.n_sound}",
            _percent(accuracy),
        )
    before = _percent(rows[0].correct_before / rows[0].n)
    common.show(common.console(), f"Beside others. Accuracy without any: {before}", table)
    for line in _LEGEND:
        common.console().print(line, soft_wrap=True)


# Files


def _check_writable(**paths: str | None) -> None:
    """Before the work, not after it.

    Raises:
        ConfigError: A folder that is not there.
    """
    for option, path in paths.items():
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"--{option} {path}: there is no folder {Path(path).parent}")


def _settings(guardian: Guardian) -> dict[str, Any]:
    return {name: getattr(guardian, name) for name in ("rule", "every", "threshold", "patience")}


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose nested ones became columns: right.n, interval_before.0."""
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            out |= {f"{key}.{inner}": x for inner, x in _flat(value).items()}
        else:
            out[key] = value
    return out


def _write_csv(path: str | None, replays: Sequence[Replay], rows: Sequence[Comparison]) -> None:
    if path is None:
        return
    records = [
        {**_settings(found.guardian), **_flat(case.as_dict())}
        for found in replays
        for case in (*found.cases, found.total)
    ]
    stem, suffix = os.path.splitext(path)
    for file, content in ((path, records), (f"{stem}-compare{suffix}", [row.as_dict() for row in rows])):
        if not content:
            continue
        try:
            with open(file, "w", encoding="utf-8", newline="") as out:
                writer = csv_format.DictWriter(out, list(content[0]))
                writer.writeheader()
                writer.writerows(content)
        except OSError as error:
            raise ConfigError(f"--csv {file}: {error.strerror or error}") from None


def _write_json(path: str | None, about: Run, replays: Sequence[Replay], rows: Sequence[Comparison]) -> None:
    if path is None:
        return
    record = {
        "kind": "replay",
        "lil": __version__,
        "run": dataclasses.asdict(about),
        "results": [
            {
                "guardian": _settings(found.guardian),
                "cases": [case.as_dict() for case in found.cases],
                "total": found.total.as_dict(),
            }
            for found in replays
        ],
        "comparison": [row.as_dict() for row in rows],
    }
    try:
        Path(path).write_text(json_format.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror or error}") from None
