"""detect, on an input without end: what was emitted last, so that only what changed is emitted again."""

from __future__ import annotations

from collections.abc import Set

from udfs.pure.verdicts import MinuteResult, Row
from udfs.pure.windows import MINUTE_MS

# While a minute is open, a verdict that changes in its score alone is emitted again only once the score has moved by
# this much: the scores of all the minute's traces move a little with each trace that comes.
SCORE_STEP = 0.5
# How long what was emitted is remembered, in event time: a minute is emitted for the last time before that.
KEPT_MS = 30 * MINUTE_MS


class Emitted:
    """Verdicts and incidents of open and recent minutes, as they were last emitted since the start. After a restart
    all of them are emitted again: what was emitted after the last checkpoint may differ."""

    def __init__(self) -> None:
        self._verdicts: dict[str, tuple[int, Row]] = {}  # trace -> its minute and verdict
        self._incidents: dict[tuple[int, str], bytes] = {}  # minute and key -> payload

    def changed_verdicts(self, result: MinuteResult, is_open: bool, anyway: Set[str] = frozenset()) -> list[Row]:
        """The verdicts of a minute, over or open, that differ from those emitted; they count as emitted from now on.

        anyway: traces that are emitted even if they don't differ."""
        changed = [
            verdict
            for verdict in result.verdicts
            if verdict["trace_id"] in anyway or self._differs(result.minute_ms, verdict, is_open)
        ]
        self._verdicts |= {verdict["trace_id"]: (result.minute_ms, verdict) for verdict in changed}
        return changed

    def is_changed(self, minute_ms: int, key: str, incidents: bytes) -> bool:
        """Whether the incidents of a minute, under this key, differ from those emitted; they count as emitted from now
        on."""
        before = self._incidents.get((minute_ms, key))
        self._incidents[minute_ms, key] = incidents
        return before != incidents

    def forget(self, over_ms: int) -> None:
        """Forget what is older than KEPT_MS at ``over_ms``."""
        kept_ms = over_ms - KEPT_MS
        self._verdicts = {trace: of for trace, of in self._verdicts.items() if of[0] >= kept_ms}
        self._incidents = {key: of for key, of in self._incidents.items() if key[0] >= kept_ms}

    def _differs(self, minute_ms: int, verdict: Row, is_open: bool) -> bool:
        """Of two minutes that both have a trace the earlier one is right, and the other is about to lose it: the more
        is known of a trace, the earlier it starts."""
        emitted_ms, emitted = self._verdicts.get(verdict["trace_id"], (minute_ms, {}))
        if emitted_ms != minute_ms or not emitted:
            return minute_ms <= emitted_ms
        columns = {column for column, value in verdict.items() if value != emitted[column]}
        if is_open and columns <= {"anomaly_score", "threshold"}:
            return abs(verdict["anomaly_score"] - emitted["anomaly_score"]) >= SCORE_STEP
        return bool(columns)
