"""Everything that can be known to be wrong before any work: `sciflow check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from sciflow import config, consistency
from sciflow.data.schema import DATA, violations
from sciflow.domains.protocol import question
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.runs import STAGES, Run, resolve
from sciflow.stages.artefact import device
from sciflow.stages.given import FromFile, OwnNetwork
from sciflow.stages.train import check_images
from sciflow.training.own import weights


def problems(file: Path, look_inside: bool = False, look_for_devices: bool = False) -> Iterator[str]:
    """Each mistake of a run file and of the files it names, as a line, once.

    Args:
        file: the run file; its smoke size and every run of its sweep are checked too, and the headers of their files.
        look_inside: also read the data, and try on them the assumed likelihood and a denoiser that was trained
            elsewhere.
        look_for_devices: also look for the devices it asks for.
    """
    found: dict[str, None] = {}
    for smoke in (False, True):
        try:
            runs = resolve(file, smoke=smoke)
        except InputError as error:
            found |= dict.fromkeys(str(error).splitlines())
            continue
        for run in runs.values():
            found |= dict.fromkeys(_of_run(run, file, look_inside, look_for_devices))
    yield from found


def _of_run(run: Run, file: Path, look_inside: bool, look_for_devices: bool) -> Iterator[str]:
    """What is wrong with one run."""
    missing = [str(f) for stage in _sections(run) for f in run.files(stage) if not Path(f).exists()]
    for name in missing:
        yield f"{file}: there is no file {name!r}. Paths start at the working directory."
    try:
        parsed = config.parse(run.content, file)
    except InputError as error:
        yield from str(error).splitlines()
        return
    try:
        if look_for_devices and any(run.resource(stage, "gpu") for stage in STAGES):
            device("cuda")
        if not missing and isinstance(parsed.train, FromFile):
            schedule = getattr(parsed.train.denoiser(), "schedule", None)
            yield from (f"{file}: {line}" for line in (consistency.unplannable(parsed, schedule) if schedule else ()))
        if not missing and isinstance(parsed.train, OwnNetwork) and parsed.train.path:
            weights(parsed.train.path)
        if not missing and hasattr(parsed.dataset, "look"):
            parsed.dataset.look()
        if not missing and hasattr(parsed.dataset, "has_images"):
            check_images(parsed.train, parsed.dataset.has_images())
        if not missing:
            yield from (f"{file}: {line}" for line in consistency.untold(parsed))
        if look_inside and not missing and not run.assignments:
            yield from _inside(parsed, file)
    except InputError as error:
        yield f"{file}: {error}"


def _sections(run: Run) -> Iterator[str]:
    """The stages whose section is a mapping; the parser says what is wrong with others."""
    return (stage for stage in STAGES if isinstance(run.values.get(stage), Mapping))


def _inside(parsed: config.RunFile, file: Path) -> Iterator[str]:
    """What reading the data shows."""
    arrays = parsed.dataset.simulate(Stream(parsed.seed).child("dataset"))
    wrong = [f"{file}: {line}" for line in violations(arrays, DATA)]
    yield from wrong
    if not wrong and hasattr(parsed.train, "look"):
        parsed.train.look("dataset", arrays)
    if not wrong and isinstance(parsed.train, OwnNetwork):
        parsed.train.tried(arrays, Stream(parsed.seed).child("train", "examination"))
    if not wrong and "measured" in arrays.variables:
        shape = tuple(arrays["data"].shape[1:])
        target = question(parsed.domain, "sample")
        target.likelihood(parsed.sample.likelihood, arrays, 0, shape, torch.float32, "cpu")
