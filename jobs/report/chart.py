"""Cost by service over time as an inline SVG: stacked bars, one a bin, drawn without a browser."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from jobs.report import format as fmt
from jobs.report.html import text
from udfs.pure.windows import HOUR_MS, IDLE, SYSTEM, UNALLOCATED, WINDOW_MS

# More colours than this cannot be told apart; the services beyond share one grey.
MOST_COLOURS = 8
# A bar stays wide enough to be pointed at.
MOST_BINS = 96
DAY_MS = 24 * HOUR_MS
STEPS_MS = (WINDOW_MS, HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS, DAY_MS)

OTHERS = "other workloads"
SPECIAL = {SYSTEM: "system", IDLE: "idle", UNALLOCATED: "unallocated", OTHERS: "others"}

# The drawing's own units; the page scales them.
WIDTH, LEFT, RIGHT = 1120, 64, 8
COST_TOP, COST_HEIGHT = 10, 230
EXCESS_TOP, EXCESS_HEIGHT = 268, 34
HEIGHT = 330
COST_TICKS = 4
TIME_LABELS = 9
# Room between two bars, as a share of a bin.
BAR_GAP = 0.14


@dataclass(frozen=True)
class Series:
    """One colour of the chart: a workload, or the sum of several, and its cost per bin."""

    name: str
    css_class: str
    total: Decimal
    costs: Mapping[int, Decimal]


def step_for(start_ms: int, end_ms: int, most: int = MOST_BINS) -> int:
    """Width of a bin so that ``start_ms``..``end_ms`` takes at most about ``most`` of them."""
    for step in STEPS_MS:
        if end_ms - start_ms <= most * step:
            return step
    return DAY_MS * math.ceil((end_ms - start_ms) / (most * DAY_MS))


def series_of(rows: Sequence[Mapping]) -> list[Series]:
    """``rows`` of Tables.costs_over_time as the chart's series, from the axis up.

    The dearest workloads in their own colour, the rest as one, then what no workload caused.
    """
    costs: dict[str, dict[int, Decimal]] = defaultdict(dict)
    for row in rows:
        costs[row["otel_service_name"]][row["bin_ms"]] = row["cost"]
    totals = {name: sum(bins.values(), Decimal()) for name, bins in costs.items()}
    workloads = sorted(costs.keys() - SPECIAL.keys(), key=lambda name: (-totals[name], name))
    coloured, rest = workloads[:MOST_COLOURS], workloads[MOST_COLOURS:]
    series = [Series(n, f"s{i}", totals[n], costs[n]) for i, n in enumerate(coloured)]
    if rest:
        summed: dict[int, Decimal] = defaultdict(Decimal)
        for name in rest:
            for bin_ms, cost in costs[name].items():
                summed[bin_ms] += cost
        total = sum((totals[name] for name in rest), Decimal())
        series.append(Series(f"{len(rest)} {OTHERS}", SPECIAL[OTHERS], total, summed))
    return series + [
        Series(SPECIAL[n], SPECIAL[n], totals[n], costs[n]) for n in (SYSTEM, IDLE, UNALLOCATED) if n in costs
    ]


def _nice_step(extent: float) -> float:
    """The round number (1, 2, 2.5 or 5 times a power of ten) that cuts ``extent`` in COST_TICKS."""
    rough = extent / COST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _time_ticks(start_ms: int, end_ms: int) -> list[tuple[int, str]]:
    """(time, label) on round hours or days, at most about TIME_LABELS of them."""
    step = step_for(start_ms, end_ms, TIME_LABELS)
    first = -(-start_ms // step) * step
    ticks: list[tuple[int, str]] = []
    for time_ms in range(first, end_ms, step):
        new_day = not ticks or fmt.utc(ticks[-1][0], "%d") != fmt.utc(time_ms, "%d")
        pattern = "%d %b" if step >= DAY_MS else "%d %b %H:%M" if new_day else "%H:%M"
        ticks.append((time_ms, fmt.utc(time_ms, pattern)))
    return ticks


def cost_chart(
    series: Sequence[Series],
    excess: Mapping[int, Decimal],
    start_ms: int,
    end_ms: int,
    step_ms: int,
    currency: str,
) -> str:
    """SVG of ``series`` over [start_ms, end_ms), and below it the excess cost per bin, where it is above zero.

    Credits (negative cost) go down from the zero line. Every bar has its figures as a hover title.
    """
    start_ms = start_ms // step_ms * step_ms
    bins = range(start_ms, end_ms, step_ms)
    slot = (WIDTH - LEFT - RIGHT) / len(bins)

    def x_of(time_ms: int) -> float:
        return LEFT + (time_ms - start_ms) / step_ms * slot

    def costs_at(bin_ms: int) -> list[float]:
        return [float(one.costs.get(bin_ms, 0)) for one in series]

    top = max((sum(c for c in costs_at(b) if c > 0) for b in bins), default=0.0)
    bottom = min((sum(c for c in costs_at(b) if c < 0) for b in bins), default=0.0)
    tick = _nice_step((top - bottom) or 1.0)
    low, high = math.floor(bottom / tick) * tick, (math.ceil(top / tick) or 1) * tick

    def y_of(cost: float) -> float:
        return COST_TOP + (high - cost) / (high - low) * COST_HEIGHT

    name = text(currency)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img"'
        f' aria-label="Cost by service over time in {name}; the table below has its totals">'
    ]
    tick_places = max(0, -math.floor(math.log10(tick))) + (tick / 10 ** math.floor(math.log10(tick)) == 2.5)
    for i in range(round((high - low) / tick) + 1):
        y = y_of(low + i * tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{fmt.fixed(low + i * tick, tick_places)}</text>"
        )
    for time_ms, label in _time_ticks(start_ms, end_ms):
        x = x_of(time_ms)
        anchor = "end" if x > WIDTH - 60 else "start" if x < LEFT + 20 else "middle"
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{COST_TOP + COST_HEIGHT}"'
            f' y2="{EXCESS_TOP + EXCESS_HEIGHT + 5}"/>'
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">'
            f"{label}</text>"
        )
    bar = slot * (1 - BAR_GAP)
    decimal_places = fmt.places(one.costs.get(b, 0) for one in series for b in bins)
    highest = max(excess.values(), default=Decimal())
    for bin_ms in bins:
        x, when = x_of(bin_ms) + slot * BAR_GAP / 2, fmt.utc(bin_ms, "%d %b %H:%M")
        above = below = 0.0
        for one, cost in zip(series, costs_at(bin_ms), strict=True):
            if not cost:
                continue
            base, end = (above, above + cost) if cost > 0 else (below, below + cost)
            above, below = (end, below) if cost > 0 else (above, end)
            y, height = y_of(max(base, end)), abs(y_of(base) - y_of(end))
            parts.append(
                f'<rect class="{one.css_class}" x="{x:.1f}" y="{y:.2f}" width="{bar:.1f}"'
                f' height="{height:.2f}"><title>{when} · {text(one.name)}:'
                f" {fmt.fixed(cost, decimal_places)} {name}</title></rect>"
            )
        beyond = excess.get(bin_ms, Decimal())
        if beyond > 0:
            height = max(float(beyond / highest) * EXCESS_HEIGHT, 1.0)
            parts.append(
                f'<rect class="excess" x="{x:.1f}" y="{EXCESS_TOP + EXCESS_HEIGHT - height:.1f}"'
                f' width="{bar:.1f}" height="{height:.1f}"><title>{when} · excess cost'
                f" {fmt.money(beyond)} {name}</title></rect>"
            )
    zero, floor = y_of(0.0), EXCESS_TOP + EXCESS_HEIGHT
    parts += [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in (zero, floor)]
    middle = EXCESS_TOP + EXCESS_HEIGHT / 2 + 3.5
    parts.append(f'<text class="tick" x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">excess</text></svg>')
    return "".join(parts)
