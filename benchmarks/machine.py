"""The machine a benchmark runs on: what it is, in words, and whether it was quiet enough to judge by."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

BUSIEST = 0.25  # cores of other work on average: more than that shares caches and memory with the measurement
MOST_STOLEN = 0.02  # of the time, by other virtual machines


def in_words() -> str:
    """Processor, cores, memory, system and Python."""
    model, memory = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} cores{memory}; {system}; Python {platform.python_version()}"


def cpu_seconds() -> float:
    """Of this process and of all it has started and seen end."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _jiffies() -> tuple[float, float] | None:
    """Seconds since the start in which a core was busy, and in which it was taken away, summed over cores."""
    if not Path("/proc/stat").exists():
        return None
    user, nice, system, _, _, interrupt, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupt + soft) / tick, steal / tick


class Watch:
    """What else ran between its making and `disturbance`."""

    def __init__(self) -> None:
        self.start, self.before, self.own = time.monotonic(), _jiffies(), cpu_seconds()

    def disturbance(self, own_seconds: float | None = None) -> tuple[str, bool]:
        """In words, and whether that was little enough.

        Args:
            own_seconds: CPU seconds that the benchmark itself has used since the watch was made; None: those of this
                process and of its children that have ended meanwhile.
        """
        now = _jiffies()
        own_seconds = cpu_seconds() - self.own if own_seconds is None else own_seconds
        if self.before is None or now is None:
            load = os.getloadavg()[0]
            return f"load average {load:.1f}", load < 1 + BUSIEST
        wall = time.monotonic() - self.start
        other = max((now[0] - self.before[0] - own_seconds) / wall, 0.0)
        stolen = (now[1] - self.before[1]) / wall / (os.cpu_count() or 1)
        words = f"{other:.2f} cores of other work, {100 * stolen:.1f} % of the time stolen"
        return words, other <= BUSIEST and stolen <= MOST_STOLEN
