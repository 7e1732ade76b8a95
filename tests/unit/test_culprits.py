"""Who is blamed where the one at fault is not the one that shows it, on literal shops whose every draw is seeded."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import orjson
import pytest

from udfs.pure.assemble import assemble
from udfs.pure.callers import MEMORY_MINUTES, Callers
from udfs.pure.channels import CHANNELS, FAILURE, OVERUSE, OWN
from udfs.pure.detect import Detector
from udfs.pure.neighbours import crowding
from udfs.pure.verdicts import blame

MINUTE_MS = 60_000
START_MS = 1_740_960_000_000
NS_PER_MS = 1_000_000
SERVER, CLIENT = 2, 3
WARM = 70  # minutes

Usage = dict[tuple[str, str], dict[str, float]]
Minute = tuple[int, list[bytes], Usage]


class Tracer:
    """The spans of one trace; times in ms."""

    def __init__(self, rng: random.Random, start: float, hosts: Mapping[str, str]) -> None:
        self.rng, self.hosts, self.now = rng, hosts, start
        self.groups: list[list] = []

    def span(
        self, service: str, operation: str, parent: str = "", own: float = 0.0, kind: int = SERVER, peer: str = "",
        error: bool = False, pod: str = "0", inside: Callable[[str], None] = lambda span: None, version: str = "1",
    ) -> None:  # fmt: skip
        """A span that works for about ``own`` and then waits for what is ``inside`` it."""
        span_id = str(len(self.groups))
        begun = self.now
        row: list = [span_id, parent, operation, kind, int(error), 0, 0, peer]
        self.groups.append([service, pod, self.hosts.get(f"{service}{pod}", ""), [row], version])
        self.now += own * self.rng.lognormvariate(0, 0.2)
        inside(span_id)
        row[5], row[6] = int(begun * NS_PER_MS), int(self.now * NS_PER_MS)

    def packed(self, trace_id: str) -> bytes:
        return assemble(trace_id, [orjson.dumps(["spans", self.groups])])[1]


Request = Callable[[Tracer, bool], None]


def minute(number: int, request: Request, usage: Usage, faulty: bool, hosts: Mapping[str, str], traces: int) -> Minute:
    start_ms = START_MS + number * MINUTE_MS
    packed = []
    for i in range(traces):
        rng = random.Random(f"{number}/{i}")
        tracer = Tracer(rng, start_ms + rng.uniform(0, 59_000), hosts)
        request(tracer, faulty)
        packed.append(tracer.packed(f"{number}/{i}"))
    return start_ms, packed, usage


def blamed(
    request: Request,
    usage: Callable[[int, bool], Usage] = lambda number, faulty: {},
    hosts: Mapping[str, str] | None = None,
    traces: int = 20,
    minutes: int = 8,
) -> Counter[tuple[str, str]]:
    """(culprit, kind) of the anomalous traces of the last minutes, of which all are ``faulty``."""
    detector = Detector()
    service_traces: Counter[str] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for number in range(WARM + minutes):
        faulty = number >= WARM
        step = minute(number, request, usage(number, faulty), faulty, hosts or {}, traces)
        for result in detector.step(*step):
            if result.is_final or result.minute_ms < START_MS + WARM * MINUTE_MS:
                continue
            service_traces.update(result.service_traces)
            for verdict in result.verdicts:
                if verdict["is_anomalous"]:
                    assert verdict["culprit_operation"]
                    found[verdict["culprit_service_name"], verdict["anomaly_kind"]] += 1
    for (culprit, _), traces_of_culprit in found.items():
        assert service_traces[culprit] >= traces_of_culprit
    return found


def main(found: Counter[tuple[str, str]]) -> tuple[str, str]:
    return max(sorted(found), key=lambda key: found[key])


# ---- noisy neighbours ---------------------------------------------------------------------------

STAGES, ELSEWHERE = ("cart", "stock", "tax"), ("mail", "media", "news", "help")
LEFT, RIGHT = "left", "right"
HOSTS = {f"{stage}{pod}": host for stage in STAGES for pod, host in (("0", LEFT), ("1", RIGHT))}
HOSTS |= {f"{name}0": RIGHT for name in ("front", *ELSEWHERE)} | {"batch0": LEFT}


def crowded(slow_pods: str) -> Request:
    """``front`` calls all, and rarely ``batch``. Faulty: the stages' pods of these names are slow."""

    def request(tracer: Tracer, faulty: bool) -> None:
        def inside(span: str) -> None:
            for stage in STAGES:
                pod = tracer.rng.choice("01")
                factor = 3.0 if faulty and pod in slow_pods else 1.0
                tracer.span(stage, f"/{stage}", span, own=6.0 * factor, pod=pod)
            for name in ELSEWHERE:
                tracer.span(name, f"/{name}", span, own=3.0)
            if tracer.rng.random() < 0.2:
                tracer.span("batch", "/batch", span, own=4.0)

        tracer.span("front", "/front", own=2.0, inside=inside)

    return request


def usage_of_batch(number: int, faulty: bool) -> Usage:
    """Of 20 traces some 4 call ``batch``."""
    calls = 0
    for i in range(20):
        tracer = Tracer(random.Random(f"{number}/{i}"), 0.0, {})
        tracer.rng.uniform(0, 59_000)
        crowded("")(tracer, False)
        calls += any(group[0] == "batch" for group in tracer.groups)
    noise = random.Random(f"usage {number}").uniform(0.98, 1.02)
    return {("batch", "0"): {"cpu": (0.2 + 0.5 * calls * (6.0 if faulty else 1.0)) * noise}}


def test_a_noisy_neighbour_is_blamed_for_what_it_slows() -> None:
    found = blamed(crowded("0"), usage_of_batch, HOSTS, minutes=15)
    assert main(found) == ("batch", "resource_overuse")
    assert found["batch", "resource_overuse"] > 0.8 * found.total() > 80  # most of which never touch it


@pytest.mark.parametrize(
    ("slow_pods", "hosts"),
    [
        ("01", HOSTS),  # slow on every host: it isn't the host's
        ("0", {}),  # nobody knows what shares a host
        ("1", HOSTS),  # slow elsewhere
    ],
)
def test_who_over_uses_is_not_blamed_for_what_its_host_does_not_explain(slow_pods: str, hosts: dict[str, str]) -> None:
    found = blamed(crowded(slow_pods), usage_of_batch, hosts)
    slow = sum(found[stage, "latency_spike"] for stage in STAGES)
    assert slow > 0.8 * found.total() > 80


def test_a_host_is_crowded_where_most_that_share_it_are_slow() -> None:
    host = [LEFT, LEFT, LEFT, RIGHT, RIGHT, RIGHT]
    service = np.array([0, 1, 2, 1, 2, 3])
    overuse, unknown = np.array([3.0, -9.0, -9.0, -9.0, -9.0, -9.0]), np.full(6, -np.inf)

    def crowded_by(*slow: float, overuse: np.ndarray = overuse, surplus: np.ndarray = unknown) -> dict[str, int]:
        return crowding(host, service, np.array(slow), overuse, surplus)

    assert crowded_by(0.9, 0.9, 0.8, 0.0, 0.1, 0.0) == {LEFT: 0}
    assert crowded_by(0.9, 0.9, 0.1, 0.0, 0.1, 0.0) == {}  # one has its own reasons
    assert crowded_by(0.9, 0.9, 0.8, 0.9, 0.1, 0.0) == {}  # so it is elsewhere
    assert crowded_by(np.nan, 0.9, 0.8, 0.0, 0.1, 0.0) == {LEFT: 0}  # without spans
    assert crowding([""] * 6, service, np.full(6, 0.9), overuse, unknown) == {}
    nobody = np.full(6, -1.0)
    assert crowded_by(0.9, 0.9, 0.8, 0.0, 0.1, 0.0, overuse=nobody) == {}
    # Where calls don't tell what is used, over-use is nobody's; who uses far more than usual is to blame.
    beyond = np.array([12.0, 1.0, -np.inf, 20.0, 2.0, 1.0])
    assert crowded_by(0.9, 0.9, 0.8, 0.0, 0.1, 0.0, overuse=nobody, surplus=beyond) == {LEFT: 0}
    assert crowded_by(0.9, 0.9, 0.8, 0.0, 0.1, 0.0, overuse=nobody, surplus=beyond / 5) == {}
    assert crowded_by(0.0, 0.1, 0.0, 0.0, 0.1, 0.0, overuse=nobody, surplus=beyond) == {}  # and nobody is slow


# ---- callers ------------------------------------------------------------------------------------


def store(share: float, repeats: int, errors_of: str, of_ranking: float = 0.1) -> Request:
    """``geo`` and, rarely, ``ranking`` ask ``store``, without calling spans. Faulty: a share of ranking's requests
    asks several times; with errors of one caller or of ``all``, all but the last attempt fail."""

    def request(tracer: Tracer, faulty: bool) -> None:
        def ask(caller: str, span: str) -> None:
            fails = errors_of in (caller, "all")
            hit = faulty and (caller == "ranking" or fails) and tracer.rng.random() < share
            times = repeats if hit else 1
            for attempt in range(times):
                tracer.span("store", "SELECT", span, own=4.0, error=hit and fails and attempt < times - 1)

        def inside(span: str) -> None:
            for caller in ("geo", "ranking") if tracer.rng.random() < of_ranking else ("geo",):
                tracer.span(caller, f"/{caller}", span, own=5.0, inside=lambda own, who=caller: ask(who, own))

        tracer.span("front", "/front", own=2.0, inside=inside)

    return request


def test_repeats_of_a_rare_caller_without_calling_spans_are_found() -> None:
    """The callee's operation is shared: of all who call it hardly anybody repeats the call."""
    found = blamed(store(share=0.7, repeats=2, errors_of="", of_ranking=0.04), traces=30, minutes=20)
    assert found.keys() == {("ranking", "retry_loop")}
    assert found["ranking", "retry_loop"] > 15


def test_errors_that_one_caller_alone_gets_are_its_own() -> None:
    found = blamed(store(share=0.7, repeats=2, errors_of="ranking"), traces=30, minutes=20)
    assert {culprit for culprit, _ in found} == {"ranking"}
    assert found.total() > 20


def test_errors_that_every_caller_gets_are_the_callees() -> None:
    found = blamed(store(share=0.7, repeats=2, errors_of="all"), traces=30)
    assert main(found) == ("store", "dependency_failure")
    assert found["store", "dependency_failure"] > 0.9 * found.total() > 90


def batch(share: float) -> Request:
    """``front`` asks ``store`` fifty times; one in a thousand answers is an error, of faulty requests a ``share``."""

    def request(tracer: Tracer, faulty: bool) -> None:
        def inside(span: str) -> None:
            for _ in range(50):
                error = tracer.rng.random() < (share if faulty else 0.001)
                tracer.span("store", "SELECT", span, own=2.0, error=error)

        tracer.span("front", "/front", own=2.0, inside=inside)

    return request


def test_fifty_calls_have_as_many_chances_of_an_error() -> None:
    usual = blamed(batch(share=0.001), minutes=60)
    assert usual.total() < 0.01 * 60 * 20
    assert main(blamed(batch(share=0.3))) == ("store", "dependency_failure")


def test_whose_failures_they_are_is_told_by_rates() -> None:
    callers = Callers()
    pairs = ["op", "op"], ["a", "b"]
    usual = np.full(2, 0.001)
    told = callers.is_their_own
    assert told(0, *pairs, np.array([[10.0, 6.0], [40.0, 0.0]]), usual).tolist() == [True, False]
    assert told(0, *pairs, np.array([[10.0, 6.0], [40.0, 20.0]]), usual).tolist() == [False, False]
    assert told(0, *pairs, np.array([[10.0, 1.0], [40.0, 0.0]]), usual).tolist() == [False, False]  # by chance
    assert told(0, *pairs, np.array([[10.0, 6.0], [1.0, 0.0]]), usual).tolist() == [False, False]  # too few others
    assert told(0, ["op", "other"], ["a", "b"], np.array([[10.0, 6.0], [40.0, 0.0]]), usual).tolist() == [False, False]


def test_failures_of_callers_are_remembered_for_a_while_and_forgotten() -> None:
    callers = Callers()
    pairs = ["op", "op"], ["a", "b"]
    now = np.array([[1.0, 1.0]]), np.full(1, 0.001)
    callers.learn(0, *pairs, np.array([[10.0, 6.0], [40.0, 0.0]]))
    assert callers.is_their_own(MINUTE_MS, ["op"], ["a"], *now).tolist() == [True]
    assert callers.is_their_own(int(20 * MEMORY_MINUTES) * MINUTE_MS, ["op"], ["a"], *now).tolist() == [False]
    callers.learn(MINUTE_MS, ["op"], ["a"], np.array([[5.0, 3.0]]))
    callers.forget(MINUTE_MS, most=100)
    assert len(callers) == 1
    assert callers.is_their_own(MINUTE_MS, ["op"], ["a"], *now).tolist() == [False]  # nobody is left to compare with
    callers.learn(2 * MINUTE_MS, *pairs, np.array([[5.0, 3.0], [40.0, 0.0]]))
    assert pickle.loads(pickle.dumps(callers)).is_their_own(2 * MINUTE_MS, ["op"], ["a"], *now).tolist() == [True]


def test_a_calling_span_that_keeps_quiet_about_the_callees_error_excuses_the_retry() -> None:
    def request(tracer: Tracer, faulty: bool) -> None:
        def inside(span: str) -> None:
            fails = faulty and tracer.rng.random() < 0.6
            for error in (True, False) if fails else (False,):
                tracer.span(
                    "front", "POST", span, own=0.5, kind=CLIENT, peer="vouchers",
                    inside=lambda call, error=error: tracer.span("vouchers", "POST /v", call, own=3.0, error=error),
                )  # fmt: skip

        tracer.span("front", "/front", own=2.0, inside=inside)

    found = blamed(request)
    assert main(found) == ("vouchers", "dependency_failure")
    assert found["vouchers", "dependency_failure"] > 0.9 * found.total() > 50


def given_up(waits: float) -> Request:
    """``front`` calls ``stock``. Faulty: most calls fail after 50 ms; their answers begin after ``waits`` ms."""

    def request(tracer: Tracer, faulty: bool) -> None:
        hit = faulty and tracer.rng.random() < 0.6

        def inside(span: str) -> None:
            call = str(len(tracer.groups))
            begun = tracer.now
            tracer.span("front", "POST", span, own=50.0 if hit else 1.0, kind=CLIENT, peer="stock", error=hit)
            over = tracer.now
            tracer.now = begun + (waits if hit else 0.4)
            tracer.span("stock", "/check", call, own=0.2)
            tracer.now = over

        tracer.span("front", "/front", own=2.0, inside=inside)

    return request


@pytest.mark.parametrize(("waits", "culprit"), [(4_000.0, "stock"), (0.4, "front")])
def test_who_answers_after_the_caller_gave_up_is_to_blame_and_who_answers_at_once_is_not(
    waits: float, culprit: str
) -> None:
    found = blamed(given_up(waits))
    assert main(found) == (culprit, "dependency_failure")
    assert found[culprit, "dependency_failure"] > 0.9 * found.total() > 50


# ---- services without spans ---------------------------------------------------------------------


def catalogue(gap: float = 2.0, repeats: int = 1, dies: bool = False) -> Request:
    """``front`` calls ``catalogue``, which emits no spans and calls ``stock``. Faulty: what the arguments say."""

    def request(tracer: Tracer, faulty: bool) -> None:
        def inside(call: str) -> None:
            tracer.now += (gap if faulty else 2.0) * tracer.rng.lognormvariate(0, 0.2)
            for _ in range(0 if faulty and dies else repeats if faulty else 1):
                tracer.span("stock", "/check", call, own=3.0)

        def front(span: str) -> None:
            tracer.span(
                "front", "GET /products", span, kind=CLIENT, peer="catalogue", error=faulty and dies, inside=inside
            )
            tracer.span("stock", "/list", span, own=3.0)

        tracer.span("front", "/front", own=2.0, inside=front)

    return request


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (catalogue(gap=20.0), "latency_spike"),
        (catalogue(repeats=3), "retry_loop"),
        (catalogue(dies=True), "dependency_failure"),
    ],
)
def test_a_workload_without_spans_is_blamed_for_what_passes_through_it(request_: Request, kind: str) -> None:
    found = blamed(request_, lambda number, faulty: {("shop/catalogue", "0"): {"cpu": 1.0}})
    assert main(found) == ("shop/catalogue", kind)
    assert found["shop/catalogue", kind] > 0.9 * found.total() > 90


def test_a_name_that_is_no_workload_is_not_blamed() -> None:
    assert {culprit for culprit, _ in blamed(catalogue(gap=20.0))} == {"stock"}


# ---- one trace ----------------------------------------------------------------------------------


def odds_of(cells: int, **given: float) -> np.ndarray:
    odds = np.full((cells, CHANNELS + 1), -9.0)
    for name, value in given.items():
        channel, cell = name.split("_")
        odds[int(cell), {"own": OWN, "fail": FAILURE, "use": OVERUSE}[channel]] = value
    return odds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"use_0": 4.6, "own_1": 2.0}, (4.6, 1, OWN)),  # what spans show goes first
        ({"use_0": 4.6, "fail_1": 2.0}, (4.6, 1, FAILURE)),
        ({"use_0": 4.6, "own_1": -1.0}, (4.6, 0, OVERUSE)),  # unless they show nothing
        ({"use_1": 4.6, "own_1": 2.0}, (4.6, 1, OVERUSE)),  # of who is blamed anyway it is said
        ({"own_0": 5.0, "own_1": 2.0}, (5.0, 1, OWN)),  # the deepest that is slow
        ({"own_0": -3.0, "own_1": -2.0}, (-2.0, 1, OWN)),
    ],
)
def test_what_the_spans_of_a_trace_show_goes_before_over_use(
    given: dict[str, float], expected: tuple[float, int, int]
) -> None:
    strongest = np.repeat(np.array([[0], [1]]), CHANNELS + 1, axis=1)
    best, cell, channel = blame(odds_of(2, **given), strongest, np.zeros(2, np.int64), np.array([0, 1]))
    assert (best[0], cell[0], channel[0]) == expected


# ---- calls that are left out --------------------------------------------------------------------

LOST = 0.02  # share of the spans that get lost on their way


def leaves_out(why: str) -> Request:
    """``front`` has ``stock`` serve, which asks ``ledger`` and sends to ``mail``, with spans of those who serve alone,
    some of which get lost. Faulty, in half of the traces: for one of these reasons there is none of the other's."""

    def request(tracer: Tracer, faulty: bool) -> None:
        def ask(span: str) -> None:
            hit = faulty and tracer.rng.random() < 0.5
            if hit and why == "times out":
                tracer.now += 800.0
            elif not (hit and why == "skips") and tracer.rng.random() > LOST:
                tracer.span("ledger", "/ledger", span, own=3.0)
            if not (faulty and why == "is silent") and tracer.rng.random() > LOST:
                tracer.span("mail", "/mail", span, own=1.0)

        tracer.span(
            "front", "/front", own=2.0, inside=lambda span: tracer.span("stock", "/stock", span, 4.0, inside=ask)
        )

    return request


@pytest.mark.parametrize(
    ("why", "culprit"), [("skips", "stock"), ("times out", "ledger"), ("is silent", "mail"), ("", "")]
)
def test_calls_that_are_left_out_are_told_from_spans_that_get_lost(why: str, culprit: str) -> None:
    found = blamed(leaves_out(why))
    if not culprit:
        assert not found
    else:
        assert found[culprit, "structure_change"] > 0.8 * found.total() > 40


# ---- releases -----------------------------------------------------------------------------------


def released(failing: float) -> Request:
    """``front`` has ``stock`` serve, which asks ``ledger``. Faulty: new pods of another version ask ``tax`` in its
    place, while one old pod goes on, and such a share of the new version's answers are errors."""

    def request(tracer: Tracer, faulty: bool) -> None:
        is_new = faulty and tracer.rng.random() < 0.8
        pod, version, callee = ("1", "2", "tax") if is_new else ("0", "1", "ledger")
        fails = is_new and tracer.rng.random() < failing

        def serve(span: str) -> None:
            tracer.span("stock", "/stock", span, 4.0, SERVER, error=fails, pod=pod, version=version, inside=ask)

        def ask(span: str) -> None:
            tracer.span(callee, f"/{callee}", span, own=3.0)

        def inside(span: str) -> None:
            serve(span)
            tracer.span("tax", "/tax", span, own=3.0)

        tracer.span("front", "/front", own=2.0, inside=inside)

    return request


def test_what_another_version_calls_is_nobodys_fault_from_the_first_minute_on() -> None:
    assert not blamed(released(0.0))


def test_a_release_that_fails_does_not_teach_that_failing_is_usual() -> None:
    found = blamed(released(0.4), minutes=40)
    assert found["stock", "dependency_failure"] > 0.9 * found.total()
    assert found.total() > 0.9 * 0.4 * 0.8 * 20 * 40
