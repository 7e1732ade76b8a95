"""rank, the stage: when a window's anomalies are sent."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest
from pyflink.common import Row, RowKind

from tests.unit.keyed_stage import Stage
from tests.unit.test_rank import incident
from udfs import rank as module
from udfs.judge import INCIDENTS, REQUESTS
from udfs.pure.windows import MINUTE_MS, WINDOW_MS
from udfs.rank import RANKED, Rank

EVERY_MS = 250
DEMAND = orjson.dumps({"requests": {}, "work": {}})
BEFORE, AFTER, INSERT = RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER, RowKind.INSERT


class RankStage(Stage):
    """One window of rank."""

    def __init__(self) -> None:
        super().__init__(Rank("score", EVERY_MS), WINDOW_MS)  # type: ignore[arg-type]
        self.now_ms = 10 * EVERY_MS

    def take(self, culprits: Sequence[str], of: RowKind = INSERT, minute: int = 0, kind: str = INCIDENTS) -> list:
        """Take in the culprits of a minute; the culprits of each ranking that is sent at once."""
        payload = orjson.dumps([[incident(name, 9.0) for name in culprits], {name: 5 for name in culprits}])
        row = Row(kind, WINDOW_MS, str(WINDOW_MS + minute * MINUTE_MS), payload if kind == INCIDENTS else DEMAND)
        row.set_row_kind(of)
        before = len(self.sent)
        self._take(self._function.process_element(row, self))
        return self.ranked(before)

    def ranked(self, since: int) -> list:
        """The culprits of each ranking that was sent since so many rows."""
        return [
            sorted(of["otel_service_name"] for of in rows) for kind, *_, rows in self.sent[since:] if kind == RANKED
        ]

    def later(self) -> list:
        """What timers send."""
        before = len(self.sent)
        self.fire()
        return self.ranked(before)


def test_a_window_that_rested_is_sent_at_once_and_what_follows_by_a_timer() -> None:
    stage = RankStage()
    assert stage.take(["a"]) == [["a"]]
    assert stage.timers == set()
    assert stage.take(["b"], minute=1) == []
    assert stage.take(["c"], minute=2) == []
    assert len(stage.timers) == 1
    assert stage.later() == [["a", "b", "c"]]
    stage.now_ms += EVERY_MS
    assert stage.take(["d"], minute=3) == [["a", "b", "c", "d"]]


def test_a_version_that_is_taken_back_waits_for_the_one_in_its_place() -> None:
    stage = RankStage()
    stage.take(["a"])
    stage.now_ms += EVERY_MS
    assert stage.take(["a"], BEFORE) == []
    assert stage.take(["a", "b"], AFTER) == [["a", "b"]]
    stage.now_ms += EVERY_MS
    assert stage.take(["a", "b"], RowKind.DELETE) == []
    assert stage.later() == [[]]


def test_what_was_sent_at_once_is_not_ranked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, ranked = RankStage(), []
    monkeypatch.setattr(module, "rank_window", lambda *of: ranked.append(of) or [])
    stage.take(["a"])
    stage.now_ms += EVERY_MS
    stage.take(["a"], BEFORE)
    stage.take(["b"], AFTER)
    assert stage.timers and stage.later() == []
    assert len(ranked) == 2
    stage.take([], minute=1, kind=REQUESTS)
    stage.fire()
    assert len(ranked) == 3


def test_a_bounded_run_sends_nothing_before_the_end() -> None:
    stage = Stage(Rank("score"), WINDOW_MS)  # type: ignore[arg-type]
    payload = orjson.dumps([[incident("a", 9.0)], {"a": 5}])
    stage._take(stage._function.process_element(Row(INCIDENTS, WINDOW_MS, str(WINDOW_MS), payload), stage))
    assert not stage.sent and not stage.timers
    stage.end()
    assert stage.sent[0][0] == RANKED
