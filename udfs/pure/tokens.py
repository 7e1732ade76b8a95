"""Spans as tokens: what the masked-span Transformer knows of a span, sees of others, and predicts.

Grain: one span. Every value is relative to its operation's own running past, so that a model learnt on one
system reads another: a time is a z-score of its logarithm, a pod's use of a resource one of its surplus.

When a span is predicted its whole service is masked in that trace, since what ails a service shows in all of
its spans at once. Beyond that it sees what it caused and what came before it, and never what it may have
brought about: its ancestors' outcomes, and what follows it. So of an error that travels up a call chain only
the first is a surprise. Repeated calls are told of the caller, which sees the first of them only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from udfs.pure.dimensions import WATCHED

# What is known of a span without looking at how it went. Rates and maturity are its operation's, so far.
KNOWN = (
    "is_entry", "is_call", "has_parent", "depth", "child_operations", "calls", "failure_rate",
    "repeat_rate", "rare_rate", "unanswered_rate", "log_rate", "own_scale", "own_minutes", "load",
)  # fmt: skip
# Real values, in standard deviations of the operation's own past.
REALS = ("own_time", "total_time", "start", *WATCHED)
OWN_TIME, TOTAL_TIME, START = range(3)
USAGE = slice(3, 3 + len(WATCHED))
# Yes or no. Children that are missing would betray an error: it is predicted from what is known and from EXCUSES,
# repeats from these and what the span sees, the last two from what is known alone.
BITS = ("repeats_2", "repeats_3", "repeats_5", "error", "error_log", "unanswered", "rare_children")
BIT_REPEAT, BIT_ERROR, BIT_LOG, BIT_UNANSWERED, BIT_RARE = 0, 3, 4, 5, 6
REPEAT_LEVELS = (2, 3, 5)
# What explains an error: one below, nobody who answered, and how slow the slowest below was; and what explains
# another attempt: a call that failed for such a reason.
EXCUSES = ("error_below", "unanswered", "slow_below", "call_failed")

# What other spans see of a span: its cause part (its own behaviour) and its outcome part.
CAUSES = (OWN_TIME, *range(USAGE.start, USAGE.stop))  # of REALS
OUTCOMES = (0, 1, 2, BIT_ERROR, BIT_LOG, BIT_UNANSWERED)  # of BITS

# Relations of a span that is predicted to one that it sees; 0 = masked.
HIDDEN, CHILD, DESCENDANT, PARENT, ANCESTOR, SIBLING, EARLIER = range(7)
RELATIONS = 7

# Values are cut here for the model's eyes (not for the score): beyond it "far off" says it all.
CUT = 6.0
# Longer traces are read in pieces of this many spans; batches hold at most so many tokens, and so many of padding:
# a few tokens more cost less than to run the network once more.
SPANS_MAX = 128
BATCH_TOKENS, PADDING_TOKENS = 4096, 32


class Tokens(NamedTuple):
    """Columns of spans, trace after trace, parents before children."""

    name: np.ndarray  # (spans,) int32 place of the operation in the model's vocabulary, 0 = unknown
    known: np.ndarray  # (spans, KNOWN) float32
    excuse: np.ndarray  # (spans, EXCUSES) float32
    reals: np.ndarray  # (spans, REALS) float32, 0 where not seen
    reals_seen: np.ndarray  # (spans, REALS) bool
    bits: np.ndarray  # (spans, BITS) bool
    bits_seen: np.ndarray  # (spans, BITS) bool
    parent: np.ndarray  # (spans,) row within the trace, -1 = none
    service: np.ndarray  # (spans,) any number that tells services apart
    is_again: np.ndarray  # (spans,) not the first of sibling calls of one operation
    lengths: np.ndarray  # (traces,) spans of each trace

    def of_traces(self, chosen: np.ndarray) -> Tokens:
        """Of some traces. chosen: (traces,) bool"""
        rows = rows_of_traces(self.lengths, chosen)
        return Tokens(*(column[rows] for column in self[:-1]), self.lengths[chosen])  # type: ignore[call-arg]


def rows_of_traces(lengths: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of the spans of some traces, ascending. lengths: (traces,) chosen: (traces,) bool"""
    return np.flatnonzero(np.repeat(chosen, lengths))


class Batch(NamedTuple):
    """Pieces of traces of similar length, padded."""

    rows: np.ndarray  # (pieces, length) row in the columns, -1 = padding
    inputs: dict[str, np.ndarray]  # what the network takes


def relations(
    parent: np.ndarray, service: np.ndarray, is_again: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Who sees whose cause part, and whose outcome part.  # 2 x (pieces, length, length) int8

    parent: (pieces, length) within the piece, -1 = none; service, is_again: the same shape; real: no padding.
    [b, i, j] is the relation in which i, when predicted, sees j.
    """
    pieces, length = parent.shape
    up = np.zeros((pieces, length, length), bool)  # j is an ancestor of i
    again = np.zeros_like(up)  # j is at or below a repeated call that i, its ancestor, makes
    at, from_again = parent.copy(), is_again.copy()
    piece, row = np.nonzero(at >= 0)
    while len(piece):
        above = at[piece, row]
        up[piece, row, above] = True
        again[piece, above, row] = from_again[piece, row]
        from_again[piece, row] = is_again[piece, above]
        at[piece, row] = parent[piece, above]
        going_on = at[piece, row] >= 0
        piece, row = piece[going_on], row[going_on]
    down = up.transpose(0, 2, 1)
    place = np.arange(length)
    earlier = (place[None, :] < place[:, None]) & ~up & real[:, :, None] & real[:, None, :]
    is_parent = parent[:, :, None] == place
    is_sibling = (parent[:, :, None] == parent[:, None, :]) & (parent >= 0)[:, :, None]
    relation = np.zeros(up.shape, np.int8)
    # The later a line, the more it has to say.
    for of, where in (
        (EARLIER, earlier),
        (SIBLING, earlier & is_sibling),
        (DESCENDANT, down),
        (CHILD, is_parent.transpose(0, 2, 1)),
        (HIDDEN, again),
    ):
        np.copyto(relation, of, where=where)
    outcome = relation.copy()
    for of, where in (
        (ANCESTOR, up),
        (PARENT, is_parent & up),
        (HIDDEN, service[:, :, None] == service[:, None, :]),
    ):
        np.copyto(relation, of, where=where)
    return relation, outcome


def batches(tokens: Tokens, chosen: np.ndarray | None = None) -> Iterator[Batch]:
    """The traces (all, or ``chosen``), shortest first, in batches that are padded to their longest piece."""
    first = np.cumsum(tokens.lengths) - tokens.lengths
    traces = np.arange(len(first)) if chosen is None else chosen
    offsets: list[int] = []
    sizes: list[int] = []
    for start, length in zip(first[traces].tolist(), tokens.lengths[traces].tolist()):
        for offset in range(0, length, SPANS_MAX):
            offsets.append(start + offset)
            sizes.append(min(SPANS_MAX, length - offset))
    order = np.argsort(sizes, kind="stable")
    starts, lengths = np.array(offsets)[order], np.array(sizes)[order]
    trace_first = np.repeat(first, tokens.lengths)
    ends = np.cumsum(lengths)
    at = 0
    while at < len(starts):
        # As many pieces as fit, padded to the longest of them.
        padded = np.arange(1, len(lengths) - at + 1) * lengths[at:]  # tokens, by number of pieces; ascending
        padding = padded - (ends[at:] - ends[at] + lengths[at])  # ascending, too
        fit = min(np.searchsorted(padded, BATCH_TOKENS, "right"), np.searchsorted(padding, PADDING_TOKENS, "right"))
        until = at + max(int(fit), 1)
        length = int(lengths[until - 1])
        place = np.arange(length)
        real = place < lengths[at:until, None]
        rows = np.where(real, starts[at:until, None] + place, -1)
        yield Batch(rows, _inputs(tokens, rows, real, starts[at:until] - trace_first[starts[at:until]]))
        at = until


def _inputs(tokens: Tokens, rows: np.ndarray, real: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
    parent = np.where(real, tokens.parent[rows] - offset[:, None], -1)
    parent = np.maximum(parent, -1)  # a parent in an earlier piece is out of sight
    cause, outcome = relations(parent, tokens.service[rows], tokens.is_again[rows] & real, real)
    reals = np.clip(tokens.reals[rows], -CUT, CUT) * real[:, :, None]
    bits = tokens.bits[rows].astype(np.float32) * real[:, :, None]
    return {
        "name": np.where(real, tokens.name[rows], 0).astype(np.int64),
        "known": tokens.known[rows] * real[:, :, None].astype(np.float32),
        "excuse": tokens.excuse[rows] * real[:, :, None].astype(np.float32),
        "cause": np.concatenate([reals[:, :, CAUSES], tokens.reals_seen[rows][:, :, CAUSES]], axis=2).astype(
            np.float32
        ),
        "outcome": np.concatenate([bits[:, :, OUTCOMES], tokens.bits_seen[rows][:, :, OUTCOMES]], axis=2).astype(
            np.float32
        ),
        "cause_relation": cause.astype(np.int64),
        "outcome_relation": outcome.astype(np.int64),
    }
