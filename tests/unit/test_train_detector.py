"""train_detector: from unlabelled telemetry to a model that the detector loads, the same for the same seed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import train_detector
from tests.unit.test_masked import random_tokens
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, usual_of
from udfs.pure.tokens import Tokens, batches

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world whose truth is gone: nobody may look at it."""
    path = tmp_path_factory.mktemp("train") / "world"
    options = ["--seed", "5", "--services", "6", "--days", "0.1", "--requests-per-day", "8000"]
    subprocess.run(
        [sys.executable, "-m", "simulator", "--output", str(path), *options], check=True, capture_output=True
    )
    shutil.rmtree(path / "truth")
    return path


def test_training_gives_a_model_that_loads_and_fine_tuning_learns_names(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again, tuned = (tmp_path / f"{name}.onnx" for name in ("first", "again", "tuned"))
    for path in (first, again):
        assert train_detector.main(["--input", str(world), "--model", str(path), "--epochs", "2"]) == 0
    cards = [json.loads(Path(f"{path}.json").read_text()) for path in (first, again)]
    assert cards[0]["version"] == cards[1]["version"]  # it is a hash of the weights
    losses = cards[0]["held_out_loss_by_epoch"]
    assert losses[-1] < losses[0]
    assert MaskedSpanModel(first).names == {}

    arguments = ["--input", str(world), "--base", str(first), "--names", "--model", str(tuned), "--epochs", "1"]
    assert train_detector.main(arguments) == 0
    card = json.loads(Path(f"{tuned}.json").read_text())
    assert card["vocabulary"] == sorted(card["vocabulary"]) != []
    assert card["base"] == "first.onnx"
    assert card["held_out_loss_by_epoch"][0] < losses[0]  # it goes on from where the base was
    assert MaskedSpanModel(tuned).names[card["vocabulary"][0]] == 1


def test_a_model_is_exported_anew_without_training(world: Path, tmp_path: Path) -> None:
    """As models of an earlier version are, for what this version's graph gains: the same model, by the same name."""
    path = tmp_path / "default.onnx"
    for end in ("", ".json", ".npz"):
        shutil.copy(f"{DEFAULT_MODEL}{end}", f"{path}{end}")
    path.write_bytes(b"of an earlier version")
    assert train_detector.main(["--input", str(world), "--model", str(path), "--export-only"]) == 0
    anew, old = MaskedSpanModel(path), MaskedSpanModel(DEFAULT_MODEL)
    assert {**anew.card, "sha256": ""} == {**old.card, "sha256": ""}
    assert b"site-packages" not in path.read_bytes()  # the exporter writes the stack of every node
    tokens = random_tokens(9)
    for part, expected in zip(*(one.predict(tokens, usual_of(tokens)) for one in (anew, old)), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)


def test_a_model_of_traces_of_one_span_reads_longer_ones(tmp_path: Path) -> None:
    """The exporter takes a size of 1 in what it is shown for a constant."""
    from jobs.network import MaskedSpanTransformer

    path = tmp_path / "single.onnx"
    tokens = random_tokens(9)
    alone = Tokens(*(column[tokens.parent < 0] for column in tokens[:-1]), np.ones(len(tokens.lengths), int))
    network = MaskedSpanTransformer(0).eval()
    apart = train_detector.export(network, path, {"version": "single", "vocabulary": []}, next(batches(alone)))
    assert apart < train_detector.PARITY
    assert len(MaskedSpanModel(path).predict(tokens, usual_of(tokens)).mean) == len(tokens.known)


def test_an_input_without_traces_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_detector.main(["--input", str(tmp_path), "--model", str(tmp_path / "m.onnx")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "train_detector: the input holds no traces"
