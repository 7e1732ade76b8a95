"""detect: minutes of packed traces and usage -> what is usual, what is believed, and each minute's case.

Grain: one minute of event time in, its case out, told at once and again LAG_MINUTES later; ``judge`` makes verdicts of
it. Each minute is compared with what earlier minutes gave (``baselines``) and then learnt from; the result depends on
the set of traces alone.

What the detector learns, and what it believes of services and pods (``beliefs``, ``usage_watch``), rests on what is
usual alone. No model is in that loop, so a model's work is the judges', of whom there may be many. Here it is asked of
a few traces a minute, to see how far it has proven itself on this system (``skill``).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from udfs.pure.assemble import NS_PER_MS, SEPARATOR, Trace, opened
from udfs.pure.baselines import Baselines
from udfs.pure.beliefs import Beliefs
from udfs.pure.case import Believed, Case, Cells, cells_of
from udfs.pure.channels import CHANNELS, FAILURE, KINDS, OVERUSE, REPEAT, STRUCTURE, THRESHOLD, TIMES
from udfs.pure.counts import made_by
from udfs.pure.embed import tokens
from udfs.pure.episodes import LONE
from udfs.pure.evidence import STRENGTHS, Clues, clues_of
from udfs.pure.feedback import FalseAlarm
from udfs.pure.frame import Frame
from udfs.pure.impact import Impact
from udfs.pure.judge import accused_of, judge, log_odds_of
from udfs.pure.lasting import Lasting
from udfs.pure.neighbours import SLOW_MIN, crowding
from udfs.pure.pieces import PIECES, Pieces
from udfs.pure.pods import Pods
from udfs.pure.predict import Prediction, Predictor, Usual, usual_of
from udfs.pure.reading import Reading
from udfs.pure.skill import Skill, calibrated
from udfs.pure.threshold import EmaThreshold
from udfs.pure.tokens import Tokens
from udfs.pure.usage_watch import DIMENSIONS, UsageWatch
from udfs.pure.windows import HOUR_MS, MINUTE_MS

LAG_MINUTES = 10

# Policies of the threshold.
EPISODES, EMA = "episodes", "ema"
POLICIES = (EPISODES, EMA)


class _OfMinute(Protocol):
    minute_ms: int


# What is made of a case.
Told = TypeVar("Told", bound=_OfMinute)

# Spans of each minute by which a model is measured: its share of the work here doesn't grow with the load.
AUDIT_SPANS = 200

# Traces before a root operation counts as known; spans and minutes before a service does.
ROOT_TRACES_MIN = 20.0
SERVICE_SPANS_MIN, SERVICE_MINUTES_MIN = 60.0, 10.0

# What a span teaches in the midst of trouble, of what a normal one does: what goes on for a day is usual, a storm of
# hours is not.
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


class Detector(Generic[Told]):
    """The streaming detector; all of its state but the predictor and the minutes, which are stored apart, picklable."""

    # Raise it where the state's attributes or their meaning change: with an older state the detector starts anew.
    STATE_VERSION = 5

    def __init__(
        self,
        predictor: Predictor | None = None,
        policy: str = EPISODES,
        tell: Callable[[Case, Predictor], Told] = judge,  # type: ignore[assignment]
    ) -> None:
        """predictor: of spans; None = what is usual. policy: one of POLICIES. tell: what to make of each case."""
        self.predictor = predictor or Usual()
        self.tell = tell
        self._ema = EmaThreshold() if policy == EMA else None
        self._baselines = Baselines()
        self._usage = UsageWatch(LAG_MINUTES)
        self._skill = Skill()  # of the predictor, on this system
        self._pods = Pods()
        self._pieces = Pieces()
        self._beliefs = Beliefs(LAG_MINUTES)
        self._impact = Impact()
        self._lasting = Lasting()
        self._minutes = 0
        self._admitted: set[str] = set()  # keys of false alarms
        self._judged: list[int] = []  # minutes to be told anew, ascending
        self.pending: dict[int, Case] = {}  # these, as far as they are at hand
        self.weights = np.zeros(0)  # (spans,) how far each span of the last minute taught

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("predictor", "tell", "pending", "weights")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, whom nobody told of false alarms and which knew no shifts that last, too."""
        new = {"_admitted": set(), "_lasting": Lasting()}
        self.__dict__.update(new | state, predictor=Usual(), tell=judge, pending={}, weights=np.zeros(0))

    # ---- the protocol ---------------------------------------------------------------------------

    def step(self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Usage, learns: bool = True) -> list[Told]:
        """Judge the traces that start in a minute, then learn from them.

        minute_ms: ascending from call to call. traces: as assemble packed them, or unpacked already; in any order.
        usage: (service, pod) -> dimension -> amount in this minute; empty where there is none. learns: False of a copy
            that steps no minute after this one, and is spared the work.
        returns: of this minute, and of those of LAG_MINUTES before, told anew by all that came since.
        """
        read = sorted(map(opened, traces), key=lambda trace: trace.trace_id)
        frame = Frame(read) if read else None
        consumers = {SEPARATOR.join(key): amounts for key, amounts in usage.items()}
        running = self._usage.running(minute_ms, consumers)
        reading = self._baselines.read(minute_ms, frame, running) if frame else None
        overuse = self._watch(minute_ms, consumers, frame, reading)
        self._pods.hear(minute_ms, consumers)
        results = []
        if frame and reading:
            results.append(self._judge(minute_ms, frame, reading, overuse, learns))
        self._minutes += 1
        if self._minutes % TIDY_MINUTES == 0 or self._is_crowded():
            self._forget(minute_ms - FORGET_MS)
        return results + self._tell_due(minute_ms)

    def again(self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Usage) -> Told | None:
        """Judge a minute by what is known now, without learning from it: one that is not over yet, or one that a
        late span changed. None if it has no traces."""
        if not traces:
            return None
        copy = self.ahead()
        result = copy.step(minute_ms, traces, usage, learns=False)[0]
        if minute_ms in self._judged:
            self.pending[minute_ms] = copy.pending[minute_ms]
        return result

    def admit(self, alarm: FalseAlarm) -> bool:
        """Take in that nothing was wrong when a culprit was seen: from now on more is asked of it. Each alarm once:
        returns whether it is the first time."""
        if alarm.key in self._admitted:
            return False
        self._admitted.add(alarm.key)
        base, pods = self._baselines, self._pods
        service = base.services.get(alarm.culprit)
        if service < 0:
            return True
        of_service = np.array([service])
        operations = np.flatnonzero([name.split(SEPARATOR)[0] == alarm.culprit for name in base.operations.names])
        for kind, minutes in self._impact.on(alarm.of_ms, alarm.culprit).items():
            if alarm.kind in (None, kind):
                self._beliefs.admit(kind, of_service, np.flatnonzero(pods.service == service), operations, minutes)
                if kind == KINDS[OVERUSE]:
                    self._usage.admit(service, minutes)
        return True

    def ahead(self) -> Detector[Told]:
        """A copy that may step minutes which aren't over: what it has to tell anew is of those that are at hand."""
        copy = self._copy()
        copy.pending = dict(self.pending)
        copy._judged = [minute for minute in self._judged if minute in self.pending]
        return copy

    def anew(self) -> list[Told]:
        """What a copy that is ``ahead`` says by now of the minutes that it has stepped, and would tell anew."""
        return [self._tell(self.pending[minute], is_final=False) for minute in self._judged]

    def adopt(self, ahead: Detector[Told], minute_ms: int) -> list[Told]:
        """Step a minute as a copy has done that was ahead and is of no other use from now on.

        returns: of the minutes of LAG_MINUTES before, told anew.
        """
        judged = self._judged
        self.__dict__.update(ahead.__getstate__())
        self._judged = judged
        if minute_ms in ahead.pending:
            self._judged.append(minute_ms)
            self.pending[minute_ms] = ahead.pending[minute_ms]
        return self._tell_due(minute_ms)

    def drop(self, minute_ms: int) -> None:
        """Have a copy that is ahead tell the minutes until this one no more: they are over."""
        self._judged = [minute for minute in self._judged if minute > minute_ms]
        self.pending = {minute: case for minute, case in self.pending.items() if minute > minute_ms}

    def _tell_due(self, minute_ms: int) -> list[Told]:
        due = self.due(minute_ms)
        self._judged = [minute for minute in self._judged if minute not in due]
        return [self._tell(self.pending.pop(minute), is_final=True) for minute in due]

    def due(self, minute_ms: int) -> list[int]:
        """The minutes that the step of ``minute_ms`` will tell anew: they have to be in ``pending``."""
        return [minute for minute in self._judged if minute <= minute_ms - LAG_MINUTES * MINUTE_MS]

    def last_words(self, pending: Mapping[int, Case]) -> list[Told]:
        """What would be told anew of past minutes if nothing came any more; nothing changes by it.

        pending: those minutes, as the detector left them to be kept.
        """
        copy = self._copy()
        return [copy._tell(pending[minute], is_final=True) for minute in self._judged]

    def _copy(self) -> Detector[Told]:
        """Without the minutes."""
        copy: Detector[Told] = pickle.loads(pickle.dumps(self))
        copy.predictor, copy.tell = self.predictor, self.tell
        return copy

    def _tell(self, case: Case, is_final: bool) -> Told:
        return self.tell(self._told(case, is_final), self.predictor)

    # ---- reading --------------------------------------------------------------------------------

    def _watch(
        self,
        minute_ms: int,
        consumers: Mapping[str, Mapping[str, float]],
        frame: Frame | None,
        reading: Reading | None,
    ) -> dict[str, float]:
        """What the guard of over-use asks of each consumer, the minute being taken in."""
        services = self._baselines.services
        service_of = {name: name.split(SEPARATOR)[0] for name in consumers}
        self._baselines.enter_services(list(service_of.values()), minute_ms)
        self._usage.resize(len(services))
        self._usage.step(
            minute_ms,
            consumers,
            {name: services.get(service) for name, service in service_of.items()},
            self._pieces.calls_of_pods(frame, reading) if frame and reading else {},
            self._pieces.noise_of_pods(frame, reading) if frame and reading else {},
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

    def _judge(
        self, minute_ms: int, frame: Frame, reading: Reading, asked_of_use: Mapping[str, float], learns: bool
    ) -> Told:
        base, beliefs = self._baselines, self._beliefs
        is_warming = self._is_warming(frame, reading)
        pods = self._pods.enter(minute_ms, frame.pods, frame.hosts, base.services, frame.versions)
        renewed = self._pods.renewed(minute_ms, pods[frame.pod], reading.service, base.service_since)
        renewed |= base.or_callers(self._lasting.is_renewed(len(renewed)), reading)
        waits = reading.waits_for(frame, renewed)
        clues = clues_of(base, frame, reading, renewed, waits)
        here = np.union1d(reading.service, clues.services())  # services of this minute
        case = self._case(minute_ms, frame, reading, clues.renumbered(here), here, pods, is_warming)
        case.asked_of_use = np.array([asked_of_use.get(name, 0.0) for name in frame.pods])
        usual = usual_of(case.tokens)
        cells = cells_of(case, usual)

        together, count = base.wander.together(reading), len(base.services)
        case.asked = beliefs.observe_services(minute_ms, cells.services, together, here, count, is_warming)
        beliefs.observe_pods(minute_ms, cells.pods, together, pods, len(self._pods), is_warming)
        makes = made_by(frame, reading)
        asked_of_loops = self._observe_loops(minute_ms, frame, reading, makes, is_warming)
        case.loop_operation = frame.operation[makes[clues.loop]]
        case.asked_of_loops = asked_of_loops[reading.operation[makes[clues.loop]]]

        told = self._told(case, is_final=False)
        odds, asked = log_odds_of(told, cells)
        accused = accused_of(told, cells, odds, asked, None)
        found = [accused.culprit(told, trace) for trace in np.flatnonzero(accused.is_anomalous).tolist()]
        case.counted = self._impact.observe(
            minute_ms, ((row["culprit_service_name"], row["anomaly_kind"]) for row in found)
        )
        case.recurring = self._impact.recurring()
        predicted = self._audited(case, usual, here, learns)
        if learns:
            self._learn(case, cells, frame, reading, odds, renewed, waits, here)
            if predicted:
                self._skill.learn(*predicted, self.weights[: len(predicted[0].known)])
        self.pending[minute_ms] = case
        self._judged.append(minute_ms)
        return self.tell(replace(case, believed=told.believed), self.predictor)

    def _case(
        self,
        minute_ms: int,
        frame: Frame,
        reading: Reading,
        clues: Clues,
        here: np.ndarray,
        pods: np.ndarray,
        is_warming: np.ndarray,
    ) -> Case:
        """The minute's case, before anything is believed of it.

        clues: of the services at ``here``. pods: the numbers of the frame's.
        """
        base = self._baselines
        seen = self._tokens(frame, reading)
        work = self._pieces.of_traces(frame, reading, len(base.services))
        start_ms = np.array([trace.start_ns // NS_PER_MS for trace in frame.traces])
        last_ms = start_ms.copy()
        np.maximum.at(last_ms, frame.trace, (start_ms[frame.trace] + frame.start_ms).astype(np.int64))
        return Case(
            minute_ms=minute_ms,
            trace_ids=[trace.trace_id for trace in frame.traces],
            start_ms=start_ms,
            is_warming=is_warming,
            reaches_on=last_ms >= minute_ms + MINUTE_MS,
            root=frame.root,
            weight=frame.weight,
            traits=[trace.traits for trace in frame.traces] if any(trace.traits for trace in frame.traces) else [],
            model=self.predictor.version,
            services=[base.services.names[i] for i in here.tolist()],
            operations=frame.operations,
            pods=frame.pods,
            pod_service=np.searchsorted(here, self._pods.service[pods]),
            tokens=seen._replace(service=np.searchsorted(here, seen.service)),
            clues=clues,
            operation=frame.operation,
            pod=frame.pod,
            depth=frame.depth,
            work=work._replace(piece=np.searchsorted(here, work.piece // PIECES) * PIECES + work.piece % PIECES),
            unexplained=self._usage.unexplained[here],
            changes=self._pods.changes(minute_ms),
        )

    def _observe_loops(
        self, minute_ms: int, frame: Frame, reading: Reading, makes: np.ndarray, is_warming: np.ndarray
    ) -> np.ndarray:
        """Take in repeated calls; what the guard asked before.  # (operations,)  makes: see made_by."""
        calls = reading.groups[self._baselines.counts.are_repeats_known(reading.repeat_row)]
        calls = calls[~is_warming[frame.trace[calls]]]
        looping = np.full(frame.count, -np.inf)
        looping[reading.loops] = reading.loop_weight
        # A span that makes calls of several kinds is one case.
        cases, of_case = np.unique(frame.parent[calls] * frame.count + makes[calls], return_inverse=True)
        says = np.full(len(cases), -np.inf)
        np.maximum.at(says, of_case, looping[calls])
        operation = reading.operation[cases % frame.count]
        return self._beliefs.observe_loops(minute_ms, operation, says, len(self._baselines.operations))

    def _audited(
        self, case: Case, usual: Prediction, here: np.ndarray, learns: bool
    ) -> tuple[Tokens, Prediction, Prediction] | None:
        """Ask the model of a few traces, and take down in the case how far it has proven itself until now.

        learns: False where nobody wants what the model says, but the thresholds.
        returns: what was asked, what is usual, and what the model said; None where it wasn't asked.
        """
        if isinstance(self.predictor, Usual):
            if self._ema:
                case.thresholds = self._thresholds(case, usual, here)
            return None
        case.gain = self._skill.of(here)
        if not (learns or self._ema):
            return None
        before = np.cumsum(case.tokens.lengths) - case.tokens.lengths
        # Under the policy ema the thresholds rest on what is predicted of all.
        asked = case.tokens if self._ema else case.tokens.of_traces(before < AUDIT_SPANS)
        spans = len(asked.known)
        usual = Prediction(*(of[:spans] for of in usual))
        found = self.predictor.predict(asked, usual)
        if self._ema:
            case.thresholds = self._thresholds(case, calibrated(case.gain, case.tokens, usual, found), here)
        return asked._replace(service=here[asked.service]), usual, found

    def _thresholds(self, case: Case, found: Prediction, here: np.ndarray) -> np.ndarray:
        """Of alpha, by service, under the policy ema.  # (services of the case,)"""
        assert self._ema
        alpha = found.anomaly(case.tokens)
        keys, cell = np.unique(case.trace * len(here) + case.tokens.service, return_inverse=True)
        of_cell = np.zeros(len(keys))
        np.maximum.at(of_cell, cell, alpha)
        return self._ema.step(here[keys % len(here)], of_cell, len(self._baselines.services))[here]

    # ---- telling --------------------------------------------------------------------------------

    def _told(self, case: Case, is_final: bool) -> Case:
        """The case with what is believed of its minute by now.

        is_final: it is not told anew after this.
        """
        services = self._baselines.services
        numbers = np.array([self._pods.names.get(name) for name in case.pods])
        of_services, of_pods, of_loops, slow = self._beliefs.at(
            case.minute_ms,
            np.array([services.get(name) for name in case.services]),
            numbers,
            np.array([self._baselines.operations.get(case.operations[i]) for i in case.loop_operation], np.int64),
        )
        overuse, greed = self._usage.at(case.minute_ms)
        shapes = self._impact.shapes(set(case.roots), services)
        working = set(case.services).union(*({service for service, _ in shape} for shape in shapes.values()))
        costs = self._usage.work_costs()
        believed = Believed(
            services=of_services,
            pods=of_pods,
            loops=of_loops,
            overuse=np.array([overuse.get(name, -np.inf) for name in case.pods]),
            neighbour=self._crowded_by(case.minute_ms, numbers, slow, greed),
            shapes=shapes,
            costs={name: costs[services.get(name)] for name in working if services.get(name) >= 0},
        )
        return replace(case, believed=believed, is_final=is_final)

    def _crowded_by(
        self, minute_ms: int, numbers: np.ndarray, slow: np.ndarray, greed: Mapping[str, float]
    ) -> list[str]:
        """The service that crowds each of a minute's pods out, "" = none.  # (pods,) or () where nobody does

        numbers: (pods,) -1 = not known any more. slow: (all pods,) chance that each is slow by itself. greed: log odds
        of using more for whatever reason.
        """
        if not (slow > SLOW_MIN).any():
            return []
        pods, surplus = self._pods, self._usage.surplus_at(minute_ms)
        odds, beyond = (np.array([of.get(name, -np.inf) for name in pods.names.names]) for of in (greed, surplus))
        heard = numbers[numbers >= 0]
        heard_slow = np.full(len(pods), np.nan)
        heard_slow[heard] = slow[heard]
        found = crowding(pods.host, pods.service, heard_slow, odds, beyond)
        names = {host: pods.names.names[pod].split(SEPARATOR)[0] for host, pod in found.items()}
        return [names.get(pods.host[number], "") if number >= 0 else "" for number in numbers.tolist()] if names else []

    # ---- learning -------------------------------------------------------------------------------

    def _learn(
        self,
        case: Case,
        cells: Cells,
        frame: Frame,
        reading: Reading,
        odds: np.ndarray,
        renewed: np.ndarray,
        waits: np.ndarray,
        here: np.ndarray,
    ) -> None:
        """Let the tables learn from the minute, less from what seems affected; a new release teaches fully, whatever it
        looks like, unless it fails.

        A lone outlier's time teaches like all: the baselines bound its influence, and have to know how often it
        happens. In the midst of trouble the affected traces teach little, and where it is wholesale so do those that
        seem unaffected, being only the lucky end.

        odds: (service cells, channels and over-use). renewed: (all services,) waits: (spans,) for one of these, see
        Reading.waits_for. here: the numbers of the case's services.
        """
        odds = odds[:, :CHANNELS].max(axis=1)
        of_trace = np.full(len(frame.traces), -np.inf)
        np.maximum.at(of_trace, cells.services.trace, odds)
        states = self._beliefs.of_services()  # (services, channels, states)
        lasting = self._are_lasting(reading, states)
        is_ill = (states[:, :, 0].min(axis=1) < 0.5)[reading.service]
        is_wholesale = (states[:, :, -STRENGTHS:].sum(axis=2).max(axis=1) > 0.5)[reading.service]
        new = renewed[reading.service] | case.is_warming[frame.trace] | waits
        is_trouble = (is_ill & (odds[cells.of_span] > 0) | is_wholesale) & ~new & ~lasting[reading.blamed]
        times = np.where(is_trouble, ANOMALOUS_WEIGHT, 1.0)
        # Rates are to hold still until it is clear whether an episode begins.
        # What happens to a call is in its caller's span and blamed on the callee: the trace counts as a whole.
        suspect = np.clip(of_trace[frame.trace] - np.log(LONE) - THRESHOLD, -50, 50)
        usual = 1 / (1 + np.exp(suspect))
        events = np.maximum(usual, ANOMALOUS_WEIGHT)
        # Whether calls fail a young system learns from trouble as slowly as an old one, not in an hour where it has
        # seen one.
        failures = np.maximum(usual, ANOMALOUS_WEIGHT * self._baselines.counts.age(reading.operation))
        # A release that fails is not well, those of its calls that don't fail among them.
        sound = np.ones(len(frame.traces))
        np.minimum.at(sound, cells.services.trace, states[here, FAILURE, 0][cells.services.subject])
        of_new = np.where(case.is_warming, 1.0, np.maximum(sound, ANOMALOUS_WEIGHT))
        events, failures = (np.where(new, of_new[frame.trace], weights) for weights in (events, failures))
        self.weights = np.where(new, 1.0, np.minimum(times, events))
        self._baselines.learn(case.minute_ms, frame, reading, times, events, failures)
        if renewed.any():
            services = np.flatnonzero(renewed)
            self._baselines.renew(services, RELEASE_SAMPLES, reading.operation[waits])
            self._usage.renew(services)
        if lasting.any():
            self._baselines.renew_times(np.flatnonzero(lasting), RELEASE_SAMPLES)
        # What is only half suspected is no usual trace either.
        sound = 1 / (1 + np.exp(np.clip(of_trace + SUSPICION, -50, 50)))
        work = case.work._replace(piece=here[case.work.piece // PIECES] * PIECES + case.work.piece % PIECES)
        self._impact.learn(case.minute_ms, case.roots, work, sound, case.weight)

    def _are_lasting(self, reading: Reading, states: np.ndarray) -> np.ndarray:
        """Whether each service's times are to be learnt anew: see Lasting.  # (services,)

        states: (services, channels, states) chances.
        """
        all_slow = (states[:, :TIMES, -STRENGTHS:].sum(axis=2) > 0.5).any(axis=1)
        slow, other, worse = (
            (states[:, of, 0] < 0.5).any(axis=1) for of in (slice(TIMES), [STRUCTURE], [FAILURE, REPEAT])
        )
        return self._lasting.follow(reading, slow, all_slow, other, worse | self._usage.uses_more())

    def _is_crowded(self) -> bool:
        return self._baselines.is_crowded() or self._pods.is_crowded() or self._usage.is_crowded()

    def _forget(self, before_ms: int) -> None:
        gone, operations = self._baselines.forget(before_ms)
        self._usage.forget(before_ms, gone)
        self._skill.reset(gone)
        self._lasting.reset(gone)
        self._beliefs.forget(gone, self._pods.forget(before_ms, gone), operations)
        self._impact.forget(before_ms, gone)
        self._pieces.forget(self._baselines.operations, self._baselines.services)
        if self._ema:
            self._ema.reset(gone)
