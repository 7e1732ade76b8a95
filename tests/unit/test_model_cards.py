"""A model laid beside a running job is taken up, or left out with its reason; it never stops the job."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udfs.pure.predict import DEFAULT_MODEL, Models, effective_from_ms

CARD = json.loads(Path(f"{DEFAULT_MODEL}.json").read_text())
BEGINS = 1_740_960_600_000  # 2025-03-03T00:10Z


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    put(tmp_path, "a.onnx", CARD)
    return tmp_path


@pytest.fixture(params=["Pacific/Auckland", "America/New_York"])
def far_away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker's zone isn't UTC."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def put(directory: Path, name: str, card: object, model: bytes | None = None) -> None:
    if model is None:
        shutil.copy(DEFAULT_MODEL, directory / name)
    else:
        (directory / name).write_bytes(model)
    text = card if isinstance(card, bytes) else orjson.dumps(card)
    (directory / f"{name}.json").write_bytes(text)


def left_out(models: Models) -> str:
    """Why the one model is left out, while the other judges."""
    assert models.at(BEGINS).card == CARD
    [reason] = models.left_out.values()
    assert "\n" not in reason
    return reason


NOT_ONNX = b"no model"
OTHER_MODEL = CARD | {"sha256": hashlib.sha256(NOT_ONNX).hexdigest()}


@pytest.mark.parametrize(
    "card, model, reason",
    [
        ([], None, "no JSON object"),
        (None, None, "no JSON object"),
        ("text", None, "no JSON object"),
        (b"", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        ({}, None, "sha256"),
        (OTHER_MODEL, NOT_ONNX, "no ONNX model"),
        (OTHER_MODEL | {"sha256": hashlib.sha256(b"").hexdigest()}, b"", "no ONNX model"),
        (CARD | {"effective_from": 1_740_960_600}, None, "effective_from 1740960600"),
        (CARD | {"effective_from": True}, None, "effective_from True"),
        (CARD | {"effective_from": ["2025-03-03"]}, None, "effective_from"),
        (CARD | {"effective_from": "soon"}, None, "effective_from 'soon'"),
        (CARD | {"version": None}, None, "version"),
        (CARD | {"version": 3}, None, "version"),
        (CARD | {"vocabulary": {"a": 1}}, None, "vocabulary"),
        (CARD | {"vocabulary": [1, 2]}, None, "vocabulary"),
        (CARD | {"vocabulary": [f"GET /{n}" for n in range(100_000)]}, None, "no ONNX model of these inputs"),
        (CARD | {"inputs": []}, None, "other tokens"),
        ({key: of for key, of in CARD.items() if key != "vocabulary"}, None, "vocabulary"),
    ],
)
def test_a_model_that_cannot_be_used_is_left_out(
    directory: Path, card: object, model: bytes | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models(directory)
    put(directory, "b.onnx", card, model)
    with caplog.at_level(logging.WARNING):
        assert reason in left_out(models)
        models.at(BEGINS)
    assert len(caplog.records) == 1, "it is tried once"


def test_a_card_without_its_model_is_left_out_until_that_comes(directory: Path) -> None:
    models = Models(directory)
    (directory / "b.onnx.json").write_bytes(orjson.dumps(CARD | {"version": "new"}))
    assert "no such file" in left_out(models)
    shutil.copy(DEFAULT_MODEL, directory / "b.onnx")
    assert models.at(BEGINS).version == "new" and not models.left_out


def test_a_card_that_is_mended_is_taken_up(directory: Path) -> None:
    models = Models(directory)
    put(directory, "b.onnx", [])
    left_out(models)
    put(directory, "b.onnx", CARD | {"version": "new"})
    os.utime(directory / "b.onnx.json", ns=(1, 1))
    assert models.at(BEGINS).version == "new" and not models.left_out


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize("since", ["2025-03-03T00:10:00", "2025-03-03 00:10", "2025-03-03T00:10:00Z"])
def test_a_time_without_a_zone_is_utc_wherever_the_worker_is(since: str) -> None:
    assert effective_from_ms({"effective_from": since}) == BEGINS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        JSON,
        st.binary(max_size=60),
        st.dictionaries(st.sampled_from(sorted(CARD)), JSON, max_size=3).map(lambda changed: CARD | changed),
    )
)
def test_whatever_a_card_holds_the_job_goes_on(directory: Path, card: object) -> None:
    for name in ("b.onnx", "b.onnx.json"):
        (directory / name).unlink(missing_ok=True)
    models = Models(directory)
    put(directory, "b.onnx", card)
    found = models.at(BEGINS)
    assert len(models.left_out) == 1 or found.version in (CARD["version"], card["version"])
