"""The source's figures and ours, drawn from stored results: each a PNG, and what its caption has to say.

The arms have one colour each in all figures; no figure tells them by colour alone.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from simulator.evaluation import money
from simulator.evaluation.cells import (
    ABLATIONS,
    BUDGETS,
    BY_RULE,
    DETECTOR,
    HINDSIGHT,
    ORACLE,
    RANDOM,
    RULE,
    SHOWN,
)  # fmt: skip
from simulator.evaluation.claims import METERED, savings, values
from simulator.evaluation.statistics import estimate, in_worlds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    money.AIOPS: "#4269d0", money.FINOPS: "#d9960a", money.NAIVE: "#8c50d8", money.SOURCES: "#e0574a",
    money.S_EXCESS: "#3aa893", money.OURS: "#1f6f43", BY_RULE: "#9c6b4e", RANDOM: "#8b95a5", ORACLE: "#1b1f27",
    HINDSIGHT: "#1b1f27", "no repair": "#8b95a5",
}  # fmt: skip
DASHED = {RANDOM, HINDSIGHT, "no repair"}
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.grid": True,
    "grid.color": "#eceef2", "axes.axisbelow": True,
}  # fmt: skip
MONTH_WINDOWS = 30 * 48
LEVELS = ("low", "middle", "high")
ROWS_MIN = (9, 6, 3)  # of a service, so that its severity can be told in three levels; the first that two have


class Drawn(NamedTuple):
    """A figure: its title, the PNG, and what it shows of which worlds."""

    title: str
    png: bytes
    caption: str


def draw(results: Sequence[dict[str, Any]], long: pd.DataFrame) -> list[Drawn]:
    """All figures that the results have data for."""
    own = [of for of in results if of["cell"]["family"] == "source" and of["cell"]["billing"] == METERED]
    from matplotlib import rc_context

    with rc_context(STYLE):
        found = [
            _cumulative(own), _frequency(own), _bars(long), _severity(own), _calibration(own), _money_known(own),
            _against_k(long), _false_alarms(long),
        ]  # fmt: skip
    return [figure for figure in found if figure]


def _cumulative(results: Sequence[dict[str, Any]]) -> Drawn | None:
    arms = ("no repair", money.FINOPS, money.AIOPS, money.SOURCES, money.OURS, ORACLE)
    runs = [of["series"]["remaining"] for of in results if "remaining" in of["series"]]
    if not runs:
        return None
    figure, axes = _axes("day", "what anomalies cost so far, USD")
    length = min(len(run["no repair"]) for run in runs)
    days = np.arange(1, length + 1) / 48
    for arm in arms:
        mean = np.mean([np.cumsum(run[arm][:length]) for run in runs], axis=0)
        axes.plot(
            days,
            mean,
            label=arm,
            color=COLOURS[arm],
            ls="--" if arm in DASHED else "-",
            lw=2.4 if arm == money.OURS else 1.4,
        )
    axes.legend()
    return Drawn(
        "Cumulative cost of anomalies, by who decides what to repair (the source's Fig. 1)",
        _png(figure),
        f"Counterfactual cost with {SHOWN} repairs a day, each ten minutes after its window; mean of"
        f' {in_worlds(len(runs))} ({_seeds(results)}), metered bills. "{money.SOURCES}" is the source\'s'
        " fused operation.",
    )


def _frequency(results: Sequence[dict[str, Any]]) -> Drawn | None:
    found = _two_services(results)
    if not found:
        return None
    seed, pair = found
    figure, axes = _axes("anomalous traces in a window of 30 minutes", "excess cost if it went on, USD a month")
    for (service, rows), colour, mark in zip(pair.items(), (COLOURS[money.OURS], COLOURS[money.SOURCES]), "os"):
        traces, month = rows["traces"].to_numpy(float), rows["excess"].to_numpy(float) * MONTH_WINDOWS
        slope = float((traces * month).sum() / (traces**2).sum())
        own = rows["own"].mean()
        axes.scatter(
            traces, month, s=16, marker=mark, color=colour, alpha=0.7, label=f"{service}: {own:.0%} of it its own"
        )
        axes.plot([0, traces.max()], [0, slope * traces.max()], color=colour, lw=1.2)
    axes.legend()
    return Drawn(
        "How often against what a month of it costs, two services (the source's Fig. 6)",
        _png(figure),
        f"Each mark is a row of ranked_anomalies of seed {seed}, metered bill; lines are least squares through 0. Of"
        " the services with rows enough, the one whose excess arises most at itself (contained) and the one whose"
        " excess arises most at others. A row below 0 is an anomaly that saves money: a call tree cut short.",
    )


def _severity(results: Sequence[dict[str, Any]]) -> Drawn | None:
    found = _two_services(results)
    if not found:
        return None
    seed, pair = found
    figure, axes = _axes("", "excess cost, USD a window")
    place = np.arange(len(LEVELS))
    for number, (service, rows) in enumerate(pair.items()):
        level = pd.qcut(rows["alpha"].rank(method="first"), len(LEVELS), labels=False)
        for part, (column, label, hatch) in enumerate((("excess", "told", ""), ("true", "true", "///"))):
            mean = rows[column].groupby(level).mean().reindex(place, fill_value=0.0)
            colour = (COLOURS[money.OURS], COLOURS[money.SOURCES])[number]
            axes.bar(place + (2 * number + part - 1.5) * 0.2, mean, 0.19, color=colour if not hatch else "white",
                     edgecolor=colour, hatch=hatch, label=f"{service}, {label}")  # fmt: skip
    axes.set_xticks(place, [f"{level} third of α" for level in LEVELS])
    axes.axhline(0, color="#555d6b", lw=0.8)
    axes.legend()
    return Drawn(
        "Cost by severity, two services (the source's Fig. 8)",
        _png(figure),
        f"Mean of the rows of ranked_anomalies of seed {seed}, metered bill, in thirds of α; told by the job, and the"
        " counterfactual cost at the same window and service.",
    )


def _two_services(results: Sequence[dict[str, Any]]) -> tuple[int, dict[str, pd.DataFrame]] | None:
    """Of the world that knows most of two services: the seed, and rows of the most and of the least contained one."""
    columns = ["hour", "service", "alpha", "traces", "excess", "own", "true"]
    tables = {
        of["cell"]["seed"]: pd.DataFrame(of["series"].get("rows", []), columns=columns).dropna(subset=["own"])
        for of in results
    }
    for least in ROWS_MIN:
        found: list[tuple[int, int, dict[str, pd.DataFrame]]] = []
        for seed, rows in tables.items():
            by_service = {name: part for name, part in rows.groupby("service") if len(part) >= least}
            contained = sorted(by_service, key=lambda name: float(by_service[name]["own"].mean()))
            if len(contained) > 1:
                pair = {name: by_service[name] for name in (contained[-1], contained[0])}
                found.append((min(map(len, pair.values())), seed, pair))
        if found:
            return max(found, key=lambda of: of[0])[1:]
    return None


def _bars(long: pd.DataFrame) -> Drawn | None:
    """F1 by arm, with the savings as a line."""
    arms = [BY_RULE, money.AIOPS, money.FINOPS, money.NAIVE, money.SOURCES, money.S_EXCESS, money.OURS]
    saved = {arm: savings(long, arm, SHOWN, HINDSIGHT, METERED) for arm in arms}
    if not saved[money.OURS].n:
        return None
    figure, axes = _axes("", "bars: F1 of traces; line: savings")
    place = np.arange(len(arms))
    for at, arm in enumerate(arms):
        if arm != money.FINOPS:
            of = estimate(values(long, "detection", RULE if arm == BY_RULE else DETECTOR, "F1", "source", METERED))
            axes.bar(at, of.mean, 0.6, yerr=np.nan_to_num(of.half), color="#c9d3e6", edgecolor="#4269d0", capsize=3)
            axes.text(at - 0.27, of.mean - 0.05, f"{of.mean:.2f}", ha="left", color="#4269d0")
    axes.text(arms.index(money.FINOPS), 0.3, "no verdict\non traces", ha="center", color="#555d6b", fontsize=8)
    means, halves = [saved[arm].mean for arm in arms], [np.nan_to_num(saved[arm].half) for arm in arms]
    axes.errorbar(place, means, yerr=halves, color=COLOURS[money.OURS], marker="o", capsize=3, lw=1.8)
    for at, mean in zip(place, means):
        axes.annotate(f"{mean:.2f}", (at, mean), (6, 5), textcoords="offset points", color=COLOURS[money.OURS])
    axes.set_xticks(place, [arm.replace(" ", "\n", 1) for arm in arms])
    axes.set_ylim(min(0.0, *means) - 0.02, 1.08)
    return Drawn(
        "F1 and savings, by arm (the source's Fig. 7)",
        _png(figure),
        f"Savings with {SHOWN} repairs a day, of what hindsight averts with as many; {in_worlds(saved[money.OURS].n)},"
        " metered bills, bars of 95 % t-intervals. All arms but the simple rule and FinOps have the same verdicts, so"
        " their F1 is one figure: the order of a ranking flags no trace.",
    )


def _calibration(results: Sequence[dict[str, Any]]) -> Drawn | None:
    bins = [of["series"]["calibration"] for of in results if "calibration" in of["series"]]
    if not bins:
        return None
    traces, chance, true = np.sum(bins, axis=0).T
    figure, axes = _axes("chance that a trace is anomalous, as told", "share that is", square=True)
    some = traces >= 20
    axes.plot([0, 1], [0, 1], color="#8b95a5", ls="--", lw=1, label="as told")
    axes.plot(
        chance[some] / traces[some], true[some] / traces[some], color=COLOURS[money.OURS], marker="o", label="measured"
    )
    error = float((traces * np.abs(true - chance) / np.maximum(traces, 1)).sum() / max(traces.sum(), 1))
    axes.legend()
    unsure = (traces > 0) & (chance > 0.1 * traces) & (chance < 0.9 * traces)
    told, was = (of[unsure].sum() / max(traces[unsure].sum(), 1) for of in (chance, true))
    return Drawn(
        "Calibration of verdicts",
        _png(figure),
        f"{int(traces.sum()):,} traces of {in_worlds(len(bins))} ({_seeds(results)}). The score less the threshold, as"
        f" log odds; bins of 20 traces and more. Expected calibration error {error:.3f}, since most traces leave no"
        f" doubt; of the {int(traces[unsure].sum()):,} that are told .1 to .9, {told:.2f} on average, {was:.2f} are"
        " anomalous. Warming verdicts tell no chance and are left out. The threshold makes up for how rare anomalies"
        " are in quiet times, not for the 12 % of these worlds.",
    )


def _money_known(results: Sequence[dict[str, Any]]) -> Drawn | None:
    rows = [row for of in results for row in of["series"].get("rows", [])]
    if not rows:
        return None
    told, true = (np.array([row[column] for row in rows]) for column in (4, 6))
    figure, axes = _axes("true cost, USD a window and service", "excess_cost as told, USD", square=True)
    size = float(np.quantile(np.abs(np.r_[told, true]), 0.995)) or 1.0
    linear = float(np.quantile(np.abs(np.r_[told, true]), 0.2)) or size / 100
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_yscale("symlog", linthresh=linear)
    axes.scatter(true, told, s=7, color=COLOURS[money.OURS], alpha=0.35)
    axes.plot([-size, size], [-size, size], color="#8b95a5", ls="--", lw=1)
    return Drawn(
        "What is told of the money, and what is true",
        _png(figure),
        f"{len(rows):,} rows of ranked_anomalies of {in_worlds(len(results))} ({_seeds(results)}), metered bills;"
        " logarithmic but around 0. Marks at a true cost of 0 are false alarms, or blame a service that caused"
        " nothing.",
    )


def _against_k(long: pd.DataFrame) -> Drawn | None:
    arms = (HINDSIGHT, ORACLE, money.OURS, money.S_EXCESS, money.SOURCES, money.AIOPS, money.FINOPS, BY_RULE, RANDOM)
    if not values(long, "dollars", money.OURS, f"saved, k = {SHOWN}", "source", METERED):
        return None
    figure, axes = _axes("repairs a day, k", "averted, of all that anomalies cost")
    for arm in arms:
        means = [estimate(values(long, "dollars", arm, f"saved, k = {k}", "source", METERED)) for k in BUDGETS]
        label = "hindsight (the most)" if arm == HINDSIGHT else "by true cost" if arm == ORACLE else arm
        axes.plot(BUDGETS, [of.mean for of in means], color=COLOURS[arm], ls="--" if arm in DASHED else "-",
                  marker=".", lw=2.4 if arm == money.OURS else 1.3, label=label)  # fmt: skip
        if arm in (money.OURS, money.SOURCES):
            low, high = ([of.mean + sign * np.nan_to_num(of.half) for of in means] for sign in (-1, 1))
            axes.fill_between(BUDGETS, low, high, color=COLOURS[arm], alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [str(k) for k in BUDGETS])
    axes.minorticks_off()
    axes.legend(ncols=2)
    n = len(values(long, "dollars", money.OURS, f"saved, k = {SHOWN}", "source", METERED))
    return Drawn(
        "Savings against the number of repairs a day",
        _png(figure),
        f"Mean of {in_worlds(n)}, metered bills; bands are 95 % t-intervals. A repair comes ten minutes after its"
        " window, so part of the cost is spent before anyone can act, and some faults are over by then.",
    )


def _false_alarms(long: pd.DataFrame) -> Drawn | None:
    arms = [DETECTOR, RULE, *ABLATIONS]
    own = long[(long["table"] == "detection") & (long["measure"] == "normal flagged") & long["arm"].isin(arms)]
    if own.empty:
        return None
    families = list(dict.fromkeys(own["family"]))
    shown = [arm for arm in (DETECTOR, RULE) if (own["arm"] == arm).any()]
    figure, axes = _axes("", "share of normal traces flagged")
    for number, (arm, colour) in enumerate(zip(shown, (COLOURS[money.OURS], COLOURS[BY_RULE]))):
        for at, family in enumerate(families):
            of = own[(own["arm"] == arm) & (own["family"] == family)]["value"]
            where = at + (number - 0.5) * 0.36
            axes.bar(where, of.mean(), 0.33, color=colour, alpha=0.55, label=arm if not at else None)
            axes.scatter([where] * len(of), of, s=9, color=colour, zorder=3)
    axes.axhline(0.01, color="#b4231d", ls="--", lw=1)
    axes.text(
        1, 0.0104, "aim", color="#b4231d", ha="right", va="bottom", fontsize=8, transform=axes.get_yaxis_transform()
    )
    axes.set_xticks(range(len(families)), families)
    axes.legend()
    return Drawn(
        "False alarms, by family of worlds",
        _png(figure),
        "; ".join(f"{family}: {in_worlds(own[own['family'] == family]['world'].nunique())}" for family in families)
        + ". Bars are means, dots are worlds.",
    )


def _axes(x: str, y: str, square: bool = False) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6) if square else (8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _seeds(results: Sequence[dict[str, Any]]) -> str:
    seeds = {of["cell"]["seed"] for of in results}
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {in_runs(seeds)}"


def in_runs(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as ``1 to 3, 7``."""
    runs: defaultdict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(sorted(numbers)):
        runs[number - place].append(number)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs.values())
