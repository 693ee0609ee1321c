"""What a report says: sections, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ..._guardian import Guardian
from . import text
from .blocks import Block, Document, Points, Section, Settings, Text
from .figures import budget_figure, ratio_figure, time_figure
from .growth import growth_figure
from .load import Group
from .measures import Case, Measured
from .palette import FULL
from .stats import RESAMPLES
from .tables import full_table, guardian_table, length_table, moves_table, split_table, time_table
from .times import Bench, CaseTime, case_times, verdict

PAPER = "https://arxiv.org/abs/2601.03043"


def make_document(all_measured: Sequence[Measured], benches: Mapping[str, Bench], command: str) -> Document:
    """
    Args:
        all_measured: One per task, model and settings; not empty.
        benches: By the model's fingerprint.
        command: The command line that makes this report again.
    """
    guardian = all_measured[0].guardian
    times = [
        case_times(measured, benches[measured.group.run.fingerprint])
        if measured.group.run.fingerprint in benches
        else None
        for measured in all_measured
    ]
    glance = Section("glance", "At a glance")
    for measured, timed in zip(all_measured, times, strict=True):
        if len(all_measured) > 1:
            glance.blocks.append(Text(f"{measured.group.title}:"))
        glance.blocks.append(Points(tuple(_findings(measured, timed))))
    sections = [glance]
    if (table := full_table(all_measured)) is not None:
        sections.append(Section("full", "Full attention", blocks=[table]))
    for measured, timed in zip(all_measured, times, strict=True):
        sections += _group_sections(measured, timed, alone=len(all_measured) == 1)
    sections.append(_reading(guardian))
    sections.append(_what_was_run([measured.group for measured in all_measured], benches, guardian, command))
    titles = [measured.group.title for measured in all_measured]
    return Document(
        f"Sparse attention and Guardian: {titles[0] if len(titles) == 1 else f'{len(titles)} sets of runs'}",
        "What sparse attention and Guardian's early stop cost and saved in these runs: right answers, tokens, and "
        f"time per problem. Tables and figures are those of the paper Lil: Less is Less, {PAPER}. Guardian was "
        f"replayed over the recorded answers with {_setting(guardian)}.",
        sections,
    )


def _setting(guardian: Guardian) -> str:
    return (
        f'rule "{guardian.rule}", a check every {guardian.interval} tokens, a threshold of {guardian.threshold:g} '
        f"{'bytes' if guardian.rule == 'paper' else '(20: the thresholds of the rule)'} and a patience of "
        f"{guardian.patience}"
    )


def _earliest(guardian: Guardian) -> int:
    """Tokens before which there is no alarm; rule "text" spends a check on finding that something repeats itself."""
    return guardian.interval * (guardian.patience + (guardian.rule == "text"))


# At a glance


def _findings(measured: Measured, times: Sequence[CaseTime] | None) -> list[str]:
    found = []
    full, sparse, cap = measured.full, measured.sparse, text.count(measured.cap)
    if full is not None:
        found.append(
            f"Full attention: {full.result.correct_before} of {full.n} answers right, "
            f"{text.share(full.accuracy(guardian=False))}; "
            f"{text.with_interval(full.tokens(guardian=False), text.count)} tokens on average, at most {cap}."
        )
    if full is not None and sparse:
        longer = [case for case in sparse if case.length_against(full).value > 1]
        most = max(sparse, key=lambda case: case.length_against(full).value)
        ratio = most.length_against(full)
        found.append(
            f"Output length: longer than full attention's in {len(longer)} of "
            f"{text.plural(len(sparse), 'sparse case')}; the longest are {most.label}'s, "
            f"{text.count(most.tokens(guardian=False).value)} tokens on average, "
            f"{text.with_interval(ratio, text.fixed)} times full attention's."
        )
    cut = [case for case in measured.cases if case.result.n_cut]
    if cut:
        before, after = measured.total.tokens_before, measured.total.tokens_after
        best = max(cut, key=lambda case: case.saved.value)
        changes = [case.accuracy_change.value for case in measured.cases]
        found.append(
            f"Guardian stops {text.plural(measured.total.n_cut, 'answer')} of {text.count(measured.total.n)} and saves "
            f"{text.percent(measured.total.saved, 1)} of all tokens ({text.count(before)} become "
            f"{text.count(after)}); most with {best.label}: {text.percent(best.saved.value, 1)} "
            f"({text.count(best.tokens(guardian=False).value)} become "
            f"{text.count(best.tokens(guardian=True).value)} per answer)."
        )
        found.append(
            (
                f"Accuracy under Guardian changes by {text.points(min(changes))} to {text.points(max(changes))} "
                "points, by case"
                if any(changes)
                else "Accuracy under Guardian does not change in any case"
            )
            + f": {text.plural(measured.total.right_to_wrong, 'right answer becomes', 'right answers become')} wrong, "
            f"{text.plural(measured.total.wrong_to_right, 'wrong one becomes', 'wrong ones become')} right."
        )
    elif measured.cap <= (first := _earliest(measured.guardian)):
        found.append(
            f"Guardian could not stop anything: it would act after {text.count(first)} tokens at the earliest, and no "
            f"answer is longer than {cap}."
        )
    else:
        found.append("Guardian stops no answer: nothing is saved, nothing is lost.")
    found.append(_in_the_end(times))
    return found


def _in_the_end(times: Sequence[CaseTime] | None) -> str:
    if times is None:
        return (
            "Faster in the end? Not known: times per step are missing. Run lil bench MODEL --json bench.json with "
            "these methods and budgets, and give --bench bench.json."
        )
    full = next((time for time in times if time.case.method == FULL), None)
    sparse = [time for time in times if time is not full]
    if full is None or not sparse:
        return "Faster in the end? The runs and the bench have no sparse case and full attention in common."
    parts = []
    for guardian, with_ in ((False, "without"), (True, "with")):
        verdicts = [verdict(time.against(full, guardian=guardian)) for time in sparse]
        parts.append(
            f"{with_} Guardian {verdicts.count('faster')} faster, {verdicts.count('slower')} slower, "
            f"{verdicts.count('open')} open"
        )
    return (
        f"Faster in the end? Of {text.plural(len(sparse), 'sparse case')}, in time per problem against full attention: "
        f"{parts[0]}; {parts[1]} (open: the interval of the ratio holds 1)."
    )


# Groups


def _group_sections(measured: Measured, times: Sequence[CaseTime] | None, *, alone: bool) -> list[Section]:
    group = measured.group
    made: list[Section] = []

    def add(name: str, title: str, *blocks: Block | None) -> None:
        kept = [block for block in blocks if block is not None]
        made.append(Section(f"{group.id}-{name}", title, 2 if alone else 3, kept))

    if not alone:
        made.append(Section(group.id, group.title, 2, []))
    sparse = bool(measured.sparse)
    none = None if sparse else Text("The runs have full attention alone, so there is nothing to draw over budgets.")
    missing = _missing(measured)
    add(
        "length",
        "Accuracy and length",
        Text(missing) if missing else None,
        budget_figure(measured) if sparse else none,
        length_table(measured),
    )
    caption = "Guardian by method and budget: tokens saved and change of accuracy (the paper's table 1)."
    add(
        "guardian",
        "What Guardian saves and costs",
        guardian_table(measured, measured.sparse, caption, "guardian") if sparse else None,
        split_table(measured),
        moves_table(measured),
    )
    add("information", "How much the answers say", ratio_figure(measured), growth_figure(measured))
    if times is None:
        time_blocks: list[Block | None] = [Text(_in_the_end(None))]
    elif not times:
        time_blocks = [Text("The bench measured none of the methods and budgets of these runs.")]
    else:
        time_blocks = [time_figure(measured, times) if sparse else None, time_table(measured, times)]
    add("time", "Time per problem", *time_blocks)
    return made


def _missing(measured: Measured) -> str:
    """What is not there yet."""

    def short(case: Case) -> bool:
        return case.n < wanted

    wanted = max(part.run.n_problems for part in measured.group.parts)
    cases = [f"{case.label} {case.n}" for case in measured.cases if short(case)]
    if not cases:
        return ""
    return (
        f"Not all of the {wanted} problems are answered: {text.listed(cases)}. Go on with lil eval and the same --out."
    )


# The end


def _reading(guardian: Guardian) -> Section:
    return Section(
        "reading",
        "How to read this",
        blocks=[
            Points(
                (
                    "Numbers in brackets are 95 % intervals: Wilson's for shares, Bonett and Price's for changes "
                    f"of accuracy on the same problems, the bootstrap over problems ({RESAMPLES} resamples, fixed "
                    "seed) for tokens, ratios and times. Few problems give wide intervals; a difference whose interval "
                    "holds 0, or a ratio whose interval holds 1, is not shown by these runs.",
                    "A budget is the number of tokens that a decode step attends to. “full” is full attention.",
                    f"Guardian follows the LZ77-compressed size of prompt and answer. Here it ends an answer when "
                    f"{_when(guardian)}. It changes nothing before it acts, so what it "
                    "would have done to a recorded answer can be told exactly. An answer that is cut is judged by what "
                    "is left of it.",
                    "Wrong ends early: an answer that is wrong with and without Guardian, and was stopped. A saving "
                    "there costs nothing but the chance that the answer would have come right.",
                )
            )
        ],
    )


def _when(guardian: Guardian) -> str:
    if guardian.rule == "paper":
        return (
            f"the size grew by less than {guardian.threshold:g} bytes over {guardian.every} generated tokens, "
            f"{text.plural(guardian.patience, 'time')} in a row"
        )
    return (
        f"what was written since the text began to repeat adds too little to itself; how little, and for how many "
        f"checks of {guardian.interval} tokens, depends on what it is made of (docs/guardian.md)"
    )


def _what_was_run(groups: Sequence[Group], benches: Mapping[str, Bench], guardian: Guardian, command: str) -> Section:
    section = Section("run", "What was run")
    section.blocks.append(
        Settings(
            "This report",
            (
                ("command", command),
                (
                    "Guardian",
                    f"rule {guardian.rule}, every {guardian.every}, threshold {guardian.threshold:g}, "
                    f"patience {guardian.patience}",
                ),
                ("lil", __version__),
            ),
        )
    )
    for group in groups:
        for part in group.parts:
            run = part.run
            section.blocks.append(
                Settings(
                    part.folder,
                    (
                        ("task", f"{run.task}, {text.plural(run.n_problems, 'problem')} of {run.data}"),
                        ("model", f"{run.model} ({run.fingerprint})"),
                        ("methods", ", ".join(run.methods)),
                        ("budgets", ", ".join(map(str, run.budgets)) or text.NONE),
                        ("answers", f"{len(part.answers)}, at most {run.max_tokens} tokens each"),
                        ("sampling", _flat(run.sampling)),
                        ("decoded at once", str(run.n_parallel)),
                        ("system prompt", run.system or "none"),
                        ("added to questions", run.suffix or "nothing"),
                        ("machine", _flat(run.machine)),
                        ("lil", run.lil),
                    ),
                )
            )
    for bench in benches.values():
        section.blocks.append(
            Settings(
                bench.path,
                (
                    ("model", bench.fingerprint),
                    ("decode steps timed after", f"{', '.join(map(text.count, bench.contexts))} tokens"),
                    ("machine", _flat(bench.machine)),
                ),
            )
        )
    return section


def _flat(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or text.NONE
