"""What an incident's traces used beyond the usual, and how often its like came."""

from __future__ import annotations

import numpy as np

from udfs.pure.case import Case
from udfs.pure.dimensions import WATCHED as DIMENSIONS
from udfs.pure.pieces import PIECES
from udfs.pure.verdicts import MinuteResult, most
from udfs.pure.workload import excess, usage_of


def tell(result: MinuteResult, case: Case) -> None:
    """Tell each incident of a case what its traces used beyond the usual, and how often its like came.

    excess_usage: {service: {dimension: usage of the work that such traces don't do, or do else}}.
    unexplained_usage: {dimension: [use of the culprit beyond what all its work explains, its variance]}.
    changes: [[what changed at the culprit in the hour before, when, from what, to what]], see ``pods``.
    recurrence: [minutes of the last 30 days, this one with them, of so many].
    """
    if not result.incidents:
        return
    culprits = np.array([v["culprit_service_name"] if v["is_anomalous"] else "" for v in result.verdicts], object)
    for incident in result.incidents:
        culprit = incident["otel_service_name"]
        incident["excess_usage"] = _excess_usage(case, np.flatnonzero(culprits == culprit))
        unexplained = np.zeros((len(DIMENSIONS), 2))
        if culprit in case.services:
            unexplained = case.unexplained[case.services.index(culprit)]
        incident["unexplained_usage"] = {d: of.tolist() for d, of in zip(DIMENSIONS, unexplained) if of.any()}
        incident["changes"] = case.changes.get(culprit, [])
        kind = most(incident["kinds"])[0]
        incident["recurrence"] = case.recurring.of(culprit, kind, (culprit, kind) in case.counted)


def _excess_usage(case: Case, chosen: np.ndarray) -> dict[str, dict[str, float]]:
    """Of the traces at ``chosen``."""
    assert case.believed is not None
    pieces = excess(
        case.believed.shapes,
        case.roots,
        case.work,
        case.weight,
        chosen,
        lambda piece: (case.services[piece // PIECES], piece % PIECES),
    )
    usage = usage_of(pieces, case.believed.costs)
    return {service: dict(zip(DIMENSIONS, used.tolist())) for service, used in usage.items()}
