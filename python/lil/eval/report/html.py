"""The report as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import re

import jinja2
from markupsafe import Markup, escape

from . import palette
from .blocks import Document, Panel
from .plots import embedded

_BRACKETS = re.compile(r"\([^()]*\)")


def _intervals(cell: str) -> Markup:
    """A cell whose interval stands back."""
    return Markup(_BRACKETS.sub(lambda match: f'<span class="ci">{match[0]}</span>', str(escape(cell))))


def _embedded(panel: Panel) -> Markup:
    return Markup(embedded(panel.svg, panel.alt))


def to_html(document: Document) -> str:
    """The same document gives the same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lil.eval.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "embedded": _embedded,
        "intervals": _intervals,
        "kind": lambda block: type(block).__name__,
    }
    page = environment.get_template("page.html.j2")
    return page.render(document=document, variables=list(palette.variables().values()))
