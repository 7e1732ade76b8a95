"""A minute's case may be judged in parts: all of them together say what the whole says."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.keyed_stage import Stage
from tests.unit.test_detect import World, minute
from udfs.changelog import payload_row
from udfs.judge import CASES, INCIDENTS, PART, REQUESTS, VERDICTS, Judge, case_rows, judge_slot, minute_of
from udfs.pure.case import Case, as_it_is
from udfs.pure.detect import LAG_MINUTES, Detector
from udfs.pure.evidence import Clues
from udfs.pure.judge import judge
from udfs.pure.predict import DEFAULT_MODEL, DEFAULT_MODELS, MaskedSpanModel, Usual
from udfs.pure.verdicts import merged
from udfs.pure.windows import MINUTE_MS
from udfs.pure.workload import Work

WARM = 40
SICK = World(failing="tax", looping=("orders", "tax"), slow={"stock": 5.0}, share=0.6)


@pytest.fixture(scope="module")
def model() -> MaskedSpanModel:
    return MaskedSpanModel(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def case(model: MaskedSpanModel) -> Case:
    """Of the second minute of an episode, by all that came since."""
    detector = Detector(model, tell=as_it_is)
    for number in range(WARM):
        detector.step(*minute(number))
    found = [
        case
        for number in range(WARM, WARM + LAG_MINUTES + 2)
        for case in detector.step(*minute(number, SICK, traces=40))
        if case.is_final and case.minute_ms == minute(WARM + 1)[0]
    ]
    return found[0]


def test_the_parts_together_say_what_the_whole_says(case: Case, model: MaskedSpanModel) -> None:
    whole = judge(case, model)
    parts = case.parts(spans_most=60)
    assert len(parts) > 3 and len(parts).bit_count() == 1
    results = [judge(part, model) for part in parts]
    verdicts = sorted((row for of in results for row in of.verdicts), key=lambda row: row["trace_id"])
    assert [row["trace_id"] for row in verdicts] == case.trace_ids
    for found, expected in zip(verdicts, whole.verdicts, strict=True):
        # The network rounds by how many it is asked of at once.
        assert found == expected | {"anomaly_score": pytest.approx(expected["anomaly_score"], abs=1e-3)}
    touched: Counter[str] = Counter()
    for of in results:
        touched.update(of.service_traces)
    assert touched == whole.service_traces
    incidents = merged([of.incidents for of in results])
    assert len(incidents) == len(whole.incidents) > 0
    for found, expected in zip(incidents, whole.incidents, strict=True):
        for name in ("otel_service_name", "anomalous_traces", "kinds", "affected", "operations", "recurrence"):
            assert found[name] == expected[name]
        assert sorted(found["scores"]) == pytest.approx(sorted(expected["scores"]), abs=1e-3)
        assert [trace for _, trace in found["exemplars"]] == [trace for _, trace in expected["exemplars"]]
        assert found["threshold"] == pytest.approx(expected["threshold"])
        assert found["unexplained_usage"] == expected["unexplained_usage"]
        for service, usage in expected["excess_usage"].items():
            assert found["excess_usage"].get(service, dict.fromkeys(usage, 0.0)) == pytest.approx(usage, abs=1e-9)


def test_a_case_that_an_earlier_release_kept_is_judged(case: Case) -> None:
    """It knew of no children that are missing."""
    nothing = replace(case, clues=case.clues._replace(lack=np.zeros(len(case.operation))))
    kept = pickle.loads(pickle.dumps(replace(case, clues=Clues(*case.clues[: Clues._fields.index("lack")]))))
    assert judge(kept, Usual()).verdicts == judge(nothing, Usual()).verdicts
    parts = kept.parts(spans_most=200)
    assert len(parts) > 1
    assert sum(len(judge(part, Usual()).verdicts) for part in parts) == len(case.trace_ids)


def test_a_small_case_is_one_part_and_a_trace_keeps_its_half(case: Case) -> None:
    assert case.parts(spans_most=10_000) == [case]
    two, four = case.parts(spans_most=200), case.parts(spans_most=100)
    assert len(four) == 2 * len(two)
    for number, part in enumerate(four):
        assert set(part.trace_ids) <= set(two[number % len(two)].trace_ids)
        assert isinstance(part.work, Work) and part.part == number


def test_parts_that_are_no_more_say_so(case: Case) -> None:
    rows = case_rows(case, is_open=False, parts_before=3)
    assert [row[2] for row in rows] == [str(case.minute_ms), *(f"{case.minute_ms}{PART}{part}" for part in (1, 2))]
    assert {minute_of(row[2]) for row in rows} == {str(case.minute_ms)}
    stage = Stage(Judge(DEFAULT_MODELS), "")
    for row in rows:
        assert row[0] == CASES
        stage._take(stage._function.process_element(row, stage))
    assert [kind for kind, *_ in stage.sent] == [VERDICTS, *[INCIDENTS, REQUESTS] * 3]
    assert [payload for kind, *_, payload in stage.sent if kind == INCIDENTS][1:] == [[[], {}]] * 2


def test_cases_keep_off_the_slot_of_detect_and_all_of_a_part_goes_one_way() -> None:
    def slot(minute_number: int, part: int, slots: int) -> int:
        case = replace(Case.without_traces(minute_number * MINUTE_MS), part=part)
        (row,) = case_rows(case, is_open=False)
        assert judge_slot(row, slots) == judge_slot(row, slots)
        return judge_slot(row, slots)

    for slots in (1, 2, 3, 8):
        found = {slot(number, part, slots) for number in range(29_000_000, 29_000_040) for part in range(3)}
        assert found == set(range(1, slots)) or slots == 1 and found == {0}
    # A minute of many spans is no slot's alone.
    assert len({slot(29_000_000, part, 4) for part in range(3)}) == 3


def test_what_is_no_case_goes_to_the_first_slot() -> None:
    assert {judge_slot(payload_row("ahead_traces", 0, trace_id, b""), 3) for trace_id in ("a", "b", "c")} == {0}


def test_a_case_whose_beliefs_have_hardly_moved_gives_nearly_the_same_scores(
    case: Case, model: MaskedSpanModel
) -> None:
    draw = np.random.default_rng(1)

    def moved(chances: np.ndarray, by: float) -> np.ndarray:
        found = chances * np.exp(draw.uniform(-by, by, chances.shape))
        return found / found.sum(axis=-1, keepdims=True)

    def believed(by: float) -> Case:
        of = case.believed
        assert of is not None
        services, pods, loops = (moved(chances, by) for chances in (of.services, of.pods, of.loops))
        return replace(case, believed=of._replace(services=services, pods=pods, loops=loops))

    near, far = believed(0.04), believed(0.5)
    assert case.is_believed_as(near) and case.is_believed_as(case)
    before, after = (judge(each, model).verdicts for each in (case, near))
    scores = [(one["anomaly_score"], another["anomaly_score"]) for one, another in zip(before, after, strict=True)]
    assert max(abs(one - another) for one, another in scores) < 0.2
    assert not case.is_believed_as(far)
    assert not case.is_believed_as(replace(case, believed=None))
    assert case.believed is not None
    used = case.believed._replace(overuse=case.believed.overuse + 1.0)
    finite = np.isfinite(case.believed.overuse).any()
    assert case.is_believed_as(replace(case, believed=used)) != finite
    crowded = case.believed._replace(neighbour=["tax"] * len(case.pods))
    assert not case.is_believed_as(replace(case, believed=crowded))
