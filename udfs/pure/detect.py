"""detect: minutes of packed traces and usage -> verdicts, by what spans usually are like and by episodes.

Grain: one minute of event time in, one verdict per trace out, stated at once and again LAG_MINUTES later.

Each minute is compared with what earlier minutes gave (``baselines``) and then learnt from; the result depends on the
set of traces alone. Every span is predicted (``predict``): from the rest of its trace, or from its operation's past
alone. How far it is off, per channel and in nats, is evidence against the service whose behaviour it is
(``evidence``). ``beliefs`` weighs the evidence of many traces, ``usage_watch`` does so for what pods use.

A trace is anomalous where the best of its log odds is above 0. Its score is that, and its threshold on top: THRESHOLD,
the log odds against an anomaly in quiet times, and what the guard (``guard``) asks beyond it of the service and channel
that the trace blames, or suspects most. So the threshold is a figure per service that moves. Under the policy ``ema`` a
trace's score is the greatest alpha of its services over their EmaThreshold instead.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from udfs.pure import verdicts
from udfs.pure.assemble import SEPARATOR, Trace, unpack
from udfs.pure.baselines import Baselines
from udfs.pure.beliefs import Beliefs
from udfs.pure.channels import CHANNELS, KINDS, OVERUSE, OWN, REPEAT, THRESHOLD
from udfs.pure.counts import made_by
from udfs.pure.embed import tokens
from udfs.pure.episodes import LONE
from udfs.pure.evidence import STRENGTHS, Level, level, of_minute
from udfs.pure.frame import Frame
from udfs.pure.impact import Impact
from udfs.pure.neighbours import crowding
from udfs.pure.overuse import of_any_kind
from udfs.pure.pieces import PIECES, Pieces
from udfs.pure.pods import Pods
from udfs.pure.predict import Prediction, Predictor, Usual, usual_of
from udfs.pure.reading import Reading
from udfs.pure.skill import Skill
from udfs.pure.threshold import EmaThreshold
from udfs.pure.tokens import Tokens
from udfs.pure.usage_watch import DIMENSIONS, UsageWatch
from udfs.pure.verdicts import JudgedMinute, MinuteResult
from udfs.pure.windows import HOUR_MS, MINUTE_MS
from udfs.pure.workload import Work

LAG_MINUTES = 10

# Policies of the threshold.
EPISODES, EMA = "episodes", "ema"
POLICIES = (EPISODES, EMA)

# Traces before a root operation counts as known; spans and minutes before a service does.
ROOT_TRACES_MIN = 20.0
SERVICE_SPANS_MIN, SERVICE_MINUTES_MIN = 60.0, 10.0

# What a span teaches in the midst of trouble, of what a normal one does: a shift that stays is the
# usual after a day, a storm of hours is not.
ANOMALOUS_WEIGHT = 0.1
# How far below even odds a trace has to be to teach what usual traces do.
SUSPICION = 2.0
# The samples that the past of a new release's times counts for.
RELEASE_SAMPLES = 20.0

# Operations, pods and structures not seen for this long are forgotten, every so many minutes; sooner, and of what was
# seen the longest ago, where there are too many.
FORGET_MS = 72 * HOUR_MS
TIDY_MINUTES = 360

Usage = Mapping[tuple[str, str], Mapping[str, float]]


class Detector:
    """The streaming detector; all of its state but the predictor and the minutes, which are stored apart, picklable."""

    # Raise it where the state's attributes or their meaning change: with an older state the detector starts anew.
    STATE_VERSION = 4

    def __init__(self, predictor: Predictor | None = None, policy: str = EPISODES) -> None:
        """predictor: of spans; None = what is usual. policy: one of POLICIES."""
        self.predictor = predictor or Usual()
        self._ema = EmaThreshold() if policy == EMA else None
        self._baselines = Baselines()
        self._usage = UsageWatch(LAG_MINUTES)
        self._skill = Skill()  # of the predictor, on this system
        self._pods = Pods()
        self._pieces = Pieces()
        self._beliefs = Beliefs(LAG_MINUTES)
        self._impact = Impact()
        self._minutes = 0
        self._judged: list[int] = []  # minutes to be told anew, ascending
        self.pending: dict[int, JudgedMinute] = {}  # these, as far as they are at hand
        self.weights = np.zeros(0)  # (spans,) how far each span of the last minute taught

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("predictor", "pending", "weights")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, predictor=Usual(), pending={}, weights=np.zeros(0))

    # ---- the protocol ---------------------------------------------------------------------------

    def step(self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Usage) -> list[MinuteResult]:
        """Judge the traces that start in a minute, then learn from them.

        minute_ms: ascending from call to call. traces: as assemble packed them, or unpacked already; in any order.
        usage: (service, pod) -> dimension -> amount in this minute; empty where there is none.
        returns: of this minute, and of those of LAG_MINUTES before, told anew by all that came since.
        """
        opened = [trace if isinstance(trace, Trace) else unpack(trace) for trace in traces]
        opened.sort(key=lambda trace: trace.trace_id)
        frame = Frame(opened) if opened else None
        reading = self._baselines.read(minute_ms, frame) if frame else None
        overuse = self._watch(minute_ms, usage, frame, reading)
        results = []
        if frame and reading:
            results.append(self._judge(minute_ms, frame, reading, overuse))
        self._minutes += 1
        if self._minutes % TIDY_MINUTES == 0 or self._is_crowded():
            self._forget(minute_ms - FORGET_MS)
        due = self.due(minute_ms)
        self._judged = [minute for minute in self._judged if minute not in due]
        return results + [self._result(self.pending.pop(minute), is_final=True)[0] for minute in due]

    def again(self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Usage) -> MinuteResult | None:
        """Judge a minute by what is known now, without learning from it: one that is not over yet, or one that a
        late span changed. None if it has no traces."""
        if not traces:
            return None
        copy = self.ahead()
        result = copy.step(minute_ms, traces, usage)[0]
        if minute_ms in self._judged:
            self.pending[minute_ms] = copy.pending[minute_ms]
        return result

    def ahead(self) -> Detector:
        """A copy that may step minutes which aren't over: what it has to tell anew is of those that are at hand."""
        copy: Detector = pickle.loads(pickle.dumps(self))
        copy.predictor, copy.pending = self.predictor, dict(self.pending)
        copy._judged = [minute for minute in self._judged if minute in self.pending]
        return copy

    def anew(self) -> list[MinuteResult]:
        """What a copy that is ``ahead`` says by now of the minutes that it has stepped, and would tell anew."""
        return [self._result(self.pending[minute], is_final=False)[0] for minute in self._judged]

    def due(self, minute_ms: int) -> list[int]:
        """The minutes that the step of ``minute_ms`` will tell anew: they have to be in ``pending``."""
        return [minute for minute in self._judged if minute <= minute_ms - LAG_MINUTES * MINUTE_MS]

    def last_words(self, pending: Mapping[int, JudgedMinute]) -> list[MinuteResult]:
        """What would be told anew of past minutes if nothing came any more; nothing changes by it.

        pending: those minutes, as the detector left them to be kept.
        """
        copy: Detector = pickle.loads(pickle.dumps(self))
        return [copy._result(pending[minute], is_final=True)[0] for minute in self._judged]

    # ---- reading --------------------------------------------------------------------------------

    def _watch(self, minute_ms: int, usage: Usage, frame: Frame | None, reading: Reading | None) -> dict[str, float]:
        """What the guard of over-use asks of each consumer, the minute being taken in."""
        services = self._baselines.services
        self._baselines.enter_services([service for service, _ in usage], minute_ms)
        self._usage.resize(len(services))
        consumers = {SEPARATOR.join(key): amounts for key, amounts in usage.items()}
        self._usage.step(
            minute_ms,
            consumers,
            {name: services.get(name.split(SEPARATOR)[0]) for name in consumers},
            self._pieces.calls_of_pods(frame, reading) if frame and reading else {},
        )
        return self._usage.asked()

    def _tokens(self, frame: Frame, reading: Reading) -> Tokens:
        watched = [self._usage.pods.get(name) for name in frame.pods]
        usage = np.full((len(frame.pods), len(DIMENSIONS)), np.nan)
        for row, pod in enumerate(watched):
            if 0 <= pod < len(self._usage.surplus):
                usage[row] = self._usage.surplus[pod]
        return tokens(self._baselines, frame, reading, usage, self.predictor.names)

    def _is_warming(self, frame: Frame, reading: Reading) -> np.ndarray:
        """Whether a trace's root operation or a service of it is not known well.  # (traces,)"""
        baselines = self._baselines
        known = (baselines.samples >= SERVICE_SPANS_MIN) & (baselines.minutes >= SERVICE_MINUTES_MIN)
        young = ~known[reading.service]
        warming = np.bincount(frame.trace, young, minlength=len(frame.traces)) > 0
        return warming | (baselines.roots[reading.operation[frame.root]] < ROOT_TRACES_MIN)

    # ---- judging --------------------------------------------------------------------------------

    def _judge(self, minute_ms: int, frame: Frame, reading: Reading, asked_of_use: Mapping[str, float]) -> MinuteResult:
        base, beliefs = self._baselines, self._beliefs
        is_warming = self._is_warming(frame, reading)
        pods = self._pods.enter(minute_ms, frame.pods, frame.hosts, base.services)
        renewed = self._pods.renewed(minute_ms, pods[frame.pod], reading.service, base.service_since)
        seen = self._tokens(frame, reading)
        usual = usual_of(seen)
        predicted = self.predictor.predict(seen, usual)
        found = self._skill.calibrated(seen, usual, predicted)
        row, channel, service, place, weights = of_minute(base, frame, reading, seen, found, renewed)

        together = base.wander.together(reading)
        count = len(base.services)
        by_service = level(frame.trace, reading.service, row, channel, service, weights, count)
        asked = beliefs.observe_services(minute_ms, by_service, together, count, is_warming)
        known = place >= 0
        by_pod = level(
            frame.trace, frame.pod, row[known], channel[known],
            frame.pod[place[known]], weights[known], len(pods),
        )  # fmt: skip
        beliefs.observe_pods(minute_ms, by_pod, together, pods, len(self._pods), is_warming)
        calls = reading.groups[base.counts.are_repeats_known(reading.repeat_row)]
        calls = calls[~is_warming[frame.trace[calls]]]
        loops = channel == REPEAT
        looping = np.full(frame.count, -np.inf)
        looping[row[loops]] = weights[loops, 0]
        makes = made_by(frame, reading)
        # A span that makes calls of several kinds is one case.
        cases, of_case = np.unique(np.stack([frame.parent[calls], makes[calls]]), axis=1, return_inverse=True)
        says = np.full(cases.shape[1], -np.inf)
        np.maximum.at(says, of_case.ravel(), looping[calls])
        asked_of_loops = beliefs.observe_loops(minute_ms, reading.operation[cases[1]], says, len(base.operations))

        key = by_service.trace * count + by_service.subject
        cell_of_span = np.searchsorted(key, frame.trace * count + reading.service)
        first_span = np.full(len(key), frame.count)
        np.minimum.at(first_span, cell_of_span, np.arange(frame.count))
        used = np.unique(np.stack([cell_of_span, frame.pod]), axis=1)
        here = np.unique(by_service.subject)  # services of this minute
        work = self._pieces.of_traces(frame, reading, count)
        alpha, threshold = self._alpha(found, seen, cell_of_span, by_service)
        minute = JudgedMinute(
            minute_ms=minute_ms,
            rows=verdicts.rows_of(frame, self.predictor.version, is_warming),
            is_warming=is_warming,
            service_names=[base.services.names[i] for i in here.tolist()],
            services=by_service._replace(subject=np.searchsorted(here, by_service.subject)),
            pods=by_pod,
            pod_cell=np.searchsorted(key, by_pod.trace * count + self._pods.service[pods[by_pod.subject]]),
            loop_operation=frame.operation[makes[row[loops]]],
            loop_cell=np.searchsorted(key, frame.trace[row[loops]] * count + service[loops]),
            loop_weight=weights[loops, 0],
            used_cell=used[0],
            used_pod=used[1],
            pod_names=frame.pods,
            first_span=np.where(first_span < frame.count, first_span, -1),
            parent=frame.parent,
            depth=frame.depth,
            operation=frame.operation,
            operations=frame.operations,
            pod=frame.pod,
            asked=asked[here],
            asked_of_loops=asked_of_loops[reading.operation[makes[row[loops]]]],
            asked_of_use=np.array([asked_of_use.get(name, 0.0) for name in frame.pods]),
            alpha=alpha,
            threshold=threshold,
            roots=[frame.operations[frame.operation[root]] for root in frame.root],
            work=work._replace(piece=np.searchsorted(here, work.piece // PIECES) * PIECES + work.piece % PIECES),
            unexplained=self._usage.unexplained[here],
        )
        self._impact.observe(minute_ms)
        result, odds = self._result(minute, is_final=False)
        self._learn(minute, frame, reading, work, odds, cell_of_span, renewed)
        self._skill.learn(seen, usual, predicted, self.weights)
        self.pending[minute_ms] = minute
        self._judged.append(minute_ms)
        return result

    def _alpha(
        self, found: Prediction, seen: Tokens, cell_of_span: np.ndarray, by_service: Level
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(greatest alpha of each service cell's spans, its threshold under the policy ema)  # 2 x (cells,)"""
        alpha = np.zeros(len(by_service.trace))
        np.maximum.at(alpha, cell_of_span, found.anomaly(seen))
        if not self._ema:
            return alpha, None
        touched = np.unique(cell_of_span)
        of_services = self._ema.step(by_service.subject[touched], alpha[touched], len(self._baselines.services))
        return alpha, of_services[by_service.subject]

    def _result(self, minute: JudgedMinute, is_final: bool) -> tuple[MinuteResult, np.ndarray]:
        """What is known of a minute by now; and the log odds.  # (service cells, channels and over-use)

        is_final: it is not told anew after this.
        """
        cells = minute.services
        services, operations = self._baselines.services, self._baselines.operations
        overuse = self._usage.at(minute.minute_ms)
        odds, asked = self._beliefs.log_odds(
            minute,
            np.array([services.get(name) for name in minute.service_names]),
            np.array([self._pods.names.get(name) for name in minute.pod_names]),
            np.array([operations.get(name) for name in minute.operations]),
            np.array([overuse.get(name, -np.inf) for name in minute.pod_names]),
        )
        strongest = np.column_stack([cells.strongest, minute.first_span])
        if minute.threshold is None:
            best, culprit, channel = verdicts.blame(odds, strongest, cells.trace, minute.depth)
            threshold = THRESHOLD + asked[culprit, channel]
            score = np.maximum(best + threshold, 0.0)
        else:
            margin = minute.alpha - minute.threshold
            culprit = np.lexsort((-margin, cells.trace))[np.searchsorted(cells.trace, np.arange(len(minute.rows)))]
            best, channel = margin[culprit], odds[culprit].argmax(axis=1)
            score, threshold = minute.alpha[culprit], minute.threshold[culprit]
            strongest = np.where(strongest < 0, minute.first_span[:, None], strongest)
        is_anomalous = (best > 0) & ~minute.is_warming
        # Only who is slow by itself may be crowded out: in most minutes nobody is.
        crowded_by = self._crowded_by(minute) if (is_anomalous & (channel == OWN)).any() else []
        result = MinuteResult(minute.minute_ms, service_traces=minute.service_traces(), is_final=is_final)
        affected = []
        for trace, row in enumerate(minute.rows):
            row = row | {
                "anomaly_score": float(score[trace]),
                "threshold": float(threshold[trace]) if np.isfinite(threshold[trace]) else None,
                "is_anomalous": bool(is_anomalous[trace]),
            }
            if row["is_anomalous"]:
                cell = culprit[trace]
                span = int(strongest[cell, channel[trace]])
                service, kind = minute.service_names[cells.subject[cell]], channel[trace]
                row["culprit_operation"] = minute.operation_of(span, service)
                neighbour = crowded_by[minute.pod[span]] if kind == OWN else ""
                if neighbour:
                    service, kind = neighbour, OVERUSE
                    minute.count_blamed(result.service_traces, trace, neighbour)
                row["culprit_service_name"] = service
                row["anomaly_kind"] = KINDS[kind]
                affected.append(minute.on_way(span))
            result.verdicts.append(row)
        result.incidents = verdicts.incidents(result.verdicts, affected)
        self._impact.add_to(result, minute, services, self._usage)
        return result, odds

    def _crowded_by(self, minute: JudgedMinute) -> list[str]:
        """The service that crowds out each of a minute's pods, "" = none.  # (pods,)"""
        pods = self._pods
        greed = self._usage.at(minute.minute_ms, of_any_kind)
        heard = [number for number in map(pods.names.get, minute.pod_names) if number >= 0]
        slow = np.full(len(pods), np.nan)
        slow[heard] = self._beliefs.slow_pods(minute.minute_ms)[heard]
        odds = np.array([greed.get(name, -np.inf) for name in pods.names.names])
        found = crowding(pods.host, pods.service, slow, odds)
        names = {host: pods.names.names[pod].split(SEPARATOR)[0] for host, pod in found.items()}
        return [
            names.get(pods.host[number], "") if number >= 0 else "" for number in map(pods.names.get, minute.pod_names)
        ]

    # ---- learning -------------------------------------------------------------------------------

    def _learn(
        self,
        minute: JudgedMinute,
        frame: Frame,
        reading: Reading,
        work: Work,
        odds: np.ndarray,
        cell_of_span: np.ndarray,
        renewed: np.ndarray,
    ) -> None:
        """Let the tables learn from the minute, less from what seems affected; a new release teaches fully, whatever it
        looks like.

        A lone outlier's time teaches like all: the baselines bound its influence, and have to know how often it
        happens. In the midst of trouble the affected traces teach little, and where it is wholesale so do those that
        seem unaffected, being only the lucky end.

        odds: (service cells, channels and over-use). cell_of_span: (spans,). renewed: (services,)
        """
        odds = odds[:, :CHANNELS].max(axis=1)
        of_trace = np.full(len(frame.traces), -np.inf)
        np.maximum.at(of_trace, minute.services.trace, odds)
        states = self._beliefs.of_services()  # (services, channels, states)
        is_ill = (states[:, :, 0].min(axis=1) < 0.5)[reading.service]
        is_wholesale = (states[:, :, -STRENGTHS:].sum(axis=2).max(axis=1) > 0.5)[reading.service]
        new = renewed[reading.service] | minute.is_warming[frame.trace]
        times = np.where((is_ill & (odds[cell_of_span] > 0) | is_wholesale) & ~new, ANOMALOUS_WEIGHT, 1.0)
        # Rates are to hold still until it is clear whether an episode begins.
        # What happens to a call is in its caller's span and blamed on the callee: the trace counts as a whole.
        suspect = np.clip(of_trace[frame.trace] - np.log(LONE) - THRESHOLD, -50, 50)
        events = np.maximum(1 / (1 + np.exp(suspect)), ANOMALOUS_WEIGHT)
        events[new] = 1.0
        self.weights = np.where(new, 1.0, np.minimum(times, events))
        self._baselines.learn(minute.minute_ms, frame, reading, times, events)
        if renewed.any():
            services = np.flatnonzero(renewed)
            self._baselines.renew(services, RELEASE_SAMPLES)
            self._usage.renew(services)
        # What is only half suspected is no usual trace either.
        sound = 1 / (1 + np.exp(np.clip(of_trace + SUSPICION, -50, 50)))
        self._impact.learn(minute.minute_ms, minute.roots, work, sound)

    def _is_crowded(self) -> bool:
        return self._baselines.is_crowded() or self._pods.is_crowded() or self._usage.is_crowded()

    def _forget(self, before_ms: int) -> None:
        gone, operations = self._baselines.forget(before_ms)
        self._usage.forget(before_ms, gone)
        self._skill.reset(gone)
        self._beliefs.forget(gone, self._pods.forget(before_ms, gone), operations)
        self._impact.forget(before_ms, gone)
        self._pieces.forget(self._baselines.operations, self._baselines.services)
        if self._ema:
            self._ema.reset(gone)
