"""What the Snakefile asks: every run that can be named, checked before any job, with its source digests.

Imports neither torch nor pydantic.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sciflow.checking import check as check_runs
from sciflow.checking import covering
from sciflow.errors import InputError
from sciflow.runs import SMOKE, STAGES, Run, did_you_mean, merge, resolve
from sciflow.source import Kinds, digest, kinds
from sciflow.yamlfile import load

SETTINGS = ("runs", "smoke", "defaults", "overrides", "pathvars")
MEMORY = Path(".snakemake")


class Catalogue:
    """Runs by name, each file resolved and checked at its first use.

    Args:
        folder: holds `runs/*.yaml`, `config/default.yaml` and `config/schema.json`.
        config: what Snakemake's --configfile and --config said, over `config/default.yaml`: `runs` (names or paths),
            `smoke` (true: the smoke size of each), `defaults` (under each run file), `overrides` (over it).
        check: check each run (`sciflow.checking`) before it is handed out.

    Raises:
        InputError: an unknown setting, or two run files of one name.
    """

    def __init__(self, folder: Path | str, config: Mapping[str, Any] | None = None, check: bool = True) -> None:
        self.folder = _from_here(Path(folder))
        base, config = load(self.folder / "config" / "default.yaml"), config or {}
        for key in config:
            if key not in SETTINGS:
                raise InputError(
                    f"config: unknown key '{key}', must be one of {[*SETTINGS]}.{did_you_mean(key, SETTINGS)}"
                )
        self.defaults = merge(base.get("defaults") or {}, config.get("defaults") or {}, "defaults")
        self.overrides = config.get("overrides") or {}
        entries = config.get("runs", base.get("runs", []))
        entries = [entries] if isinstance(entries, str | Path) else list(entries)
        self.files = {file.stem: file for file in sorted((self.folder / "runs").glob("*.yaml"))}
        for entry in map(str, entries):
            if _is_path(entry):
                self._add(Path(entry))
        suffix = SMOKE if str(config.get("smoke", False)).lower() == "true" else ""
        self.asked = [(Path(entry).stem if _is_path(entry) else entry) + suffix for entry in map(str, entries)]
        self._families: dict[str, dict[str, Run]] = {}
        self._check = check
        for name in self.overrides:
            if name != "every":
                self._file(name, "overrides")

    def _add(self, file: Path) -> None:
        known = self.files.get(file.stem)
        if known is not None and known.resolve() != file.resolve():
            raise InputError(f"config: runs {known} and {file} have one name, '{file.stem}'. Rename one of the files.")
        self.files[file.stem] = file

    def _file(self, base: str, where: str = "runs") -> Path:
        stem = base.removesuffix(SMOKE)
        if stem not in self.files:
            names = sorted(self.files)
            hint = did_you_mean(stem, names) or f" Give a file as a path, or put it into {self.folder / 'runs'}."
            raise InputError(f"{where}: there is no run '{stem}', only {names}.{hint}")
        return self.files[stem]

    def family(self, base: str) -> dict[str, Run]:
        """The run `base`, its children and the runs between that own a stage of a child, by name."""
        if base not in self._families:
            self.check([base])
        return self._families[base]

    def check(self, bases: Iterable[str]) -> None:
        """Resolve and check run files, all in one go: two seconds if any of them is new, else none.

        Raises:
            InputError: what is wrong in any of them.
        """
        families = {
            base: resolve(self._file(base), self.defaults, self.overrides, smoke=base.endswith(SMOKE)) for base in bases
        }
        if self._check:
            chosen = [run for runs in families.values() for run in covering(leaves(runs))]
            check_runs(chosen, self.schema, MEMORY / "sciflow-checked")
        self._families.update(families)

    def __getitem__(self, name: str) -> Run:
        base = name.split("~")[0]
        runs = self.family(base)
        if name not in runs:
            raise InputError(
                f"runs: run '{base}' has no child '{name}', only {sorted(runs)}.{did_you_mean(name, runs)}"
            )
        return runs[name]

    def children(self, base: str) -> list[Run]:
        """The runs to build for `base`: itself, or each child if the file has a sweep."""
        return leaves(self.family(base))

    def sweeps(self) -> Iterator[str]:
        """Names among the asked runs that have children to compare."""
        return (base for base in self.asked if self.children(base)[0].assignments)

    def batches(self, stage: str) -> list[list[str]]:
        """Runs of the asked sweeps whose `stage` one process does: as many as `resources.<stage>.together` says.

        Runs with other plugins are not among them: what a plugin adds, or replaces, stays until the process ends.
        """
        found: list[list[str]] = []
        for base in self.sweeps():
            plugins = {run.owner(stage): run.values.get("plugins") for run in self.children(base)}
            size = self[base].resource(stage, "together", 1)
            for _, alike in itertools.groupby(plugins, plugins.__getitem__):
                names = list(alike)
                cut = [names[first : first + size] for first in range(0, len(names), size)]
                found += [batch for batch in cut if len(batch) > 1 and batch not in found]
        return found

    def check_files(self, bases: Iterable[str]) -> None:
        """Raise InputError if a file that a section of these runs names (`Run.files`) is not there."""
        runs = [run for base in bases for run in self.family(base).values()]
        for run, stage in itertools.product(runs, STAGES):
            for file in run.files(stage):
                if not Path(file).exists():
                    raise InputError(
                        f"{run.file}: {stage} names the file '{file}', which is not there. "
                        f"Check the path; a relative one starts at the working directory, {Path.cwd()}."
                    )

    def stored(self, name: str) -> Path:
        """A file that holds the resolved run, named after its content: jobs copy it to results/<name>/run.yaml.

        It lies among Snakemake's own records, so that a dry run touches no result.
        """
        content = self[name].text().encode()
        file = MEMORY / "sciflow-runs" / f"{hashlib.sha256(content).hexdigest()[:16]}.yaml"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = file.with_suffix(f".{os.getpid()}")
            whole.write_bytes(content)
            whole.replace(file)
        return file

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a run file, or nothing where none was generated."""
        file = self.folder / "config" / "schema.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @functools.cached_property
    def kinds(self) -> Kinds:
        """Where each kind is defined (`sciflow.source.kinds`)."""
        return kinds(self.schema)

    def digest(self, name: str, stage: str, artefact: Path | str | None = None) -> str:
        """Digest of the source that a stage of a run uses; a run with `freeze: true` keeps that of its artefact.

        Raises:
            InputError: the artefact of a frozen run has a sidecar that cannot be read.
        """
        run = self[name]
        if run.values.get("freeze") and artefact is not None:
            sidecar = Path(f"{artefact}.provenance.json")
            if sidecar.is_file():
                try:
                    recorded = json.loads(sidecar.read_text(encoding="utf-8")).get("source_digest")
                except (ValueError, AttributeError, RecursionError) as error:
                    raise InputError(
                        f"{sidecar} is no JSON object ({error}), but run '{name}' is frozen: what made {artefact} "
                        "is to be read there. Copy it again from where the results came, or delete it, and the stage "
                        "is run again."
                    ) from None
                if recorded:
                    return str(recorded)
        return digest(stage, run.section(stage), self.kinds, run.values.get("plugins") or ())


def _from_here(folder: Path) -> Path:
    """The shorter path to a folder below the working directory, for messages."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _is_path(entry: str) -> bool:
    return "/" in entry or entry.endswith((".yaml", ".yml"))


def leaves(runs: Mapping[str, Run]) -> list[Run]:
    """The runs of a family that carry every swept value: the ones to build and compare."""
    longest = max(len(run.assignments) for run in runs.values())
    return [run for run in runs.values() if len(run.assignments) == longest]
