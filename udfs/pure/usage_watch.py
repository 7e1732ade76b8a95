"""Whether pods use more than the requests they handle explain: metrics against their own past.

Per service and dimension, a pod's usage of a minute is expected to be a base load plus so much
for each call of each operation that it serves and for each call that it makes; all are learnt by recursive least squares over the service's
pods, robustly and with forgetting. A filter over time weighs each minute's surplus: is this pod
(or this whole service) in a state of over-use? Everything is lagged: judge first, then learn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from udfs.pure.baseline import Vocabulary, grown

DIMENSIONS = ("cpu", "memory", "io", "network")

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

# Over-use looked for: this factor on what calls take. Between 1 and the least of them lies what a
# deploy or another mix of requests explains, and TOLERANCE of the expected work is no surplus.
FACTORS = np.array([1.6, 3.0])
TOLERANCE = 0.15

# Residuals further out than this many scales don't teach more; over-using pods teach this little.
CLIP = 2.5
OVERUSE_WEIGHT = 0.02

# The filter: chances per minute that over-use begins and ends, and the most that one minute says.
BEGINS, ENDS = 1 / 3000, 1 / 60
POD_EVIDENCE = (-2.0, 3.0)
SERVICE_EVIDENCE = (-3.0, 5.0)


class UsageWatch:
    """State: per service the normal equations, per pod and service the chance of over-use."""

    def __init__(self) -> None:
        self.pods = Vocabulary()  # "service SEPARATOR pod"
        self._pod_service = np.zeros(0, np.int64)
        self._pod_odds = np.zeros((0, len(DIMENSIONS)))  # chance of over-use
        self._odds = np.zeros((0, len(DIMENSIONS)))  # of services
        self._gram = np.zeros((0, len(DIMENSIONS), FEATURES, FEATURES))
        self._product = np.zeros((0, len(DIMENSIONS), FEATURES))
        self._cost = np.zeros((0, len(DIMENSIONS), FEATURES))  # (base, per call of each operation)
        # Residual variance as a line over the expected work, and its equations.
        self._variance = np.zeros((0, len(DIMENSIONS), 2))
        self._moments = np.zeros((0, len(DIMENSIONS), 5))
        self._samples = np.zeros((0, len(DIMENSIONS)))
        self._served: dict[str, float] = {}  # consumer -> calls that it served the minute before
        self._minutes = 0

    def resize(self, services: int) -> None:
        """Have at least ``services`` rows."""
        for name in ("_odds", "_gram", "_product", "_cost", "_variance", "_moments", "_samples"):
            setattr(self, name, grown(getattr(self, name), services))

    def is_ready(self) -> np.ndarray:
        """Whether a service's usage can be judged in any dimension.  # (services,)"""
        return (self._samples >= SAMPLES_MIN).any(axis=1)

    def step(
        self,
        minute_ms: int,
        usage: Mapping[str, Mapping[str, float]],
        pod_service: Mapping[str, int],
        calls: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Judge a minute, then learn from it.

        usage: consumer -> dimension -> amount. pod_service: consumer -> service id. calls:
        consumer -> (FEATURES - 2,) calls it served by operation, and calls it made.
        returns: the log odds of over-use, of whole services (services,) and by consumer (at least
        those of the service).
        """
        names = sorted(usage)
        before = len(self.pods)
        self.pods.see(names, minute_ms)
        self._pod_odds = grown(self._pod_odds, len(self.pods))
        self._pod_service = grown(self._pod_service, len(self.pods))
        for name in self.pods.names[before:]:
            self._pod_service[self.pods.get(name)] = pod_service[name]

        self._pod_odds, self._odds = _transition(self._pod_odds), _transition(self._odds)
        if names:
            pods = np.array([self.pods.get(name) for name in names])  # (pods,)
            services = self._pod_service[pods]
            features = np.zeros((len(names), FEATURES))
            features[:, 0] = 1.0
            for row, name in enumerate(names):
                if name in calls:
                    features[row, 1:-1] = calls[name]
                features[row, -1] = self._served.get(name, 0.0)
            amounts = np.array(
                [[usage[name].get(d, np.nan) for d in DIMENSIONS] for name in names]
            )  # (pods, dimensions)
            self._judge_and_learn(pods, services, features, amounts)
        self._served = {name: float(counts[:-1].sum()) for name, counts in calls.items()}
        self._minutes += 1
        if self._minutes % SOLVE_MINUTES == 0:
            self._solve()
        worst = _logit(self._odds.max(axis=1, initial=0.0))
        by_pod = np.maximum(
            _logit(self._pod_odds.max(axis=1, initial=0.0)), worst[self._pod_service]
        )
        return worst, dict(zip(self.pods.names, by_pod.tolist()))

    def _judge_and_learn(
        self, pods: np.ndarray, services: np.ndarray, features: np.ndarray, amounts: np.ndarray
    ) -> None:
        measured = ~np.isnan(amounts)
        cost = self._cost[services]  # (pods, dimensions, FEATURES)
        work = np.einsum("pf,pdf->pd", features[:, 1:], cost[:, :, 1:])
        residual = np.where(measured, amounts - cost[:, :, 0] - work, 0.0)
        line = self._variance[services]
        variance = line[:, :, 0] + line[:, :, 1] * work
        ready = measured & (self._samples[services] >= SAMPLES_MIN) & (variance > 0)

        spread = np.where(ready, variance + (TOLERANCE * work) ** 2, 1.0)[:, :, None]
        surplus = (FACTORS - 1) * work[:, :, None]  # (pods, dimensions, factors)
        evidence = (residual[:, :, None] - surplus / 2) * surplus / spread
        evidence = np.where(ready, np.logaddexp(*np.moveaxis(evidence, 2, 0)) - np.log(2), 0.0)
        evidence = np.clip(evidence, *POD_EVIDENCE)
        self._pod_odds[pods] = _weigh(self._pod_odds[pods], evidence)
        whole = np.zeros_like(self._odds)
        np.add.at(whole, services, evidence)
        self._odds = _weigh(self._odds, np.clip(whole, *SERVICE_EVIDENCE))

        scale = np.sqrt(np.where(ready, variance, np.inf))
        outlying = np.maximum(np.abs(residual) / (CLIP * scale), 1.0)
        chance = np.maximum(self._pod_odds[pods], self._odds[services])
        weight = np.where(measured, 1 / outlying, 0.0)
        weight = np.where(chance > 0.5, weight * OVERUSE_WEIGHT, weight)

        seen = np.unique(services)
        for column in (self._gram, self._product, self._moments, self._samples):
            column[seen] *= 1 - 1 / MEMORY_MINUTES
        amounts = np.where(measured, amounts, 0.0)
        outer = np.einsum("pf,pg->pfg", features, features)
        np.add.at(self._gram, services, weight[:, :, None, None] * outer[:, None])
        np.add.at(
            self._product, services, (weight * amounts)[:, :, None] * features[:, None, :]
        )
        np.add.at(self._samples, services, weight)
        # The residual's square over (1, work), once there is an expectation to take it from.
        settled = np.where(self._cost[services].any(axis=2), weight, 0.0)
        square = np.where(ready, np.minimum(residual**2, CLIP**2 * variance), residual**2)
        columns = (np.ones_like(work), work, work * work, square, square * work)
        np.add.at(
            self._moments, services, np.stack([settled * column for column in columns], axis=2)
        )

    def _solve(self) -> None:
        """Costs per call (never negative) and the line of variances, from the equations."""
        learnt = self._samples >= SAMPLES_MIN / 2
        if not learnt.any():
            return
        gram, product = self._gram[learnt], self._product[learnt]  # (n, FEATURES[, FEATURES])
        # A ridge in units of each operation's own calls; those that never came cost nothing.
        diagonal = np.einsum("nff->nf", gram)
        ridge = 1e-3 * diagonal + 1e-9
        theta = np.linalg.solve(gram + ridge[:, :, None] * np.eye(FEATURES), product[:, :, None])
        theta = np.maximum(theta[:, :, 0], 0.0)
        self._cost[learnt] = theta
        count, w, ww, s, sw = np.moveaxis(self._moments[learnt], 1, 0)
        count = np.maximum(count, 1e-9)
        determinant = np.maximum(count * ww - w * w, 1e-12 + 1e-6 * count * ww)
        slope = np.clip((count * sw - w * s) / determinant, 0.0, None)
        slope = np.where(w > 0, np.minimum(slope, s / np.maximum(w, 1e-12)), 0.0)
        start = (s - slope * w) / count
        # Some of the variance is always there, however little is called.
        self._variance[learnt] = np.stack([np.maximum(start, 0.2 * s / count), slope], axis=1)

    def forget(self, before_ms: int) -> None:
        """Forget pods that were last seen before a time."""
        kept = np.flatnonzero(self.pods.last_seen >= before_ms)
        if len(kept) < len(self.pods):
            self.pods.keep(kept)
            self._pod_service, self._pod_odds = self._pod_service[kept], self._pod_odds[kept]


def _transition(chance: np.ndarray) -> np.ndarray:
    return chance * (1 - ENDS) + (1 - chance) * BEGINS


def _weigh(chance: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Bayes: the chance after evidence, a log likelihood ratio."""
    likelihood = chance * np.exp(evidence)
    return likelihood / (likelihood + 1 - chance)


def _logit(chance: np.ndarray) -> np.ndarray:
    chance = np.clip(chance, 1e-6, 1 - 1e-6)
    return np.log(chance / (1 - chance))
