"""judge: minutes' cases to verdicts, incidents and what requests asked for; minutes are judged side by side."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
from pyflink.common import Row
from pyflink.datastream import ProcessFunction, RuntimeContext

from udfs import metrics
from udfs.changelog import payload_row
from udfs.pure.case import Case
from udfs.pure.emitted import Emitted
from udfs.pure.judge import judge
from udfs.pure.predict import ModelsOfWorker, Predictor, Usual
from udfs.pure.remembered import Remembered
from udfs.pure.unit_cost import demand
from udfs.pure.windows import MINUTE_MS, window_start

# Spans of a minute that are judged together, about; more are judged side by side.
PART_SPANS = 10_000
# Between minute and part in the key of a row.
PART = "/"

CASES, VERDICTS, INCIDENTS, REQUESTS = "cases", "verdicts", "incidents", "requests"

# Parts of open minutes of which is remembered what the model said.
LOOKS_MOST = 64

_log = logging.getLogger(__name__)


def case_rows(case: Case, is_open: bool, parts_before: int = 0) -> list[Row]:
    """The rows of a case, in parts that are judged apart.

    is_open: the minute is not over, so that its case comes again and again. parts_before: of the case of this minute
    that came before; those that are no more say so.
    """
    parts = case.parts(PART_SPANS)
    parts += [replace(Case.without_traces(case.minute_ms), part=part) for part in range(len(parts), parts_before)]
    return [
        payload_row(
            CASES,
            part.minute_ms,
            f"{part.minute_ms}{PART}{part.part}" if part.part else str(part.minute_ms),
            pickle.dumps((part, is_open), protocol=pickle.HIGHEST_PROTOCOL),
        )
        for part in parts
    ]


def minute_of(event_key: str) -> str:
    """The minute of a row's key, whatever its part."""
    return event_key.partition(PART)[0]


def judge_slot(row: Row, slots: int) -> int:
    """The slot that a row of ``detect`` goes to, the same for all of a minute's part. Cases keep off the first where
    there are others: ``detect``, which is one whatever the cluster, works there, and a slot has one Python worker."""
    kind, _, key, _ = row
    if kind != CASES or slots == 1:
        return 0
    minute, _, part = key.partition(PART)
    return 1 + (int(minute) // MINUTE_MS + int(part or 0)) % (slots - 1)


class Judge(ProcessFunction):
    """Rows of ``detect`` by minute and part: cases -> verdicts, incidents and requests; all other rows pass.

    Without state: a case holds all that its verdicts depend on. The models are the worker's, loaded once; the case says
    which one judges it. Verdicts are upserts by trace: the later one stands. Incidents are upserts by minute
    and part, and so are requests, of minutes that are over.
    """

    def __init__(
        self,
        models: Path | None,
        is_endless: bool = False,
        stopwatch: Callable[[], float] = time.perf_counter,
        traits: Sequence[str] = (),
    ) -> None:
        """models: directory of the masked-span models, None = what is usual. is_endless: cases come more than once, and
        only what changed is emitted. stopwatch: seconds, for how long the work takes. traits: attributes by which unit
        costs are told."""
        self._models_of_worker, self._is_endless, self._stopwatch = ModelsOfWorker(models), is_endless, stopwatch
        self._traits = traits

    def open(self, context: RuntimeContext) -> None:
        self._models = self._models_of_worker.load()
        self._emitted = Emitted() if self._is_endless else None
        # Key of a row -> the last look at this part of an open minute; looked at the longest ago first.
        self._looked_at: dict[str, Remembered] = {}
        self._model_ms = metrics.Gauge(context, "model_ms")
        self._models_left_out = metrics.Gauge(context, "models_left_out")

    def process_element(self, row: Row, context: ProcessFunction.Context) -> Iterator[Row]:
        kind, minute_ms, key, payload = row
        if kind != CASES:
            yield row
            return
        case, is_open = pickle.loads(payload)
        began = self._stopwatch()
        model: Predictor | None = self._models.named(case.model) if case.trace_ids else Usual()
        if model is None:
            _log.warning("the model %s is not there any more: its last minutes are judged by what is usual", case.model)
            case.gain, model = None, Usual()
        if is_open:
            model = self._looked_at[key] = Remembered(model, case, self._looked_at.pop(key, None))
            while len(self._looked_at) > LOOKS_MOST:
                del self._looked_at[next(iter(self._looked_at))]
        else:
            self._looked_at.pop(key, None)
        result = judge(case, model)
        self._models_left_out.value = len(self._models.left_out)
        self._model_ms.value = round(1_000 * (self._stopwatch() - began))
        verdicts = result.verdicts
        if self._emitted:
            # Another worker may have judged a trace before: in the minute that it reaches into, while its first span
            # was not there yet, or in another part. What stands in the end is said in the end.
            moved = {
                trace_id
                for trace_id, reaches_on in zip(case.trace_ids, case.reaches_on)
                if case.is_final and (reaches_on or case.part)
            }
            verdicts = self._emitted.changed_verdicts(result, is_open, moved)
            if not is_open:
                self._emitted.forget(minute_ms)
        if verdicts:
            yield payload_row(VERDICTS, minute_ms, key, orjson.dumps(verdicts))
        payload = orjson.dumps([result.incidents, result.service_traces])
        if not self._emitted or self._emitted.is_changed(minute_ms, key, payload):
            yield payload_row(INCIDENTS, window_start(minute_ms), key, payload)
        if not is_open:
            payload = orjson.dumps(demand(case, self._traits))
            if not self._emitted or self._emitted.is_changed(minute_ms, REQUESTS + key, payload):
                yield payload_row(REQUESTS, window_start(minute_ms), key, payload)
