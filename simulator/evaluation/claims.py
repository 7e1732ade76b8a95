"""What the source claims, what we aim at, and how what was measured stands to it.

The source's figures are those of its Table 3: 20 services, 7 days, 50,000 requests a day, 12 % of the traces anomalous,
windows of 30 minutes. It doesn't say of what its savings are a share, nor how many repairs a day they take. Ours are of
about what SHOWN repairs a day can avert at most (hindsight).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from simulator.evaluation import money
from simulator.evaluation.cells import BY_RULE, DETECTOR, HINDSIGHT, ORACLE, RANDOM, SHOWN
from simulator.evaluation.statistics import Estimate, Paired, compare, estimate, ratio

METERED = "metered"

# Arm -> measure -> the source's figure. Where it says "proposed" we have two arms: its S, and the excess.
PRECISION, RECALL, F1, SAVINGS, ATTRIBUTION = "precision", "recall", "F1", "savings", "share on the right service"
PROPOSED = {PRECISION: 0.90, RECALL: 0.88, F1: 0.89, SAVINGS: 0.62}
TABLE_3 = {
    money.AIOPS: {PRECISION: 0.91, RECALL: 0.86, F1: 0.88, SAVINGS: 0.25},
    money.FINOPS: {SAVINGS: 0.18},
    money.NAIVE: {PRECISION: 0.89, RECALL: 0.85, F1: 0.87, SAVINGS: 0.40},
    money.SOURCES: PROPOSED | {ATTRIBUTION: 0.85},
    money.OURS: PROPOSED | {ATTRIBUTION: 0.85},
}

# At which numbers of repairs a day, and of what of the oracle's dollars, by bill.
AIM_BUDGETS = (3, 5, 10)
AIM_OF_ORACLE = {METERED: 0.90, "mixed": 0.90, "machine": 0.80}

# Of a mix of faults, what is aimed at of the detector; and of all worlds, the most false incidents.
AIMS_OF_MIX = {"source": {"AC@1": 0.85}, "faint": {F1: 0.85, "AC@1": 0.70}, "novel": {F1: 0.75, "AC@1": 0.60}}
FALSE_MOST = 1.0
# How false incidents are counted (see tests.benchmarks.families), and what is said of it.
ALARMS = {"false incidents": "", "false incidents as told": ", as told"}
SEEN = ("normal flagged", *ALARMS, F1, "AC@1")

# The paired test of our savings against those of AIOps only has to be as sure, corrected for all tests of the bill.
P_MOST = 0.001
# What our order is tested against.
OTHERS = (money.FINOPS, RANDOM, BY_RULE, money.AIOPS, money.NAIVE, money.SOURCES, money.S_EXCESS)

REPRODUCED, BETTER, SHORT, UNDECIDED = "reproduced", "better", "short", "undecided"
# The same of an arm to compare with, of which neither is good or bad.
OF_OTHERS = {BETTER: "higher", SHORT: "lower"}
# An interval of a greater half-width reproduces nothing.
WIDEST = 0.1


class Row(NamedTuple):
    """A figure of the source beside ours."""

    arm: str
    measure: str
    source: float
    ours: Estimate
    verdict: str


class Aim(NamedTuple):
    """What is aimed at, what was measured, and whether the mean reaches it (and the test of it is sure).

    bound: the least that is wanted, or the most where ``is_most``.
    """

    what: str
    bound: float
    ours: Estimate
    is_met: bool
    is_most: bool = False

    @property
    def is_sure(self) -> bool:
        """Whether the whole of the 95 % interval reaches it."""
        sign = -1 if self.is_most else 1
        return self.is_met and sign * (self.ours.mean - self.bound) >= self.ours.half


def verdict(ours: Estimate, source: float) -> str:
    """BETTER or SHORT where the 95 % interval is above or below the source's figure, REPRODUCED where it holds it, and
    UNDECIDED where it holds nearly everything."""
    if math.isnan(ours.mean) or math.isnan(ours.half):
        return UNDECIDED
    if ours.mean - ours.half > source:
        return BETTER
    if ours.mean + ours.half < source:
        return SHORT
    return REPRODUCED if ours.half <= WIDEST else UNDECIDED


def values(long: pd.DataFrame, table: str, arm: str, measure: str, family: str, billing: str) -> list[float]:
    """A measure in each world of a family and kind of bill, by world."""
    return _by_world(long, table, arm, measure, family, billing).tolist()


def _by_world(long: pd.DataFrame, table: str, arm: str, measure: str, family: str, billing: str) -> pd.Series:
    own = long[
        (long["table"] == table) & (long["arm"] == arm) & (long["measure"] == measure)
        & (long["family"] == family) & (long["billing"] == billing)
    ]  # fmt: skip
    return own.set_index("world")["value"].sort_index()


def savings(long: pd.DataFrame, arm: str, k: int, of: str, billing: str, family: str = "source") -> Estimate:
    """Dollars that an arm averts with k repairs a day, over those that the arm ``of`` does."""
    parts, wholes = (_by_world(long, "dollars", a, f"USD, k = {k}", family, billing) for a in (arm, of))
    return ratio(parts.tolist(), wholes.reindex(parts.index).tolist())


def tests(long: pd.DataFrame, billing: str) -> dict[tuple[str, int], Paired]:
    """Our savings less those of each of OTHERS at each of AIM_BUDGETS, as a share of all that anomalies cost."""
    differences = {}
    for k in AIM_BUDGETS:
        ours = values(long, "dollars", money.OURS, f"saved, k = {k}", "source", billing)
        for arm in OTHERS:
            theirs = values(long, "dollars", arm, f"saved, k = {k}", "source", billing)
            differences[arm, k] = [our - their for our, their in zip(ours, theirs, strict=True)]
    return compare(differences)


def table_3(long: pd.DataFrame, billing: str = METERED) -> list[Row]:
    """The source's Table 3, with ours on its protocol, or on what stands for it."""
    rows = []
    for arm, claims in TABLE_3.items():
        for measure, source in claims.items():
            if measure == SAVINGS:
                ours = savings(long, arm, SHOWN, HINDSIGHT, billing)
            elif measure == ATTRIBUTION:
                whose = "excess" if arm == money.OURS else "c_s"
                ours = estimate(values(long, "attribution", whose, "share on right service", "source", billing))
            else:
                ours = estimate(values(long, "detection", DETECTOR, measure, "source", billing))
            word = verdict(ours, source)
            is_own = arm in (money.SOURCES, money.OURS)
            rows.append(Row(arm, measure, source, ours, word if is_own else OF_OTHERS.get(word, word)))
    return rows


def readings(long: pd.DataFrame, billing: str = METERED) -> dict[str, dict[str, Estimate]]:
    """The savings of each arm of Table 3 by each whole that they can be a share of: the source doesn't say which."""

    def shares(arm: str) -> pd.Series:
        return _by_world(long, "dollars", arm, f"saved, k = {SHOWN}", "source", billing)

    none = shares(RANDOM)
    return {
        arm: {
            "hindsight": savings(long, arm, SHOWN, HINDSIGHT, billing),
            "the order by true cost": savings(long, arm, SHOWN, ORACLE, billing),
            "all that anomalies cost": estimate(shares(arm).tolist()),
            "what no order leaves": estimate(((shares(arm) - none) / (1 - none)).tolist()),
        }
        for arm, of in TABLE_3.items()
        if SAVINGS in of
    }


def aims(long: pd.DataFrame) -> list[Aim]:
    """The aims for the source's four objectives, and for dollars at each k and kind of bill."""
    found = [
        ("F1 on the source's mix", 0.95, estimate(values(long, "detection", DETECTOR, "F1", "source", METERED))),
        (
            "share of anomaly cost on the right service",
            0.87,
            estimate(values(long, "attribution", "excess", "share on right service", "source", METERED)),
        ),
        (f"dollars at k = {SHOWN}, of the oracle's", 0.62, savings(long, money.OURS, SHOWN, ORACLE, METERED)),
    ]
    billings = [b for b in AIM_OF_ORACLE if values(long, "dollars", money.OURS, "USD, k = 3", "source", b)]
    found += [
        (f"dollars at k = {k}, {billing} bills, of the oracle's", AIM_OF_ORACLE[billing],
         savings(long, money.OURS, k, ORACLE, billing))
        for billing in billings
        for k in AIM_BUDGETS
    ]  # fmt: skip
    a = estimate(values(long, "attribution", "excess", "attribution A", "source", METERED))
    found.append(("A of the excess", 0.42, a))
    at_most = []
    for family in sorted(set(long["family"])):
        for billing in sorted(set(long.loc[long["family"] == family, "billing"]))[:1]:
            of = {name: estimate(values(long, "detection", DETECTOR, name, family, billing)) for name in SEEN}
            flagged = of["normal flagged"]
            found.append((f"normal traces left alone, {family}", 0.99, flagged._replace(mean=1 - flagged.mean)))
            found += [(f"{name}, {family}", least, of[name]) for name, least in AIMS_OF_MIX.get(family, {}).items()]
            for name, which in ALARMS.items():
                what = f"false incidents a day and 20 services{which}, {family}"
                at_most.append(Aim(what, FALSE_MOST, of[name], of[name].mean <= FALSE_MOST, is_most=True))
    aims = [Aim(what, least, of, of.mean >= least) for what, least, of in found] + at_most
    ours, theirs, oracles = (
        _by_world(long, "dollars", arm, f"USD, k = {SHOWN}", "source", METERED)
        for arm in (money.OURS, money.AIOPS, ORACLE)
    )
    gain, p = ratio((ours - theirs).tolist(), oracles.tolist()), tests(long, METERED)[money.AIOPS, SHOWN].p_holm
    known = "not known" if math.isnan(p) else f"{p:.2g}"
    what = f"dollars at k = {SHOWN}, of the oracle's, above AIOps only, with p < {P_MOST} by Holm (it is {known})"
    return [*aims[:3], Aim(what, 0.25, gain, gain.mean >= 0.25 and p < P_MOST), *aims[3:]]
