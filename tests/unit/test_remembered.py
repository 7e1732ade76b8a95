"""A model is asked of each version of a trace once while its minute is open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.test_detect import World, minute
from udfs.pure.case import Case, as_it_is
from udfs.pure.detect import Detector
from udfs.pure.judge import judge
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Prediction
from udfs.pure.remembered import Remembered
from udfs.pure.tokens import Tokens


class Counting(MaskedSpanModel):
    """Counts the traces that it is asked of."""

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction:
        self.traces = getattr(self, "traces", 0) + len(tokens.lengths)
        return super().predict(tokens, usual)


def case_of(count: int) -> Case:
    """The case of the 30th minute while so many of its traces are known."""
    detector = Detector(MaskedSpanModel(DEFAULT_MODEL), tell=as_it_is)
    for number in range(30):
        detector.step(*minute(number))
    start_ms, traces, usage = minute(30, World(failing="tax"))
    return detector.step(start_ms, traces[:count], usage)[0]


def test_each_trace_is_asked_of_once_and_all_are_judged_alike() -> None:
    model, looks = Counting(DEFAULT_MODEL), [case_of(count) for count in (4, 9, 12)]
    model.traces, before = 0, None
    for case in looks:
        before = Remembered(model, case, before)
        result = judge(case, before)
        expected = judge(case, MaskedSpanModel(DEFAULT_MODEL))
        for found, of_all in zip(result.verdicts, expected.verdicts, strict=True):
            assert found["anomaly_score"] == pytest.approx(of_all["anomaly_score"], abs=0.5)
            assert found["is_anomalous"] == of_all["is_anomalous"]
    assert model.traces == 12


def test_traces_that_went_and_grew_are_told_apart() -> None:
    model, case = Counting(DEFAULT_MODEL), case_of(12)
    first = Remembered(model, case, None)
    judge(case, first)
    model.traces = 0
    again = Remembered(model, case, first)
    judge(case, again)
    assert model.traces == 0
    renamed = replace(case, trace_ids=["another", *case.trace_ids[1:]])
    judge(renamed, Remembered(model, renamed, again))
    assert model.traces == 1


def test_another_model_is_asked_of_all() -> None:
    model, case = Counting(DEFAULT_MODEL), case_of(12)
    first = Remembered(model, case, None)
    judge(case, first)
    other = Counting(DEFAULT_MODEL)
    other.version, other.traces = "another", 0
    judge(case, Remembered(other, case, first))
    assert other.traces == 12
    assert np.isfinite(first._said.mean).all()
