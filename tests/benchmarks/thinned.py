"""What a sample of traces says of work, excess and what a call takes, beside all traces of the same world.

    python -m tests.benchmarks.thinned DIR [--chances .3 .1 .03 .01]

DIR is a directory as the job reads it. Traces are kept by the hash of their ids; the detector *usual* reads each
sample. Prints a line a sample: traces, minutes of incidents, what all calls of the whole world take by what was learnt
(as a share of what is learnt from all traces; cpu), and the excess of all incidents (core-seconds; signed).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from simulator.evaluation.worlds import sample
from udfs.pure.assemble import SEPARATOR, Trace, unpack
from udfs.pure.detect import Detector
from udfs.pure.dimensions import WATCHED
from udfs.pure.frame import Frame
from udfs.pure.offline import read
from udfs.pure.pieces import PIECES
from udfs.pure.verdicts import MinuteResult

CPU = WATCHED.index("cpu")


def detected(minutes: dict[int, list[Trace]], usage: dict, chance: float) -> tuple[Detector, list[MinuteResult], int]:
    """(detector, its last word on each minute, traces) of a sample."""
    detector: Detector[MinuteResult] = Detector()
    results: dict[int, MinuteResult] = {}
    count = 0
    for minute_ms in sorted({*minutes, *usage}):
        kept = sample(minutes.get(minute_ms, []), chance)
        count += len(kept)
        for result in detector.step(minute_ms, kept, usage.get(minute_ms, {})):
            results[result.minute_ms] = result
    for result in detector.last_words(detector.pending):
        results[result.minute_ms] = result
    return detector, list(results.values()), count


def calls_of(detector: Detector, minutes: dict[int, list[Trace]]) -> dict[tuple[str, str], float]:
    """Calls of the whole world by (service, operation); what is called CALLS is what a service calls itself."""
    names = {(name.split(SEPARATOR)[0], slot): name for name, slot in detector._pieces._slot_of.items()}
    found: dict[tuple[str, str], float] = defaultdict(float)
    for minute_ms, traces in minutes.items():
        frame = Frame(sorted(traces, key=lambda trace: trace.trace_id))
        reading = detector._baselines.read(minute_ms, frame)
        for pod, calls in detector._pieces.calls_of_pods(frame, reading).items():
            service = pod.split(SEPARATOR)[0]
            for slot, count in enumerate(calls.tolist()):
                name = "" if slot == PIECES - 1 else names.get((service, slot), "")
                found[service, name] += count
    return found


def taken(detector: Detector, calls: dict[tuple[str, str], float]) -> float:
    """What these calls take of cpu, by what was learnt."""
    costs, total = detector._usage.work_costs()[:, CPU], 0.0
    for (service, name), count in calls.items():
        number = detector._baselines.services.get(service)
        slot = detector._pieces._slot_of.get(name) if name else PIECES - 1
        if number >= 0 and slot is not None:
            total += count * costs[number, slot]
    return total


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--chances", type=float, nargs="+", default=[0.3, 0.1, 0.03, 0.01])
    arguments = parser.parse_args()
    packed, usage = read(arguments.directory)
    minutes = {minute_ms: [unpack(one) for one in traces] for minute_ms, traces in packed.items()}
    print("| kept | traces | minutes of incidents | what all calls take | excess of cpu |\n|---|---|---|---|---|")
    whole, calls = 0.0, {}
    for chance in [1.0, *arguments.chances]:
        detector, results, count = detected(minutes, usage, chance)
        if chance == 1:
            calls = calls_of(detector, minutes)
            whole = taken(detector, calls)
        incidents = [incident for result in results for incident in result.incidents]
        excess = sum(used["cpu"] for incident in incidents for used in incident["excess_usage"].values())
        share = taken(detector, calls) / whole
        print(f"| {chance:g} | {count:,} | {len(incidents)} | {share:.2f} | {excess:,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
