"""What a span would be like if all were well: by what is usual alone, or by the masked-span Transformer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import orjson

from udfs.pure import tokens as t
from udfs.pure.tokens import Tokens, batches

# The model that comes with the job.
DEFAULT_MODELS = Path(__file__).resolve().parents[1] / "models"
DEFAULT_MODEL = DEFAULT_MODELS / "default.onnx"

# Predicted deviations are trusted within these bounds, in standard deviations of the usual.
SCALES = (0.9, 3.0)
# How slow a callee is that its caller gives up on, of t.CUT standard deviations.
SLOW_ENOUGH = 0.4
# The least chance of an event that its trace explains.
EXPLAINED = 0.1
# ... and what it is where no model says better.
EXCUSED = 0.9
# No event is so rare, nor so sure, that a single one would end all doubt.
CHANCES = (1e-5, 1 - 1e-3)


class Prediction(NamedTuple):
    """Of each span, without its own service's values: the real values' mean and deviation, the bits' chance."""

    mean: np.ndarray  # (spans, REALS)
    scale: np.ndarray  # (spans, REALS)
    chance: np.ndarray  # (spans, BITS)

    def anomaly(self, tokens: Tokens) -> np.ndarray:
        """alpha = || s_hat - s ||_2 between the predicted and the actual span.  # (spans,)

        Each coordinate is measured in the prediction's own uncertainty, as a deviance residual: (s - mean) /
        scale of a real value, sqrt(-2 log chance) of a bit; what isn't seen adds nothing.
        """
        reals = np.where(tokens.reals_seen, (tokens.reals - self.mean) / self.scale, 0.0)
        chance = np.where(tokens.bits, self.chance, 1 - self.chance)
        bits = np.where(tokens.bits_seen, -2 * np.log(chance), 0.0)
        return np.sqrt((reals**2).sum(axis=1) + bits.sum(axis=1))


class Predictor(Protocol):
    """Names its version and vocabulary, and predicts."""

    version: str
    names: Mapping[str, int]

    def predict(self, tokens: Tokens) -> Prediction: ...


class Usual:
    """Predicts the operation's own past, whatever the rest of the trace looks like: a model has to beat it."""

    version = "usual-1"
    names: Mapping[str, int] = {}

    def predict(self, tokens: Tokens) -> Prediction:
        known = dict(zip(t.KNOWN, tokens.known.T.astype(float)))
        spans = len(tokens.known)
        mean = np.zeros((spans, len(t.REALS)))
        failures = np.exp(5 * known["failure_rate"])
        chance = np.column_stack(
            [
                np.exp(5 * known["repeat_rate"]),
                np.full(spans, 0.3),
                np.full(spans, 0.3),
                failures,
                failures,
                np.exp(5 * known["unanswered_rate"]),
                np.exp(5 * known["rare_rate"]),
            ]
        )
        chance = np.where(_excused(tokens), np.maximum(chance, EXCUSED), chance)
        return Prediction(mean, np.ones_like(mean), np.clip(chance, *CHANCES))


def _excused(tokens: Tokens) -> np.ndarray:
    """Whether the trace explains each event, if it happened.  # (spans, BITS)"""
    below, unanswered, slow, call_failed = tokens.excuse.T
    excused = np.zeros(tokens.bits.shape, bool)
    excused[:, : len(t.REPEAT_LEVELS)] = (call_failed > 0)[:, None]
    # Once a call is repeated, how often is the model's to say.
    excused[:, 1 : len(t.REPEAT_LEVELS)] = True
    excused[:, t.BIT_ERROR] = (below > 0) | (unanswered > 0) | (slow > SLOW_ENOUGH)
    # What is logged of an error is no second surprise.
    excused[:, t.BIT_LOG] = tokens.bits[:, t.BIT_ERROR] | excused[:, t.BIT_ERROR]
    return excused


class ModelError(Exception):
    """A model file can't be used; one line that says why and what to do."""


class MaskedSpanModel:
    """The trained Transformer, run by ONNX Runtime on one thread.

    A model is two files side by side: FILE (ONNX) and FILE.json, its card, which holds the hash of the first.
    """

    def __init__(self, path: Path) -> None:
        """Load and check a model.

        Raises:
            ModelError: a file is missing or not what its card says, or made for other tokens.
        """
        import onnxruntime

        card_path = path.with_name(path.name + ".json")
        try:
            data, card = path.read_bytes(), orjson.loads(card_path.read_bytes())
        except OSError as error:
            raise ModelError(f"model {path}: {error.strerror.lower()}: {error.filename}") from None
        except orjson.JSONDecodeError:
            raise ModelError(f"model {path}: its card {card_path} is not JSON") from None
        found = hashlib.sha256(data).hexdigest()
        if found != card.get("sha256"):
            raise ModelError(f"model {path}: sha256 is {found}, its card says {card.get('sha256')}")
        if card["inputs"] != schema():
            raise ModelError(f"model {path}: made for other tokens than this version's; train it anew")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        self.card = card
        self.version: str = card["version"]
        self.names = {name: place for place, name in enumerate(card["vocabulary"], 1)}

    def predict(self, tokens: Tokens) -> Prediction:
        spans = len(tokens.known)
        mean, scale = np.zeros((spans, len(t.REALS))), np.ones((spans, len(t.REALS)))
        chance = np.full((spans, len(t.BITS)), 0.5)
        for batch in batches(tokens):
            outputs = self.run(batch.inputs)
            real = batch.rows >= 0
            for into, output in zip((mean, scale, chance), outputs, strict=True):
                into[batch.rows[real]] = output[real]
        # An episode that lasts shows in its operation's rates, and would be expected soon. So an event that
        # nothing in its trace explains is no likelier than it was over the operation's long past; and one that
        # something explains is not rare, however rare the reason.
        usual = Usual().predict(tokens).chance
        chance = np.where(_excused(tokens), np.maximum(chance, EXPLAINED), np.minimum(chance, usual))
        return Prediction(mean, np.clip(scale, *SCALES), np.clip(chance, *CHANCES))

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Mean, scale and chance of one batch, as the network gives them.  # 3 x (pieces, length, ...)"""
        return self._session.run(None, inputs)


def schema() -> dict[str, list[str]]:
    """What a model's inputs and outputs mean, in their order: models of one schema are interchangeable."""
    return {"known": list(t.KNOWN), "reals": list(t.REALS), "bits": list(t.BITS), "excuses": list(t.EXCUSES)}


class Models:
    """A directory of models, each in force from a time on: its card's ``effective_from``, or always.

    Which one judges a minute is a function of event time, so that every replay takes the change at the same
    point. Files that come while the job runs are taken up at the next minute; of a set of three, the card is
    to be written last.
    """

    def __init__(self, directory: Path) -> None:
        """Load what is there.

        Raises:
            ModelError: a model can't be used, or none is in force from the beginning.
        """
        self._directory = directory
        self._loaded: dict[tuple[str, int], tuple[int, MaskedSpanModel]] = {}
        self.problem = ""  # why a file that came later was left out
        cards = self._cards()
        if not cards:
            raise ModelError(f"models {directory}: no *.onnx with its card (*.onnx.json)")
        for card in cards:
            self._load(card)
        if min(since for since, _ in self._loaded.values()) > 0:
            raise ModelError(f"models {directory}: every card has an effective_from, one must be without")

    def _cards(self) -> list[tuple[str, int]]:
        """(path, time of its last change) of every card, by name."""
        return sorted((str(p), p.stat().st_mtime_ns) for p in self._directory.glob("*.onnx.json"))

    def _load(self, card: tuple[str, int]) -> None:
        model = MaskedSpanModel(Path(card[0].removesuffix(".json")))
        since = model.card.get("effective_from")
        try:
            since_ms = int(datetime.fromisoformat(since).timestamp() * 1000) if since else 0
        except ValueError:
            raise ModelError(f"model {card[0]}: effective_from {since} is no ISO time") from None
        self._loaded[card] = (since_ms, model)

    def at(self, minute_ms: int) -> MaskedSpanModel:
        """The model in force: of those that have begun, the one that began last; then the last by name."""
        cards = self._cards()
        for gone in self._loaded.keys() - set(cards):
            if len(self._loaded) > 1:
                del self._loaded[gone]
        for new in [card for card in cards if card not in self._loaded]:
            try:
                self._load(new)
            except (ModelError, OSError, KeyError) as error:
                self.problem = str(error)
        begun = [(since, card, model) for card, (since, model) in self._loaded.items() if since <= minute_ms]
        if not begun:
            begun = [(since, card, model) for card, (since, model) in self._loaded.items()]
        return max(begun, key=lambda one: one[:2])[2]
