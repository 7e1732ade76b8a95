"""A prediction is mixed with the usual as far as it has proven itself."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.pure import skill as skill_of
from udfs.pure import tokens as t
from udfs.pure.predict import Prediction, usual_of
from udfs.pure.skill import Skill
from udfs.pure.tokens import Tokens

SPANS = 40  # a minute, of one service
RATE = 0.01  # of errors


def minute(rng: np.random.Generator, reals: np.ndarray | None = None, error: np.ndarray | None = None) -> Tokens:
    """Spans whose times are white noise, unless given, and of which one in 1/RATE errs."""
    known = np.zeros((SPANS, len(t.KNOWN)), np.float32)
    for rate in ("failure_rate", "repeat_rate", "rare_rate", "unanswered_rate"):
        known[:, t.KNOWN.index(rate)] = np.log(RATE) / 5
    bits = np.zeros((SPANS, len(t.BITS)), bool)
    bits[:, t.BIT_ERROR] = rng.random(SPANS) < RATE if error is None else error
    return Tokens(
        name=np.zeros(SPANS, np.int32),
        known=known,
        excuse=np.zeros((SPANS, len(t.EXCUSES)), np.float32),
        reals=rng.standard_normal((SPANS, len(t.REALS))) if reals is None else reals,
        reals_seen=np.ones((SPANS, len(t.REALS)), bool),
        bits=bits,
        bits_seen=np.ones((SPANS, len(t.BITS)), bool),
        parent=np.full(SPANS, -1),
        service=np.zeros(SPANS, np.int64),
        is_again=np.zeros(SPANS, bool),
        lengths=np.ones(SPANS, int),
    )


def prediction(mean: float | np.ndarray = 0.0, scale: float = 1.0, chance: float | np.ndarray | None = None):
    usual = usual_of(minute(np.random.default_rng(0)))
    full = np.broadcast_to(mean, usual.mean.shape), np.full(usual.scale.shape, scale)
    return Prediction(*full, usual.chance if chance is None else np.broadcast_to(chance, usual.chance.shape))


def calibrated(skill: Skill, tokens: Tokens, found: Prediction) -> Prediction:
    gain = skill.of(np.arange(tokens.service.max() + 1))
    return skill_of.calibrated(gain, tokens, usual_of(tokens), found)


def learn(skill: Skill, tokens: Tokens, found: Prediction, weights: np.ndarray) -> None:
    skill.learn(tokens, usual_of(tokens), found, weights)


def test_what_is_usual_stays_as_it_is():
    skill, rng = Skill(), np.random.default_rng(1)
    for _ in range(50):
        tokens = minute(rng)
        usual = usual_of(tokens)
        assert skill_of.calibrated(None, tokens, usual, prediction(mean=9.0)) is usual
        for told, of_usual in zip(calibrated(skill, tokens, usual), usual, strict=True):
            np.testing.assert_array_equal(told, of_usual)
        learn(skill, tokens, usual, np.ones(SPANS))


@pytest.mark.parametrize("minutes", [0, 1, 10, 300])
def test_a_prediction_that_is_wrong_here_accuses_nobody(minutes):
    """All times are said to be three deviations lower than they are, and errors to be a thousandth as frequent."""
    skill, rng = Skill(), np.random.default_rng(2)
    wrong = prediction(mean=-3.0, scale=0.9, chance=RATE / 1000)
    for _ in range(minutes):
        tokens = minute(rng)
        calibrated(skill, tokens, wrong)
        learn(skill, tokens, wrong, np.ones(SPANS))
    told, usual = calibrated(skill, minute(rng), wrong), prediction()
    assert np.all(told.mean > -0.15)
    assert np.all(told.scale > 0.99)
    error = told.chance[:, t.BIT_ERROR]
    assert np.all(np.log(usual.chance[:, t.BIT_ERROR] / error) < 0.1)


def test_a_prediction_that_knows_is_believed_within_the_hour():
    """Half of the variance is foretold, and so is who doesn't err."""
    skill, rng = Skill(), np.random.default_rng(3)
    for _ in range(60):
        hint = rng.standard_normal((SPANS, len(t.REALS))) / np.sqrt(2)
        reals = hint + rng.standard_normal(hint.shape) / np.sqrt(2)
        frail = np.arange(SPANS) < SPANS * 2 * RATE
        tokens = minute(rng, reals, frail & (rng.random(SPANS) < 0.5))
        chance = np.full((SPANS, len(t.BITS)), RATE / 100)
        chance[frail, t.BIT_ERROR] = 0.5
        knowing = prediction(hint, 0.9, chance)
        told = calibrated(skill, tokens, knowing)
        learn(skill, tokens, knowing, np.ones(SPANS))
    low = knowing.mean[:, t.OWN_TIME] < 0
    assert np.all(told.mean[low, t.OWN_TIME] < 0.8 * knowing.mean[low, t.OWN_TIME])
    assert np.all(told.scale[:, t.OWN_TIME] < 0.93)
    assert np.all(told.chance[~frail, t.BIT_ERROR] < RATE / 10)


def test_a_prediction_that_is_wrong_here_excuses_nobody():
    """All times are said to be two deviations higher and wilder than they are, and every second call to fail."""
    skill, rng = Skill(), np.random.default_rng(4)
    wrong = prediction(mean=2.0, scale=1.5, chance=0.5)
    for _ in range(30):
        told = calibrated(skill, minute(rng), wrong)
        assert np.all(told.mean < 0.1) and np.all(told.scale < 1.03)
        assert np.all(told.chance[:, t.BIT_ERROR] < 4 * RATE)
        learn(skill, minute(rng), wrong, np.ones(SPANS))


def test_merit_is_kept_by_service():
    """Of two services one is foretold wrongly."""
    skill, rng = Skill(), np.random.default_rng(5)
    service = np.arange(SPANS) % 2
    for _ in range(120):
        tokens = minute(rng)._replace(service=service)
        told = prediction(np.where(service[:, None] == 1, -2.0, tokens.reals * 0.7), 0.9)
        mixed = calibrated(skill, tokens, told)
        learn(skill, tokens, told, np.ones(SPANS))
    low = told.mean[:, t.OWN_TIME] < 0
    assert np.all(mixed.mean[low & (service == 1), t.OWN_TIME] > -0.1)
    right = low & (service == 0)
    assert np.all(mixed.mean[right, t.OWN_TIME] < 0.8 * told.mean[right, t.OWN_TIME])


def test_trouble_does_not_teach():
    skill, rng = Skill(), np.random.default_rng(6)
    wrong = prediction(mean=5.0)
    before = calibrated(skill, minute(rng), prediction(mean=-1.0)).mean[0, 0]
    for _ in range(30):
        learn(skill, minute(rng), wrong, np.zeros(SPANS))
    assert calibrated(skill, minute(rng), prediction(mean=-1.0)).mean[0, 0] == before
