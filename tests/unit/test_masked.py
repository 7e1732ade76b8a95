"""detect: what the detector promises with its model, on the literal shop of test_detect."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_detect import WARM, World, flagged, frozen, minute
from tests.unit.test_detect import run_all as run
from udfs.pure import tokens as t
from udfs.pure.detect import EMA, FORGET_MS, LAG_MINUTES, TIDY_MINUTES, Detector
from udfs.pure.episodes import Episodes
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, ModelError, Models, Prediction, Usual, usual_of
from udfs.pure.threshold import EmaThreshold
from udfs.pure.tokens import Tokens, batches, relations

MINUTE_MS = 60_000


class _Recording(MaskedSpanModel):
    """The default model; remembers what it was asked last."""

    asked: Tokens

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction:
        self.asked = tokens
        return super().predict(tokens, usual)


def predicted(model: MaskedSpanModel, tokens: Tokens) -> Prediction:
    return MaskedSpanModel.predict(model, tokens, usual_of(tokens))


@pytest.fixture(scope="module")
def model() -> _Recording:
    return _Recording(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def warm(model: _Recording) -> Callable[[], Detector]:
    """A detector that saw WARM quiet minutes, anew for each caller."""
    detector = Detector(model)
    for number in range(WARM):
        detector.step(*minute(number))
    return frozen(detector)


def last_word(results: list) -> dict:
    return {result.minute_ms: result for result in results}


def culprits(results: list) -> set[str]:
    return {v["culprit_service_name"] for r in results for v in r.verdicts if v["is_anomalous"]}


@pytest.mark.parametrize(
    "world, culprit",
    [
        (World(slow={"stock": 6.0}), "stock"),
        (World(refusing="tax"), "tax"),
        (World(failing="ledger"), "ledger"),
        (World(looping=("orders", "tax")), "orders"),
        (World(accept_ms={"cart": 60.0}), "cart"),
        (World(heavy={"stock": 4.0}), "stock"),
    ],
)
def test_each_kind_is_found_and_blamed_on_who_caused_it(warm, world: World, culprit: str) -> None:
    results = [
        result
        for result in last_word(run(warm(), world, minutes=25)).values()
        if result.minute_ms >= minute(WARM + 5)[0]
    ]
    assert flagged(results) > 0.9
    assert culprits(results) == {culprit}


def test_quiet_minutes_stay_quiet(warm) -> None:
    results = last_word(run(warm(), World(), minutes=60))
    assert flagged(list(results.values())) < 0.01


class _Stranger(Usual):
    """A model of another system: it expects every time to be far lower than it is here."""

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction:
        return usual._replace(mean=usual.mean - 6.0)


def test_a_model_of_another_system_raises_no_alarm(warm) -> None:
    """What it has not proven on this one does not count."""
    detector = warm()
    detector.predictor = _Stranger()
    results = last_word(run(detector, World(), minutes=30)).values()
    assert flagged(list(results)) < 0.01


def test_the_first_minutes_of_an_episode_gain_from_what_followed(warm) -> None:
    """A slowness too slight for one trace is told, but only once it is seen to last."""
    first, slight = minute(WARM)[0], World(slow={"tax": 1.4})
    stated = [r for r in run(warm(), slight, minutes=LAG_MINUTES + 1) if r.minute_ms == first]
    at_once, at_last = stated
    assert flagged([at_once]) < 0.1 < 0.5 < flagged([at_last])


def test_a_lone_outlier_is_no_episode(warm) -> None:
    """One failing trace in a quiet hour: it has its score, and stays below the threshold."""
    detector = warm()
    start_ms, traces, usage = minute(WARM)
    bad = minute(WARM, World(failing="tax"))[1]
    results = detector.step(start_ms, [bad[0], *traces[1:]], usage)
    results += run(detector, World(), first=WARM + 1, minutes=LAG_MINUTES)
    assert flagged([last_word(results)[start_ms]]) == 0.0


def test_a_storm_of_hours_is_not_silenced(warm) -> None:
    detector = warm()
    results = run(detector, World(slow={"stock": 5.0}, heavy={"stock": 3.0}), minutes=240, traces=6)
    assert flagged(results[-60:]) > 0.9
    after = run(detector, World(), first=WARM + 240, minutes=60, traces=6)
    assert flagged(list(last_word(after).values())[30:]) < 0.02


def test_a_shift_that_lasts_is_no_anomaly_after_an_hour(warm) -> None:
    results = run(warm(), World(slow={"stock": 5.0}), minutes=120, traces=6)
    assert flagged(list(last_word(results).values())[70:]) < 0.02


def test_the_order_of_traces_and_of_usage_has_no_say(warm) -> None:
    expected, found = warm(), warm()
    rng = random.Random(5)
    for number in range(WARM, WARM + 14):
        start_ms, traces, usage = minute(number, World(failing="tax", share=0.3))
        result = expected.step(start_ms, traces, usage)
        rng.shuffle(traces)
        keys = rng.sample(list(usage), len(usage))
        assert found.step(start_ms, traces, {key: usage[key] for key in keys}) == result
    assert pickle.dumps(found) == pickle.dumps(expected)


def test_a_stored_detector_goes_on_as_if_nothing_had_been(warm, model) -> None:
    """As the engine stores it: the detector without its minutes, each minute apart and once."""
    kept, moved = warm(), warm()
    stored = {judged: pickle.dumps(kept_minute) for judged, kept_minute in moved.pending.items()}
    for number in range(WARM, WARM + 2 * LAG_MINUTES):
        world = World(slow={"tax": 6.0}, heavy={"cart": 3.0}, share=0.5)
        start_ms, traces, usage = minute(number, world)
        expected = kept.step(start_ms, traces, usage)
        moved = pickle.loads(pickle.dumps(moved))
        moved.predictor = model
        for due in moved.due(start_ms):
            moved.pending[due] = pickle.loads(stored.pop(due))
        assert moved.step(start_ms, traces, usage) == expected
        stored |= {judged: pickle.dumps(one) for judged, one in moved.pending.items()}


def test_no_span_sees_its_own_service_nor_what_it_brought_about(warm, model) -> None:
    """Whatever the values of a span's own service are, and its ancestors' outcomes: the same prediction."""
    warm().step(*minute(WARM, World(looping=("orders", "tax"), failing="stock", share=0.5)))
    asked = model.asked
    expected = predicted(model, asked)
    first = np.cumsum(asked.lengths) - asked.lengths
    trace = np.repeat(np.arange(len(first)), asked.lengths)
    rng = np.random.default_rng(3)
    for row in rng.choice(len(asked.known), 60, replace=False):
        own = (trace == trace[row]) & (asked.service == asked.service[row])
        reals, bits = asked.reals.copy(), asked.bits.copy()
        reals[own] += rng.normal(0, 3, reals[own].shape).astype(np.float32)
        at = row
        while True:
            bits[at] = ~bits[at]
            if asked.parent[at] < 0:
                break
            at = first[trace[row]] + asked.parent[at]
        changed = predicted(model, asked._replace(reals=reals, bits=bits))
        for part in ("mean", "scale"):
            np.testing.assert_allclose(getattr(changed, part)[row], getattr(expected, part)[row], atol=1e-5)


def test_a_span_sees_what_it_caused(warm, model) -> None:
    """The test above would pass on a model that looks at nothing."""
    warm().step(*minute(WARM, World()))
    asked = model.asked
    reals = np.where(asked.reals_seen, asked.reals + 2, 0).astype(np.float32)
    bits = np.ones_like(asked.bits)
    expected = predicted(model, asked)
    changed = predicted(model, asked._replace(reals=reals, bits=bits))
    assert np.abs(changed.mean - expected.mean).max() > 0.05


def test_relations_by_hand() -> None:
    """a calls b twice and then c; b's second attempt calls d."""
    parent = np.array([[-1, 0, 0, 2, 0]])
    service = np.array([[0, 1, 1, 2, 3]])
    again = np.array([[False, False, True, False, False]])
    cause, outcome = relations(parent, service, again, np.ones((1, 5), bool))
    child, below, up, before, none = t.CHILD, t.DESCENDANT, t.PARENT, t.SIBLING, t.HIDDEN
    assert outcome[0].tolist() == [
        [none, child, none, none, child],  # a sees of the attempts the first only
        [none, none, none, none, none],
        [none, before, none, child, none],
        [none, t.EARLIER, none, none, none],
        [none, before, before, t.EARLIER, none],
    ]
    assert cause[0].tolist() == [
        [none, child, none, none, child],
        [up, none, none, none, none],
        [up, none, none, child, none],  # the first attempt is of its own service
        [t.ANCESTOR, t.EARLIER, up, none, none],
        [up, before, before, t.EARLIER, none],
    ]
    assert below  # named for readers: no descendant beyond a repeated call is seen here


def random_tokens(seed: int, traces: int = 40) -> Tokens:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2 * t.SPANS_MAX, traces)
    lengths[::2] = rng.integers(1, 8, len(lengths[::2]))
    spans = int(lengths.sum())
    bits_seen = rng.random((spans, len(t.BITS))) < 0.9
    return Tokens(
        name=np.zeros(spans, np.int32),
        known=rng.normal(0, 1, (spans, len(t.KNOWN))).astype(np.float32),
        excuse=np.zeros((spans, len(t.EXCUSES)), np.float32),
        reals=rng.normal(0, 2, (spans, len(t.REALS))).astype(np.float32),
        reals_seen=np.ones((spans, len(t.REALS)), bool),
        bits=bits_seen & (rng.random(bits_seen.shape) < 0.05),
        bits_seen=bits_seen,
        parent=np.concatenate([np.r_[-1, rng.integers(0, np.arange(1, n))] if n > 1 else [-1] for n in lengths]),
        service=rng.integers(0, 12, spans),
        is_again=rng.random(spans) < 0.05,
        lengths=lengths,
    )


def test_batches_hold_every_span_once_and_little_padding() -> None:
    """A minute has traces of all lengths: padded to the longest of them, two thirds of its tokens were padding."""
    tokens = random_tokens(7)
    rows = [batch.rows for batch in batches(tokens)]
    assert sorted(np.concatenate([row[row >= 0] for row in rows]).tolist()) == list(range(len(tokens.known)))
    assert max(row.size for row in rows) <= t.BATCH_TOKENS
    assert max((row < 0).sum() for row in rows) <= t.PADDING_TOKENS
    assert len(rows) < len(tokens.lengths) / 2


def test_what_a_trace_stands_beside_has_no_say(model) -> None:
    """Each trace alone is predicted as it is in its batch, padded or not."""
    tokens = random_tokens(8, traces=20)
    expected = predicted(model, tokens)
    last = np.cumsum(tokens.lengths)
    for first, end in zip(last - tokens.lengths, last):
        alone = Tokens(*(column[first:end] for column in tokens[:-1]), np.array([end - first]))
        for part, of_all in zip(predicted(model, alone), expected, strict=True):
            np.testing.assert_allclose(part, of_all[first:end], atol=1e-5)


@pytest.mark.train
def test_torch_and_onnx_runtime_agree(warm, model) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: make train")
    from jobs.network import MaskedSpanTransformer

    warm().step(*minute(WARM, World(failing="tax")))
    network = MaskedSpanTransformer(0)
    with np.load(DEFAULT_MODEL.with_name("default.onnx.npz"), allow_pickle=False) as weights:
        network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    for batch in batches(model.asked):
        with torch.no_grad():
            told = network(**{name: torch.from_numpy(value) for name, value in batch.inputs.items()})
        for ours, theirs in zip(model.run(batch.inputs), told, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_a_model_that_is_not_what_its_card_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    shutil.copy(DEFAULT_MODEL, path)
    with pytest.raises(ModelError, match=r"no such file.*other\.onnx\.json"):
        MaskedSpanModel(path)
    shutil.copy(f"{DEFAULT_MODEL}.json", f"{path}.json")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="sha256"):
        MaskedSpanModel(path)
    with pytest.raises(ModelError, match="no \\*.onnx"):
        Models(tmp_path / "nothing")


def test_a_new_model_is_taken_up_at_its_time_and_a_broken_one_is_not(tmp_path: Path) -> None:
    card = json.loads(Path(f"{DEFAULT_MODEL}.json").read_text())

    def put(name: str, **changes: str) -> None:
        shutil.copy(DEFAULT_MODEL, tmp_path / name)
        (tmp_path / f"{name}.json").write_text(json.dumps(card | changes))

    put("a.onnx", version="old")
    models = Models(tmp_path)
    begins = 1_740_960_600_000
    put("b.onnx", version="new", effective_from="2025-03-03T00:10:00+00:00")
    put("c.onnx", version="broken", sha256="0")
    assert [models.at(begins + n * MINUTE_MS).version for n in (-1, 0, 1)] == ["old", "new", "new"]
    assert models.at(begins - MINUTE_MS).version == "old"  # a replay of the past judges as it did
    [reason] = models.left_out.values()
    assert "sha256" in reason


def told(minutes: range, weight: Callable[[int], float], traces: int = 4, counts: float = 1.0) -> Episodes:
    """What one subject's traces say, minute by minute."""
    episodes = Episodes(channels=1, strengths=1, lag=10)
    episodes.resize(1)
    for number in minutes:
        episodes.step(
            number * MINUTE_MS, np.zeros(traces, int), np.full((traces, 1, 1), weight(number)),
            np.full((traces, 1), counts),
        )  # fmt: skip
    return episodes


def test_an_episode_is_seen_from_its_beginning_once_it_lasts() -> None:
    def weight(number: int) -> float:
        return 1.5 if number >= 20 else -1.0

    at_once = told(range(21), weight).at(20 * MINUTE_MS)[0, 0, 0]
    later = told(range(30), weight)
    assert at_once > 0.9 > 0.1 > later.at(20 * MINUTE_MS)[0, 0, 0]
    assert later.at(19 * MINUTE_MS)[0, 0, 0] > 0.9


def test_an_episode_may_have_ended_while_nothing_was_heard() -> None:
    """No data, no belief: of what is usually heard of every minute, an episode halves in each silent one. (It fell by a
    fortieth before, and was believed for half an hour after the last trace.)"""
    episodes = told(range(20), lambda number: 2.0)
    assert episodes.now[0, 0, 0] < 0.1
    nothing = np.zeros(0, int), np.zeros((0, 1, 1))
    episodes.step(20 * MINUTE_MS, *nothing)
    assert 0.4 < episodes.now[0, 0, 0] < 0.6
    episodes.step(200 * MINUTE_MS, *nothing)
    assert episodes.now[0, 0, 0] > 0.9


def test_what_a_minute_has_in_common_is_no_hundredfold_proof() -> None:
    assert told(range(5), lambda number: 0.3, traces=200).now[0, 0, 0] < 0.1
    assert told(range(5), lambda number: 0.3, traces=200, counts=0.005).now[0, 0, 0] > 0.9


def test_the_source_s_threshold_follows_a_storm_into_silence(warm, model) -> None:
    """Why it is not the default."""
    threshold = EmaThreshold()
    service = np.zeros(5, int)
    rng = np.random.default_rng(1)
    for _ in range(60):
        before = threshold.step(service, rng.normal(3, 0.5, 5), 1)[0]
    assert 4 < before < 6
    for _ in range(240):
        after = threshold.step(service, rng.normal(9, 0.5, 5), 1)[0]
    assert after > 9
    detector = Detector(model, EMA)
    results = run(detector, World(), first=0, minutes=40) + run(detector, World(failing="tax"), first=40)
    assert flagged([r for r in results if r.minute_ms >= minute(40)[0]]) == 1.0


def test_ids_have_no_say(warm) -> None:
    start_ms, traces, usage = minute(WARM, World(slow={"tax": 6.0}, share=0.5))
    (expected, *_), (found, *_) = (
        warm().step(start_ms, named, usage) for named in (traces, [trace.replace(b'"60/', b'"xx/') for trace in traces])
    )
    assert [v["trace_id"] for v in found.verdicts] != [v["trace_id"] for v in expected.verdicts]
    assert [v["anomaly_score"] for v in found.verdicts] == pytest.approx(
        [v["anomaly_score"] for v in expected.verdicts]
    )


def test_after_a_silence_in_which_all_is_forgotten_it_starts_anew(warm: Callable[[], Detector]) -> None:
    """Longer than FORGET_MS: no operation, pod or loop is left."""
    detector = warm()
    later = WARM + FORGET_MS // MINUTE_MS + 10
    for number in range(later, later + TIDY_MINUTES):
        detector.step(minute(number, traces=0)[0], [], {})
    anew = minute(later + TIDY_MINUTES)
    result = last_word(detector.step(*anew))[anew[0]]
    assert {verdict["verdict_state"] for verdict in result.verdicts} == {"warming"}
