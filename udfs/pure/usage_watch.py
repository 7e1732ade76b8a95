"""Whether pods use more than the requests they handle explain: metrics against their own past.

Per service and dimension, a pod's usage of a minute is expected to be a base load plus so much
for each call of each operation that it serves and for each call that it makes; all are learnt by
recursive least squares over the service's pods, robustly and with forgetting. A filter over time
weighs each minute's surplus: is this pod (or this whole service) in a state of over-use?
Everything is lagged: judge first, then learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from udfs.pure import overuse
from udfs.pure.baseline import Vocabulary, grown, rows_of, seen_lately
from udfs.pure.dimensions import WATCHED as DIMENSIONS
from udfs.pure.guard import Guard
from udfs.pure.pods import SILENT_MINUTES
from udfs.pure.windows import MINUTE_MS

# Whether calls use it up. Memory is a level: it tells of caches, heaps and collectors, and is watched for its cost.
IS_WORK = np.array([dimension != "memory" for dimension in DIMENSIONS])

# Operations of a service that are told apart; the calls of all others count as one more.
OPERATIONS = 7
# The base load first; last the calls that the pod makes itself (who asks again works more) and
# those that it served the minute before (memory lingers, gauges are read between minutes).
FEATURES = OPERATIONS + 4

# Minutes that the expectation remembers, and pod minutes that it has to rest on before it is used.
MEMORY_MINUTES = 720.0
SAMPLES_MIN = 60.0
# The equations are solved anew every so many minutes.
SOLVE_MINUTES = 5

# The most pods that are kept: those that were seen last.
PODS_MOST = 4_000

# Residuals further out than this many scales don't teach more; over-using pods teach this little.
CLIP = 2.5
OVERUSE_WEIGHT = 0.1

# A pod's first minutes may be off together; after this many they count half as usual.
YOUTH_MINUTES = 10.0

# What work beyond so many standard deviations of the usual takes is known to this share of it.
WORK_USUAL, WORK_TOLERANCE = 2.0, 0.45
# The level of a pod's use, that calls have to tell it better than, follows it so fast.
LEVEL_GAIN = 0.25
# A replica's own level forgets with this time constant.
OFFSET_MINUTES = 120.0

# What a service's past still counts for when a new release replaces it.
RENEWED = 0.02

# However much residuals resemble those of the minute before, something is new.
INERTIA_MAX = 0.98

# The most that one minute says.
POD_EVIDENCE = (-2.0, 3.0)
SERVICE_EVIDENCE = (-3.0, 5.0)


_POD_COLUMNS = (
    "_pod_service", "_pod_chance", "_pod_minutes", "_pod_residual", "_pod_judged", "_pod_offset", "_pod_amount",
)  # fmt: skip
_SERVICE_COLUMNS = (
    "_chance", "_gram", "_product", "_cost", "_variance", "_moments", "_inertia", "_samples", "_skill",
)  # fmt: skip


# Of what calls vary in any direction, at least so much is taken for true: the equations stay solvable.
RELIABLE = 0.01


def _without(noise: np.ndarray, gram: np.ndarray, thin: np.ndarray) -> np.ndarray:
    """The equations as calls would have made them that are known for sure.  # (n, FEATURES, FEATURES)

    thin: the places of those that have noise.

    What varies by sampling alone explains nothing, and would have each call seem to take less (errors in variables;
    Fuller 1987, Measurement Error Models). Where nearly all that varies is noise, what is left would be noise, too:
    only so much of it is taken away that RELIABLE of each direction stays.
    """
    gram = gram.copy()
    for at in thin.tolist():
        scale = 1 / np.sqrt(np.maximum(np.diag(gram[at]), 1e-12))
        whole = gram[at] * scale * scale[:, None]
        whole[np.diag_indices(FEATURES)] += 1e-6
        # About the mean: the base takes up what never varies.
        share = np.linalg.eigvals(np.linalg.solve(_centred(whole), noise[at] * scale * scale[:, None])).real.max()
        gram[at] -= min(1.0, (1 - RELIABLE) / max(share, 1e-12)) * noise[at]
    return gram


def _non_negative(gram: np.ndarray, product: np.ndarray) -> np.ndarray:
    """The solution of the equations that takes nothing from any call: what would is left out, and the others solved
    without it.  # (FEATURES,)"""
    theta = np.zeros(len(gram))
    kept = np.arange(len(gram))
    while len(kept):
        found = np.linalg.solve(gram[np.ix_(kept, kept)], product[kept])
        if (found >= 0).all():
            theta[kept] = found
            break
        kept = kept[found > found.min()]
    return theta


def _centred(gram: np.ndarray) -> np.ndarray:
    """The equations of what varies about the mean, the base beside them."""
    base = gram[0, 1:] / gram[0, 0]
    centred = gram.copy()
    centred[1:, 1:] -= gram[0, 0] * base * base[:, None]
    centred[0, 1:] = centred[1:, 0] = 0.0
    return centred


class UsageWatch:
    """State: per service the normal equations, per pod and service the chance of over-use."""

    def __init__(self, lag: int = 0) -> None:
        """lag: how many past minutes can be told anew by what came after them."""
        self._lag = lag
        # (minute, chances of pods, of services, evidence on pods, on services, surplus of pods), oldest first
        self._past: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        # Surplus of each pod's use in this minute, in standard deviations; NaN = not known.
        self.surplus = np.zeros((0, len(DIMENSIONS)))
        self.pods = Vocabulary()  # "service SEPARATOR pod"
        self._pod_service = np.zeros(0, np.int64)
        self._pod_chance = np.zeros((0, len(DIMENSIONS), overuse.STATES))  # see overuse.STATES
        self._pod_minutes = np.zeros((0, len(DIMENSIONS)))  # judged, less with every gap
        self._pod_residual = np.zeros((0, len(DIMENSIONS)))  # of the last minute
        self._pod_judged = np.zeros(0, np.int64)  # minute (ms) that was judged last
        # (pods, dimensions, 2) sum of a pod's residuals and their weight: its level beside the other pods'.
        self._pod_offset = np.zeros((0, len(DIMENSIONS), 2))
        self._pod_amount = np.full((0, len(DIMENSIONS)), np.nan)  # of the last minute
        self._chance = np.zeros((0, len(DIMENSIONS), overuse.STATES))  # of services
        self._gram = np.zeros((0, len(DIMENSIONS), FEATURES, FEATURES))
        self._noise: np.ndarray | None = None  # what of _gram is the sampling's alone; None = nothing
        self._product = np.zeros((0, len(DIMENSIONS), FEATURES))
        self._cost = np.zeros((0, len(DIMENSIONS), FEATURES))  # (base, per call of each operation)
        # Residual variance as a line over the expected work, and its equations.
        self._variance = np.zeros((0, len(DIMENSIONS), 2))
        self._moments = np.zeros((0, len(DIMENSIONS), 5))
        # Sums of products of a pod's residuals in adjacent minutes, and of their squares.
        self._inertia = np.zeros((0, len(DIMENSIONS), 2))
        self._samples = np.zeros((0, len(DIMENSIONS)))
        # (services, dimensions, 2) pod minutes in which the calls told the usage better than the minute before did, and
        # pod minutes that were compared
        self._skill = np.zeros((0, len(DIMENSIONS), 2))
        self._guards = Guard(len(DIMENSIONS)), Guard(len(DIMENSIONS))  # of pods, of services
        self._asked = np.zeros((0, len(DIMENSIONS))), np.zeros((0, len(DIMENSIONS)))  # by them, of the last minute
        # Of this minute and each service: use that its requests don't explain, and that sum's variance.
        self.unexplained = np.zeros((0, len(DIMENSIONS), 2))
        self._served: dict[str, float] = {}  # consumer -> calls that it served the minute before
        self._unsure: dict[str, float] = {}  # ... and the variance of that number
        self._minutes = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, for which calls were as sure as all traces make them, too, and which didn't keep the
        surplus of past minutes."""
        self.__dict__.update({"_noise": None, "_unsure": {}} | state)
        unknown = np.zeros((0, len(DIMENSIONS)))
        self._past = [past if len(past) == 6 else (*past, unknown) for past in self._past]

    def resize(self, services: int) -> None:
        """Have at least ``services`` rows."""
        for name in _SERVICE_COLUMNS:
            setattr(self, name, grown(getattr(self, name), services))
        if self._noise is not None:
            self._noise = grown(self._noise, services)
        self._guards[1].resize(services)

    def step(
        self,
        minute_ms: int,
        usage: Mapping[str, Mapping[str, float]],
        pod_service: Mapping[str, int],
        calls: Mapping[str, np.ndarray],
        noise: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Judge a minute, then learn from it.

        usage: consumer -> dimension -> amount. pod_service: consumer -> service id. calls:
        consumer -> (FEATURES - 2,) calls it served by operation, and calls it made. noise: their covariance, where
        samplers left traces out.
        returns: consumer -> log odds of over-use, the greater of its own and its service's.
        """
        names = sorted(usage)
        before = len(self.pods)
        self.pods.see(names, minute_ms)
        for column in _POD_COLUMNS:
            setattr(
                self, column, grown(getattr(self, column), len(self.pods), np.nan if column == "_pod_amount" else 0)
            )
        self._guards[0].resize(len(self.pods))
        for name in self.pods.names[before:]:
            self._pod_service[self.pods.get(name)] = pod_service[name]

        self._asked = self._guards[0].excess(), self._guards[1].excess()
        self.surplus = np.full(self._pod_chance.shape[:2], np.nan)
        self.unexplained = np.zeros((*self._chance.shape[:2], 2))
        # Evidence, and NaN where nothing was heard.
        told = np.full(self._pod_chance.shape, np.nan), np.full(self._chance.shape, np.nan)
        # Without traces from now and before, what was asked of the pods isn't known.
        if names and calls and self._served:
            pods = np.array([self.pods.get(name) for name in names])  # (pods,)
            services = self._pod_service[pods]
            features = np.zeros((len(names), FEATURES))
            features[:, 0] = 1.0
            for row, name in enumerate(names):
                if name in calls:
                    features[row, 1:-1] = calls[name]
                features[row, -1] = self._served.get(name, 0.0)
            unsure = np.zeros((len(names), FEATURES, FEATURES))
            for row, name in enumerate(names) if noise or self._unsure else ():
                if noise and name in noise:
                    unsure[row, 1:-1, 1:-1] = noise[name]
                unsure[row, -1, -1] = self._unsure.get(name, 0.0)
            amounts = np.array(
                [[usage[name].get(d, np.nan) for d in DIMENSIONS] for name in names]
            )  # (pods, dimensions)
            self._judge_and_learn(minute_ms, pods, services, features, unsure, amounts, told)
        else:
            self._pod_chance, self._chance = (
                overuse.passed(c, t) for c, t in zip((self._pod_chance, self._chance), told)
            )
        self._served = {name: float(counts[:-1].sum()) for name, counts in calls.items()}
        self._unsure = {name: float(of[:-1, :-1].sum()) for name, of in (noise or {}).items()}
        self._minutes += 1
        if self._minutes % SOLVE_MINUTES == 0:
            self._solve()
        if self._lag:
            self._past.append((minute_ms, self._pod_chance.copy(), self._chance.copy(), *told, self.surplus))
            del self._past[: -self._lag - 1]
        return self._log_odds(self._pod_chance, self._chance)

    def running(self, minute_ms: int, names: Iterable[str]) -> np.ndarray:
        """How many pods of each service run in a minute, by those of this one that are known already, and those that
        used something in the minutes before it: usage comes late.  # (services,)

        names: consumers of the minute.
        """
        heard = self.pods.last_seen > minute_ms - SILENT_MINUTES * MINUTE_MS
        heard[[number for number in map(self.pods.get, names) if number >= 0]] = True
        return np.bincount(self._pod_service[heard], minlength=len(self._chance)).astype(float)

    def at(self, minute_ms: int) -> tuple[dict[str, float], dict[str, float]]:
        """As ``step`` returned for a past minute, by all that came since (a backward smoother); and the same of using
        more for whatever reason."""
        pods, services = len(self.pods), len(self._chance)
        pod_future = np.ones((pods, len(DIMENSIONS), 1 + overuse.STATES))
        future = np.ones((services, len(DIMENSIONS), 1 + overuse.STATES))
        for minute, pod_chance, chance, pod_told, told, _ in reversed(self._past):
            if minute <= minute_ms:
                pod_chance = overuse.with_future(grown(pod_chance, pods), pod_future, grown(pod_told, pods, np.nan))
                chance = overuse.with_future(grown(chance, services), future, grown(told, services, np.nan))
                break
            pod_future = overuse.passed_back(pod_future, grown(pod_told, pods, np.nan))
            future = overuse.passed_back(future, grown(told, services, np.nan))
        else:
            pod_chance, chance = self._pod_chance, self._chance
        return self._log_odds(pod_chance, chance), self._log_odds(pod_chance, chance, overuse.of_any_kind)

    def uses_more(self) -> np.ndarray:
        """Whether each service, or a pod of it, is believed to use more than usual by now, be it for each call or
        not.  # (services,)"""
        more = (overuse.of_any_kind(self._chance) > 0.5).any(axis=1)
        pods = (overuse.of_any_kind(self._pod_chance) > 0.5).any(axis=1)
        more[self._pod_service[pods]] = True
        return more

    def surplus_at(self, minute_ms: int) -> dict[str, float]:
        """By consumer, the greatest surplus of work in a past minute, in standard deviations; those that are known."""
        for minute, *_, surplus in reversed(self._past):
            if minute <= minute_ms:
                most = np.max(surplus[:, IS_WORK], axis=1, where=np.isfinite(surplus[:, IS_WORK]), initial=-np.inf)
                return {name: z for name, z in zip(self.pods.names, most.tolist()) if z > -np.inf}
        return {}

    def _log_odds(
        self, pod_chance: np.ndarray, chance: np.ndarray, of: Callable[[np.ndarray], np.ndarray] = overuse.of_any_size
    ) -> dict[str, float]:
        """By consumer, the greater of its own and its service's."""
        either = np.maximum(
            of(pod_chance).max(axis=1, initial=0.0),
            of(chance).max(axis=1, initial=0.0)[self._pod_service],
        )
        return dict(zip(self.pods.names, overuse.logit(either).tolist()))

    def asked(self) -> dict[str, float]:
        """What the guards asked in the last minute, in nats: by consumer, where its log odds are from."""
        service = self._pod_service
        own, shared = overuse.of_any_size(self._pod_chance), overuse.of_any_size(self._chance[service])
        rows = np.arange(len(own))
        by_pod, by_service = (asked[at, chance.argmax(axis=1)] for asked, at, chance in (
            (self._asked[0], rows, own), (self._asked[1], service, shared)))  # fmt: skip
        return dict(zip(self.pods.names, np.where(own.max(axis=1) >= shared.max(axis=1), by_pod, by_service).tolist()))

    def admit(self, service: int, minutes: int) -> None:
        """So many minutes of over-use of a service and its pods were none: see Guard.admit."""
        dimensions = list(range(len(DIMENSIONS)))
        self._guards[0].admit(np.flatnonzero(self._pod_service == service), dimensions, minutes)
        self._guards[1].admit(np.array([service]), dimensions, minutes)

    def work_costs(self) -> np.ndarray:
        """Use of one call of each operation slot, and last of one call that a service makes.

        Where calls tell memory no better than the minute before does, it is a level that no call takes.

        # (services, dimensions, FEATURES - 2)
        """
        costs = self._cost[:, :, 1:-1].copy()
        costs[:, :, :-1] += self._cost[:, :, -1:]  # what a served call still takes the minute after
        costs *= (self._is_told() | IS_WORK)[:, :, None]
        return costs

    def _is_told(self) -> np.ndarray:
        """Where calls have told the use better than the minute before did.  # (services, dimensions) bool"""
        better, compared = np.moveaxis(self._skill, 2, 0)
        return better - compared / 2 > np.sqrt(compared)

    def renew(self, services: np.ndarray) -> None:
        """Learn afresh what these services' calls take: they have a new release."""
        for name in ("_gram", "_product", "_moments", "_inertia"):
            getattr(self, name)[services] *= RENEWED
        if self._noise is not None:
            self._noise[services] *= RENEWED
        self._samples[services] = np.minimum(self._samples[services], SAMPLES_MIN / 2)

    def _judge_and_learn(
        self,
        minute_ms: int,
        pods: np.ndarray,
        services: np.ndarray,
        features: np.ndarray,
        unsure: np.ndarray,
        amounts: np.ndarray,
        told: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """told: the evidence on pods and on services, to be filled in."""
        measured = ~np.isnan(amounts)
        cost = self._cost[services]  # (pods, dimensions, FEATURES)
        work = np.einsum("pf,pdf->pd", features[:, 1:], cost[:, :, 1:])
        residual = np.where(measured, amounts - cost[:, :, 0] - work, 0.0)
        line = self._variance[services]
        variance = line[:, :, 0] + line[:, :, 1] * work
        ready = measured & (self._samples[services] >= SAMPLES_MIN) & (variance > 0)
        first = np.flatnonzero(np.r_[True, services[1:] != services[:-1]])
        seen = services[first]
        # A replica may have a level of its own; a lone one's is its service's.
        level, weight_of_level = np.moveaxis(self._pod_offset[pods], 2, 0)
        offset = level / (weight_of_level + YOUTH_MINUTES)
        replicas = np.repeat(np.diff(np.r_[first, len(services)]), np.diff(np.r_[first, len(services)]))
        raw = residual
        residual = np.where(measured & (replicas > 1)[:, None], residual - offset, residual)
        # Of a new pod, or after a gap, it isn't known how much it differs from the others by now.
        gap = (minute_ms - self._pod_judged[pods]) / MINUTE_MS - 1
        minutes = self._pod_minutes[pods] * np.exp(-gap / YOUTH_MINUTES)[:, None]
        variance = variance * (1 + YOUTH_MINUTES / (minutes + 1))
        # Work beyond the usual is known to a share of it only: caches, queues and collectors don't grow in proportion.
        count, total, squares = np.moveaxis(self._moments[services, :, :3], 2, 0) / np.maximum(
            self._moments[services, :, 0], 1e-9
        )
        usual = total + WORK_USUAL * np.sqrt(np.maximum(squares - total**2, 0.0))
        variance = variance + np.where(count > 0, (WORK_TOLERANCE * np.maximum(work - usual, 0.0)) ** 2, 0.0)
        self.surplus[pods] = np.where(ready, residual / np.sqrt(np.where(ready, variance, 1.0)), np.nan)

        # Where residuals stay as they are (a heap, a cache), the next minute says little anew.
        product, square = np.moveaxis(self._inertia[services], 2, 0)
        inertia = np.clip(product / np.maximum(square, 1e-300), 0.0, INERTIA_MAX)
        told_by = np.stack([residual, variance * (1 + inertia) / (1 - inertia)], axis=2)
        np.add.at(self.unexplained, services, np.where(ready[:, :, None], told_by, 0.0))
        # What the calls don't explain better than the minute before does is a level of its own (a heap, a cache), and
        # tells nothing of over-use.
        telling = ready & IS_WORK & self._is_told()[services]
        each = (
            overuse.evidence(residual, work, total, np.where(ready, variance, 1.0))
            * ((1 - inertia) / (1 + inertia))[..., None]
        )
        each = np.where(telling[..., None], overuse.bounded(each, *POD_EVIDENCE), 0.0)
        of_pods, of_services = self._guards
        told[0][pods] = np.where(telling[..., None], each - self._asked[0][pods][..., None], np.nan)
        heard = np.zeros(self._pod_chance.shape[:2], bool)
        heard[pods] = telling
        whole_heard = np.zeros(self._chance.shape[:2], bool)
        whole_heard[seen] = np.logical_or.reduceat(telling, first)
        together = np.zeros(self._chance.shape)
        # Consumers come in the order of their names: those of a service stand together.
        together[seen] = overuse.bounded(np.add.reduceat(each, first), *SERVICE_EVIDENCE)
        told[1][:] = np.where(whole_heard[..., None], together - self._asked[1][..., None], np.nan)
        of_all = np.zeros(self._pod_chance.shape[:2])
        of_all[pods] = np.where(telling, overuse.whole(each), 0.0)
        of_pods.learn(of_all, heard, overuse.of_any_size(self._pod_chance))
        of_services.learn(overuse.whole(together), whole_heard, overuse.of_any_size(self._chance))
        self._pod_chance, self._chance = (
            overuse.weigh(overuse.passed(c, t), np.nan_to_num(t))
            for c, t in zip((self._pod_chance, self._chance), told)
        )

        scale = np.sqrt(np.where(ready, variance, 1e300))
        outlying = np.maximum(np.abs(residual) / (CLIP * scale), 1.0)
        chance = np.maximum(overuse.of_any_size(self._pod_chance[pods]), overuse.of_any_size(self._chance[services]))
        weight = np.where(measured, 1 / outlying, 0.0)
        weight = np.where(chance > 0.5, weight * OVERUSE_WEIGHT, weight)
        clipped = np.where(ready, np.clip(residual, -CLIP * scale, CLIP * scale), 0.0)
        self._pod_minutes[pods] = minutes + ready
        steps = np.abs(amounts - self._pod_amount[pods])
        comparable = ready & (gap < 1)[:, None] & np.isfinite(steps)
        compared_now = np.stack([comparable & (np.abs(residual) < steps), comparable], axis=2) * weight[:, :, None]
        level_now = np.where(gap[:, None] < 1, self._pod_amount[pods], np.nan)
        self._pod_amount[pods] = np.where(
            np.isfinite(level_now), level_now + LEVEL_GAIN * (amounts - level_now), amounts
        )
        level_weight = np.where(ready, weight, 0.0)
        kept = np.where(ready, 1 - 1 / OFFSET_MINUTES, 1.0)
        bounded = np.clip(raw - offset, -CLIP * scale, CLIP * scale) + offset
        self._pod_offset[pods] = self._pod_offset[pods] * kept[:, :, None] + np.stack(
            [level_weight * np.where(ready, bounded, 0.0), level_weight], axis=2
        )
        before = np.where((gap < 1)[:, None], self._pod_residual[pods], 0.0)
        self._pod_residual[pods] = clipped
        self._pod_judged[pods] = minute_ms
        pairs = np.stack([weight * clipped * before, weight * before**2], axis=2)

        amounts = np.where(measured, amounts, 0.0)
        # The residual's square over (1, work), once there is an expectation to take it from.
        settled = np.where(cost.any(axis=2), weight, 0.0)[:, :, None]
        square = np.where(ready, np.minimum(residual**2, CLIP**2 * variance), residual**2)
        moments = np.stack([np.ones_like(work), work, work * work, square, square * work], axis=2)
        outer = features[:, None, :, None] * features[:, None, None, :]
        if self._noise is None and unsure.any():
            self._noise = np.zeros_like(self._gram)
        if self._noise is not None:
            self._noise[seen] *= 1 - 1 / MEMORY_MINUTES
            self._noise[seen] += np.add.reduceat(weight[:, :, None, None] * unsure[:, None], first)
        for column, sample in (
            (self._gram, weight[:, :, None, None] * outer),
            (self._product, (weight * amounts)[:, :, None] * features[:, None, :]),
            (self._moments, settled * moments),
            (self._inertia, pairs),
            (self._skill, compared_now),
            (self._samples, weight),
        ):
            column[seen] *= 1 - 1 / MEMORY_MINUTES
            column[seen] += np.add.reduceat(sample, first)

    def _solve(self) -> None:
        """Costs per call (never negative) and the line of variances, from the equations."""
        learnt = self._samples >= SAMPLES_MIN / 2
        if not learnt.any():
            return
        gram, product = self._gram[learnt], self._product[learnt]  # (n, FEATURES[, FEATURES])
        thin = np.zeros(0, np.int64)
        if self._noise is not None:
            noise = self._noise[learnt]
            thin = np.flatnonzero(noise.any(axis=(1, 2)))
            gram = _without(noise, gram, thin)
        # A ridge in units of each operation's own calls; those that never came cost nothing.
        diagonal = np.einsum("nff->nf", gram)
        ridge = 1e-3 * diagonal + 1e-9
        gram = gram + ridge[:, :, None] * np.eye(FEATURES)
        theta = np.maximum(np.linalg.solve(gram, product[:, :, None])[:, :, 0], 0.0)
        for at in thin.tolist():
            theta[at] = _non_negative(gram[at], product[at])
        self._cost[learnt] = theta
        count, w, ww, s, sw = np.moveaxis(self._moments[learnt], 1, 0)
        count = np.maximum(count, 1e-9)
        determinant = np.maximum(count * ww - w * w, 1e-12 + 1e-6 * count * ww)
        slope = np.clip((count * sw - w * s) / determinant, 0.0, None)
        slope = np.where(w > 0, np.minimum(slope, s / np.maximum(w, 1e-12)), 0.0)
        start = (s - slope * w) / count
        # Some of the variance is always there, however little is called.
        self._variance[learnt] = np.stack([np.maximum(start, 0.2 * s / count), slope], axis=1)

    def is_crowded(self) -> bool:
        """Whether more is kept than is to be."""
        return len(self.pods) > PODS_MOST

    def forget(self, before_ms: int, gone: np.ndarray) -> None:
        """Forget pods that were last seen before a time, and of too many the oldest.

        gone: services that are others from now on.
        """
        gone = gone[gone < len(self._chance)]
        for name in _SERVICE_COLUMNS:
            getattr(self, name)[gone] = 0.0
        if self._noise is not None:
            self._noise[gone] = 0.0
        self._guards[1].reset(gone)
        past = []
        for minute, pod_chance, chance, pod_told, told, surplus in self._past:
            chance, told = chance.copy(), told.copy()
            known = gone[gone < len(chance)]
            chance[known], told[known] = 0.0, np.nan
            past.append((minute, pod_chance, chance, pod_told, told, surplus))
        self._past = past
        kept = seen_lately(self.pods.last_seen, before_ms, PODS_MOST)
        kept = kept[~np.isin(self._pod_service[kept], gone)]
        if len(kept) < len(self.pods):
            self.pods.keep(kept)
            self._guards[0].keep(kept)
            for column in _POD_COLUMNS:
                setattr(self, column, getattr(self, column)[kept])
            self._past = [
                (
                    minute,
                    rows_of(pod_chance, kept),
                    chance,
                    rows_of(pod_told, kept, np.nan),
                    told,
                    rows_of(surplus, kept, np.nan),
                )
                for minute, pod_chance, chance, pod_told, told, surplus in self._past
            ]
