"""How time and state grow: with spans, services, operations, and a month of event time with late bills.

    python -m tests.benchmarks.growth [--parts spans services operations month engine] [--detector masked] [--seed 7]

The kernels alone, in one process, without the engine: decode, assemble, detect, judge, meter, attribute, rank, as
udfs/pure/offline.py chains them. ``engine`` runs the job on 1 and 4 times the spans (tests.benchmarks.job). Prints
Markdown tables on stdout. Work grows in proportion where a column of µs stays as it is.

More services and operations are the same simulated world with other names: traces and pods are dealt out to so many
shops of 20 services, or so many variants of each operation. A month: 48 minutes of that world each day, its pods
renamed, as deploys do; and for one resource in the keyed function itself, a look each half hour, hourly
charges that come up to 72 h late, one in twenty of them corrected later.
"""

from __future__ import annotations

import argparse
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from simulator.evaluation.worlds import simulate
from tests.unit.keyed_stage import Stage
from udfs.attribute import Attribute
from udfs.pure.assemble import assemble
from udfs.pure.attribute import packed, resource_rows, usage_told
from udfs.pure.case import Case, as_it_is
from udfs.pure.detect import Detector
from udfs.pure.focus import collect_charges
from udfs.pure.judge import judge
from udfs.pure.meter import meter
from udfs.pure.offline import lines
from udfs.pure.otlp import collect_metrics, collect_spans
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Predictor, Usual
from udfs.pure.rank import rank_window
from udfs.pure.verdicts import MinuteResult
from udfs.pure.windows import HOUR_MS, MINUTE_MS, WINDOW_MS, window_start

PARTS = ("spans", "services", "operations", "month", "engine")
SERVICES = 20
# Attributes that name a pod, and a service that is called.
_POD = ("k8s.pod.name", "k8s.pod.uid", "k8s.node.name", "host.id", "cloud.resource_id")
_PEER = ("server.address", "peer.service")

Request = dict[str, Any]


# ---- a world under other names -------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """shops: copies of the services; variants: of each operation; deploy: in each pod's name."""

    shops: int = 1
    variants: int = 1
    deploy: str = ""

    def spans(self, request: Request) -> Request:
        """The request's spans, dealt out to the shops and variants by trace."""
        renamed = []
        for resource in request["resourceSpans"]:
            dealt: dict[int, list[dict]] = defaultdict(list)
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    number = int(span["traceId"][:12], 16)
                    shop = number % self.shops
                    dealt[shop].append(self._span(span, shop, number // self.shops % self.variants))
            for shop, spans in dealt.items():
                renamed.append({"resource": self._of(resource, shop), "scopeSpans": [{"spans": spans}]})
        return {"resourceSpans": renamed}

    def metrics(self, request: Request) -> Request:
        """Every shop's pods use what those of the simulated one do."""
        return {
            "resourceMetrics": [
                resource | {"resource": self._of(resource, shop)}
                for resource in request["resourceMetrics"]
                for shop in range(self.shops)
            ]
        }

    def _of(self, resource: Request, shop: int) -> Request:
        attributes = resource["resource"]["attributes"]
        return {"attributes": [self._renamed(each, shop, ("service.name",)) for each in attributes]}

    def charge(self, charge: dict[str, Any], shop: int) -> dict[str, Any]:
        """A charge of a shop's resource."""
        return charge | {"resource_id": f"{charge['resource_id']}{_letters(shop)}{self.deploy}"}

    def _span(self, span: dict, shop: int, variant: int) -> dict:
        attributes = [self._renamed(each, shop, _PEER) for each in span.get("attributes", [])]
        return span | {"name": f"{span['name']}{_letters(variant)}", "attributes": attributes}

    def _renamed(self, attribute: dict, shop: int, services: Sequence[str]) -> dict:
        suffix = _letters(shop) if attribute["key"] in (*services, *_POD) else ""
        suffix += self.deploy if attribute["key"] in _POD else ""
        if not suffix or "stringValue" not in attribute["value"]:
            return attribute
        return attribute | {"value": {"stringValue": attribute["value"]["stringValue"] + suffix}}


def _letters(number: int) -> str:
    """A suffix that no reader takes for an id; none for 0."""
    text = ""
    while number:
        number, letter = divmod(number, 20)
        text += "bcdfghjklmnpqrstvwxz"[letter]
    return f"-{text}" if text else ""


# ---- the kernels ---------------------------------------------------------------------------------


class Clock:
    """CPU seconds by what they were spent on."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """What is done meanwhile counts."""
        began = time.process_time()
        yield
        self.spent_s[what] += time.process_time() - began


class Kernels:
    """All kernels over a world, a minute after the other, and what they took."""

    def __init__(self, directory: Path, names: Names, predictor: Predictor) -> None:
        self.clock = Clock()
        self.spans = self.traces = self.points = self.rows = 0
        self.detector = Detector(predictor, tell=as_it_is)
        minutes = self._minutes(directory, names)
        usage, consumers = self._usage(directory, names)
        results: list[MinuteResult] = []
        self.minutes = sorted(minutes.keys() | usage.keys())
        for minute_ms in self.minutes:
            with self.clock("detect"):
                cases = self.detector.step(minute_ms, minutes.get(minute_ms, []), usage.get(minute_ms, {}))
            results += self._judged(cases, predictor)
        self.state = len(pickle.dumps(self.detector, pickle.HIGHEST_PROTOCOL))
        self.pending = sum(len(pickle.dumps(minute)) for minute in self.detector.pending.values())
        results += self._judged(self.detector.last_words(self.detector.pending), predictor)
        self._money(directory, names, consumers, results)

    def _judged(self, cases: Iterable[Case], predictor: Predictor) -> list[MinuteResult]:
        """What is told once, as in a run with an end: by the judges, who get a copy."""
        results = []
        for case in cases:
            if case.is_final:
                with self.clock("judge"):
                    results.append(judge(pickle.loads(pickle.dumps(case, pickle.HIGHEST_PROTOCOL)), predictor))
        return results

    def _minutes(self, directory: Path, names: Names) -> dict[int, list[bytes]]:
        fragments: dict[str, list[bytes]] = defaultdict(list)
        for line in lines(directory / "traces"):
            request = orjson.dumps(names.spans(orjson.loads(line)))
            with self.clock("decode"):
                found, _, _ = collect_spans(request)
            for trace_id, fragment in found.items():
                fragments[trace_id].append(fragment)
        minutes: dict[int, list[bytes]] = defaultdict(list)
        for trace_id, parts in fragments.items():
            with self.clock("assemble"):
                assembled = assemble(trace_id, parts)
            if assembled:
                minutes[assembled[0]].append(assembled[1])
        self.traces = sum(map(len, minutes.values()))
        self.trace_bytes = sum(len(packed_) for of in minutes.values() for packed_ in of)
        return minutes

    def _usage(self, directory: Path, names: Names) -> tuple[dict, dict[str, list[str]]]:
        """(usage as the detector takes it, what attribute is told, by resource)"""
        consumers: dict[str, list[bytes]] = defaultdict(list)
        for line in lines(directory / "metrics"):
            found, _, _ = collect_metrics(orjson.dumps(names.metrics(orjson.loads(line))))
            for consumer, fragment in found.items():
                consumers[consumer].append(fragment)
                self.points += 1
        usage: dict[int, dict[tuple[str, str], dict[str, float]]] = defaultdict(dict)
        told: dict[str, list[str]] = defaultdict(list)
        for consumer, parts in consumers.items():
            bucket, uid, name, service, resource_id = consumer.split("\x1f")
            with self.clock("meter"):
                metered = meter(int(bucket), parts)
            for minute_ms, used in metered["minutes"].items():
                usage[minute_ms][service, uid or name] = used
            text = orjson.dumps([service, uid, metered], option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
            told[resource_id].append(usage_told(text.decode()))
        return usage, told

    def _money(self, directory: Path, names: Names, told: dict[str, list[str]], results: list[MinuteResult]) -> None:
        charges: dict[str, list[dict]] = defaultdict(list)
        for path in sorted((directory / "billing").glob("*.csv")):
            for kind, charge in collect_charges(path):
                for shop in range(names.shops) if kind == "charge" else ():
                    renamed = names.charge(charge, shop)
                    charges[renamed["resource_id"]].append(renamed)
        self.resources = len(told)
        by_window: dict[int, list[dict]] = defaultdict(list)
        self.told_bytes = sum(len(text) for texts in told.values() for text in texts)
        self.rank_bytes = windows = 0
        for resource_id in sorted(told):
            consumers = [(service, of["windows"]) for service, _, of in map(orjson.loads, told[resource_id])]
            with self.clock("attribute"):
                rows = resource_rows(resource_id, consumers, charges[resource_id])
            for window_ms, of_window in rows.items():
                by_window[window_ms] += of_window
                self.rank_bytes += len(packed(of_window))
                self.rows += len(of_window)
                windows += 1
        self.rank_bytes //= max(windows, 1)
        self.told_bytes //= max(windows, 1)
        of_window: dict[int, list] = defaultdict(list)
        for result in {result.minute_ms: result for result in results}.values():
            of_window[window_start(result.minute_ms)].append((result.incidents, result.service_traces))
        for window_ms, minutes in of_window.items():
            incidents, service_traces = zip(*minutes, strict=True)
            with self.clock("rank"):
                rank_window(window_ms, incidents, service_traces, by_window[window_ms])

    def cells(self) -> list[str]:
        """Of a row of the table."""
        services, operations = len(self.detector._baselines.services), len(self.detector._baselines.operations)
        spans = int(self.detector._baselines.spans.sum())
        spent = self.clock.spent_s
        return [
            f"{spans:,}", f"{services:,}", f"{operations:,}", f"{len(self.detector._pods):,}",
            *(f"{1e6 * spent[kernel] / spans:.1f}" for kernel in ("decode", "assemble", "detect", "judge")),
            f"{1e3 * spent['detect'] / len(self.minutes):.1f}",
            f"{1e6 * spent['meter'] / max(self.points, 1):.1f}",
            f"{1e6 * spent['attribute'] / max(self.rows, 1):.1f}",
            f"{1e6 * spent['rank'] / max(self.rows, 1):.1f}",
            f"{self.state / 1e3:,.0f}", f"{self.state / services / 1e3:.1f}",
            f"{self.pending / 1e3:,.0f}", f"{self.trace_bytes / self.traces:,.0f}",
            f"{self.told_bytes:,.0f}", f"{self.rank_bytes:,.0f}",
        ]  # fmt: skip


COLUMNS = (
    "", "spans", "services", "operations", "pods", "decode, µs a span", "assemble", "detect", "judge",
    "detect, ms a minute",
    "meter, µs a point", "attribute, µs a row", "rank, µs a row", "detector's state, kB", "... a service",
    "minutes to be told anew, kB", "a trace, B", "usage kept of a resource's window, B",
    "allocations of it as ranking keeps them, B",
)  # fmt: skip


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, row by row."""
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print(flush=True)


# ---- a month -------------------------------------------------------------------------------------

MONTH_DAYS = 30
LATE_H, CORRECTED = 72, 0.05
MONTH_COLUMNS = (
    "day", "attribute, ms a look", "charges that came that day", "state of the resource, kB", "usage held",
    "charges held", "closed windows held",
)  # fmt: skip


def detector_month(directory: Path, days: int) -> Iterator[list[str]]:
    """A row for each of some days: what a minute took that day, and the state at its end."""
    detector = Detector()
    fragments = list(lines(directory / "traces"))
    first_ms = 0
    for day in range(days):
        names = Names(deploy=_letters(day))
        spent = Clock()
        by_trace: dict[str, list[bytes]] = defaultdict(list)
        for line in fragments:
            for trace_id, fragment in collect_spans(orjson.dumps(names.spans(orjson.loads(line))))[0].items():
                by_trace[trace_id].append(fragment)
        minutes: dict[int, list[bytes]] = defaultdict(list)
        for trace_id, parts in by_trace.items():
            if found := assemble(trace_id, parts):
                minutes[found[0]].append(found[1])
        chosen = sorted(minutes)[:48]
        first_ms = first_ms or chosen[0]
        for place, minute_ms in enumerate(chosen):
            with spent("detect"):
                detector.step(first_ms + day * 24 * HOUR_MS + place * MINUTE_MS, minutes[minute_ms], {})
        if day + 1 in (1, 2, 4, 8, 15, 30):
            state = len(pickle.dumps(detector, pickle.HIGHEST_PROTOCOL))
            yield [
                f"{day + 1}", f"{1e3 * spent.spent_s['detect'] / len(chosen):.1f}", f"{state / 1e3:,.0f}",
                f"{len(detector._pods):,}",
            ]  # fmt: skip


def resource_month(days: int, seed: int, pods: int = 5) -> Iterator[list[str]]:
    """A row for each of some days: what a look took that day, and the state at its end."""
    draw = random.Random(seed)
    it = Stage(Attribute(LATE_H * HOUR_MS, 1_000), "node")
    start_ms = 400_000 * HOUR_MS
    due: dict[int, list[dict]] = defaultdict(list)  # by the hour in which it comes
    spent, looks, charges = Clock(), 0, 0
    for hour in range(24 * days):
        for dimension, unit in (("cpu", "vCPU-Hours"), ("memory", "GiB-Hours")):
            charge = _charge(start_ms + hour * HOUR_MS, dimension, unit, f"{draw.random():.11f}")
            late_h = draw.randrange(1, LATE_H - 2)
            due[hour + late_h].append(charge)
            if draw.random() < CORRECTED:
                delta = {"key": f"{charge['key']} again", "charge_class": "Correction", "cost": "-0.01"}
                due[hour + draw.randrange(late_h, LATE_H - 2)].append(charge | delta)
        for half in (0, 1):
            window_ms = start_ms + hour * HOUR_MS + half * WINDOW_MS
            for pod in range(pods):
                used = {"cpu": draw.random(), "memory": 1e9 * draw.random(), "io": float(draw.randrange(99))}
                it.feed(
                    "usage",
                    f"{window_ms}\x1fpod-{pod}",
                    [f"service-{pod}", f"pod-{pod}", {"windows": {window_ms: used}}],
                )
            for charge in due.pop(hour, ()) if half else ():
                it.feed("charge", charge["key"], charge)
                charges += 1
            with spent("attribute"):
                it.fire()
            looks += 1
        it.sent.clear()
        it.rows.clear()
        if (hour + 1) % 24 == 0 and (day := (hour + 1) // 24) in (1, 2, 4, 8, 15, 30):
            state = sum(
                len(pickle.dumps(dict(held) if isinstance(held, dict) else held)) for held in it._states.values()
            )
            yield [
                f"{day}", f"{1e3 * spent.spent_s['attribute'] / looks:.1f}", f"{charges}", f"{state / 1e3:,.0f}",
                f"{it.size()['usage']}", f"{it.size()['charge']}", f"{it.size()['past']}",
            ]  # fmt: skip
        if (hour + 1) % 24 == 0:
            spent, looks, charges = Clock(), 0, 0


def _charge(start_ms: int, dimension: str, unit: str, cost: str) -> dict[str, Any]:
    """An hour of one dimension, by the unit, as ``collect_charges`` gives it."""
    key = f"{start_ms}/{dimension}"
    return {
        "key": key, "identity": key, "version": "0", "parts": [[dimension, "1"]], "per": "unit", "start_ms": start_ms,
        "end_ms": start_ms + HOUR_MS, "cost": cost, "currency": "USD", "sku_id": dimension, "charge_class": None,
        "focus_service_name": "Compute", "charge_category": "Usage", "list_unit_price": None, "consumed_quantity": "2",
        "consumed_unit": unit, "pricing_quantity": "2", "pricing_unit": unit, "converted": None,
    }  # fmt: skip


# ---- the engine ----------------------------------------------------------------------------------


def job(directory: Path) -> str:
    """What tests.benchmarks.job says of a run with the detector ``usual``."""
    command = [sys.executable, "-m", "tests.benchmarks.job", "--input", str(directory), "--set", "detector=usual"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth")
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--minutes", type=int, default=60, help="of event time in each world")
    add("--requests-per-day", type=int, default=50_000)
    add("--seed", type=int, default=7)
    add("--days", type=int, default=MONTH_DAYS, help="of the month")
    add("--detector", choices=("usual", "masked"), default="usual", help="of the kernels")
    found = parser.parse_args(argv)
    predictor = MaskedSpanModel(DEFAULT_MODEL) if found.detector == "masked" else Usual()
    with tempfile.TemporaryDirectory() as folder:

        def world(times: int = 1) -> Path:
            directory = Path(folder) / str(times)
            if not directory.exists():
                simulate(directory, ("--seed", str(found.seed), "--days", f"{found.minutes / 1440:.5f}",
                                     "--requests-per-day", str(times * found.requests_per_day)))  # fmt: skip
            return directory

        def cells(times: int, **names: int) -> list[str]:
            return Kernels(world(times), Names(**names), predictor).cells()

        if "spans" in found.parts:
            table(COLUMNS, ([f"spans × {n}", *cells(n)] for n in (1, 2, 4, 8)))
        if "services" in found.parts:
            shops = (1, 3, 10, 50)
            table(
                COLUMNS,
                ([f"{SERVICES * n} services", *cells(8, shops=n)] for n in shops),
            )
        if "operations" in found.parts:
            variants = (1, 6, 60)
            table(
                COLUMNS,
                ([f"operations × {n}", *cells(8, variants=n)] for n in variants),
            )
        if "month" in found.parts:
            table(("day", "detect, ms a minute", "detector's state, kB", "pods"), detector_month(world(), found.days))
            table(MONTH_COLUMNS, resource_month(found.days, found.seed))
        if "engine" in found.parts:
            table(("job", ""), ([f"spans × {n}", job(world(n))] for n in (2, 8)))


if __name__ == "__main__":
    main()
