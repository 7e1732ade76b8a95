"""judge: a minute's case -> its verdicts and incidents, by what a predictor says of each span.

Grain: one case in, one verdict a trace out. Pure: minutes may be judged side by side, in any order. Every span is
predicted (``predict``): from the rest of its trace, or from its operation's past alone. How far it is off, per channel
and in nats, is evidence against the service whose behaviour it is (``evidence``), which the case's beliefs of services
and pods make more or less likely.

A trace is anomalous where the best of its log odds is above 0. Its score is that, and its threshold on top: THRESHOLD,
the log odds against an anomaly in quiet times, and what the guard (``guard``) asks beyond it of the service and channel
that the trace blames, or suspects most. So the threshold is a figure per service that moves. Under the policy ``ema`` a
trace's score is the greatest alpha of its services over their EmaThreshold instead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from udfs.pure import excess, verdicts
from udfs.pure.assemble import SEPARATOR
from udfs.pure.case import Case, Cells, cells_of
from udfs.pure.channels import FAILURE, GAP, KINDS, LEAF, OVERUSE, OWN, REPEAT, THRESHOLD, TIMES
from udfs.pure.episodes import LONE, SHARES, by_share
from udfs.pure.predict import Predictor, usual_of
from udfs.pure.skill import calibrated
from udfs.pure.verdicts import READY, WARMING, MinuteResult, Row

# What an episode of another kind in a service says against over-use as the reason for its usage.
EXPLAINED = 0.95


def judge(case: Case, predictor: Predictor) -> MinuteResult:
    """What is known of a minute by now."""
    result = MinuteResult(case.minute_ms, is_final=case.is_final)
    if case.trace_ids:
        result.incidents = verdicts.incidents(result.verdicts, *_take_verdicts(result, case, predictor))
        excess.tell(result, case)
    return result


def _take_verdicts(
    result: MinuteResult, case: Case, predictor: Predictor
) -> tuple[list[list[str]], list[float | None]]:
    """Fill in verdicts; of the anomalous ones, the services that each affects, and the log of how many times as long as
    expected the span at fault took, where its time is to blame."""
    usual = usual_of(case.tokens)
    found = usual if case.gain is None else predictor.predict(case.tokens, usual)
    found = calibrated(case.gain, case.tokens, usual, found)
    cells = cells_of(case, found)
    alpha = None if case.thresholds is None else found.anomaly(case.tokens)
    accused = accused_of(case, cells, *log_odds_of(case, cells), alpha)
    touched = np.bincount(cells.services.subject, minlength=len(case.services)).tolist()
    result.service_traces = {case.services[i]: n for i, n in enumerate(touched) if n}
    affected: list[list[str]] = []
    slower: list[float | None] = []
    for number, row in enumerate(_rows(case, predictor.version)):
        threshold = float(accused.threshold[number])
        row["anomaly_score"] = float(accused.score[number])
        row["threshold"] = threshold if np.isfinite(threshold) else None
        row["is_anomalous"] = bool(accused.is_anomalous[number])
        if row["is_anomalous"]:
            row |= accused.culprit(case, number)
            if row["culprit_service_name"] not in touched_by(case, cells, number):
                name = row["culprit_service_name"]
                result.service_traces[name] = result.service_traces.get(name, 0) + 1
            span = int(accused.span[number])
            affected.append(case.on_way(span))
            is_time = accused.channel[number] < TIMES and case.clues.is_timed[span]
            slower.append(float(case.clues.surplus[span]) if is_time else None)
        result.verdicts.append(row)
    return affected, slower


class Accused(NamedTuple):
    """Of each trace, who is to blame for it if it is anomalous."""

    is_anomalous: np.ndarray  # (traces,)
    score: np.ndarray  # (traces,)
    threshold: np.ndarray  # (traces,)
    service: np.ndarray  # (traces,) place of the service
    channel: np.ndarray  # (traces,) the channel, or over-use, that tells
    span: np.ndarray  # (traces,) row of the span that tells most

    def culprit(self, case: Case, trace: int) -> Row:
        """Columns of an anomalous verdict."""
        span, kind = int(self.span[trace]), self.channel[trace]
        service = case.services[self.service[trace]]
        operation = case.operation_of(span, service)
        crowded_by = case.believed.neighbour if case.believed else []
        # Only who is slow by itself may be crowded out.
        if kind == OWN and crowded_by and crowded_by[case.pod[span]]:
            service, kind = crowded_by[case.pod[span]], OVERUSE
        return {"culprit_service_name": service, "culprit_operation": operation, "anomaly_kind": KINDS[kind]}


def accused_of(case: Case, cells: Cells, odds: np.ndarray, asked: np.ndarray, alpha: np.ndarray | None) -> Accused:
    """odds, asked: see log_odds_of. alpha: (spans,) || s_hat - s ||, under the policy ema."""
    trace, subject = cells.services.trace, cells.services.subject
    strongest = np.column_stack([cells.services.strongest, cells.first_span])
    if alpha is None or case.thresholds is None:
        best, culprit, channel = verdicts.blame(odds, strongest, trace, case.depth)
        threshold = THRESHOLD + asked[culprit, channel]
        score = np.maximum(best + threshold, 0.0)
    else:
        of_cell = np.zeros(len(trace))
        np.maximum.at(of_cell, cells.of_span, alpha)
        margin = of_cell - case.thresholds[subject]
        culprit = np.lexsort((-margin, trace))[np.searchsorted(trace, np.arange(len(case.trace_ids)))]
        best, channel = margin[culprit], odds[culprit].argmax(axis=1)
        score, threshold = of_cell[culprit], case.thresholds[subject[culprit]]
        strongest = np.where(strongest < 0, cells.first_span[:, None], strongest)
    is_anomalous = (best > 0) & ~case.is_warming
    return Accused(is_anomalous, score, threshold, subject[culprit], channel, strongest[culprit, channel])


def touched_by(case: Case, cells: Cells, trace: int) -> set[str]:
    """The services that a trace touches, or blames."""
    here = slice(*np.searchsorted(cells.services.trace, [trace, trace + 1]))
    return {case.services[i] for i in cells.services.subject[here].tolist()}


def _rows(case: Case, version: str) -> list[Row]:
    """Verdicts without a judgement."""
    root_of = {root: root.split(SEPARATOR) for root in set(case.roots)}
    return [
        {
            "trace_id": trace_id,
            "start_time": start_ms,
            "root_service_name": root_of[root][0],
            "root_operation": root_of[root][1],
            "span_count": spans,
            "anomaly_score": 0.0,
            "threshold": THRESHOLD,
            "is_anomalous": False,
            "culprit_service_name": None,
            "culprit_operation": None,
            "anomaly_kind": None,
            "model_version": version,
            "verdict_state": WARMING if is_warming else READY,
        }
        for trace_id, start_ms, root, spans, is_warming in zip(
            case.trace_ids, case.start_ms.tolist(), case.roots, case.tokens.lengths.tolist(), case.is_warming.tolist()
        )
    ]


def log_odds_of(case: Case, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """(log odds that each service cell is affected, what the guard asked there)  # 2 x (cells, channels, over-use)"""
    believed, level = case.believed, cells.services
    assert believed is not None
    odds = log_odds(believed.services, level.weights, level.subject)
    asked = case.asked[level.subject]
    np.maximum.at(odds, cells.pod_cell, log_odds(believed.pods, cells.pods.weights, cells.pods.subject))
    odds[:, REPEAT], asked[:, REPEAT] = -np.inf, 0.0
    if len(cells.loop_cell):
        weights = case.clues.loop_weight[:, None, None]
        loops = log_odds(believed.loops, weights, np.arange(len(weights)))
        _take_greater(odds[:, REPEAT:], asked[:, REPEAT:], cells.loop_cell, loops, case.asked_of_loops[:, None])
    used, asked_of_use = np.full((len(odds), 1), -np.inf), np.zeros((len(odds), 1))
    _take_greater(
        used, asked_of_use, cells.used_cell, believed.overuse[cells.used_pod][:, None],
        case.asked_of_use[cells.used_pod][:, None],
    )  # fmt: skip
    other = 1 - believed.services[:, [OWN, LEAF, GAP, FAILURE], 0].min(axis=1)[level.subject]
    chance = np.clip((1 - EXPLAINED * other) / (1 + np.exp(-used[:, 0])), 1e-9, 1 - 1e-9)
    odds = np.column_stack([odds, np.log(chance / (1 - chance))])
    assert odds.shape[1] == OVERUSE + 1, odds.shape
    return odds, np.column_stack([asked, asked_of_use])


def log_odds(states: np.ndarray, weights: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Log odds that each cell's trace is affected.  # (cells, channels)

    The states know of the trace already: in each of them it is affected or one of those that aren't, and no evidence
    counts twice. So what one trace alone says for an episode has to bear the whole doubt that there is one.

    states: (subjects, channels, states) chances in the minute, see Episodes.at. weights: (cells, channels, strengths).
    subject: (cells,)
    """
    well = states[subject, :, :1]
    ill = by_share(states)[subject]  # (cells, channels, shares, strengths)
    affected = _affected(SHARES[:, None], weights[:, :, None, :])
    alone = _affected(LONE, np.logaddexp.reduce(weights, axis=2, keepdims=True) - np.log(weights.shape[2]))
    with np.errstate(divide="ignore"):
        yes = np.log((ill * affected).sum(axis=(2, 3)) + (well * alone)[:, :, 0])
        no = np.log((ill * (1 - affected)).sum(axis=(2, 3)) + (well * (1 - alone))[:, :, 0])
    return yes - no


def _affected(share: np.ndarray | float, weights: np.ndarray) -> np.ndarray:
    """The chance that a trace is affected, where that happens to a share of them, after its own evidence."""
    return 1 / (1 + (1 - share) / share * np.exp(-np.clip(weights, -500.0, 500.0)))


def _take_greater(
    odds: np.ndarray, asked: np.ndarray, cell: np.ndarray, others: np.ndarray, asked_of_others: np.ndarray
) -> None:
    """Raise ``odds`` of each cell to the greatest of ``others``, and take what was asked along with it.

    odds, asked: (cells, channels), changed in place. cell: (n,). others, asked_of_others: (n, channels).
    """
    before = odds.copy()
    channels = others.shape[1]
    np.maximum.at(odds[:, :channels], cell, others)
    rows, channel = np.nonzero((others > before[cell, :channels]) & (others == odds[cell, :channels]))
    asked[cell[rows], channel] = asked_of_others[rows, channel]
