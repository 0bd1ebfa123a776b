"""Rounds that interleave contestants, and what is said of them: medians with quartiles, ratios within rounds."""

import os
import time
from pathlib import Path

import numpy as np


class Watch:
    """CPU time of other processes, in cores, on the CPUs that are measured, while it is open."""

    def __init__(self, cpus, pids):
        self.cpus, self.pids = set(cpus), pids

    def __enter__(self):
        self.start = self._read()
        return self

    def __exit__(self, *_):
        wall, busy, ours = (now - then for now, then in zip(self._read(), self.start))
        self.foreign = max(0.0, (busy - ours) / wall)

    def _read(self):
        tick = os.sysconf("SC_CLK_TCK")
        busy = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self.cpus:
                user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                busy += user + nice + system + irq + softirq + steal
        ours = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ours += int(fields[11]) + int(fields[12])
        return time.monotonic(), busy / tick, ours / tick


def interleave(contestants, rounds, ms, calls, before=None):
    """Rounds of every contestant in turn, a different one first each time. `before(contestant)` is noted with each round."""
    found = {contestant.label: [] for contestant in contestants}
    for contestant in contestants:
        contestant.round(0, 2)
    for turn in range(rounds):
        shift = turn % len(contestants)
        for contestant in contestants[shift:] + contestants[:shift]:
            noted = before(contestant) if before else None
            one = contestant.round(ms, calls)
            if noted is not None:
                one["before"] = noted
            found[contestant.label].append(one)
    return found


def best_of(variants, clock, ms=60):
    """The fastest of several ways to run one runtime, by a short trial."""
    if len(variants) == 1:
        return variants[0]
    trial = interleave(variants, 3, ms, 3)
    return max(variants, key=lambda variant: np.median([one[clock] for one in trial[variant.label]]))


def spread(values):
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return dict(median=float(middle), low=float(low), high=float(high), of=len(values))


def ratio(found, a, b, clock):
    """a over b, round by round."""
    return spread([x[clock] / y[clock] for x, y in zip(found[a], found[b])])


def rates(found, label, clock):
    return spread([one[clock] for one in found[label]])
