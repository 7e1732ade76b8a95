"""The report: what was measured beside what is claimed, as one HTML file that needs no network.

Everything in it is computed from the stored results of cells; ``summary`` has the figures that docs/figures.md quotes.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from simulator.evaluation import money
from simulator.evaluation.cells import (
    ABLATIONS,
    AT_ONCE,
    BY_RULE,
    DETECTOR,
    HINDSIGHT,
    LATER,
    MISPRICED,
    ORACLE,
    ORACLES_TRACES,
    RANDOM,
    RULE,
    SHOWN,
    SHUFFLES,
)
from simulator.evaluation.claims import (
    AIM_BUDGETS,
    ATTRIBUTION,
    BETTER,
    F1,
    METERED,
    OF_OTHERS,
    OTHERS,
    PRECISION,
    RECALL,
    SAVINGS,
    SHORT,
    TABLE_3,
    Aim,
    aims,
    readings,
    savings,
    table_3,
    tests,
    values,
    verdict,
)
from simulator.evaluation.figures import Drawn
from simulator.evaluation.statistics import Estimate, estimate, in_worlds

NOT_THERE = "There is no world of the source's family with such a bill here."
TEMPLATE = Path(__file__).with_name("report.html")

RANKINGS = (
    money.FINOPS, RANDOM, BY_RULE, money.AIOPS, money.NAIVE, money.SOURCES, money.S_EXCESS, money.OURS, ORACLES_TRACES,
    ORACLE, HINDSIGHT,
)  # fmt: skip
WHAT = {
    money.FINOPS: "irregularity of the bill alone",
    RANDOM: f"no order: mean over {SHUFFLES} shuffles",
    BY_RULE: "the rule's own verdicts, α · ln(1 + c_s)",
    money.AIOPS: "α",
    money.NAIVE: "α + ln(1 + c_s), unweighted; α outweighs it",
    money.SOURCES: "α · ln(1 + c_s), equation (2)",
    money.S_EXCESS: "α · ln(1 + excess)",
    money.OURS: "excess cost; what the job ranks by",
    ORACLES_TRACES: "excess cost, of the true traces and culprits",
    **{f"{money.OURS}, {name}": "the same, if repairs came so late" for name in LATER},
    **{f"{money.OURS}, {name}": "the same, with such a price book" for name in MISPRICED},
    f"{money.OURS}, {AT_ONCE}": "the same, by the first word for each minute",
    ORACLE: "true cost of each window",
    HINDSIGHT: "about the most that k repairs avert, known only afterwards",
}
SENSITIVITY = tuple(f"{money.OURS}, {name}" for name in (*LATER, *MISPRICED, AT_ONCE))
# What is seen of a detector, by trace and by incident: measure of cells, title, decimals.
BY_TRACE = (
    ("F1", "F1", 3), ("precision", "precision", 3), ("recall", "recall", 3), ("accuracy", "accuracy", 3),
    ("normal flagged", "normal flagged", 4), ("precision at 1 %", "precision at 1 %", 2),
    ("precision at 5 %", "at 5 %", 2), ("precision at 10 %", "at 10 %", 2),
)  # fmt: skip
BY_INCIDENT = (
    ("false incidents", "false incidents a day", 1), ("false incidents as told", "as told", 1),
    ("minutes to detect", "minutes to detect", 1), ("faults detected", "faults detected", 2),
    ("AC@1", "AC@1, own traces", 2), ("AC@3", "AC@3", 2),
    ("AC@1 of its time", "AC@1, all alarms", 2), ("AC@3 of its time", "AC@3", 2),
    ("minutes to quiet", "minutes to quiet", 0),
)  # fmt: skip
# What is asked of attribution: measure of cells, title, decimals.
KNOWN = (
    ("attribution A", "A", 2), ("attribution A by cause", "A, by cause", 2), ("attribution bias", "bias", 2),
    ("share on right service", "on the right service", 2), ("CPU s a window", "CPU s a window", 4),
)  # fmt: skip


def summary(long: pd.DataFrame) -> dict[str, Any]:
    """Table 3, aims and dollars by bill, for a program; null is what isn't known."""
    billings = _billings(long)
    return {
        "table_3": [
            {"arm": row.arm, "measure": row.measure, "source": row.source, **_plain(row.ours), "verdict": row.verdict}
            for row in table_3(long)
        ],
        "savings": {arm: {whole: _plain(ours) for whole, ours in of.items()} for arm, of in readings(long).items()},
        "aims": [
            {
                "what": aim.what,
                "most" if aim.is_most else "least": aim.bound,
                **_plain(aim.ours),
                "met": aim.is_met,
                "sure": aim.is_sure,
            }
            for aim in aims(long)
        ],
        "dollars of hindsight": {
            billing: {
                arm: {f"k = {k}": _plain(savings(long, arm, k, HINDSIGHT, billing)) for k in AIM_BUDGETS}
                for arm in RANKINGS
            }
            for billing in billings
        },
    }


def markdown(found: dict[str, Any]) -> str:
    """Table 3 of a summary, as docs/figures.md has it: what all arms share once, and the savings of each."""
    lines = ["| | the source | ours | |", "|---|---|---|---|"]
    for row in found["table_3"]:
        shared = row["arm"] == money.OURS and row["measure"] in (PRECISION, RECALL, F1)
        if shared or row["measure"] in (SAVINGS, ATTRIBUTION):
            whose = "" if shared else f", {row['arm']}"
            ours = _number(row["mean"], row["half"])
            lines.append(f"| {row['measure']}{whose} | {row['source']:.2f} | {ours} | {row['verdict']} |")
    return "\n".join(lines) + "\n"


def readings_markdown(found: dict[str, Any]) -> str:
    """Savings of a summary by each whole, as docs/figures.md has them."""
    wholes = list(next(iter(found["savings"].values())))
    lines = [f"| savings | the source | of {' | of '.join(wholes)} |", "|---" * (2 + len(wholes)) + "|"]
    for arm, of in found["savings"].items():
        ours = " | ".join(_number(of[whole]["mean"], of[whole]["half"]) for whole in wholes)
        lines.append(f"| {arm} | {TABLE_3[arm][SAVINGS]:.2f} | {ours} |")
    return "\n".join(lines) + "\n"


def aims_markdown(found: dict[str, Any]) -> str:
    """Aims of a summary, as docs/figures.md has them."""
    lines = ["| aim | wanted | measured | |", "|---|---|---|---|"]
    for of in found["aims"]:
        wanted = f"at least {of['least']:.2f}" if "least" in of else f"at most {of['most']:.2f}"
        word = "met" if of["sure"] else "met in the mean" if of["met"] else "missed"
        lines += [f"| {of['what']} | {wanted} | {_number(of['mean'], of['half'], 3)} | {word} |"] if of["n"] else []
    return "\n".join(lines) + "\n"


def write(file: Path, long: pd.DataFrame, figures: Sequence[Drawn], about: dict[str, Any]) -> None:
    """The report of results, their figures, and what made them."""
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        about=_about(about),
        table_3=_table_3(long),
        readings=_readings(long),
        aims=_aims(long),
        dollars=_by_bill(long, _dollars),
        tests=_by_bill(long, _tests),
        ladder=_by_bill(long, _ladder),
        settings=_settings(long),
        detection=_detection(long),
        attribution=_attribution(long),
        figures="\n".join(_figure(figure, about) for figure in figures),
        misses=_misses(long),
        shown=str(SHOWN),
    )
    file.write_text(text, encoding="utf-8")


def _billings(long: pd.DataFrame) -> list[str]:
    own = long[(long["family"] == "source") & (long["table"] == "dollars")]
    return list(dict.fromkeys(own["billing"]))


def _by_bill(long: pd.DataFrame, table: Callable[[pd.DataFrame, str], str]) -> str:
    return "\n".join(table(long, billing) for billing in _billings(long)) or f"<p>{NOT_THERE}</p>"


def _plain(of: Estimate) -> dict[str, float | int | None]:
    return {
        "mean": None if math.isnan(of.mean) else round(of.mean, 4),
        "half": None if math.isnan(of.half) else round(of.half, 4),
        "n": of.n,
    }


def _number(mean: float | None, half: float | None, places: int = 2) -> str:
    if mean is None or math.isnan(mean):
        return "–"
    known = "" if half is None or math.isnan(half) else f" ± {half:.{places}f}"
    return f"{round(mean, places) + 0.0:.{places}f}{known}"  # + 0.0: no -0


def _of(of: Estimate, places: int = 2) -> str:
    return _number(round(of.mean, 4), round(of.half, 4), places)


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Cells are plain text; the first of a row names it, and so does the second where its column has no head."""
    is_named = len(head) > 1 and not head[1]
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "\n".join(
        f'<tr{_css(row)}><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    css = ' class="named"' if is_named else ""
    return f'<div class="wide"><table{css}>{title}<thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _css(row: Sequence[str]) -> str:
    if row[-1] in (SHORT, "missed"):
        return ' class="short"'
    return ' class="ours"' if row[0] == money.OURS else ""


def _about(about: dict[str, Any]) -> str:
    cells = ((html.escape(name), html.escape(str(of))) for name, of in about.items())
    return f'<dl class="about">{"".join(f"<div><dt>{name}</dt><dd>{of}</dd></div>" for name, of in cells)}</dl>'


def _table_3(long: pd.DataFrame) -> str:
    if METERED not in _billings(long):
        return f"<p>{NOT_THERE}</p>"
    rows = [
        [row.arm, row.measure, f"{row.source:.2f}", _of(row.ours), str(row.ours.n), row.verdict]
        for row in table_3(long)
    ]
    return _html_table(["arm", "", "the source", "ours, ± 95 %", "worlds", "verdict"], rows)


def _readings(long: pd.DataFrame) -> str:
    if METERED not in _billings(long):
        return ""
    rows = [
        [arm, f"{TABLE_3[arm][SAVINGS]:.2f}", *(_of(ours) for ours in of.values())]
        for arm, of in readings(long).items()
    ]
    wholes = next(iter(readings(long).values()))
    return _html_table(["savings", "the source", *(f"of {whole}" for whole in wholes)], rows, "savings, read otherwise")


def _aims(long: pd.DataFrame) -> str:
    rows = [
        [aim.what, _bound(aim), _of(aim.ours, 3), str(aim.ours.n), _reached(aim)] for aim in aims(long) if aim.ours.n
    ]
    return _html_table(["aim", "wanted", "measured, ± 95 %", "worlds", ""], rows)


def _bound(aim: Aim) -> str:
    return f"at {'most' if aim.is_most else 'least'} {aim.bound:.2f}"


def _reached(aim: Aim) -> str:
    return "met" if aim.is_sure else "met in the mean" if aim.is_met else "missed"


def _dollars(long: pd.DataFrame, billing: str) -> str:
    cell = partial(_cell, long, "source", billing, "dollars")
    known = set(long.loc[long["table"] == "dollars", "arm"])
    rows = []
    for arm in (arm for arm in (*RANKINGS, *SENSITIVITY) if arm in known):
        shares = [cell(arm, f"saved, k = {k}", 2) for k in AIM_BUDGETS]
        of_best = [
            " ".join(_number(savings(long, arm, k, best, billing).mean, None) for k in AIM_BUDGETS)
            for best in (HINDSIGHT, ORACLE)
        ]
        saved, made = (
            estimate(values(long, "dollars", arm, f"{name}, k = {SHOWN}", "source", billing)).mean
            for name in ("USD", "repairs")
        )
        worth = f"{saved / made:.4f}" if made and not math.isnan(made) else "–"
        rows.append([arm, WHAT[arm], *shares, *of_best, cell(arm, f"idle, k = {SHOWN}", 2), worth])
    ks = ", ".join(map(str, AIM_BUDGETS))
    averted = [f"averted, k = {k}" for k in AIM_BUDGETS]
    of_best = [f"of hindsight, k = {ks}", f"of the order by true cost, k = {ks}"]
    n = len(values(long, "dollars", money.OURS, f"USD, k = {SHOWN}", "source", billing))
    what = f"dollars averted, as a share of all that anomalies cost; the last two for k = {SHOWN}"
    return _html_table(
        ["ranked by", "", *averted, *of_best, "repairs of nothing", "USD a repair"],
        rows,
        f"{billing} bills, {in_worlds(n)}: {what}",
    )


def _tests(long: pd.DataFrame, billing: str) -> str:
    found = tests(long, billing)
    rows = [
        [f"{money.OURS} less {arm}", str(k), _of(of.difference, 3), _p(of.p), _p(of.p_holm), _number(of.effect, None)]
        for (arm, k), of in found.items()
    ]
    head = ["difference of savings", "k", "mean, ± 95 %", "p, paired t", "p, Holm", "effect d_z"]
    n = next(iter(found.values())).difference.n
    if n < 2:
        return f"<p>{html.escape(billing)} bills: one world, so no test.</p>"
    return _html_table(head, rows, f"{billing} bills, {in_worlds(n)}, {len(found)} tests")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _ladder(long: pd.DataFrame, billing: str) -> str:
    steps = (
        ("as shipped", money.OURS),
        ("true traces and culprits in place of ours", ORACLES_TRACES),
        ("true cost as well", ORACLE),
        ("how long each fault lasts as well", HINDSIGHT),
    )
    rows, before = [], [0.0] * len(AIM_BUDGETS)
    for title, arm in steps:
        means = [estimate(values(long, "dollars", arm, f"USD, k = {k}", "source", billing)).mean for k in AIM_BUDGETS]
        gains = [f"{mean:.3f} ({mean - last:+.3f})" for mean, last in zip(means, before)]
        rows.append([title, *gains])
        before = means
    return _html_table(["stage", *(f"k = {k}" for k in AIM_BUDGETS)], rows, f"{billing} bills: USD averted a world")


def _settings(long: pd.DataFrame) -> str:
    """A row a family that has dollars, by its first kind of bill."""
    own = long[long["table"] == "dollars"]
    rows = []
    for family in dict.fromkeys(own["family"]):
        billing = own.loc[own["family"] == family, "billing"].iloc[0]
        cell = partial(_cell, long, family, billing)
        n = own.loc[own["family"] == family, "world"].nunique()
        averted = (cell("dollars", arm, f"saved, k = {SHOWN}", 2) for arm in (money.OURS, ORACLE, HINDSIGHT))
        known = [cell("attribution", "excess", name, 2) for name in ("attribution A", "share on right service")]
        rows.append([family, str(n), cell("detection", DETECTOR, "F1", 3), *known, *averted])
    head = ["", "worlds", "F1", "A", "on the right service", f"averted, k = {SHOWN}", "order by true cost", "hindsight"]
    return _html_table(head, rows)


def _detection(long: pd.DataFrame) -> str:
    own = long[long["table"] == "detection"]
    tables = []
    for family, billing in dict.fromkeys(zip(own["family"], own["billing"])):
        if family == "source" and billing != own.loc[own["family"] == family, "billing"].iloc[0]:
            continue  # the kind of bill is nothing to a detector
        of_family = own[(own["family"] == family) & (own["billing"] == billing)]
        cell = partial(_cell, long, family, billing, "detection")
        n = of_family["world"].nunique()
        for what, seen in (("by trace", BY_TRACE), ("by incident", BY_INCIDENT)):
            known = [(name, title, places) for name, title, places in seen if (of_family["measure"] == name).any()]
            rows = [
                [arm, *(cell(arm, name, places) + _never(of_family, arm, name) for name, _, places in known)]
                for arm in (DETECTOR, RULE, AT_ONCE, *ABLATIONS)
                if known and (of_family["arm"] == arm).any()
            ]
            caption = f"{family}, {what}: {in_worlds(n)}"
            tables += [_html_table(["", *(title for _, title, _ in known)], rows, caption)] if rows else []
    return "\n".join(tables)


def _never(of_family: pd.DataFrame, arm: str, measure: str) -> str:
    """In how many worlds a time is not known since it never came: a mean of the others would hide them."""
    own = of_family[(of_family["arm"] == arm) & (of_family["measure"] == measure)]["value"]
    missing = int(own.isna().sum()) if measure.startswith("minutes to") else 0
    return f", never in {missing} of {len(own)}" if missing else ""


def _attribution(long: pd.DataFrame) -> str:
    own = long[long["table"] == "attribution"]
    tables = []
    for family, billing in dict.fromkeys(zip(own["family"], own["billing"])):
        cell = partial(_cell, long, family, billing, "attribution")
        rows = [
            [arm, *(cell(arm, name, places) for name, _, places in KNOWN)]
            for arm in dict.fromkeys(own.loc[own["family"] == family, "arm"])
        ]
        tables.append(_html_table(["", *(title for _, title, _ in KNOWN)], rows, f"{family} {billing}"))
    return "\n".join(tables)


def _figure(figure: Drawn, about: dict[str, Any]) -> str:
    image = base64.b64encode(figure.png).decode()
    of_all = f"Plan: seeds {about['seeds']}, {about['each']}; {about['time']}."
    command, code = html.escape(about["command"]), html.escape(about["code"])
    commit = f", commit {html.escape(about['commit'])}" if "commit" in about else ""
    made = f" {html.escape(of_all)} Made by <code>{command}</code>, code {code}{commit}."
    return (
        f'<figure><h3>{html.escape(figure.title)}</h3><img alt="{html.escape(figure.title)}"'
        f' src="data:image/png;base64,{image}"><figcaption>{html.escape(figure.caption)}{made}</figcaption></figure>'
    )


def _misses(long: pd.DataFrame) -> str:
    lines = [
        f"Short of the source: {row.measure} of {row.arm}, {_of(row.ours)} where it has {row.source:.2f}."
        for row in table_3(long)
        if row.verdict == SHORT
    ]
    claim, by_whole = TABLE_3[money.OURS][SAVINGS], readings(long)[money.OURS]
    lines += [
        f"Short of the source, if its savings are a share of {whole}: {money.OURS}, {_of(ours)} where it has"
        f" {claim:.2f}."
        for whole, ours in by_whole.items()
        if whole != HINDSIGHT and verdict(ours, claim) == SHORT
    ]
    lines += [
        f"An arm to compare with does better here than in the source: {row.arm}, {row.measure} {_of(row.ours)}"
        f" where it has {row.source:.2f}."
        for row in table_3(long)
        if row.verdict == OF_OTHERS[BETTER]
    ]
    lines += [
        f"{'Met in the mean, not surely' if aim.is_met else 'Missed'}: {aim.what}: {_of(aim.ours, 3)}, {_bound(aim)}"
        " was wanted."
        for aim in aims(long)
        if not aim.is_sure and aim.ours.n
    ]
    for billing in _billings(long):
        for k in AIM_BUDGETS:
            own = savings(long, money.OURS, k, HINDSIGHT, billing).mean
            others = {arm: savings(long, arm, k, HINDSIGHT, billing).mean for arm in OTHERS}
            lines += [
                f"{billing} bills, k = {k}: {arm} averts more than our order does, {other:.3f} of hindsight where ours"
                f" has {own:.3f}."
                for arm, other in others.items()
                if other > own
            ]
            late = f"{money.OURS}, {min(LATER, key=LATER.__getitem__)}"
            if others[money.AIOPS] > (after := savings(long, late, k, HINDSIGHT, billing).mean):
                lines.append(
                    f"{billing} bills, k = {k}: if our order had to wait an hour for its bill, and {money.AIOPS} need"
                    f" not, that would avert more: {others[money.AIOPS]:.3f} of hindsight, and ours {after:.3f}."
                )
    return "".join(f"<li>{html.escape(line)}</li>" for line in lines) or "<li>Nowhere, in these worlds.</li>"


def _cell(long: pd.DataFrame, family: str, billing: str, table: str, arm: str, measure: str, places: int) -> str:
    return _of(estimate(values(long, table, arm, measure, family, billing)), places)
