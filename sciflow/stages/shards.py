"""What stages that are cut into shards share: which part is whose, whether parts belong together, what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sciflow.data.store import Header, read_header
from sciflow.errors import InputError


def share(n: int, part: tuple[int, int]) -> range:
    """Which of n pieces are those of one shard: contiguous, so that joining keeps their order; none, if it is empty.

    Args:
        n: pieces of work.
        part: this shard, from 1, and the number of shards.
    """
    index, count = part
    return range((index - 1) * n // count, index * n // count)


def common_header(run: str, files: Sequence[Path], stage: str) -> Header:
    """The header that the shards of one run share.

    Args:
        run: name of the run.
        files: of the shards, netCDF.
        stage: that wrote them.

    Raises:
        InputError: they are of another run, section or input.
    """
    headers = [read_header(path) for path in files]
    for header, path in zip(headers, files, strict=True):
        if header != headers[0] or header.run != run:
            raise InputError(
                f"{path} belongs to another run, section or input than {files[0]}. Delete both and {stage} again."
            )
    return headers[0]


def check_each_once(shards: Sequence[str]) -> None:
    """Refuse shards `i/n` that are not each of all once."""
    found, n = sorted(shards), len(shards)
    if found != sorted(f"{k}/{n}" for k in range(1, n + 1)):
        raise InputError(f"the files hold the shards {found}, not each of {n} once. Name every shard once.")


def total(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Costs of the shards: seconds of processors and devices added up, of the rest the largest: they run side by side.

    What a shard does not say counts as nothing; of devices, ranks and posteriors nothing is said if no shard does.
    """

    def summed(key: str) -> Iterator[tuple[str, float]]:
        names = [name for fact in facts for name in fact.get(key, {})]
        for name in dict.fromkeys(names):
            yield name, round(sum(fact.get(key, {}).get(name, 0) for fact in facts), 3)

    def known(key: str) -> list[Any]:
        return [fact[key] for fact in facts if key in fact]

    found: dict[str, Any] = {"shards": len(facts), "cpu_seconds": round(sum(known("cpu_seconds")), 3)}
    found |= {key: max(known(key), default=0) for key in ("seconds", "peak_memory_mb")}
    found |= {key: max(known(key)) for key in ("peak_gpu_memory_mb", "ranks") if known(key)}
    found |= {key: round(sum(known(key)), 3) for key in ("gpu_seconds", "attempts") if known(key)}
    if known("device"):
        found["device"] = ", ".join(dict.fromkeys(map(str, known("device"))))
    each = ("posterior_seconds", "posterior_rows", "posterior_solves")
    return found | {key: dict(summed(key)) for key in each if known(key)}
