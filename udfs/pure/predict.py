"""What a span would be like if all were well: by what is usual alone, or by the masked-span Transformer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson

from udfs.pure import tokens as t
from udfs.pure.tokens import Tokens, batches

_log = logging.getLogger(__name__)

# The model that comes with the job.
DEFAULT_MODELS = Path(__file__).resolve().parents[1] / "models"
DEFAULT_MODEL = DEFAULT_MODELS / "default.onnx"

# Predicted deviations are trusted within these bounds, in standard deviations of the usual: that of an operation is
# measured here and holds here, so a model may say that more is to be expected, and no less.
SCALES = (1.0, 3.0)
# How slow a callee is that its caller gives up on, of t.CUT standard deviations.
SLOW_ENOUGH = 0.4
# The least chance of an event that its trace explains.
EXPLAINED = 0.1
# ... and what it is where no model says better.
EXCUSED = 0.9
# No event is so rare, nor so sure, that a single one would end all doubt.
CHANCES = (1e-5, 1 - 1e-3)
# Of t.KNOWN: how often an operation's calls repeat, fail, go unanswered, have rare children.
_RATES = [t.KNOWN.index(name) for name in ("repeat_rate", "failure_rate", "unanswered_rate", "rare_rate")]


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
    """Names its version and vocabulary, and predicts.  usual: ``usual_of`` the same tokens."""

    @property
    def version(self) -> str: ...

    @property
    def names(self) -> Mapping[str, int]: ...

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction: ...


class Usual:
    """Predicts what is usual: a model has to beat it."""

    version = "usual-1"
    names: Mapping[str, int] = {}

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction:
        return usual


def usual_of(tokens: Tokens) -> Prediction:
    """The operation's own past, whatever the rest of the trace looks like."""
    spans = len(tokens.known)
    repeats, failures, unanswered, rare = np.exp(5 * tokens.known[:, _RATES].T.astype(float))
    again = np.full(spans, 0.3)
    chance = np.column_stack([repeats, again, again, failures, failures, unanswered, rare])
    chance = np.where(_excused(tokens), np.maximum(chance, EXCUSED), chance)
    mean = np.zeros((spans, len(t.REALS)))
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
            raise ModelError(f"model {path}: {(error.strerror or str(error)).lower()}: {error.filename}") from None
        except orjson.JSONDecodeError:
            raise ModelError(f"model {path}: its card {card_path} is not JSON") from None
        _check(path, card, hashlib.sha256(data).hexdigest())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.card: dict[str, Any] = card
        self.version: str = card["version"]
        self.names = {name: place for place, name in enumerate(card["vocabulary"], 1)}
        # ONNX Runtime has an exception of its own for each kind of wrong file.
        try:
            self._session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
            trial = trial_of(len(self.names))
            self.predict(trial, usual_of(trial))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"model {path}: is no ONNX model of these inputs: {reason}; train it anew") from None

    def predict(self, tokens: Tokens, usual: Prediction) -> Prediction:
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
        chance = np.where(_excused(tokens), np.maximum(chance, EXPLAINED), np.minimum(chance, usual.chance))
        return Prediction(mean, np.clip(scale, *SCALES), np.clip(chance, *CHANCES))

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Mean, scale and chance of one batch, as the network gives them.  # 3 x (pieces, length, ...)"""
        return self._session.run(None, inputs)


def _check(path: Path, card: object, digest: str) -> None:
    """Raises:
    ModelError: the card is not one of a model with this SHA-256."""
    if not isinstance(card, dict):
        raise ModelError(f"model {path}: its card is no JSON object")
    if digest != card.get("sha256"):
        raise ModelError(f"model {path}: sha256 is {digest}, its card says {card.get('sha256')}")
    if card.get("inputs") != schema():
        raise ModelError(f"model {path}: made for other tokens than this version's; train it anew")
    if not isinstance(card.get("version"), str) or not card["version"]:
        raise ModelError(f"model {path}: its card has no version: {card.get('version')!r} must be text")
    names = card.get("vocabulary")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"model {path}: its card has no vocabulary: it must be a list of names")


def trial_of(name: int) -> Tokens:
    """A trace of two spans, the second one of the operation with this number: what a model has to be able to judge."""
    return Tokens(
        name=np.array([0, name]),
        known=np.zeros((2, len(t.KNOWN)), np.float32),
        excuse=np.zeros((2, len(t.EXCUSES)), np.float32),
        reals=np.zeros((2, len(t.REALS)), np.float32),
        reals_seen=np.ones((2, len(t.REALS)), bool),
        bits=np.zeros((2, len(t.BITS)), bool),
        bits_seen=np.ones((2, len(t.BITS)), bool),
        parent=np.array([-1, 0]),
        service=np.array([0, 1]),
        is_again=np.zeros(2, bool),
        lengths=np.array([2]),
    )


def schema() -> dict[str, list[str]]:
    """What a model's inputs and outputs mean, in their order: models of one schema are interchangeable."""
    return {"known": list(t.KNOWN), "reals": list(t.REALS), "bits": list(t.BITS), "excuses": list(t.EXCUSES)}


def effective_from_ms(card: Mapping[str, Any]) -> int:
    """From when on a model is in force, in ms; 0 = always. A time without a zone is UTC.

    Raises:
        ValueError: it is no ISO time.
    """
    since = card.get("effective_from")
    if since is None or since == "":
        return 0
    if not isinstance(since, str):
        raise ValueError(f"effective_from {since!r} is no ISO time, as 2025-03-03T00:10:00Z")
    try:
        time = datetime.fromisoformat(since)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"effective_from {since!r} is no ISO time, as 2025-03-03T00:10:00Z") from None


# A card's path, and when it and its model were last changed, in ns.
_Card = tuple[str, int, int]


class Models:
    """A directory of models, each in force from a time on: its card's ``effective_from``, or always.

    Which one judges a minute is a function of event time, so that every replay takes the change at the same
    point. Files that come while the job runs are taken up at the next minute; of a set of three, the card is
    to be written last. One that can't be used is left out, and ``left_out`` and the log say why.
    """

    def __init__(self, directory: Path) -> None:
        """Load what is there.

        Raises:
            ModelError: a model can't be used, or none is in force from the beginning.
        """
        self._directory = directory
        self._loaded: dict[_Card, tuple[int, MaskedSpanModel]] = {}
        self._by_version: dict[str, MaskedSpanModel] = {}
        self.left_out: dict[_Card, str] = {}  # of files that came later: why they are not used
        cards = self._cards()
        if not cards:
            raise ModelError(f"models {directory}: no *.onnx with its card (*.onnx.json)")
        for card in cards:
            self._load(card)
        if min(since for since, _ in self._loaded.values()) > 0:
            raise ModelError(f"models {directory}: every card has an effective_from, one must be without")

    def _cards(self) -> list[_Card]:
        """Every card, by name."""
        found = []
        for path in sorted(self._directory.glob("*.onnx.json")):
            model = path.with_suffix("")
            try:
                model_changed = model.stat().st_mtime_ns if model.exists() else 0
                found.append((str(path), path.stat().st_mtime_ns, model_changed))
            except OSError:  # it went away meanwhile
                continue
        return found

    def _load(self, card: _Card) -> None:
        model = MaskedSpanModel(Path(card[0].removesuffix(".json")))
        try:
            since_ms = effective_from_ms(model.card)
        except ValueError as error:
            raise ModelError(f"model {card[0]}: {error}") from None
        self._loaded[card] = (since_ms, model)

    def at(self, minute_ms: int) -> MaskedSpanModel:
        """The model in force: of those that have begun, the one that began last; then the last by name."""
        cards = self._cards()
        for gone in self._loaded.keys() - set(cards):
            if len(self._loaded) > 1:
                del self._loaded[gone]
        self.left_out = {card: reason for card, reason in self.left_out.items() if card in cards}
        for new in [card for card in cards if card not in self._loaded and card not in self.left_out]:
            try:
                self._load(new)
            except ModelError as error:
                self.left_out[new] = str(error)
                _log.warning("a model is left out: %s", error)
        self._by_version |= {model.version: model for _, model in self._loaded.values()}
        begun = [(since, card, model) for card, (since, model) in self._loaded.items() if since <= minute_ms]
        if not begun:
            begun = [(since, card, model) for card, (since, model) in self._loaded.items()]
        return max(begun, key=lambda one: one[:2])[2]

    def named(self, version: str) -> MaskedSpanModel | None:
        """The model of this version, which is or was in the directory since this was made; None = it wasn't."""
        self.at(0)  # look what has come
        return self._by_version.get(version)


class ModelsOfWorker:
    """Which models a worker is to load, as the client says it: the worker's own copy of the default ones need not lie
    where the client's does."""

    def __init__(self, directory: Path | None) -> None:
        """directory: of the masked-span models, None = what is usual."""
        self._is_default = directory == DEFAULT_MODELS
        self._directory = directory

    def load(self) -> Models | NoModels:
        """Raises:
        ModelError: see ``Models``."""
        directory = DEFAULT_MODELS if self._is_default else self._directory
        return Models(directory) if directory else NoModels()


class NoModels:
    """In place of ``Models`` where the detector asks none."""

    left_out: Mapping[_Card, str] = {}

    def at(self, minute_ms: int) -> Usual:
        """What is usual, always."""
        return Usual()

    def named(self, version: str) -> Usual:
        """What is usual, whatever it is called."""
        return Usual()
