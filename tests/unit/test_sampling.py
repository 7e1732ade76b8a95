"""Traces that a sampler left out count by those that it kept, and that say so."""

from __future__ import annotations

import pickle
import random

import numpy as np
import orjson
import pytest

from tests.literal import MINUTE_MS, NOON_MS, resource, span, span_request
from tests.unit.test_otlp_proto import protobuf
from udfs.pure.assemble import SEPARATOR, assemble, unpack
from udfs.pure.case import Case
from udfs.pure.frame import Frame
from udfs.pure.otlp import collect_spans
from udfs.pure.pieces import PIECES, Pieces
from udfs.pure.reading import Reading
from udfs.pure.sampling import adjusted_count
from udfs.pure.usage_watch import UsageWatch
from udfs.pure.workload import Workload, excess, work

CART = resource("cart", "cart-1", "node-1")
_ALL = 1 << 56


def threshold(chance: float) -> str:
    """The tracestate of what was kept with a chance."""
    return f"ot=th:{round((1 - chance) * _ALL):014x}".rstrip("0") if chance < 1 else "ot=th:0"


@pytest.mark.parametrize(
    ("trace_state", "attributes", "count"),
    [
        ("ot=th:8", {}, 2.0),
        ("ot=th:c", {}, 4.0),
        ("ot=th:0", {}, 1.0),
        ("ot=th:fd70a4", {}, pytest.approx(100, rel=1e-3)),
        ("ot=th:e6666666666668", {}, pytest.approx(10)),
        ("vendor=x, ot=rv:abcdef01234567;th:8 ,other=th:c", {}, 2.0),
        ("other=th:c", {}, 0.0),
        ("ot=rv:abcdef01234567", {}, 0.0),
        ("ot=th:xyz", {}, 0.0),
        ("ot=th:123456789abcdef", {}, 0.0),
        # Fewer than one in a million.
        ("ot=th:ffffffffffffff", {}, 0.0),
        ("ot=th:8", {"SampleRate": 10}, 2.0),
        ("", {"SampleRate": 10}, 10.0),
        ("", {"SampleRate": "10"}, 10.0),
        ("", {"SampleRate": 0}, 0.0),
        ("", {"SampleRate": "many"}, 0.0),
        ("", {"sampling.probability": 0.25}, 4.0),
        ("", {"sampling.probability": 2}, 0.0),
        ("", {"sampling.probability": "nan"}, 0.0),
        ("", {"sampler.type": "probabilistic", "sampler.param": "0.1"}, 10.0),
        ("", {"sampler.type": "const", "sampler.param": 1}, 0.0),
        ("", {"sampler.type": "ratelimiting", "sampler.param": 0.5}, 0.0),
        (None, {}, 0.0),
    ],
)
def test_what_samplers_say_is_an_adjusted_count(trace_state: object, attributes: dict, count: float) -> None:
    assert adjusted_count(trace_state, attributes) == count


def _weight(*spans: dict, encode=orjson.dumps) -> float:
    fragments, _, rejects = collect_spans(encode(span_request((CART, spans))))
    assert not rejects
    ((trace_id, fragment),) = fragments.items()
    return unpack(assemble(trace_id, [fragment])[1]).weight


@pytest.mark.parametrize(
    "encode", [orjson.dumps, lambda request: protobuf("traces", orjson.dumps(request))], ids=["json", "protobuf"]
)
def test_a_trace_stands_for_what_its_root_says_else_for_the_most_that_a_span_says(encode) -> None:
    def root(**more: object) -> dict:
        return span(1, 1, None, NOON_MS, 9, **more)

    def child(**more: object) -> dict:
        return span(1, 2, 1, NOON_MS, 5, **more)

    rate = [{"key": "SampleRate", "value": {"intValue": "20"}}]
    assert _weight(root(), child(), encode=encode) == 1
    assert _weight(root(traceState="ot=th:c"), child(traceState="ot=th:8"), encode=encode) == 4
    assert _weight(root(traceState="ot=th:0"), child(traceState="ot=th:8"), encode=encode) == 1
    assert _weight(root(), child(traceState="ot=th:8"), encode=encode) == 2
    assert _weight(root(attributes=rate), child(), encode=encode) == 20


def test_a_trace_that_was_packed_before_it_told_its_weight_has_1() -> None:
    line = orjson.dumps(span_request((CART, [span(1, 1, None, NOON_MS, 9)])))
    ((trace_id, fragment),) = collect_spans(line)[0].items()
    packed = assemble(trace_id, [fragment])[1]
    assert len(orjson.loads(packed[4 : 4 + int.from_bytes(packed[:4], "little")])) == 6
    assert unpack(packed).weight == 1


def test_a_case_that_was_kept_before_it_told_weights_has_1() -> None:
    case = Case.without_traces(NOON_MS)
    case.trace_ids = ["1", "2"]
    del case.weight
    assert pickle.loads(pickle.dumps(case)).weight.tolist() == [1, 1]


# ---- the same world at 100, 10 and 1 % -------------------------------------------------------

# Minutes, and traces in each; from the 40th on each third checkout tries its call to a shipper three times.
_MINUTES, _TRACES, _FAULT = 60, 1_000, 40


def _is_ill(minute: int, number: int) -> bool:
    return minute >= _FAULT and number % 6 == 0


def _world(chance: float) -> tuple[dict[int, list[bytes]], set[str]]:
    """Packed traces by minute, thinned by their ids as a consistent sampler does it; ids of those that are ill."""
    rng = random.Random(11)
    minutes: dict[int, list[bytes]] = {}
    ill = set()
    for minute in range(_MINUTES):
        for number in range(_TRACES):
            trace = rng.getrandbits(128)
            calls = rng.choice([1, 1, 2]) + 2 * _is_ill(minute, number)
            if trace % _ALL < round((1 - chance) * _ALL):
                continue
            start = NOON_MS + minute * MINUTE_MS + number
            more = {"traceState": threshold(chance)} if chance < 1 else {}
            spans = [span(trace, 1, None, start, 50, name="GET /checkout" if number % 2 == 0 else "GET /", **more)]
            ships = [span(trace, 2 + n, 1, start + n, 1, name="POST /ship", **more) for n in range(calls)]
            line = orjson.dumps(span_request((CART, spans), (resource("shipper", "shipper-1", "node-1"), ships)))
            ((trace_id, fragment),) = collect_spans(line)[0].items()
            minutes.setdefault(minute, []).append(assemble(trace_id, [fragment])[1])
            if _is_ill(minute, number):
                ill.add(trace_id)
    return minutes, ill


def _reading(frame: Frame, services: dict[str, int]) -> Reading:
    """What Pieces reads of one: each span enters its service."""
    service = np.array([services[frame.operations[o].split("\x1f")[0]] for o in frame.operation.tolist()])
    return Reading._make([np.ones(frame.count, bool) if f == "is_entry" else service for f in Reading._fields])


def _found(chance: float) -> tuple[float, float, float]:
    """(calls of the shipper beyond the usual, the standard error that thinning gives them, calls that it served)."""
    minutes, ill = _world(chance)
    services = {"cart": 0, "shipper": 1}
    pieces, workload = Pieces(), Workload()
    total = variance = served = 0.0
    for minute, packed in sorted(minutes.items()):
        frame = Frame([unpack(one) for one in packed])
        reading = _reading(frame, services)
        done = pieces.of_traces(frame, reading, len(services))
        calls = pieces.calls_of_pods(frame, reading)
        served += sum(of.sum() for pod, of in calls.items() if pod.startswith("shipper"))
        roots = [frame.operations[operation] for operation in frame.operation[frame.root].tolist()]
        shapes = workload.shapes(set(roots))
        is_ill = np.array([trace.trace_id in ill for trace in frame.traces])
        for at in np.flatnonzero(is_ill).tolist():
            beyond = excess(shapes, roots, done, frame.weight, np.array([at]), int)
            of_shipper = sum(times for piece, times in beyond.items() if piece // PIECES == services["shipper"])
            total += of_shipper
            variance += of_shipper**2 * (1 - 1 / frame.weight[at])
        workload.learn(minute, roots, done, 1.0 - is_ill, frame.weight)
    return total, variance**0.5, served


def test_excess_is_that_of_all_traces_whatever_part_of_them_was_kept() -> None:
    """The same world at 100, 10 and 1 %, thinned by trace id: within three standard errors, and so are all calls."""
    whole, no_error, served = _found(1.0)
    assert no_error == 0 and whole == pytest.approx(_MINUTES / 3 * _TRACES / 6 * 2, rel=0.05)
    for chance in (0.1, 0.01):
        found, error, estimated = _found(chance)
        assert 0 < error < whole / 4
        assert abs(found - whole) < 3 * error
        # Each trace calls once or twice, the ill ones more: by its own binomial error.
        assert estimated == pytest.approx(served, abs=3 * 2 * (_MINUTES * _TRACES * (1 / chance - 1)) ** 0.5)


def test_a_kind_is_learnt_from_all_traces_and_known_by_those_that_came() -> None:
    """A tail sampler keeps one in ten of the quick ones and all others: the usual is that of all."""
    workload = Workload()
    for minute in range(10):
        done = work(np.array([0, 1, 1, 1, 1]), np.array([5, 5, 5, 5, 5]), 9)
        workload.learn(minute, ["buy", "buy"], done, np.ones(2), np.array([9.0, 1.0]))
    assert workload.shapes({"buy"})["buy"] == {5: pytest.approx((9 * 1 + 1 * 4) / 10)}
    few = Workload()
    few.learn(0, ["buy"], work(np.array([0]), np.array([5]), 9), np.ones(1), np.array([100.0]))
    assert few.shapes({"buy"}) == {}


# ---- what a call takes --------------------------------------------------------------------------


@pytest.mark.parametrize(("chance", "within"), [(1.0, 0.05), (0.3, 0.1), (0.1, 0.2)])
def test_what_a_call_takes_is_learnt_from_a_sample_without_bias(chance: float, within: float) -> None:
    """Were the sampling's share not taken out of the equations, a call would seem to take half and a fifth of it."""
    rng = np.random.default_rng(5)
    watch = UsageWatch()
    watch.resize(1)
    names = [f"pay{SEPARATOR}{pod}" for pod in "abcd"]
    for minute in range(900):
        calls, noise, usage = {}, {}, {}
        for name in names:
            # A trace calls slot 1, and two in five call slot 0 as well.
            traces = int(rng.poisson(40 + 20 * np.sin(minute / 60)))
            of_each = np.zeros((traces, PIECES))
            of_each[:, 1], of_each[:, 0] = 1.0, rng.random(traces) < 0.4
            kept = of_each[rng.random(traces) < chance]
            calls[name] = kept.sum(axis=0) / chance
            noise[name] = kept.T @ kept / chance * (1 / chance - 1)
            usage[name] = {"cpu": 5.0 + of_each.sum(axis=0)[:2] @ [0.5, 0.2] + rng.normal(0, 0.3)}
        watch.step(minute * MINUTE_MS, usage, dict.fromkeys(names, 0), calls, noise)
    typical = np.array([16.0, 40.0])
    assert watch.work_costs()[0, 0, :2] @ typical == pytest.approx(typical @ [0.5, 0.2], rel=within)
    # A new release makes all that was learnt count for less, alike.
    watch.renew(np.array([0]))
    watch._solve()
    assert watch.work_costs()[0, 0, :2] @ typical == pytest.approx(typical @ [0.5, 0.2], rel=within)


def test_how_unsure_calls_are_is_told_by_what_was_left_out() -> None:
    def minute(weight: float) -> Frame:
        packed = []
        for number, calls in enumerate((1, 3)):
            spans = [span(number + 1, 1, None, NOON_MS, 50, name="GET /")]
            ships = [span(number + 1, 2 + n, 1, NOON_MS + n, 1, name="POST /ship") for n in range(calls)]
            line = orjson.dumps(span_request((CART, spans), (resource("shipper", "shipper-1", "node-1"), ships)))
            ((trace_id, fragment),) = collect_spans(line)[0].items()
            packed.append(unpack(assemble(trace_id, [fragment])[1])._replace(weight=weight))
        return Frame(packed)

    services = {"cart": 0, "shipper": 1}
    pieces = Pieces()
    assert pieces.noise_of_pods(minute(1.0), _reading(minute(1.0), services)) == {}
    frame = minute(4.0)
    calls, noise = (of(frame, _reading(frame, services)) for of in (pieces.calls_of_pods, pieces.noise_of_pods))
    [shipper] = [pod for pod in calls if pod.startswith("shipper")]
    assert calls[shipper][0] == 4 * (1 + 3)
    assert noise[shipper][0, 0] == 4 * 3 * (1 + 3**2)
    assert noise.keys() == calls.keys()
