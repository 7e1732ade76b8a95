"""One request: the call tree with its times, errors and retries, and the work it makes.

All randomness is keyed (keyed.py): the same request with another set of faults draws the same
numbers at the same places. Times are milliseconds from the request's arrival.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simulator.config import (
    CACHE_LOSS,
    DEPENDENCY_FAILURE,
    INTERMITTENT_STALL,
    LATENCY_SPIKE,
    MINUTE_MS,
    N_PLUS_ONE,
    QUEUE_BACKLOG,
    RESOURCE_OVERUSE,
    RETRY_LOOP,
    SHORT_CIRCUIT,
    SWALLOWED_EXCEPTION,
)
from simulator.faults import ACCEPT, DATABASE, DEADLINE, HANG, REFUSE, WORK, Fault
from simulator.keyed import (
    key_of,
    mix,
    mix_array,
    normal,
    normal_array,
    unit,
    unit_array,
)
from simulator.noise import TAIL_MAX, Shape
from simulator.placement import Pod
from simulator.topology import ASK_AGAIN_RATE, DB, QUEUE, Endpoint, Site

# Roles of a span at a site: what the callee records, and what the caller records of the call.
SERVER, CLIENT = 0, 1

# Outcomes of a span. All of them happen without any fault, too.
OK, INTERNAL, UNAVAILABLE, TIMEOUT, UPSTREAM, NOT_FOUND = range(6)

# Draws of a site and attempt, by column.
_WORK, _NET, _USE, _BRANCH, _FATE, _POD, _JITTER = range(7)
_SERVER_ID, _CLIENT_ID = 7, 8
_COLUMNS = 9
_NORMALS = 3  # the first columns are factors exp(sigma z), the others uniform in [0, 1)
_SHAPED = 2  # of these the first have a shape beside it, by a further draw
_NET_SIGMA = 0.5
_USE_SIGMA = 0.25
_SLOW_CHANCE, _TAIL_CHANCE = (Shape._fields.index(name) for name in ("slow_chance", "tail_chance"))
# What a request's size is drawn from, beside its key.
_SIZE_SALT = 0x73697A65

# A path is the attempts along the way from the root, 3 bits a call: 0 = first attempts only.
_ATTEMPT_BITS = 3
ATTEMPTS_MAX = 1 << _ATTEMPT_BITS

# A statement that is made again has its number above all attempts of a path.
_STATEMENT_SHIFT = 42
_ATTEMPTS_MASK = (1 << _STATEMENT_SHIFT) - 1

# Sites of an endpoint are numbered below this, in the key of a draw.
_SITES_MAX = 4096

# What happens to a call by itself, as shares of the callee's error rate on top of it.
_REFUSED_SHARE = 0.3
_HUNG_SHARE = 0.2
# Calls whose fate lies above this, by less than the rate, are answered with "not found".
_NOT_FOUND_ABOVE = 0.5
# Garbage collection, a cold cache: now and then a call takes several times as long.
_HICCUP_RATE = 0.0004
_HICCUP_FACTOR = 4.0

_CONNECT_MS = 1.5  # until a refusal comes back
_BACKOFF_MS = 15.0
_FAST_FAILURE = 0.3  # share of the own time until an error answer
_CLIENT_CPU_SHARE = 0.1  # of the own cpu, for each further call attempt
_STATEMENT_IO_SHARE = 0.3  # of the own io, for a database statement beyond the usual ones
_FAILURE_CPU_SHARE = 0.3  # of the own cpu, for a call that fails: traces, reconnects, logs

# Memory of a call stays taken until the collector comes by.
_RETENTION_MS = 2_000.0


class Span(NamedTuple):
    """A span as simulated; its ids and parents follow from (site, path, role)."""

    site: Site
    path: int
    role: int
    slot: int  # the pod that records it
    start_ms: float
    end_ms: float
    outcome: int


class Use(NamedTuple):
    """Work of one call on one pod, in integers, so that sums are exact in any order."""

    minute: int
    slot: int
    cpu_us: int
    memory_byte_ms: int
    io_operations: int
    transmit_bytes: int
    receive_bytes: int


class Conditions(NamedTuple):
    """What requests meet in a minute."""

    pods: Sequence[Pod]  # by slot
    replicas: Sequence[int]  # by service: how many of its slots, from the first, take calls
    slowdown: Sequence[float]  # by slot: factor on own times


class Draws:
    """Draws of all sites of an endpoint, for many requests at once or for one repeated call."""

    def __init__(self, seed: int, endpoint: Endpoint, payload_spread: float) -> None:
        """payload_spread: of the requests' sizes, standard deviation of the log."""
        count = len(endpoint.sites)
        self._base = key_of(seed, "request")
        places = np.arange(count * _COLUMNS, dtype=np.uint64)
        self._places = mix_array(places)[None, :]
        self._count = count
        self._sigmas = [(site.operation.sigma, _NET_SIGMA, _USE_SIGMA) for site in endpoint.sites]
        self._shapes = [(site.operation.shape, site.step.shape) for site in endpoint.sites]
        self._shape_table = np.array(self._shapes)  # (sites, shaped columns, fields of a shape)
        self._payloads = [payload_spread * site.operation.payload for site in endpoint.sites]
        self._has_shapes = bool(self._shape_table[:, :, [_SLOW_CHANCE, _TAIL_CHANCE]].any())
        self._has_payloads = any(self._payloads)

    def batch(self, ids: np.ndarray) -> tuple[list[int], list[list[list[float]]], list[str]]:
        """(keys, draws[request][site][column], hex of trace and span ids) of first attempts.

        The hex holds 32 digits of the trace's id, then 16 for each (site, role).
        """
        keys = mix_array(np.uint64(self._base) ^ mix_array(ids))
        hashed = mix_array(keys[:, None] ^ self._places).reshape(len(ids), self._count, _COLUMNS)
        draws = np.empty((len(ids), self._count, _SERVER_ID))
        draws[:, :, :_NORMALS] = np.exp(normal_array(hashed[:, :, :_NORMALS]) * np.array(self._sigmas))
        draws[:, :, _NORMALS:] = unit_array(hashed[:, :, _NORMALS:_SERVER_ID])
        if self._has_shapes:
            draws[:, :, :_SHAPED] *= self._shape_factors(unit_array(mix_array(hashed[:, :, :_SHAPED])))
        if self._has_payloads:
            sizes = normal_array(mix_array(keys ^ np.uint64(_SIZE_SALT)))
            factors = np.exp(sizes[:, None] * np.array(self._payloads))
            draws[:, :, _WORK] *= factors
            draws[:, :, _USE] *= factors
        trace_ids = np.stack([mix_array(~keys), mix_array(mix_array(~keys))], axis=1)
        span_ids = hashed[:, :, _SERVER_ID:].reshape(len(ids), -1)
        rows = np.concatenate([trace_ids, span_ids], axis=1).astype(">u8")
        return keys.tolist(), draws.tolist(), [row.tobytes().hex() for row in rows]

    def again(self, key: int, site: int, path: int) -> list[float]:
        """Draws of one call on a path with repeated attempts."""
        first = (path * _SITES_MAX + site) * _COLUMNS
        sigmas = self._sigmas[site]
        hashed = [mix(key ^ mix(first + column)) for column in range(_SERVER_ID)]
        draws = [
            math.exp(normal(each) * sigmas[column]) if column < _NORMALS else unit(each)
            for column, each in enumerate(hashed)
        ]
        if self._has_shapes:
            for column, shape in enumerate(self._shapes[site]):
                draws[column] *= shape.factor(unit(mix(hashed[column])))
        if self._payloads[site]:
            factor = math.exp(normal(mix(key ^ _SIZE_SALT)) * self._payloads[site])
            draws[_WORK] *= factor
            draws[_USE] *= factor
        return draws

    def _shape_factors(self, draws: np.ndarray) -> np.ndarray:
        """(requests, sites, shaped columns) factors; the same numbers as ``Shape.factor``."""
        slow_chance, slow_factor, tail_chance, tail_exponent = np.moveaxis(self._shape_table, -1, 0)
        factors = np.where(draws < slow_chance, slow_factor, 1.0)
        tailed = np.nonzero((draws > 1 - tail_chance) & (draws >= slow_chance))
        chance, exponent = (np.broadcast_to(each, draws.shape)[tailed] for each in (tail_chance, tail_exponent))
        factors[tailed] = np.minimum(((1 - draws[tailed]) / chance) ** (-1 / exponent), TAIL_MAX)
        return factors


def span_id(key: int, hexes: str, site: int, path: int, role: int) -> str:
    """The id of a span, 16 hex digits."""
    if not path:
        start = 32 + (2 * site + role) * 16
        return hexes[start : start + 16]
    place = (path * _SITES_MAX + site) * _COLUMNS + _SERVER_ID + role
    return f"{mix(key ^ mix(place)):016x}"


def parent_of(span: Span) -> tuple[int, int, int] | None:
    """(site, path, role) of a span's parent; None for the root."""
    site, path, role = span[:3]
    if site.parent is None:
        return None
    if role == SERVER:
        return site.index, path, CLIENT
    if site.transport == DB:
        return site.parent.index, path & _ATTEMPTS_MASK, SERVER
    return site.parent.index, path >> _ATTEMPT_BITS, SERVER


class _Body:
    """What one call takes of its pod: time of its own, and work."""

    __slots__ = (
        "own_ms",
        "own_cpu_us",
        "cpu_us",
        "memory_bytes",
        "level_bytes",
        "dropped",
        "own_io",
        "io_operations",
        "transmit_bytes",
        "receive_bytes",
        "query_factor",
        "slow_queries",
        "loop",
        "cold_cache",
        "n_plus_one",
        "early_return",
    )

    def __init__(self, site: Site, draw: list[float], slowdown: float, pod: Pod) -> None:
        operation, use = site.operation, draw[_USE]
        self.own_ms = site.own_ms * draw[_WORK] * slowdown * pod.slow * pod.tempo.get(operation, 1.0)
        self.own_cpu_us = operation.cpu_us
        self.cpu_us = operation.cpu_us * use * pod.heavy
        self.memory_bytes = operation.memory_bytes * use
        # What of it is not this call's, but the pod's whatever it does; what a fault adds is the call's.
        self.level_bytes = self.memory_bytes * operation.level_share
        self.dropped = pod.dropped
        self.own_io = operation.io_operations
        self.io_operations = operation.io_operations * use
        self.transmit_bytes = operation.response_bytes * use
        self.receive_bytes = operation.request_bytes
        self.query_factor = 1.0
        self.slow_queries: Fault | None = None
        self.loop: Fault | None = None
        self.cold_cache: Fault | None = None
        self.n_plus_one: Fault | None = None
        self.early_return: Fault | None = None

    def overuse(self, mode: str, strength: float) -> None:
        """Multiply one kind of work."""
        if mode == "cpu":
            self.cpu_us *= strength
        elif mode == "memory":
            self.memory_bytes *= strength
        elif mode == "io":
            self.io_operations *= strength
        else:
            self.transmit_bytes *= strength

    def count_call(self, site: Site, attempts: int, outcome: int) -> None:
        """Add the caller's work for a call it made."""
        self.cpu_us += self.own_cpu_us * (_CLIENT_CPU_SHARE * (attempts - 1) + _FAILURE_CPU_SHARE * (outcome != OK))
        self.transmit_bytes += attempts * site.operation.request_bytes
        self.receive_bytes += attempts * site.operation.response_bytes

    def count_statement(self) -> None:
        """Add the caller's work for a database statement beyond the usual ones."""
        self.cpu_us += self.own_cpu_us * _CLIENT_CPU_SHARE
        self.io_operations += self.own_io * _STATEMENT_IO_SHARE


class Request:
    """The way of one request through the shop, under a given set of faults."""

    def __init__(
        self,
        endpoint: Endpoint,
        draws: Draws,
        key: int,
        rows: list[list[float]],
        arrival_ms: float,
        conditions: Conditions,
        faults: Mapping[int, Sequence[Fault]],
    ) -> None:
        """arrival_ms: since the world's start. faults: those that are on and have chosen this
        request, by the service that they are in."""
        self._draws = draws
        self._key = key
        self._rows = rows
        self._arrival_ms = arrival_ms
        self._pods, self._replicas, self._slowdown = conditions
        self._faults = faults
        self.spans: list[Span] = []
        self.uses: list[Use] = []
        self.swallowed: list[Span] = []  # failures that logs tell of, spans as they would be
        self.touched: dict[Fault, None] = {}  # in the order of first touch

        root = endpoint.root
        row = rows[0]
        slot = self._slot(root, row)
        failing = self._failing(root, 0, slot) if faults else None
        self.duration_ms, self.outcome = self._serve(root, 0, row, slot, 0.0, failing)

    def _slot(self, site: Site, draw: list[float]) -> int:
        """The pod that takes a call."""
        return site.first_slot + int(draw[_POD] * self._replicas[site.service_index])

    def _serve(
        self,
        site: Site,
        path: int,
        draw: list[float],
        slot: int,
        start: float,
        failing: Fault | None,
    ) -> tuple[float, int]:
        """The callee's side of a call: its body, with all that it calls. (end, outcome)"""
        body = _Body(site, draw, self._slowdown[slot], self._pods[slot])
        if site.service_index in self._faults:
            self._afflict(body, site, path, slot, draw[_JITTER])
        children = site.children
        fail_at = len(children) + 1  # the step before which the body gives up
        outcome = OK
        if failing:
            outcome, fail_at = INTERNAL, 0
            body.own_ms *= _FAST_FAILURE
        elif draw[_FATE] < site.error_rate:
            outcome, fail_at = INTERNAL, int(draw[_JITTER] * fail_at)
        elif _NOT_FOUND_ABOVE <= draw[_FATE] < _NOT_FOUND_ABOVE + site.refusal_rate:
            outcome, fail_at = NOT_FOUND, int(draw[_JITTER] * fail_at)
        elif draw[_FATE] > 1 - _HICCUP_RATE:
            body.own_ms *= 1 + _HICCUP_FACTOR * draw[_JITTER]
        early_return = None
        if body.early_return:
            leave_at = self._leaves_at(body.early_return, body, site, path, draw[_JITTER], fail_at)
            if leave_at < fail_at:
                early_return, fail_at, outcome = body.early_return, leave_at, OK

        # Own time passes before, between and after the calls; parallel ones share their beginning.
        segment = body.own_ms / (len(children) + 1)
        time = latest = start + segment
        for child in children[:fail_at]:
            row = self._draw(child, path)
            if not self._is_made(child, row, body):
                continue
            if child.transport == DB:
                time, result = self._queries(child, path, slot, time, row, body)
            else:
                act = self._publish if child.transport == QUEUE else self._call
                loop = body.loop if body.loop and body.loop.target == child.service_index else None
                end, result, attempts = act(child, path, slot, time, loop)
                body.count_call(child, attempts, result)
                latest = max(latest, end)
                if not site.is_parallel:
                    time = end
            if result and child.is_critical:
                outcome = UPSTREAM
                if not site.is_parallel:
                    early_return = None  # it does not come that far
                    break
            if not site.is_parallel:
                time += segment
        end = max(time, latest) + segment
        if early_return:
            outcome = OK
            self.touched[early_return] = None
            if early_return.kind == SHORT_CIRCUIT:
                body.cpu_us *= (fail_at + 1) / (len(children) + 1)
            else:
                body.cpu_us += body.own_cpu_us * _FAILURE_CPU_SHARE
                self.swallowed.append(Span(site, path, SERVER, slot, start, end, INTERNAL))

        self.spans.append(Span(site, path, SERVER, slot, start, end, outcome))
        self.uses.append(
            Use(
                minute=int((self._arrival_ms + start) // MINUTE_MS),
                slot=slot,
                cpu_us=int(body.cpu_us),
                memory_byte_ms=int((body.memory_bytes - body.level_bytes) * (end - start + _RETENTION_MS)),
                io_operations=int(body.io_operations + draw[_JITTER]),  # unbiased rounding
                transmit_bytes=int(body.transmit_bytes),
                receive_bytes=int(body.receive_bytes),
            )
        )
        return end, outcome

    def _draw(self, site: Site, path: int) -> list[float]:
        """The draws of a site on a path."""
        return self._draws.again(self._key, site.index, path) if path else self._rows[site.index]

    @staticmethod
    def _is_made(child: Site, row: list[float], body: _Body) -> bool:
        """Whether a call takes a step: by its branch, or since no cache answers in its place."""
        is_asked = row[_BRANCH] < child.probability or body.cold_cache and child.transport == DB
        return bool(is_asked and child.step not in body.dropped)

    def _leaves_at(self, fault: Fault, body: _Body, site: Site, path: int, jitter: float, fail_at: int) -> int:
        """The step before which a fault makes a body return; ``fail_at`` where nothing changes."""
        children = site.children
        step = fault.steps_done(len(children), jitter)
        if fault.kind == SWALLOWED_EXCEPTION or any(
            self._is_made(child, self._draw(child, path), body) for child in children[step:fail_at]
        ):
            return step
        return fail_at

    def _afflict(self, body: _Body, site: Site, path: int, slot: int, jitter: float) -> None:
        """What the faults in a service do to the body of a call on one of its pods."""
        for fault in self._faults[site.service_index]:
            if fault.slot not in (None, slot):
                continue
            strength = fault.strength(jitter)
            if fault.kind == LATENCY_SPIKE and fault.mode == WORK:
                body.own_ms *= strength
                body.cpu_us *= 1 + fault.side_effect * (strength - 1)
                self.touched[fault] = None
            elif fault.kind == LATENCY_SPIKE and fault.mode == DATABASE:
                body.query_factor *= strength
                body.slow_queries = fault
            elif fault.kind == RESOURCE_OVERUSE:
                body.own_ms *= 1 + fault.side_effect * (strength - 1)
                body.overuse(fault.mode, strength)
                self.touched[fault] = None
            elif fault.kind == RETRY_LOOP:
                body.loop = fault
            elif fault.kind == INTERMITTENT_STALL and self._hits(fault, site, path):
                body.own_ms *= strength
                self.touched[fault] = None
            elif fault.kind == CACHE_LOSS and not body.cold_cache:  # it is lost but once
                body.query_factor *= strength
                body.cold_cache = fault
            elif fault.kind == N_PLUS_ONE:
                body.n_plus_one = fault
            elif fault.kind == SHORT_CIRCUIT or (fault.kind == SWALLOWED_EXCEPTION and self._hits(fault, site, path)):
                body.early_return = fault

    def _hits(self, fault: Fault, site: Site, path: int) -> bool:
        """Whether a fault that hits a share of the calls hits this one."""
        return fault.hits(self._key, path * _SITES_MAX + site.index)

    def _queries(
        self, site: Site, path: int, slot: int, time: float, draw: list[float], body: _Body
    ) -> tuple[float, int]:
        """A step that asks the database: one statement, or many. (end, outcome of the last)"""
        if draw[_BRANCH] >= site.probability:
            body.count_statement()
        time, outcome = self._query(site, path, slot, time, draw, body)
        fault = body.n_plus_one
        for number in range(1, fault.attempts(self._key) if fault else 1):
            if outcome:
                break
            if fault:
                self.touched[fault] = None
            body.count_statement()
            here = path | number << _STATEMENT_SHIFT
            time, outcome = self._query(site, here, slot, time, self._draw(site, here), body)
        return time, outcome

    def _query(
        self, site: Site, path: int, slot: int, time: float, draw: list[float], body: _Body
    ) -> tuple[float, int]:
        """A statement against the service's database. (end, outcome)"""
        end = time + site.own_ms * draw[_WORK] * body.query_factor
        for fault in (body.slow_queries, body.cold_cache):
            if fault:
                self.touched[fault] = None
        outcome = INTERNAL if draw[_FATE] < site.error_rate else OK
        self.spans.append(Span(site, path, CLIENT, slot, time, end, outcome))
        return end, outcome

    def _call(self, site: Site, path: int, caller_slot: int, time: float, loop: Fault | None) -> tuple[float, int, int]:
        """A synchronous call with its retries. (end, outcome of the last attempt, attempts)"""
        path <<= _ATTEMPT_BITS
        attempt = 0
        while True:
            here = path | attempt
            draw = self._draw(site, here)
            slot = self._slot(site, draw)
            fate = draw[_FATE]
            failing, delay = None, 0.0
            if site.service_index in self._faults:
                failing = self._failing(site, here, slot)
                wait, delay = self._queueing(site, slot, draw)
                time += wait
            error_rate = site.error_rate
            network = site.network_ms * draw[_NET] * self._pods[caller_slot].node.gaps[self._pods[slot].node.index]
            refused_below = error_rate * (1 + _REFUSED_SHARE)
            hung_below = refused_below + error_rate * _HUNG_SHARE
            if failing and failing.mode == REFUSE or error_rate <= fate < refused_below:
                end, outcome = time + _CONNECT_MS * draw[_NET], UNAVAILABLE
            elif failing and failing.mode == HANG or refused_below <= fate < hung_below:
                end, outcome = time + site.timeout_ms, TIMEOUT
            else:
                end, outcome = self._serve(site, here, draw, slot, time + network + delay, failing)
                end += network
                if end - time > site.timeout_ms:
                    end, outcome = time + site.timeout_ms, TIMEOUT
            attempt += 1
            repeats = loop is not None and attempt < loop.attempts(self._key)
            if loop and repeats and loop.mode == DEADLINE and outcome != UNAVAILABLE:
                # The loop's own deadline is too short for the callee, which works on regardless.
                end, outcome = time + (end - time) * (0.3 + 0.5 * draw[_JITTER]), TIMEOUT
            self.spans.append(Span(site, here, CLIENT, caller_slot, time, end, outcome))
            if loop and repeats:
                self.touched[loop] = None
            if outcome == NOT_FOUND:
                outcome = OK  # it is an answer: the caller neither asks again nor fails
            asks_again = hung_below <= fate < hung_below + site.again_rate and attempt == 1
            if not (repeats or asks_again or outcome and attempt < site.attempts):
                return end, outcome, attempt
            if attempt == ATTEMPTS_MAX:
                return end, outcome, attempt
            time = end + _BACKOFF_MS * attempt * (0.5 + draw[_JITTER])

    def _publish(
        self, site: Site, path: int, caller_slot: int, time: float, loop: Fault | None
    ) -> tuple[float, int, int]:
        """A message through a queue: the caller waits for the broker only, a consumer works later.

        Every message is consumed once; what fails goes to the dead letters, not to the caller.
        """
        path <<= _ATTEMPT_BITS
        attempt = 0
        while True:
            here = path | attempt
            draw = self._draw(site, here)
            slot = self._slot(site, draw)
            end = time + _CONNECT_MS * draw[_NET]
            self.spans.append(Span(site, here, CLIENT, caller_slot, time, end, OK))
            failing, delay = None, 0.0
            if site.service_index in self._faults:
                failing = self._failing(site, here, slot)
                _, delay = self._queueing(site, slot, draw)
            self._serve(site, here, draw, slot, end + site.network_ms * draw[_NET] + delay, failing)
            attempt += 1
            asks_again = 1 - _HICCUP_RATE - ASK_AGAIN_RATE < draw[_FATE] < 1 - _HICCUP_RATE
            repeats = loop is not None and attempt < loop.attempts(self._key)
            if loop and repeats:
                self.touched[loop] = None
            if attempt == ATTEMPTS_MAX or not (repeats or asks_again and attempt == 1):
                return end, OK, attempt
            time = end + _BACKOFF_MS * attempt * (0.5 + draw[_JITTER])

    def _failing(self, site: Site, path: int, slot: int) -> Fault | None:
        """The dependency failure that hits this attempt, if any."""
        for fault in self._faults.get(site.service_index, ()):
            if fault.kind == DEPENDENCY_FAILURE and fault.slot in (None, slot):
                if self._hits(fault, site, path):
                    self.touched[fault] = None
                    return fault
        return None

    def _queueing(self, site: Site, slot: int, draw: list[float]) -> tuple[float, float]:
        """(what the caller waits for a connection, what the call waits at the callee's door)"""
        wait = delay = 0.0
        for fault in self._faults[site.service_index]:
            if fault.kind not in (LATENCY_SPIKE, QUEUE_BACKLOG) or fault.slot not in (None, slot):
                continue
            usual = site.network_ms if site.transport == QUEUE else site.own_ms
            extra = usual * (fault.strength(draw[_JITTER]) - 1)
            if fault.mode == ACCEPT:
                delay += extra
                self.touched[fault] = None
            if fault.pool_wait:
                wait += extra * fault.pool_wait
                self.touched[fault] = None
        return wait, delay
