"""What ``--noise wide`` promises: each knob shows, all of it is benign, and plain is as it was."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from simulator import topology
from simulator.config import WIDE, Config
from simulator.noise import Noise
from simulator.run import run
from simulator.usage import CPU
from simulator.weather import BatchJobs
from simulator.world import World, build
from tests.unit.test_simulator import SMALL, billed, fingerprint, labels_of, lines, plain, spans_of

CALM = Config(seed=5, services=8, days=0.06, requests_per_day=20_000, anomaly_rate=0)
STREAMS = ("traces", "metrics", "logs", "billing")

# Knob -> (its extreme, the knobs that it needs beside it, a stream that shows it, streams that can't).
FORM, USAGE = ("metrics", "billing"), ("traces", "logs")
LEVEL = {"level_share": 0.95}
LEAK = {"leaking": 1.0, "leak_per_day": 0.2}
EXTREMES = {
    "level_share": (0.95, {}, "metrics", USAGE),
    "level_spread": (0.2, LEVEL, "metrics", USAGE),
    "level_persistence": (0.99, {**LEVEL, "level_spread": 0.2}, "metrics", USAGE),
    "cache_share": (0.9, {**LEVEL, "restarts": 100.0}, "metrics", USAGE),
    "cache_minutes": (300.0, {**LEVEL, "restarts": 100.0, "cache_share": 0.9}, "metrics", USAGE),
    "collector_share": (0.5, LEVEL, "metrics", USAGE),
    "collector_minutes": (3.0, {**LEVEL, "collector_share": 0.5}, "metrics", USAGE),
    "leaking": (1.0, {**LEVEL, "leak_per_day": 0.5}, "metrics", USAGE),
    "leak_per_day": (0.5, {**LEVEL, "leaking": 1.0}, "metrics", USAGE),
    "zones": (3, {"far_factor": 20.0}, "traces", ()),
    "far_factor": (20.0, {"zones": 3}, "traces", ()),
    "pair_spread": (1.0, {}, "traces", ()),
    "replica_spread": (0.5, {}, "traces", ()),
    "node_spread": (0.5, {}, "traces", ()),
    "node_persistence": (0.97, {"node_spread": 0.5}, "traces", ()),
    "pod_spread": (0.5, {}, "traces", ()),
    "neighbours_per_day": (100.0, {"neighbour_factor": 1.7}, "traces", ()),
    "neighbour_factor": (1.7, {"neighbours_per_day": 100.0}, "traces", ()),
    "clock_ms": (5.0, {}, "traces", FORM),
    "server_only": (1.0, {}, "traces", FORM),
    "silent": (1.0, {}, "traces", FORM),
    "kindless": (1.0, {}, "traces", FORM),
    "statusless": (1.0, {"errors": 50.0}, "traces", FORM),
    "mixed_peers": (True, {}, "traces", FORM),
    "internal": (1.0, {}, "traces", FORM),
    "lost": (0.1, {}, "traces", FORM),
    "orphaned": (0.1, {}, "traces", FORM),
    "linked": (1.0, {}, "traces", FORM),
    "millisecond_clocks": (1.0, {}, "traces", FORM),
    "microsecond_clocks": (1.0, {}, "traces", FORM),
    "sampled_one_in": (8, {}, "traces", FORM),
    "pace": (0.01, {}, "traces", ()),
    "pace_spread": (1.5, {}, "traces", ()),
    "sigma": (3.0, {}, "traces", ()),
    "sigma_spread": (1.0, {}, "traces", ()),
    "bimodal": (1.0, {}, "traces", ()),
    "heavy_tailed": (1.0, {}, "traces", ()),
    "payload_spread": (1.0, {"payload_bound": 1.0}, "traces", ()),
    "payload_bound": (1.0, {"payload_spread": 1.0}, "traces", ()),
    "network_pace": (5.0, {}, "traces", ()),
    "connecting": (0.3, {}, "traces", ()),
    "queue_pace": (5.0, {}, "traces", ()),
    "queue_spread": (1.0, {}, "traces", ()),
    "autoscaled": (1.0, {"ramp": 6.0}, "metrics", ()),
    "batched": (1.0, {}, "metrics", USAGE),
    "batch_factor": (1.5, {"batched": 1.0}, "traces", ()),
    "deploys": (50.0, {}, "traces", ()),
    "restarts": (100.0, {}, "metrics", ()),
    "reworked": (1.0, {"deploys": 50.0}, "traces", ()),
    "ramp": (6.0, {}, "traces", ()),
    "crowds_per_day": (20.0, {}, "traces", ()),
    "gaps_per_day": (20.0, {}, "traces", ()),
    "swing": (0.0, {}, "traces", ()),
    "pressure": (0.3, {}, "traces", ()),
    "endpoint_skew": (2.0, {"endpoint_floor": 0.003}, "traces", ()),
    "endpoint_floor": (0.003, {"endpoint_skew": 2.0}, "traces", ()),
    "errors": (50.0, {}, "traces", ()),
    "errors_spread": (1.5, {"errors": 50.0}, "traces", ()),
    "refusing": (1.0, {}, "traces", ()),
    "polled": (1.0, {}, "traces", ()),
}  # fmt: skip
KNOBS = [knob for knob in fields(Noise) if knob.metadata]


class Worlds:
    """Worlds of the same seed that differ in some knobs, each run once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[World, Path]] = {}

    def __call__(self, **knobs: float) -> tuple[World, Path]:
        name = repr(sorted(knobs.items()))
        if name not in self._known:
            output = self._folder / str(len(self._known))
            world = build(CALM, Noise(CALM.seed, **knobs))
            run(world, output)
            self._known[name] = world, output
        return self._known[name]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return Worlds(tmp_path_factory.mktemp("worlds"))


# ---- knobs --------------------------------------------------------------------------------------


def test_a_plain_world_has_the_content_it_had_before_there_was_noise(tmp_path):
    run(build(SMALL), tmp_path)
    content = hashlib.sha256()
    for stream in ("traces", "metrics", "logs"):
        for path in sorted((tmp_path / stream).iterdir()):
            content.update(gzip.decompress(path.read_bytes()))
    for path in sorted((tmp_path / "billing").iterdir()):
        content.update(path.read_bytes())
    for name in ("traces", "faults", "costs"):
        content.update(repr(pq.read_table(tmp_path / "truth" / f"{name}.parquet").to_pylist()).encode())
    assert content.hexdigest()[:16] == "5460e36582e6f107"


def test_a_wide_world_is_equal_bytes_for_equal_arguments_whatever_the_hash_seed(tmp_path):
    config = replace(SMALL, noise=WIDE)
    run(build(config), tmp_path / "here")
    options = {"--seed": config.seed, "--services": config.services, "--days": config.days}
    options |= {"--requests-per-day": config.requests_per_day, "--noise": WIDE, "--output": tmp_path / "there"}
    subprocess.run(
        [sys.executable, "-m", "simulator", *(str(word) for option in options.items() for word in option)],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "4711"},
        capture_output=True,
    )
    assert fingerprint(tmp_path / "here") == fingerprint(tmp_path / "there")


def test_each_seed_has_knobs_of_its_own_within_their_priors():
    drawn = [Noise.drawn(seed) for seed in range(40)]
    assert drawn[7] == Noise.drawn(7)
    for knob in KNOBS:
        values = [getattr(noise, knob.name) for noise in drawn]
        assert len(set(values)) > 1, knob.name
        assert min(values) >= 0, knob.name
    assert Noise.of(replace(SMALL, noise=WIDE)) == Noise.drawn(SMALL.seed)
    assert Noise.of(SMALL) == Noise(SMALL.seed)


def test_the_table_of_extremes_has_every_knob():
    assert set(EXTREMES) == {knob.name for knob in KNOBS}


@pytest.mark.parametrize("knob", EXTREMES)
def test_a_knob_shows_where_it_should_and_nowhere_that_it_can_not(knob, worlds):
    value, beside, shows, can_not = EXTREMES[knob]
    (_, usual), (_, extreme) = worlds(**beside), worlds(**beside, **{knob: value})
    assert fingerprint(usual / shows) != fingerprint(extreme / shows)
    for stream in can_not:
        assert fingerprint(usual / stream) == fingerprint(extreme / stream), stream


# ---- memory -------------------------------------------------------------------------------------


def gauges_of(output: Path, of: str = "memory") -> dict[str, dict[int, float]]:
    """Pod -> {minute: value} of a gauge."""
    series = defaultdict(dict)
    for request in lines(output / "metrics"):
        for entry in request["resourceMetrics"]:
            pod = plain(entry["resource"]["attributes"])["k8s.pod.name"]
            for metric in entry["scopeMetrics"][0]["metrics"]:
                if of in metric["name"]:
                    (point,) = metric["gauge"]["dataPoints"]
                    minute = (int(point["timeUnixNano"]) // 10**6 - CALM.start_ms) // 60_000 - 1
                    series[pod][minute] = float(point.get("asInt", point.get("asDouble")))
    return series


def persistence(output: Path) -> float:
    """Mean autocorrelation of pods' memory at one minute."""
    series = [np.array(list(of_pod.values())) for of_pod in gauges_of(output).values() if len(of_pod) > 60]
    return float(np.mean([np.corrcoef(memory[:-1], memory[1:])[0, 1] for memory in series]))


def test_memory_is_a_slow_level_that_calls_do_not_explain(worlds):
    _, output = worlds(level_share=0.95, level_spread=0.2, level_persistence=0.9)
    assert 0.6 < persistence(output) < 0.98
    assert persistence(worlds()[1]) < 0.3
    shares = []
    for place in (output, worlds()[1]):
        calls = Counter()
        for spans in spans_of(place).values():
            for span in spans:
                minute = (int(span["startTimeUnixNano"]) // 10**6 - CALM.start_ms) // 60_000
                calls[span["resource"]["k8s.pod.name"], minute] += span["kind"] in (2, 5, "SPAN_KIND_SERVER")
        shares.append(
            np.mean(
                [
                    np.corrcoef([calls[pod, minute] for minute in of_pod], list(of_pod.values()))[0, 1] ** 2
                    for pod, of_pod in gauges_of(place).items()
                ]
            )
        )
    assert shares[0] < 0.25 < 0.4 < shares[1]


def test_a_restart_empties_caches_and_they_fill_again(worlds):
    world, output = worlds(level_share=0.95, cache_share=0.9, restarts=200.0)
    memory = gauges_of(output)
    falls = 0
    for minute, pods in world.placement.changes.items():
        for pod in pods:
            before, after = memory[pod.name].get(minute - 2), memory[pod.name].get(minute + 1)
            falls += before is not None and after is not None and after < 0.7 * before
    assert falls > 5


def test_the_collector_draws_saw_teeth_and_a_leak_a_slope(worlds):
    _, toothed = worlds(level_share=0.99, collector_share=0.5, collector_minutes=20.0)
    for of_pod in gauges_of(toothed).values():
        steps = np.diff(list(of_pod.values())) / np.mean(list(of_pod.values()))
        assert np.median(steps) > 0.005
        assert steps.min() < -0.2
    leaking, tight = (gauges_of(worlds(level_share=0.99, **knobs)[1]) for knobs in (LEAK, {}))
    for pod, of_pod in leaking.items():
        lost = [value - tight[pod][minute] for minute, value in of_pod.items()]
        assert lost[-1] > lost[0] > 0
        assert np.diff(lost).min() > -1e3  # noise of the rounding


# ---- where it runs ------------------------------------------------------------------------------


def gaps_of(output: Path) -> dict[tuple[str, str], list[float]]:
    """(caller's node, callee's node) -> ms from the client's span to the server's, no queues."""
    gaps = defaultdict(list)
    for spans in spans_of(output).values():
        by_id = {span["spanId"]: span for span in spans}
        for span in spans:
            parent = by_id.get(span["parentSpanId"])
            if parent and span["kind"] in (2, "SPAN_KIND_SERVER"):
                nodes = (parent["resource"]["k8s.node.name"], span["resource"]["k8s.node.name"])
                gaps[nodes].append((int(span["startTimeUnixNano"]) - int(parent["startTimeUnixNano"])) / 1e6)
    return gaps


def test_gaps_have_two_modes_by_the_pair_of_nodes(worlds):
    world, output = worlds(zones=2, far_factor=20.0)
    near_or_far = {(a.name, b.name): a.gaps[b.index] for a in world.placement.nodes for b in world.placement.nodes}
    medians = {pair: np.median(gaps) for pair, gaps in gaps_of(output).items() if len(gaps) > 20}
    near = [median for pair, median in medians.items() if near_or_far[pair] <= 1]
    far = [median for pair, median in medians.items() if near_or_far[pair] > 1]
    assert near and far
    assert min(far) > 4 * max(near)


def test_clocks_that_are_wrong_let_calls_begin_before_they_are_made(worlds):
    assert all(gap >= 0 for gaps in gaps_of(worlds()[1]).values() for gap in gaps)
    early = [gap < 0 for gaps in gaps_of(worlds(clock_ms=5.0)[1]).values() for gap in gaps]
    assert 0.1 < np.mean(early) < 0.9


def log_times(output: Path) -> dict[tuple[str, str, str, int], list[float]]:
    """(operation, pod, node, minute) -> log durations of database statements, which nothing else slows."""
    times = defaultdict(list)
    for spans in spans_of(output).values():
        for span in spans:
            begin, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            name, pod, node = (span["name"], *map(span["resource"].get, ("k8s.pod.name", "k8s.node.name")))
            if not any(other["parentSpanId"] == span["spanId"] for other in spans) and span["kind"] in (2, 5):
                times[name, pod, node, (begin // 10**6 - CALM.start_ms) // 60_000].append(np.log(end - begin))
    return times


def between(output: Path, group: int) -> float:
    """Standard deviation, over pods (1) or minutes (3), of the mean log time less its operation's."""
    of_operation, of_group = defaultdict(list), defaultdict(list)
    times = log_times(output)
    for key, values in times.items():
        of_operation[key[0]] += values
    for key, values in times.items():
        of_group[key[2] if group == 3 else key[0], key[group]] += [
            value - np.mean(of_operation[key[0]]) for value in values
        ]
    return float(np.std([np.mean(values) for values in of_group.values() if len(values) >= 8]))


def test_replicas_have_speeds_of_their_own_and_nodes_good_and_bad_minutes(worlds):
    calm = worlds()[1]
    assert between(worlds(replica_spread=0.5)[1], 1) > 2 * between(calm, 1)
    assert between(worlds(node_spread=0.5)[1], 3) > 2 * between(calm, 3)


# ---- instrumentation ----------------------------------------------------------------------------


def has_whole_trees(output: Path) -> bool:
    """Whether each trace has one root, and each other span its parent."""
    return all(
        sum(not span["parentSpanId"] for span in spans) == 1
        and {span["parentSpanId"] for span in spans} - {span["spanId"] for span in spans} == {""}
        for spans in spans_of(output).values()
    )


def test_services_that_emit_server_spans_only_still_make_whole_trees(worlds):
    _, output = worlds(server_only=1.0)
    kinds = {span["kind"] for spans in spans_of(output).values() for span in spans}
    assert kinds <= {2, 5, "SPAN_KIND_SERVER", "SPAN_KIND_CONSUMER"}
    assert has_whole_trees(output)


def test_silent_services_emit_nothing_and_are_named_by_their_callers(worlds):
    world, output = worlds(silent=1.0)
    traces = spans_of(output).values()
    seen = {span["resource"]["service.name"] for spans in traces for span in spans}
    silent = {service.name for service in world.topology.services} - seen
    assert silent
    named = {plain(span["attributes"]).get("peer.service") for spans in traces for span in spans}
    named |= {plain(span["attributes"]).get("server.address") for spans in traces for span in spans}
    assert silent <= named
    assert has_whole_trees(output)


def test_spans_without_kind_and_status_have_neither(worlds):
    for spans in spans_of(worlds(kindless=1.0, statusless=1.0, errors=50.0)[1]).values():
        for span in spans:
            assert "kind" not in span
            assert span["status"] == {}
            assert not {"error.type", "http.response.status_code"} & plain(span["attributes"]).keys()


def test_internal_spans_lie_within_their_parents_and_trees_stay_whole(worlds):
    _, output = worlds(internal=1.0)
    holding = count = 0
    for spans in spans_of(output).values():
        by_id = {span["spanId"]: span for span in spans}
        assert len(by_id) == len(spans)
        for span in spans:
            if span["kind"] in (1, "SPAN_KIND_INTERNAL"):
                count += 1
                parent = by_id[span["parentSpanId"]]
                times = [parent["startTimeUnixNano"], span["startTimeUnixNano"]]
                times += [span["endTimeUnixNano"], parent["endTimeUnixNano"]]
                assert sorted(map(int, times)) == list(map(int, times))
                holding += any(other["parentSpanId"] == span["spanId"] for other in spans)
    assert 0 < holding < count
    assert has_whole_trees(output)


@pytest.mark.parametrize("knob", ["lost", "orphaned"])
def test_spans_get_lost_and_parents_break_at_their_rates(knob, worlds):
    whole, broken = (spans_of(output) for _, output in (worlds(), worlds(**{knob: 0.1})))
    count = sum(map(len, whole.values()))
    missing = count - sum(map(len, broken.values()))
    assert missing == pytest.approx(0.1 * count if knob == "lost" else 0, rel=0.1)
    astray = sum(
        span["parentSpanId"] not in {"", *(other["spanId"] for other in spans)}
        for spans in broken.values()
        for span in spans
    )
    assert astray == pytest.approx(0.1 * count, rel=0.25)


def test_consumers_link_to_the_message_beside_a_parent_or_in_its_place(tmp_path):
    linked = Counter()
    for seed in range(4):
        world = build(replace(CALM, seed=seed, services=24), Noise(seed, linked=1.0))
        run(world, tmp_path / str(seed))
        for spans in spans_of(tmp_path / str(seed)).values():
            by_id = {span["spanId"]: span for span in spans}
            for span in spans:
                assert ("links" in span) == (span["kind"] in (5, "SPAN_KIND_CONSUMER"))
                for link in span.get("links", ()):
                    assert link["traceId"] == span["traceId"]
                    assert by_id[link["spanId"]]["kind"] in (4, "SPAN_KIND_PRODUCER")
                    assert span["parentSpanId"] in ("", link["spanId"])
                    linked[span["parentSpanId"] != ""] += 1
    assert linked[True] and linked[False]


@pytest.mark.parametrize("knob, tick", [("millisecond_clocks", 10**6), ("microsecond_clocks", 10**3)])
def test_coarse_clocks_count_in_whole_ticks(knob, tick, worlds):
    _, output = worlds(**{knob: 1.0}, internal=1.0)
    assert not any(
        int(span[name]) % tick
        for spans in spans_of(output).values()
        for span in spans
        for name in ("startTimeUnixNano", "endTimeUnixNano")
    )


def test_a_sampler_keeps_whole_traces_by_their_ids(worlds):
    whole, one_in_8, one_in_2 = (worlds(sampled_one_in=k)[1] for k in (1, 8, 2))
    every, some = spans_of(whole), spans_of(one_in_8)
    assert len(some) == pytest.approx(len(every) / 8, rel=0.3)
    assert some.keys() <= spans_of(one_in_2).keys() <= every.keys()
    assert all(sorted(map(repr, spans)) == sorted(map(repr, every[trace])) for trace, spans in some.items())
    assert {row["trace_id"] for row in labels_of(one_in_8)} == some.keys()


# ---- times --------------------------------------------------------------------------------------


def test_repeated_attempts_have_draws_of_the_same_shapes_and_sizes():
    noise = replace(Noise(3), bimodal=1.0, heavy_tailed=1.0, payload_spread=0.8, payload_bound=1.0, connecting=0.2)
    world = build(SMALL, noise)
    slow = tailed = 0
    for endpoint, draws in zip(world.topology.endpoints, world.draws):
        keys, rows, _ = draws.batch(np.arange(200, dtype=np.uint64))
        for key, own in zip(keys, rows):
            for site in endpoint.sites:
                assert draws.again(key, site.index, 0) == pytest.approx(own[site.index], rel=1e-12)
        shapes = [site.operation.shape for site in endpoint.sites]
        slow += sum(shape.slow_chance > 0 for shape in shapes)
        tailed += sum(shape.tail_chance > 0 for shape in shapes)
    assert slow and tailed


def times_of_work(noise: Noise) -> np.ndarray:
    """(requests, sites) draws of an endpoint's work, without its statements."""
    world = build(CALM, noise)
    _, rows, _ = world.draws[0].batch(np.arange(4000, dtype=np.uint64))
    sites = [site.index for site in world.topology.endpoints[0].sites if site.transport != topology.DB]
    return np.array(rows)[:, sites, 0]


def test_times_have_a_second_mode_heavy_tails_and_a_size_that_a_trace_shares():
    usual = times_of_work(Noise(CALM.seed))
    two_modes = times_of_work(Noise(CALM.seed, bimodal=1.0)) / usual
    tailed = times_of_work(Noise(CALM.seed, heavy_tailed=1.0)) / usual
    sized = np.log(times_of_work(Noise(CALM.seed, payload_spread=1.0, payload_bound=1.0)))
    for site in range(usual.shape[1]):
        assert len(np.unique(two_modes[:, site].round(6))) == 2
        assert 1 < np.max(tailed[:, site]) <= 40
        assert np.quantile(tailed[:, site], 0.85) == 1
    assert np.abs(np.corrcoef(np.log(usual), rowvar=False)[0, 1:]).max() < 0.1
    assert np.corrcoef(sized, rowvar=False)[0, 1:].min() > 0.2


# ---- benign change ------------------------------------------------------------------------------


def test_the_autoscaler_starts_and_stops_pods_with_the_load(worlds):
    world, output = worlds(autoscaled=1.0, ramp=6.0)
    memory = gauges_of(output)
    pods = [sum(minute in of_pod for of_pod in memory.values()) for minute in range(5, CALM.minutes)]
    assert np.corrcoef(pods, world.workload.load[5:])[0, 1] > 0.6
    assert max(pods) > 1.3 * min(pods)
    for spans in spans_of(output).values():
        for span in spans:
            minute = (int(span["startTimeUnixNano"]) // 10**6 - CALM.start_ms) // 60_000
            seen = memory[span["resource"]["k8s.pod.name"]]
            assert min(seen) - 1 <= minute <= max(seen) + 1


def test_a_batch_job_works_at_fixed_times(worlds):
    world, _ = worlds(batched=1.0)
    jobs = BatchJobs(world.noise, world.topology)
    work = np.array([jobs.usage(minute)[CPU] for minute in range(3 * 1440)])
    assert np.array_equal(work[:1440], work[1440:2880])
    assert 0 < np.mean(work > 0) < 0.5
    begins = Counter(np.diff(np.flatnonzero(np.diff((work > 0).astype(int), axis=0)[:, 0] > 0)).tolist())
    assert len(begins) == 1  # one period


def test_a_deploy_adds_or_removes_calls_and_changes_times_a_little(worlds):
    world, output = worlds(deploys=50.0, reworked=1.0)
    releases = {pod.version: pod for pods in world.placement.changes.values() for pod in pods}
    tempos = [factor for pod in releases.values() for factor in pod.tempo.values()]
    assert tempos and all(1 / 1.3 <= factor <= 1.3 for factor in tempos)
    made = defaultdict(lambda: defaultdict(set))
    for spans in spans_of(output).values():
        by_id = {span["spanId"]: span for span in spans}
        for span in spans:
            parent = by_id.get(span["parentSpanId"])
            if parent and span["kind"] in (3, 4, "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER"):
                release = parent["resource"]["service.version"]
                made[parent["resource"]["service.name"], parent["name"]][release].add(repr(span["attributes"]))
    assert any(len(set(map(frozenset, of_release.values()))) > 1 for of_release in made.values())


def test_load_ramps_up_crowds_come_and_traffic_pauses(worlds):
    calm, ramp, crowds, gaps = (
        build(CALM, Noise(CALM.seed, **knobs)).workload.rate
        for knobs in ({}, {"ramp": 6.0}, {"crowds_per_day": 20.0}, {"gaps_per_day": 20.0})
    )
    growth = ramp / calm
    assert growth[-1] / growth[0] == pytest.approx(6, rel=0.01)
    assert np.diff(growth).min() > -1e-6
    assert (crowds / calm).max() > 1.3 * (crowds / calm).min()
    assert 0 < np.sum(gaps == 0) < CALM.minutes
    for rate in (calm, ramp, crowds, gaps):
        assert rate.sum() == pytest.approx(CALM.requests_per_day * CALM.days)


# ---- errors -------------------------------------------------------------------------------------


def test_what_is_not_found_is_the_clients_error_and_nobody_asks_again(worlds):
    _, output = worlds(refusing=1.0)
    answers = Counter()
    for spans in spans_of(output).values():
        by_id = {span["spanId"]: span for span in spans}
        for span in spans:
            if plain(span["attributes"]).get("http.response.status_code") == "404":
                is_client = span["kind"] in (3, "SPAN_KIND_CLIENT")
                assert bool(span["status"]) == is_client
                answers[is_client] += 1
            parent = by_id.get(span["parentSpanId"])
            if parent and span["status"] and parent["status"]:
                assert plain(span["attributes"])["error.type"] != "404"
    assert answers[True] > 10 and answers[False] > 10


def test_natural_errors_and_polling_have_the_rates_asked_for(worlds):
    def share(output: Path, tells: str) -> float:
        traces = spans_of(output).values()
        if tells == "errors":
            return float(np.mean([bool(span["status"]) for spans in traces for span in spans]))
        return float(np.mean([len(spans) for spans in traces]))

    assert share(worlds(errors=50.0)[1], "errors") > 10 * share(worlds()[1], "errors")
    assert share(worlds(polled=1.0)[1], "spans") > 1.02 * share(worlds()[1], "spans")


# ---- the truth ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed, billing, mix", [(5, "metered", "source"), (6, "machine", "source"), (7, "mixed", "novel")]
)
def test_in_a_wide_world_excess_cost_is_the_bill_less_the_bill_without_that_fault(seed, billing, mix, tmp_path):
    config = replace(SMALL, seed=seed, days=0.04, billing=billing, mix=mix, anomaly_rate=0.2, noise=WIDE)
    noise = replace(Noise.drawn(seed), autoscaled=1.0, deploys=20.0, restarts=20.0, batched=1.0)
    world = build(config, noise)
    run(world, tmp_path / "all")
    whole = billed(tmp_path / "all")
    costs = defaultdict(Decimal)
    for row in pq.read_table(tmp_path / "all" / "truth" / "costs.parquet").to_pylist():
        costs[row["fault_id"]] += row["excess_cost"]
    moved = 0
    for fault in world.faults:
        without = tmp_path / fault.fault_id
        run(replace(world, faults=[other for other in world.faults if other is not fault]), without)
        difference = whole - billed(without)
        moved += difference != 0
        assert abs(costs[fault.fault_id] - difference) < Decimal("1e-9")
    assert moved > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_wide_world_a_fault_changes_no_span_of_a_trace_it_does_not_touch(seed, tmp_path):
    world = build(replace(SMALL, seed=seed, noise=WIDE))
    run(world, tmp_path / "all")
    run(replace(world, faults=[]), tmp_path / "quiet")
    labels = {row["trace_id"]: row["is_anomalous"] for row in labels_of(tmp_path / "all")}
    quiet, every = spans_of(tmp_path / "quiet"), spans_of(tmp_path / "all")
    assert labels.keys() == every.keys()
    changed = 0
    for trace_id, spans in every.items():
        same = sorted(map(repr, spans)) == sorted(map(repr, quiet.get(trace_id, ())))
        assert same or labels[trace_id]
        changed += not same
    assert changed > 0.3 * sum(labels.values()) > 0


def test_a_wide_world_without_faults_has_nothing_anomalous(tmp_path):
    run(build(replace(SMALL, seed=4, noise=WIDE, anomaly_rate=0)), tmp_path)
    labels = labels_of(tmp_path)
    assert labels and not any(row["is_anomalous"] for row in labels)
    assert pq.read_table(tmp_path / "truth" / "costs.parquet").num_rows == 0
    assert spans_of(tmp_path).keys() == {row["trace_id"] for row in labels}


def test_no_word_tells_an_anomalous_trace_of_a_wide_world(monkeypatch, tmp_path):
    # Natural errors of every kind, in every operation, so that a small world shows each.
    monkeypatch.setattr(topology, "_ERROR_RATE_PER_CALL", 0.05)
    noise = replace(Noise.drawn(3), errors=1.0, errors_spread=0.0, endpoint_floor=0.1, sampled_one_in=1, lost=0.01)
    run(build(replace(SMALL, days=0.2), noise), tmp_path)
    labels = {row["trace_id"]: row["is_anomalous"] for row in labels_of(tmp_path)}
    personal = {"user_agent.original", "enduser.id", "client.geo.country"}
    words = {True: set(), False: set()}
    for trace_id, spans in spans_of(tmp_path).items():
        for span in spans:
            into = words[labels[trace_id]]
            into |= {(key, value) for key, value in plain(span["attributes"]).items() if key not in personal}
            into |= {("name", span["name"]), ("kind", span.get("kind")), ("status", repr(span["status"]))}
            into |= {("field", field) for field in span} | {("resource", key) for key in span["resource"]}
            into |= {("pod", span["resource"]["k8s.pod.name"])}
    assert words[True] - words[False] == set()
