"""detect: minutes of packed traces and usage -> verdicts, by masked spans and episodes.

Grain: one minute of event time in, one verdict per trace out, stated at once and again LAG_MINUTES later.

Every span is predicted from the rest of its trace (``predict``). How far it is off, per channel and in nats,
is evidence against the service whose behaviour it is. ``episodes`` weighs the evidence of many traces: per
service, per pod, and per operation for repeated calls; ``usage_watch`` does so for what pods use. A trace's
score is the best of its log odds plus THRESHOLD, as the rule's is: what a service's evidence has to
overcome, its adaptive threshold, is high in quiet times and low in an episode, and is in the score already.
Under the policy ``ema`` a trace's score is the greatest alpha of its services over their EmaThreshold instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from udfs.pure import evidence as e
from udfs.pure import tokens as t
from udfs.pure.assemble import NS_PER_MS, SEPARATOR, Trace
from udfs.pure.baseline import Vocabulary, grown, rows_of
from udfs.pure.context import THRESHOLD
from udfs.pure.detect import (
    ANOMALOUS_WEIGHT,
    READY,
    SPANS_TOGETHER,
    WARMING,
    MinuteResult,
    Row,
    RuleDetector,
    incidents,
)
from udfs.pure.embed import SpanBaselines
from udfs.pure.episodes import LONE, Episodes
from udfs.pure.evidence import Reading
from udfs.pure.frame import Frame
from udfs.pure.predict import Prediction, Predictor, Usual
from udfs.pure.skill import Skill
from udfs.pure.threshold import EmaThreshold
from udfs.pure.usage_watch import DIMENSIONS, UsageWatch
from udfs.pure.windows import MINUTE_MS
from udfs.pure.workload import Work

LAG_MINUTES = 10

# Policies of the threshold.
EPISODES, EMA = "episodes", "ema"
POLICIES = (EPISODES, EMA)

# Channels of evidence; the times come first, in the order of e.OWN, e.LEAF, e.GAP.
OWN, LEAF, GAP, FAILURE, REPEAT, STRUCTURE = range(6)
CHANNELS = 6
# The first ones. Where one is missing it says nothing; an event that is missing didn't happen.
TIMES = 3
OVERUSE = CHANNELS
KINDS = (
    "latency_spike", "latency_spike", "latency_spike", "dependency_failure", "retry_loop",
    "structure_change", "resource_overuse",
)  # fmt: skip

# Strengths looked for: factors on a time.
FACTORS = e.SLOWDOWNS
STRENGTHS = len(FACTORS)
# An event that was expected is no evidence.
EVENT_WEIGHT_MIN = 2.0
# What an episode of another kind in a service says against over-use as the reason for its usage.
EXPLAINED = 0.95

# By how much more than expected the load may slow a service, as a share of what it is expected to.
LOAD_SLACK = 0.5

# How far below even odds a trace has to be to teach what usual traces do.
SUSPICION = 2.0

# A service is being renewed while most of its spans come from pods younger than this, if it itself is older.
POD_YOUTH_MINUTES = 30
SERVICE_AGE_MINUTES = 60
RENEWED_SHARE = 0.3
# A pod is gone that has said nothing for so long.
SILENT_MINUTES = 3
# By how much a new release may be slower while it is learnt, and the samples that the past counts for then.
RELEASE_SLOWER = np.log(2.0)
RELEASE_SAMPLES = 20.0


@dataclass
class Level:
    """Evidence of a minute by (trace, subject), each pair once, in order."""

    trace: np.ndarray  # (cells,)
    subject: np.ndarray  # (cells,)
    weights: np.ndarray  # (cells, channels, strengths) nats, -inf = none
    strongest: np.ndarray  # (cells, channels) row that says most, -1 = none

    def told(self) -> np.ndarray:
        """What the cells say for an episode of their subject.  # (cells, channels, strengths)"""
        told = self.weights.copy()
        told[:, :TIMES][self.strongest[:, :TIMES] < 0] = 0.0
        told[:, REPEAT] = -np.inf
        return told

    def counts(self, together: np.ndarray) -> np.ndarray:
        """What that counts for beside others of the minute, see SpanBaselines.together.  # (cells, channels)"""
        counts = together[self.strongest]
        counts[self.strongest < 0] = 1.0
        counts[:, TIMES:] = 1.0
        return counts


@dataclass
class Minute:
    """What is kept of a judged minute, until it is told anew."""

    minute_ms: int
    rows: list[Row]  # verdicts, to be filled in
    is_warming: np.ndarray  # (traces,)
    services: Level
    pods: Level  # subjects are places in pod_names
    pod_cell: np.ndarray  # (pod cells,) the service cell of each
    loop_operation: np.ndarray  # (loops,) place in operations
    loop_cell: np.ndarray  # (loops,) service cell
    loop_weight: np.ndarray  # (loops,)
    used_cell: np.ndarray  # (n,) service cells of (trace, pod) pairs
    used_pod: np.ndarray  # (n,) place in pod_names
    pod_names: list[str]
    first_span: np.ndarray  # (service cells,) first span, -1 = only blamed
    parent: np.ndarray  # (spans,)
    depth: np.ndarray  # (spans,)
    operation: np.ndarray  # (spans,) place in operations
    operations: list[str]
    alpha: np.ndarray  # (service cells,) greatest || s_hat - s || of its spans, 0 = only blamed
    threshold: np.ndarray | None  # (service cells,) of alpha, under the policy ema
    roots: list[str]  # (traces,) root operation
    work: Work
    unexplained: np.ndarray  # (services, dimensions, 2) see UsageWatch


class MaskedDetector(RuleDetector):
    """The streaming detector; all of its state but the predictor, picklable."""

    def __init__(self, predictor: Predictor | None = None, policy: str = EPISODES) -> None:
        super().__init__()
        self.predictor = predictor or Usual()
        self._ema = EmaThreshold() if policy == EMA else None
        self._baselines: SpanBaselines = SpanBaselines()
        self._usage = UsageWatch(LAG_MINUTES)
        self._skill = Skill()  # of the predictor, on this system
        self._pods = Vocabulary()  # as in Frame.pods
        self._pod_service = np.zeros(0, np.int64)
        self._pod_since = np.zeros(0, np.int64)  # minute (ms) first seen
        self._service_since = np.zeros(0, np.int64)
        self._service_episodes = Episodes(CHANNELS, STRENGTHS, LAG_MINUTES)
        self._pod_episodes = Episodes(CHANNELS, STRENGTHS, LAG_MINUTES)
        self._loop_episodes = Episodes(1, 1, LAG_MINUTES)  # of operations
        self._judged: list[int] = []  # minutes to be told anew, ascending
        self.pending: dict[int, Minute] = {}  # these, as far as they are at hand

    def __getstate__(self) -> dict[str, Any]:
        """Without the predictor, which belongs to the worker, and the minutes, which are stored apart."""
        return {k: v for k, v in self.__dict__.items() if k not in ("predictor", "pending")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, predictor=Usual(), pending={})

    def step(
        self,
        minute_ms: int,
        traces: Sequence[bytes | Trace],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> list[MinuteResult]:
        """As RuleDetector.step; the minute of LAG_MINUTES before is told anew, by all that came since."""
        results = super().step(minute_ms, traces, usage)
        last = minute_ms - LAG_MINUTES * MINUTE_MS
        due = [minute for minute in self._judged if minute <= last]
        self._judged = [minute for minute in self._judged if minute > last]
        return results + [self._verdicts(self.pending.pop(minute), is_final=True)[0] for minute in due]

    def _take_over(self, minute_ms: int, copy: MaskedDetector) -> None:
        if minute_ms in self._judged:
            self.pending[minute_ms] = copy.pending[minute_ms]

    def last_words(self, pending: Mapping[int, Minute]) -> list[MinuteResult]:
        copy = super().ahead()
        return [copy._verdicts(pending[minute], is_final=True)[0] for minute in self._judged]

    def ahead(self) -> MaskedDetector:
        copy = super().ahead()
        copy.predictor, copy.pending = self.predictor, dict(self.pending)
        copy._judged = [minute for minute in self._judged if minute in self.pending]
        return copy

    def anew(self) -> list[MinuteResult]:
        return [self._verdicts(self.pending[minute], is_final=False)[0] for minute in self._judged]

    def due(self, minute_ms: int) -> list[int]:
        """The minutes that the step of ``minute_ms`` will tell anew: they have to be in ``pending``."""
        return [m for m in self._judged if m <= minute_ms - LAG_MINUTES * MINUTE_MS]

    # ---- reading ----------------------------------------------------------------------------

    def tokens(self, minute_ms: int, frame: Frame, reading: Reading) -> t.Tokens:
        """The minute's spans as the model sees them. Pods are entered."""
        self._enter_pods(minute_ms, frame)
        watched = [self._usage.pods.get(name) for name in frame.pods]
        usage = np.full((len(frame.pods), len(DIMENSIONS)), np.nan)
        for row, pod in enumerate(watched):
            if 0 <= pod < len(self._usage.surplus):
                usage[row] = self._usage.surplus[pod]
        return self._baselines.tokens(frame, reading, usage, self.predictor.names)

    def _enter_pods(self, minute_ms: int, frame: Frame) -> None:
        services = self._baselines.services
        before = len(self._pods)
        self._pods.see(frame.pods, minute_ms)
        self._pod_service = grown(self._pod_service, len(self._pods))
        self._pod_since = grown(self._pod_since, len(self._pods), minute_ms)
        self._service_since = grown(self._service_since, len(services), minute_ms)
        for i in range(before, len(self._pods)):
            self._pod_service[i] = services.get(self._pods.names[i].split(SEPARATOR)[0])

    def _renewed(self, minute_ms: int, frame: Frame, pod: np.ndarray, reading: Reading) -> np.ndarray:
        """Whether each service has a new release: it is old, many of its spans come from young pods, and pods that are
        not young fell silent. Where none did, pods were only added."""
        youth = POD_YOUTH_MINUTES * MINUTE_MS
        young = minute_ms - self._pod_since[pod] < youth
        services = len(self._baselines.services)
        counts = np.bincount(reading.service, minlength=services)
        fresh = np.bincount(reading.service, young, minlength=services)
        old = minute_ms - self._service_since >= SERVICE_AGE_MINUTES * MINUTE_MS
        last_seen = self._pods.last_seen
        silent = (last_seen <= minute_ms - SILENT_MINUTES * MINUTE_MS) & (last_seen > minute_ms - youth)
        silent &= last_seen - self._pod_since >= youth
        gone = np.bincount(self._pod_service[: len(silent)][silent], minlength=services)
        return old & (counts > 0) & (fresh > RENEWED_SHARE * counts) & (gone > 0)

    def _evidence(
        self, frame: Frame, reading: Reading, tokens: t.Tokens, found: Prediction, renewed: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """(row, channel, service to blame, row of the span on whose pod it happened or -1, weights)"""
        base = self._baselines
        blamed = np.where(reading.callee >= 0, reading.callee, reading.service)
        answer = np.full(frame.count, -1)
        answers = np.flatnonzero(reading.is_entry & frame.has_parent)
        answer[frame.parent[answers]] = answers
        place = np.where(blamed == reading.service, np.arange(frame.count), answer)
        nowhere = np.full(frame.count, -1)

        deviation = np.sqrt(reading.variance)
        surplus = reading.surplus - found.mean[:, t.OWN_TIME] * deviation
        variance = reading.variance * found.scale[:, t.OWN_TIME] ** 2
        surplus = surplus - np.where(renewed[blamed], RELEASE_SLOWER, 0.0)
        # What the load brings is known roughly, and off for all traces of a service together.
        load = reading.load
        surplus = surplus - LOAD_SLACK * np.maximum(load, 0.0)
        timed = np.flatnonzero(reading.is_known)
        channel = np.where(frame.is_answered, GAP, np.where(frame.is_call, LEAF, OWN))[timed]
        slow = _time_weights(surplus[timed], variance[timed])
        slow = np.minimum(slow, base.slow_limit(reading)[timed, None])

        # An error of a call that a sound callee answered is the caller's impatience, not the callee's.
        error_blamed = np.where(answer >= 0, reading.service, blamed)
        erring = _surprising(tokens, found, t.BIT_ERROR)
        unanswered = _surprising(tokens, found, t.BIT_UNANSWERED)
        logged = _surprising(tokens, found, t.BIT_LOG)
        rare = _surprising(tokens, found, t.BIT_RARE)
        # What a new release calls is its own affair.
        is_old = ~renewed[reading.service[rare[0]]]
        rare = rare[0][is_old], rare[1][is_old]
        looping, loop = self._loops(reading)

        # A callee that is dead leaves no span: its caller waits, or errs, and lacks it.
        waits = np.zeros(frame.count, bool)
        waits[timed] = slow.max(axis=1) > EVENT_WEIGHT_MIN
        waiting = np.flatnonzero(waits & ~frame.is_call)
        dead = np.full(frame.count, -1)
        dead[waiting] = base.missing_callee(frame, reading, waiting)
        blamed, error_blamed = (np.where(dead >= 0, dead, who) for who in (blamed, error_blamed))
        rare_blamed = np.where(dead >= 0, dead, reading.service)
        place = np.where(dead >= 0, -1, place)

        error_place = np.where(answer >= 0, np.arange(frame.count), place)
        rarity = rare[1] + np.log(e.STRUCTURE_TROUBLE_RATE / e.TROUBLE_RATE)
        parts = [
            (timed, channel, blamed[timed], place[timed], slow),
            (erring[0], FAILURE, error_blamed[erring[0]], error_place[erring[0]], erring[1]),
            (unanswered[0], FAILURE, blamed[unanswered[0]], nowhere[unanswered[0]], unanswered[1]),
            (logged[0], FAILURE, reading.service[logged[0]], logged[0], logged[1]),
            (looping, REPEAT, reading.service[frame.parent[looping]], frame.parent[looping], loop),
            (rare[0], STRUCTURE, rare_blamed[rare[0]], place[rare[0]], rarity),
        ]
        columns = [np.concatenate([np.broadcast_to(part[i], len(part[0])) for part in parts]) for i in range(4)]
        weights = [part[4] if part[4].ndim == 2 else np.repeat(part[4][:, None], STRENGTHS, axis=1) for part in parts]
        return *columns, np.concatenate(weights)

    def _loops(self, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        """(first row of each group of repeated calls that nothing excuses, evidence): the rule's, without its
        context. To repeat may be an operation's way of working; the rule knows each call's own past."""
        of = reading.evidence.channel == e.REPEAT
        rows = reading.evidence.row[of]
        return rows, reading.evidence.weight[of] - self._baselines.loop_context(reading.operation[rows])

    # ---- judging ----------------------------------------------------------------------------

    def _judge(self, minute_ms: int, frame: Frame, reading: Reading, overuse: Mapping[str, float]) -> MinuteResult:
        is_warming = self._is_warming(frame, reading)
        tokens = self.tokens(minute_ms, frame, reading)
        pods = np.array([self._pods.get(name) for name in frame.pods])
        renewed = self._renewed(minute_ms, frame, pods[frame.pod], reading)
        predicted = self.predictor.predict(tokens)
        found = self._skill.calibrated(tokens, predicted)
        row, channel, service, place, weights = self._evidence(frame, reading, tokens, found, renewed)

        together = self._baselines.together(reading)
        count = len(self._baselines.services)
        by_service = _level(frame.trace, reading.service, row, channel, service, weights, count)
        self._observe(self._service_episodes, minute_ms, by_service, together, np.arange(count), count, is_warming)
        known = place >= 0
        by_pod = _level(
            frame.trace, frame.pod, row[known], channel[known],
            frame.pod[place[known]], weights[known], len(pods),
        )  # fmt: skip
        self._observe(self._pod_episodes, minute_ms, by_pod, together, pods, len(self._pods), is_warming)
        # A loop shows in one operation, be the service ever so busy with others.
        calls = reading.groups[self._baselines.are_repeats_known(reading.repeat_row)]
        calls = calls[~is_warming[frame.trace[calls]]]
        loops = channel == REPEAT
        looping = np.full(frame.count, -np.inf)
        looping[row[loops]] = weights[loops, 0]
        self._loop_episodes.resize(len(self._baselines.operations))
        self._loop_episodes.step(minute_ms, reading.operation[calls], looping[calls][:, None, None])

        key = by_service.trace * count + by_service.subject
        touched = frame.trace * count + reading.service
        cell_of_span = np.searchsorted(key, touched)
        first_span = np.full(len(key), frame.count)
        np.minimum.at(first_span, cell_of_span, np.arange(frame.count))
        used = np.unique(np.stack([cell_of_span, frame.pod]), axis=1)
        alpha = np.zeros(len(key))
        np.maximum.at(alpha, cell_of_span, found.anomaly(tokens))
        threshold = None
        if self._ema:
            seen = first_span < frame.count
            by_count = self._ema.step(by_service.subject[seen], alpha[seen], count)
            threshold = by_count[by_service.subject]
        minute = Minute(
            minute_ms=minute_ms,
            rows=_verdict_rows(frame, self.predictor.version, is_warming),
            is_warming=is_warming,
            services=by_service,
            pods=by_pod,
            pod_cell=np.searchsorted(key, by_pod.trace * count + self._pod_service[pods[by_pod.subject]]),
            loop_operation=frame.operation[row[loops]],
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
            alpha=alpha,
            threshold=threshold,
            roots=[frame.operations[frame.operation[root]] for root in frame.root],
            work=self._work(frame, reading),
            unexplained=self._usage.unexplained,
        )
        self._recurrence.observe(minute_ms)
        result, odds = self._verdicts(minute, is_final=False)
        odds = odds[:, :CHANNELS].max(axis=1)
        blamed = np.full(len(frame.traces), -np.inf)
        np.maximum.at(blamed, by_service.trace, odds)
        self._teach(minute_ms, frame, reading, odds[cell_of_span], blamed, is_warming, renewed)
        self._skill.learn(tokens, predicted, self.weights)
        # What is only half suspected is no usual trace either.
        self._workload.learn(
            minute_ms, minute.roots, minute.work, 1 / (1 + np.exp(np.clip(blamed + SUSPICION, -50, 50)))
        )
        self.pending[minute_ms] = minute
        self._judged.append(minute_ms)
        return result

    @staticmethod
    def _observe(
        episodes: Episodes,
        minute_ms: int,
        level: Level,
        together: np.ndarray,
        subject: np.ndarray,
        subjects: int,
        is_warming: np.ndarray,
    ) -> None:
        """subject: the number, of so many, that each of the level's subjects has among the episodes."""
        settled = ~is_warming[level.trace]
        episodes.resize(subjects)
        episodes.step(
            minute_ms,
            subject[level.subject[settled]],
            level.told()[settled],
            level.counts(together)[settled],
        )

    def _verdicts(self, minute: Minute, is_final: bool) -> tuple[MinuteResult, np.ndarray]:
        """What is known of a minute by now; and the log odds.  # (service cells, channels and over-use)

        is_final: it is not told anew after this.
        """
        level = minute.services
        odds = _log_odds(self._service_episodes, minute.minute_ms, level.weights, level.subject)
        # By name: numbers may have changed since the minute was judged.
        pods = np.array([self._pods.get(name) for name in minute.pod_names])
        of_pods = _log_odds(self._pod_episodes, minute.minute_ms, minute.pods.weights, pods[minute.pods.subject])
        np.maximum.at(odds, minute.pod_cell, of_pods)
        odds[:, REPEAT] = -np.inf
        if len(minute.loop_cell):
            known = self._baselines.operations
            operations = np.array([known.get(name) for name in minute.operations])
            loops = _log_odds(
                self._loop_episodes,
                minute.minute_ms,
                minute.loop_weight[:, None, None],
                operations[minute.loop_operation],
            )
            np.maximum.at(odds[:, REPEAT], minute.loop_cell, loops[:, 0])
        odds = np.column_stack([odds, self._overuse(minute)])
        strongest = np.column_stack([level.strongest, minute.first_span])

        if minute.threshold is None:
            best, culprit, channel = _blame(odds, strongest, level.trace, minute)
            score, threshold = np.maximum(best + THRESHOLD, 0.0), np.full(len(best), THRESHOLD)
        else:
            margin = minute.alpha - minute.threshold
            culprit = np.lexsort((-margin, level.trace))[np.searchsorted(level.trace, np.arange(len(minute.rows)))]
            best, channel = margin[culprit], odds[culprit].argmax(axis=1)
            score, threshold = minute.alpha[culprit], minute.threshold[culprit]
            strongest = np.where(strongest < 0, minute.first_span[:, None], strongest)
        is_anomalous = (best > 0) & ~minute.is_warming
        result = MinuteResult(minute.minute_ms, is_final=is_final)
        names = self._baselines.services.names
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
                service = names[level.subject[cell]]
                row["culprit_service_name"] = service
                row["culprit_operation"] = minute_operation(minute, span, service)
                row["anomaly_kind"] = KINDS[channel[trace]]
                affected.append(_on_way(minute, span))
            result.verdicts.append(row)
        result.incidents = incidents(result.verdicts, affected)
        self._add_excess(result.incidents, result.verdicts, minute.roots, minute.work, minute.unexplained)
        self._add_recurrence(minute.minute_ms, result.incidents, is_final)
        counts = np.bincount(level.subject)
        result.service_traces = {names[i]: int(counts[i]) for i in np.flatnonzero(counts)}
        return result, odds

    def _overuse(self, minute: Minute) -> np.ndarray:
        """Log odds of over-use by service cell, less where another episode explains the usage."""
        odds_of = self._usage.at(minute.minute_ms)
        odds = np.array([odds_of.get(name, -np.inf) for name in minute.pod_names])
        used = np.full(len(minute.services.trace), -np.inf)
        np.maximum.at(used, minute.used_cell, odds[minute.used_pod])
        well = self._service_episodes.at(minute.minute_ms)[minute.services.subject, :, 0]
        other = 1 - well[:, [OWN, LEAF, GAP, FAILURE]].min(axis=1)
        chance = np.clip((1 - EXPLAINED * other) / (1 + np.exp(-used)), 1e-9, 1 - 1e-9)
        return np.log(chance / (1 - chance))

    def _teach(
        self,
        minute_ms: int,
        frame: Frame,
        reading: Reading,
        odds: np.ndarray,
        of_trace: np.ndarray,
        is_warming: np.ndarray,
        renewed: np.ndarray,
    ) -> None:
        """As the rule learns; a new release teaches fully, whatever it looks like.

        odds: (spans,) of the span's service in its trace; of_trace: (traces,) the greatest of any service.
        """
        states = self._service_episodes.now[reading.service]  # (spans, channels, states)
        is_ill = states[:, :, 0].min(axis=1) < 0.5
        is_wholesale = states[:, :, -STRENGTHS:].sum(axis=2).max(axis=1) > 0.5
        new = renewed[reading.service] | is_warming[frame.trace]
        times = np.where((is_ill & (odds > 0) | is_wholesale) & ~new, ANOMALOUS_WEIGHT, 1.0)
        # Rates are to hold still until it is clear whether an episode begins.
        # What happens to a call is in its caller's span and blamed on the callee: the trace counts as a whole.
        suspect = np.clip(of_trace[frame.trace] - np.log(LONE) - THRESHOLD, -50, 50)
        events = np.maximum(1 / (1 + np.exp(suspect)), ANOMALOUS_WEIGHT)
        events[is_warming[frame.trace] | renewed[reading.service]] = 1.0
        self.weights = np.where(new, 1.0, np.minimum(times, events))
        self._baselines.learn(minute_ms, frame, reading, times, events)
        if renewed.any():
            services = np.flatnonzero(renewed)
            self._baselines.renew(services, RELEASE_SAMPLES)
            self._usage.renew(services)

    def _forget(self, before_ms: int) -> None:
        operations = len(self._baselines.operations)
        names = self._baselines.operations.names
        super()._forget(before_ms)
        if len(self._baselines.operations) < operations:
            stays = [i for i, name in enumerate(names) if self._baselines.operations.get(name) >= 0]
            kept = np.array(stays, int)
            self._loop_episodes.keep(kept)
        kept = np.flatnonzero(self._pods.last_seen >= before_ms)
        if len(kept) < len(self._pods):
            self._pods.keep(kept)
            self._pod_service = rows_of(self._pod_service, kept)
            self._pod_since = rows_of(self._pod_since, kept)
            self._pod_episodes.keep(kept)


def _time_weights(surplus: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Evidence of a log time above the expected, for each strength.  # (spans, strengths)"""
    each = (FACTORS * surplus[:, None] - FACTORS**2 / 2) / variance[:, None]
    each = np.where(each > e.TAIL, e.TAIL + np.log1p(np.maximum(each - e.TAIL, 0.0)), each)
    return np.maximum(each, e.RELIEF)


def _surprising(tokens: t.Tokens, found: Prediction, bit: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows where the bit is set and wasn't expected, evidence)"""
    weight = np.log(e.TROUBLE_RATE / found.chance[:, bit])
    rows = np.flatnonzero(tokens.bits[:, bit] & (weight > EVENT_WEIGHT_MIN))
    return rows, weight[rows]


def _level(
    trace: np.ndarray, touched: np.ndarray, row: np.ndarray, channel: np.ndarray, blamed: np.ndarray,
    weights: np.ndarray, subjects: int,
) -> Level:  # fmt: skip
    """Evidence by (trace, subject): of all that are touched, or blamed.

    Of several spans either all are affected or one of them, at even odds; see detect._by_cell.
    """
    keys, index = np.unique(
        np.concatenate([trace * subjects + touched, trace[row] * subjects + blamed]), return_inverse=True
    )
    slot = index[len(trace) :] * CHANNELS + channel
    size = len(keys) * CHANNELS
    order = np.lexsort((row, -weights.max(axis=1), slot)) if len(row) else np.zeros(0, np.int64)
    slot, row, weights = slot[order], row[order], weights[order]
    first = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]]) if len(slot) else slot
    strongest = np.full(size, -1)
    by_slot = np.full((size, STRENGTHS), -np.inf)
    if len(slot):
        strongest[slot[first]] = row[first]
        counts = np.diff(np.r_[first, len(slot)])[:, None]
        # Errors of one trace are of one cause: they don't add up.
        together = np.where(slot[first] % CHANNELS < TIMES, SPANS_TOGETHER, 1.0)[:, None]
        every = np.add.reduceat(weights, first) * (np.minimum(counts, together) / counts)
        ratio = np.add.reduceat(np.exp(weights), first) / counts
        by_slot[slot[first]] = np.logaddexp(every, np.log(ratio)) - np.log(2)
    return Level(
        *np.divmod(keys, subjects),
        by_slot.reshape(len(keys), CHANNELS, STRENGTHS),
        strongest.reshape(len(keys), CHANNELS),
    )


def _log_odds(episodes: Episodes, minute_ms: int, weights: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Log odds that each cell's trace is affected.  # (cells, channels)"""
    share = episodes.affected(episodes.at(minute_ms))[subject]  # (cells, channels, strengths)
    with np.errstate(divide="ignore"):
        says = np.log(share) + weights
        top = says.max(axis=2, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        return top[:, :, 0] + np.log(np.exp(says - top).sum(axis=2)) - np.log1p(-share.sum(axis=2))


def _blame(
    odds: np.ndarray, strongest: np.ndarray, trace: np.ndarray, minute: Minute
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(best log odds, service cell to blame, channel) of each trace.

    The most likely one, but of times the deepest that is likely: who waits for a slow callee is slow as well.
    """
    first = np.searchsorted(trace, np.arange(len(minute.rows)))
    channel = odds.argmax(axis=1)
    top = odds[np.arange(len(odds)), channel]
    order = np.lexsort((np.arange(len(trace)), -top, trace))
    cell = order[first]
    best = top[cell]
    kind = channel[cell]
    for at in np.flatnonzero((best > 0) & (kind <= GAP)).tolist():
        last = first[at + 1] if at + 1 < len(first) else len(trace)
        own = odds[first[at] : last, : GAP + 1]
        found = np.argwhere(own > 0)
        rows = strongest[first[at] + found[:, 0], found[:, 1]]
        values = own[found[:, 0], found[:, 1]]
        deepest = found[np.lexsort((-values, -minute.depth[rows]))[0]]
        cell[at], kind[at] = first[at] + deepest[0], deepest[1]
    return best, cell, kind


def _verdict_rows(frame: Frame, version: str, is_warming: np.ndarray) -> list[Row]:
    """Verdicts without a judgement."""
    rows = []
    for number, trace in enumerate(frame.traces):
        root = frame.operations[frame.operation[frame.root[number]]].split(SEPARATOR)
        rows.append(
            {
                "trace_id": trace.trace_id,
                "start_time": trace.start_ns // NS_PER_MS,
                "root_service_name": root[0],
                "root_operation": root[1],
                "span_count": len(trace.spans),
                "anomaly_score": 0.0,
                "threshold": THRESHOLD,
                "is_anomalous": False,
                "culprit_service_name": None,
                "culprit_operation": None,
                "anomaly_kind": None,
                "model_version": version,
                "verdict_state": WARMING if is_warming[number] else READY,
            }
        )
    return rows


def minute_operation(minute: Minute, span: int, service: str) -> str:
    """The culprit's operation: the span's own, or the callee's of a call."""
    name = minute.operations[minute.operation[span]].split(SEPARATOR)
    if name[0] != service:
        for child in np.flatnonzero(minute.parent == span):
            below = minute.operations[minute.operation[child]].split(SEPARATOR)
            if below[0] == service:
                return below[1]
    return name[1]


def _on_way(minute: Minute, span: int) -> list[str]:
    """Services from a span up to its root, itself included, each once."""
    names = []
    while span >= 0:
        names.append(minute.operations[minute.operation[span]].split(SEPARATOR)[0])
        span = minute.parent[span]
    return list(dict.fromkeys(names))
