"""The report's HTML elements: where text from outside becomes safe, and every table alike.

``content``, ``note`` and ``body`` are ready HTML; everything else is plain text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from decimal import Decimal

from jobs.report import format as fmt

# CSS class of a column of numbers, and of its cells.
NUMBER = "n"
# A column: its title, and its CSS class or "".
Column = tuple[str, str]


def text(value: object) -> str:
    """``value`` as HTML text or attribute; None is an en dash."""
    return "–" if value is None else html.escape(fmt.clean(value))


def _attribute(name: str, value: str) -> str:
    return f' {name}="{value}"' if value else ""


def name(value: object) -> str:
    """``value``, a name from outside, as HTML; one that is written from the right moves nothing beside it."""
    return f"<bdi>{text(value)}</bdi>"


def titled(content: str, title: str) -> str:
    """``content`` that tells ``title`` where it is pointed at."""
    return f'<span title="{text(title)}">{content}</span>'


def money(amount: Decimal | None, currency: str = "", decimal_places: int | None = None) -> str:
    """``amount`` in digits that are read, or to a column's ``decimal_places``; its title has every decimal."""
    if amount is None:
        return "–"
    shown = fmt.money(amount) if decimal_places is None else fmt.fixed(amount, decimal_places)
    shown, exact = (f"{digits} {currency}".strip() for digits in (shown, fmt.exact(amount)))
    return titled(text(shown), exact) if shown != exact else text(shown)


def td(content: str, css: str = "") -> str:
    """A cell."""
    return f"<td{_attribute('class', css)}>{content}</td>"


def number(content: str) -> str:
    """A cell of a column of numbers."""
    return td(content, NUMBER)


def row_head(content: str, css: str = "", title: str = "", span: int = 1) -> str:
    """The cell that names its row; ``title`` is its full name where it may be cut."""
    attributes = _attribute("class", css) + _attribute("title", text(title) if title else "")
    return f'<th scope="row"{attributes}{f" colspan={span}" if span > 1 else ""}>{content}</th>'


def tag(content: str, css: str = "") -> str:
    """A small label."""
    return f'<span class="{f"tag {css}".strip()}">{content}</span>'


def cost_status(status: str | None) -> str:
    """A cost status as a label; what may still change stands out."""
    return tag(text(status), "provisional" if status == "provisional" else "")


def table(columns: Sequence[Column], rows: Iterable[str], foot: str = "", css: str = "") -> str:
    """A table; ``rows`` and ``foot`` are cells without their <tr>, unless they begin with one."""
    heads = "".join(f'<th scope="col"{_attribute("class", column_css)}>{title}</th>' for title, column_css in columns)
    body = "".join(row if row.startswith("<tr") else f"<tr>{row}</tr>" for row in rows)
    return (
        f"<table{_attribute('class', css)}><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
        + (f"<tfoot><tr>{foot}</tr></tfoot>" if foot else "")
        + "</table>"
    )


def scrollable(label: str, content: str, css: str = "wide") -> str:
    """``content`` in a box that scrolls, by keyboard too."""
    return f'<div class="{css}" tabindex="0" role="region"{_attribute("aria-label", label)}>{content}</div>'


def section(key: str, title: str, body: str, note: str = "", controls: str = "") -> str:
    """A part of the page under its heading; ``key`` is its id, unique in the page."""
    return (
        f'<section aria-labelledby="{key}"><div class="head"><h2 id="{key}">{title}</h2>'
        + (f'<p class="soft">{note}</p>' if note else "")
        + f"{controls}</div>{body}</section>"
    )


def disclosure(summary: str, body: str, css: str = "") -> str:
    """``body`` that ``summary`` opens and closes, by keyboard too."""
    return f"<details{_attribute('class', css)}><summary>{summary}</summary>{body}</details>"


def definitions(pairs: Iterable[tuple[str, str]], css: str, label: str) -> str:
    """Named values in a row: (name, ready HTML)."""
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="{css}" aria-label="{label}">{items}</dl>'
