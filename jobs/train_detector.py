"""Train the masked-span Transformer on unlabelled telemetry.

    python -m jobs.train_detector --input DIR [--input DIR ...] --model FILE [--base FILE | --export-only]

Self-supervised: the input is read as the job reads it (docs/interface.md, section 1) and is expected to hold
anomalies; ``truth/`` is never opened. A span teaches as much as the streaming detector, without a model, would
let it teach its baselines: little in the midst of trouble. Writes FILE (ONNX), FILE.json (the model's card) and
FILE.npz (the weights, for ``--base``). With ``--export-only`` nothing is trained: FILE is written anew from FILE.npz,
as this version exports it, and is the same model, by the same version. Needs the extra ``train`` (torch).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jobs.arguments import Parser
from jobs.errors import UsageError, ended
from udfs.pure import tokens as t
from udfs.pure.baseline import SCALE_CLIP, SCALE_NORM
from udfs.pure.detect import Detector
from udfs.pure.offline import Minutes, UsageByMinute, read
from udfs.pure.predict import MaskedSpanModel, ModelError, Usual, schema, trial_of
from udfs.pure.tokens import Batch, Tokens, batches

HELD_OUT_SHARE = 0.1  # the last of each input's minutes tell when to stop
PATIENCE = 3  # epochs without improvement
LEARNING_RATE, LAST_RATE = 2e-3, 1e-4
# The scale's floor, as a logarithm, and Student's degrees of freedom: outliers pull little.
FREEDOM = 4.0
# A name is learnt if it is frequent, and hidden at times, so that the unknown one is learnt, too.
NAME_SPANS_MIN, NAME_HIDDEN = 200, 0.3
PARITY = 1e-3  # ONNX Runtime and torch agree within this


class Sample(NamedTuple):
    """Tokens of one input, and how far each span may teach."""

    tokens: Tokens
    weights: np.ndarray  # (spans,)


class _Named(Usual):
    """What is usual, by a model's vocabulary."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.names = vocabulary


def sample(minutes: Minutes, usage: UsageByMinute, vocabulary: dict[str, int]) -> Sample:
    """Run the detector over an input, without a model; what its judges would have asked one."""
    detector = Detector(_Named(vocabulary), tell=lambda case, _: case)
    asked, weights = [], []
    for minute in sorted(minutes.keys() | usage.keys()):
        for case in detector.step(minute, minutes.get(minute, []), usage.get(minute, {})):
            if not case.is_final:
                asked.append(case.tokens)
                weights.append(detector.weights)
    if not asked:
        raise ModelError("the input holds no traces")
    columns = [np.concatenate([getattr(of, name) for of in asked]) for name in Tokens._fields]
    return Sample(Tokens(*columns), np.concatenate(weights))


def split(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """(traces to learn from, traces to stop by): the last ones in time."""
    count = len(tokens.lengths)
    cut = int(count * (1 - HELD_OUT_SHARE))
    return np.arange(cut), np.arange(cut, count)


def train(samples: Sequence[Sample], vocabulary: Sequence[str], epochs: int, seed: int, base: Path | None):
    """The trained network and its held-out loss by epoch; prints progress."""
    import torch

    from jobs.network import MaskedSpanTransformer

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    torch.set_num_threads(2)
    network = MaskedSpanTransformer(len(vocabulary))
    if base:
        _load(network, base)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    prepared = [_prepared(s) for s in samples]
    learning = [(s, batch) for s, (train_, _) in zip(samples, prepared) for batch in train_]
    held_out = [(s, batch) for s, (_, test) in zip(samples, prepared) for batch in test]
    steps = max(1, epochs * len(learning))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.15,
        final_div_factor=LEARNING_RATE / 25 / LAST_RATE * 25,
    )  # fmt: skip
    best, best_state, waited, losses = float("inf"), network.state_dict(), 0, []
    started = time.monotonic()
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for number, place in enumerate(rng.permutation(len(learning)), 1):
            one, batch = learning[place]
            loss = _loss(network, one, batch, rng)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
            if number % 50 == 0 or number == len(learning):
                print(
                    f"\repoch {epoch}/{epochs}  batch {number}/{len(learning)}  loss {total / number:.4f}"
                    f"  {time.monotonic() - started:.0f} s ", end="", file=sys.stderr, flush=True,
                )  # fmt: skip
        network.eval()
        with torch.no_grad():
            loss = float(np.mean([_loss(network, *one, None).item() for one in held_out]))
        losses.append(round(loss, 5))
        print(f" held out {loss:.4f}", file=sys.stderr, flush=True)
        if loss < best - 1e-4:
            best, waited = loss, 0
            best_state = {k: v.clone() for k, v in network.state_dict().items()}
        else:
            waited += 1
            if waited >= PATIENCE:
                break
    network.load_state_dict(best_state)
    network.eval()
    _calibrate(network, held_out)
    return network, losses


def _calibrate(network, held_out: Sequence[tuple[Sample, Batch]]) -> None:
    """Widen or narrow the scales until the core of the held-out deviations is that of a standard normal.

    Student's scale is not a standard deviation; the measure is that of baseline.Profiles.
    """
    import torch

    sums, counts = np.zeros((64, len(t.REALS))), np.zeros(len(t.REALS))
    factors = np.geomspace(0.4, 4.0, len(sums))
    with torch.no_grad():
        for of, batch in held_out:
            inputs = {name: torch.from_numpy(value) for name, value in batch.inputs.items()}
            mean, log_scale, _ = (output.numpy() for output in network.raw(**inputs))
            rows = np.maximum(batch.rows, 0)
            weight = (of.weights[rows] * (batch.rows >= 0))[..., None] * of.tokens.reals_seen[rows]
            squares = ((of.tokens.reals[rows] - mean) / np.exp(log_scale)) ** 2
            for at, factor in enumerate(factors):
                sums[at] += (weight * np.minimum(squares / factor**2, SCALE_CLIP**2)).sum(axis=(0, 1))
            counts += weight.sum(axis=(0, 1))
        core = sums / np.maximum(counts, 1e-9)  # (factors, reals), falling
        best = factors[np.abs(core - SCALE_NORM).argmin(axis=0)]
        network.log_scale.bias += torch.from_numpy(np.log(np.where(counts > 0, best, 1.0))).float()


def _prepared(of: Sample) -> tuple[list[Batch], list[Batch]]:
    first, last = split(of.tokens)
    return list(batches(of.tokens, first)), list(batches(of.tokens, last))


def _loss(network, of: Sample, batch: Batch, rng: np.random.Generator | None):
    """Negative log likelihood a value, each span weighted: Student's t for reals, Bernoulli for bits."""
    import torch
    from torch.nn import functional as F

    rows = np.maximum(batch.rows, 0)
    weight = torch.from_numpy((of.weights[rows] * (batch.rows >= 0)).astype(np.float32))[..., None]
    inputs = {name: torch.from_numpy(value) for name, value in batch.inputs.items()}
    if rng is not None:
        hidden = torch.from_numpy(rng.random(rows.shape) < NAME_HIDDEN)
        inputs["name"] = inputs["name"].masked_fill(hidden, 0)
    mean, log_scale, logits = network.raw(**inputs)
    reals = torch.from_numpy(np.clip(of.tokens.reals[rows], -2 * t.CUT, 2 * t.CUT))
    seen = torch.from_numpy(of.tokens.reals_seen[rows]) * weight
    log_scale = log_scale.clamp(-2.0, 2.0)
    z = (reals - mean) * torch.exp(-log_scale)
    real_loss = (FREEDOM + 1) / 2 * torch.log1p(z * z / FREEDOM) + log_scale
    bits = torch.from_numpy(of.tokens.bits[rows].astype(np.float32))
    bits_seen = torch.from_numpy(of.tokens.bits_seen[rows]) * weight
    bit_loss = F.binary_cross_entropy_with_logits(logits, bits, reduction="none")
    spans = weight.sum().clamp(min=1.0)
    return (real_loss * seen).sum() / spans + 3 * (bit_loss * bits_seen).sum() / spans


def _load(network, base: Path) -> None:
    """Take over the weights of another model; names that it doesn't know begin as the unknown one."""
    import torch

    with np.load(base.with_name(base.name + ".npz"), allow_pickle=False) as saved:
        state = {name: torch.from_numpy(saved[name]) for name in saved.files}
    names = state.pop("name.weight")
    network.load_state_dict(state, strict=False)
    with torch.no_grad():
        network.name.weight[:] = names[0]


def _trained(model: Path) -> tuple[Any, dict]:
    """The network of a model that was trained before, by its weights, and the model's card."""
    import torch

    from jobs.network import MaskedSpanTransformer

    card = json.loads(model.with_name(model.name + ".json").read_text(encoding="utf-8"))
    network = MaskedSpanTransformer(len(card["vocabulary"]))
    with np.load(model.with_name(model.name + ".npz"), allow_pickle=False) as saved:
        network.load_state_dict({name: torch.from_numpy(saved[name]) for name in saved.files})
    return network.eval(), card


def _strip(model: Path) -> None:
    """Take out what the exporter noted of each node for debugging: file names and lines of the machine it ran on."""
    import onnx

    stored = onnx.load(model)
    for one in (stored.graph, *stored.graph.node, *stored.graph.value_info, *stored.graph.input, *stored.graph.output):
        del one.metadata_props[:]
        one.doc_string = ""
    onnx.save(stored, model)


def export(network, model: Path, card: dict, example: Batch) -> float:
    """Write the three files; the greatest difference between torch and ONNX Runtime on ``example``."""
    import torch

    # A size of 1 would be taken for a constant: two traces of two spans each.
    traced = next(batches(Tokens(*(np.concatenate([column, column]) for column in trial_of(0)))))
    inputs = {name: torch.from_numpy(value) for name, value in traced.inputs.items()}
    pieces, spans = torch.export.Dim("pieces"), torch.export.Dim("spans")
    shapes = {name: {0: pieces, 1: spans} | ({2: spans} if name.endswith("relation") else {}) for name in inputs}
    torch.onnx.export(
        network, (), str(model), kwargs=inputs, input_names=list(inputs),
        output_names=["mean", "scale", "chance"], dynamic_shapes=shapes, dynamo=True,
        external_data=False, verbose=False,
    )  # fmt: skip
    _strip(model)
    np.savez_compressed(
        model.with_name(model.name + ".npz"),
        **{name: value.numpy() for name, value in network.state_dict().items()},
    )
    card |= {"inputs": schema(), "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    card_path = model.with_name(model.name + ".json")
    card_path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    served = MaskedSpanModel(model)
    with torch.no_grad():
        told = network(**{name: torch.from_numpy(value) for name, value in example.inputs.items()})
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(told, served.run(example.inputs), strict=True))


def _card(network, losses: list[float], samples: Sequence[Sample], names: list[str], arguments) -> dict:
    """The card of a model that was just trained; ``export`` adds what is said of its files."""
    weights = hashlib.sha256(b"".join(v.numpy().tobytes() for v in network.state_dict().values())).hexdigest()
    return {
        "version": arguments.version or f"masked-{weights[:8]}",
        "spans": sum(len(s.weights) for s in samples),
        "seed": arguments.seed,
        "base": arguments.base.name if arguments.base else None,
        "held_out_loss_by_epoch": losses,
        "parameters": sum(p.numel() for p in network.parameters()),
        "vocabulary": names,
    }


def _vocabulary(minutes: Minutes) -> Iterator[str]:
    from udfs.pure.assemble import unpack

    counts: Counter[str] = Counter()
    for traces in minutes.values():
        for packed in traces:
            trace = unpack(packed)
            used = np.bincount(trace.spans["operation"], minlength=len(trace.operations))
            counts.update(dict(zip(trace.operations, used.tolist())))
    return (name for name, count in sorted(counts.items()) if count >= NAME_SPANS_MIN)


def main(argv: Sequence[str] | None = None, prog: str = "python -m jobs.train_detector") -> int:
    """Train; exit status 0, 2 for wrong use, 1 for what failed, each with one line."""
    parser = Parser(prog=prog, description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--input", type=Path, action="append", required=True, metavar="DIR", help="unlabelled; several add up")
    add("--model", type=Path, required=True, metavar="FILE", help="where the model goes: FILE, FILE.json, FILE.npz")
    add("--base", type=Path, metavar="FILE", help="a model to begin with (fine-tuning)")
    add("--export-only", action="store_true", help="write FILE anew from FILE.npz, without training")
    add("--names", action="store_true", help="learn operations by name, too: for one's own traces")
    add("--epochs", type=int, default=12)
    add("--seed", type=int, default=0)
    add("--version", help="what verdicts will show as model_version [masked-HASH]")
    try:
        arguments = parser.parse_args(argv)
        import torch  # noqa: F401
    except UsageError as error:
        return ended("train_detector", error)
    except ImportError:
        print("train_detector: torch is missing: pip install 'anomaly-cost[train]', or make train", file=sys.stderr)
        return 1
    try:
        samples, data = [], []
        read_inputs = []
        for directory in arguments.input:
            minutes, usage = read(directory)
            read_inputs.append((minutes, usage))
            traces = sum(map(len, minutes.values()))
            data.append({"input": directory.name, "traces": traces})
            print(f"{directory}: {traces:,} traces", file=sys.stderr, flush=True)
        if arguments.export_only:
            network, card = _trained(arguments.model)
            names = card["vocabulary"]
        else:
            names = sorted({n for minutes, _ in read_inputs for n in _vocabulary(minutes)}) if arguments.names else []
        places = {name: place for place, name in enumerate(names, 1)}
        for minutes, usage in read_inputs:
            samples.append(sample(minutes, usage, places))
        del read_inputs
        if not arguments.export_only:
            network, losses = train(samples, names, arguments.epochs, arguments.seed, arguments.base)
            card = _card(network, losses, samples, names, arguments) | {"data": data}
        arguments.model.parent.mkdir(parents=True, exist_ok=True)
        apart = export(network, arguments.model, card, next(batches(samples[0].tokens)))
    except (ModelError, OSError) as error:
        return ended("train_detector", error)
    if apart > PARITY:
        print(f"train_detector: ONNX Runtime and torch differ by {apart:g}, more than {PARITY:g}", file=sys.stderr)
        return 1
    print(f"train_detector: {arguments.model} ({card['version']}); ONNX and torch agree within {apart:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
