"""Runs as a report: one HTML page and a Markdown file, with the tables and figures of https://arxiv.org/abs/2601.03043.

From the records to the page: `load` sorts runs, `measures` and `times` count, `tables`, `figures` and `growth` lay out,
`content` says it, `html` and `markdown` write it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._errors import ConfigError
from ..._guardian import Guardian
from ..judging import check_judge
from ..replay import check_action
from ..replay_plot import check_plot
from ..splits import Judge
from . import times
from .content import make_document
from .html import to_html
from .load import Group, read_groups
from .markdown import PLOTS, to_markdown
from .measures import Case, Measured, measure

__all__ = [
    "HTML_FILE",
    "MARKDOWN_FILE",
    "Case",
    "Group",
    "Measured",
    "Prepared",
    "measure",
    "prepare",
    "read_groups",
    "write_report",
]

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"


@dataclass(frozen=True)
class Prepared:
    """Runs that were read and checked, to be written as a report.

    Attributes:
        groups: What is compared among itself.
        benches: By the model's fingerprint.
        guardian: What is replayed.
        out: The folder, which is there.
        judge: None: `lil.eval.judging.judge`.
    """

    groups: list[Group]
    benches: dict[str, times.Bench]
    guardian: Guardian
    out: Path
    judge: Judge | None

    def write(
        self,
        *,
        command: str = "lil.eval.report.write_report",
        progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    ) -> tuple[Path, Path]:
        """See `write_report`.

        Args:
            command: How the report says it was made.
            progress: Called with what is done, what there is in all, and a word on it.
        """
        n, done = sum(len(group.answers) for group in self.groups) + 1, 0

        def tick() -> None:
            nonlocal done
            done += 1
            progress(done, n, "replay")

        measured = [measure(group, self.guardian, judge=self.judge, tick=tick) for group in self.groups]
        progress(done, n, "drawing")
        document = make_document(measured, self.benches, command)
        for panel in document.panels:
            _write(self.out / PLOTS / f"{panel.id}.svg", panel.svg)
        _write(self.out / MARKDOWN_FILE, to_markdown(document))
        _write(self.out / HTML_FILE, to_html(document))
        progress(n, n, "drawing")
        return self.out / HTML_FILE, self.out / MARKDOWN_FILE


def prepare(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    guardian: Guardian | None = None,
    benches: Sequence[str | os.PathLike[str]] = (),
    judge: Judge | None = None,
) -> Prepared:
    """Reads and checks everything, then makes the folder. Arguments and errors are those of `write_report`."""
    guardian = guardian or Guardian()
    check_action(guardian)
    check_plot()
    if judge is None:
        check_judge()
    groups = read_groups(folders)
    assigned = times.assign([times.read(path) for path in benches], [group.run.fingerprint for group in groups])
    _make(Path(out) / PLOTS)
    return Prepared(groups, assigned, guardian, Path(out), judge)


def write_report(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    guardian: Guardian | None = None,
    benches: Sequence[str | os.PathLike[str]] = (),
    judge: Judge | None = None,
) -> tuple[Path, Path]:
    """Reads runs and writes `out`/report.html, `out`/report.md and `out`/plots.

    The same runs give the same bytes. Files of an earlier report are replaced.

    Args:
        folders: Of runs. Those of one task, model and settings are compared; others get sections of their own.
        guardian: None: `Guardian()`.
        benches: Files of `lil bench --json`, one per model at most.
        judge: None: `lil.eval.judging.judge`.

    Returns:
        The HTML and the Markdown file.

    Raises:
        ConfigError: A run or bench that cannot be read or does not fit, a Guardian whose action is not "stop", a
            missing package, or a folder that cannot be written.
    """
    return prepare(folders, out, guardian=guardian, benches=benches, judge=judge).write()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder.parent}: {error.strerror or error}; give a folder to write to") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {folder.parent}: no permission to write there; give another folder")


def _write(path: Path, text: str) -> None:
    try:
        # answers may hold bytes that are no UTF-8; none of them is meant to get here, but a name may
        path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror or error}") from None
