"""Everything that can be known to be wrong before any work: `sciflow check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciflow import config
from sciflow.data.schema import DATA, violations
from sciflow.diffusion.model import load
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.runs import STAGES, resolve
from sciflow.stages.artefact import device


def problems(file: Path, look_inside: bool = False, look_for_devices: bool = False) -> Iterator[str]:
    """Each mistake of a run file and of the files it names, as a line.

    Args:
        file: the run file; its smoke size and every run of its sweep are checked too.
        look_inside: also read the data.
        look_for_devices: also look for the devices it asks for.
    """
    seen: set[str] = set()
    for smoke in (False, True):
        try:
            runs = resolve(file, smoke=smoke)
        except InputError as error:
            yield from _new(str(error), seen)
            continue
        for run in runs.values():
            missing = [str(f) for stage in STAGES for f in run.files(stage) if not Path(f).is_file()]
            for name in missing:
                yield from _new(f"{file}: there is no file {name!r}. Paths start at the working directory.", seen)
            try:
                parsed = config.parse(run.content, file)
                if not missing:
                    _ = load(path) if (path := getattr(parsed.train, "path", "")) else None
                if look_for_devices and any(run.resource(stage, "gpu") for stage in STAGES):
                    device("cuda")
            except InputError as error:
                yield from _new(str(error), seen)
                continue
            if look_inside and not missing and run.assignments == ():
                yield from _inside(parsed, file, seen)


def _inside(parsed: config.RunFile, file: Path, seen: set[str]) -> Iterator[str]:
    """What reading the data shows."""
    try:
        arrays = parsed.dataset.simulate(Stream(parsed.seed).child("dataset"))
    except InputError as error:
        yield from _new(f"{file}: {error}", seen)
        return
    for line in violations(arrays, DATA):
        yield from _new(f"{file}: {line}", seen)


def _new(text: str, seen: set[str]) -> Iterator[str]:
    for line in text.splitlines():
        if line not in seen:
            seen.add(line)
            yield line
