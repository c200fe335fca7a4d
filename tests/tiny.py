"""Runs that take seconds, and the command line in this process: a start of its own would cost each call 2.5 CPU s."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow import cli, config, journal, source
from sciflow.runs import STAGES, assign
from sciflow.yamlfile import text

ROOT = Path(__file__).resolve().parents[1]
OBSERVED = {"operator": {"kind": "inpainting", "missing": 0.5}, "noise": {"kind": "gaussian", "sigma": 0.1}}
IMAGING: dict[str, Any] = {
    "domain": "imaging",
    "seed": 3,
    "title": "A tiny run",
    "question": "Does it work?",
    "dataset": {"kind": "digits", "n_observations": 3, "observation": OBSERVED},
    "train": {
        "kind": "network",
        "network": {"kind": "unet", "channels": [4, 8], "n_blocks": 1, "dropout": 0.2},
        "optimisation": {"n_steps": 6, "batch_size": 16, "validate_every": 3, "warm_up": 2},
    },
    "sample": {
        "likelihood": {"kind": "gaussian", "operator": {"kind": "inpainting", "missing": 0.5}, "sigma": 0.1},
        "posteriors": {
            "PiGDM": {"kind": "guided", "guidance": {"kind": "pigdm"}, "solver": {"kind": "eabm", "order": 2}},
            "stochastic": {"kind": "guided", "guidance": {"kind": "pigdm"}, "solver": {"kind": "heun"}},
        },
        "times": {"kind": "karras", "n_steps": 3},
        "n_samples": 4,
        "tile": 4,
    },
    "evaluate": {"metrics": ["psnr", "crps", "coverage"]},
    "report": {},
}
MEASURED = {"operator": {"kind": "dense", "n_measurements": 2}, "noise": {"kind": "gaussian", "sigma": 0.5}}
ANALYTIC: dict[str, Any] = {
    "domain": "analytic",
    "seed": 1,
    "dataset": {
        "kind": "mixture_grid",
        "dimension": 4,
        "modes_per_axis": 2,
        "n_problems": 2,
        "n_samples": 64,
        "observation": MEASURED,
    },
    "train": {"kind": "closed_form"},
    "sample": {
        "likelihood": {"kind": "gaussian", "operator": {"kind": "dense", "n_measurements": 2}, "sigma": 0.5},
        "posteriors": {
            "moment matching": {"kind": "guided", "guidance": {"kind": "moment_matching"}},
            "SMC N=32": {"kind": "twisted_smc", "n_particles": 32},
        },
        "times": {"kind": "karras", "n_steps": 5},
        "n_samples": 16,
        "precision": "float64",
    },
    "evaluate": {},
    "report": {},
}

SEEN = {"kind": "sensors", "stride": 4}
PDE: dict[str, Any] = {
    "domain": "pde",
    "seed": 2,
    "dataset": {
        "kind": "evolving",
        "size": 16,
        "waves": 2,
        "duration": 0.1,
        "step": 0.005,
        "n_samples": 40,
        "n_observations": 2,
        "n_exact": 4,
        "test": 0.1,
        "validation": 0.1,
        "observation": {"operator": SEEN, "noise": {"kind": "gaussian", "sigma": 0.1}},
    },
    "train": {"kind": "closed_form"},
    "sample": {
        "likelihood": {"kind": "gaussian", "operator": SEEN, "sigma": 0.1},
        "posteriors": {"PiGDM": {"kind": "guided", "guidance": {"kind": "pigdm"}}},
        "times": {"kind": "karras", "n_steps": 4},
        "n_samples": 4,
        "tile": 4,
    },
    "evaluate": {},
    "report": {},
}
MOLECULES: dict[str, Any] = {
    "domain": "molecules",
    "seed": 2,
    "dataset": {
        "kind": "boltzmann",
        "potential": {"kind": "double_well", "curvature": -2.0},
        "n_samples": 512,
        "n_repeats": 2,
        "cells": 8,
        "reference": {"n_chains": 128, "n_islands": 4, "n_moves": 1, "share": 0.8},
    },
    "train": {"kind": "closed_form"},
    "sample": {
        "posteriors": {"flow": {"kind": "unguided", "solver": {"kind": "eabm", "order": 2}}},
        "times": {"kind": "karras", "n_steps": 4},
        "n_samples": 64,
        "tile": 64,
    },
    "evaluate": {},
    "report": {},
}
GIVEN = {"kind": "sensors", "stride": 1}
FORECAST: dict[str, Any] = {
    "domain": "pde",
    "seed": 2,
    "dataset": {
        "kind": "kicked",
        "equation": {"kind": "burgers", "viscosity": 0.5},
        "size": 16,
        "gust_width": 0.8,
        "n_times": 3,
        "spin_up": 1.0,
        "n_samples": 40,
        "n_observations": 3,
        "n_exact": 4,
        "test": 0.1,
        "validation": 0.1,
    },
    "train": {
        "kind": "forecast",
        "network": {"kind": "unet", "channels": [4, 8], "padding": "circular"},
        "forecasters": {
            "mean": {"kind": "regression", "n_steps": 2},
            "law": {"kind": "conditional_diffusion", "schedule": {"kind": "follmer"}, "loss": {"kind": "velocity"}},
        },
        "optimisation": {"n_steps": 3, "batch_size": 16, "validate_every": 2},
    },
    "sample": {
        "likelihood": {"kind": "gaussian", "operator": GIVEN, "sigma": 0.1},
        "posteriors": {
            "ensemble": {"kind": "rollout", "forecaster": "law"},
            "twin": {"kind": "rollout", "forecaster": "mean"},
        },
        "times": {"kind": "karras", "n_steps": 3, "ratio_max": 20.0, "ratio_min": 0.02},
        "n_samples": 6,
        "tile": 4,
    },
    "evaluate": {},
    "report": {},
}
PATHS: dict[str, Any] = {
    "domain": "analytic",
    "seed": 2,
    "dataset": {"kind": "lorenz96", "n_times": 5, "n_problems": 3, "n_samples": 20},
    "train": {"kind": "dynamics", "n_substeps": 4},
    "sample": {
        "likelihood": {"kind": "gaussian", "operator": {"kind": "inpainting"}, "sigma": 1.0},
        "posteriors": {
            "reference": {"kind": "particle_filter", "n_particles": 256, "proposal": "guided"},
            "smoother": {"kind": "particle_filter", "n_particles": 64, "law": "smoothing"},
            "EnKF": {"kind": "ensemble_kalman", "n_members": 32},
        },
        "times": {"kind": "karras", "n_steps": 3},
        "n_samples": 16,
        "precision": "float64",
    },
    "evaluate": {},
    "report": {},
}


def change(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a run with the values at dotted keys replaced."""
    return functools.reduce(
        lambda run, pair: assign(run, *pair, "change"), changes.items(), copy.deepcopy(dict(values))
    )


def copy_repository(folder: Path) -> dict[str, str]:
    """What a run needs of the repository, where nobody edits it meanwhile; the environment in which to call it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("sciflow", "workflows", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    """Exit status of a command, and what it said."""

    status: int
    text: str


@dataclass(frozen=True)
class Place:
    """A working directory for the command line."""

    folder: Path

    def write(self, values: Mapping[str, Any], name: str = "run") -> str:
        """Write a run file; its path as a command takes it."""
        (self.folder / f"{name}.yaml").write_text(text(values))
        return f"{name}.yaml"

    def sciflow(self, *arguments: object) -> Outcome:
        """Run a command here, as a fresh process would."""
        source.plugin_digest.cache_clear()
        config.loaded.clear()
        said = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(said):
            status, message = cli._run([str(argument) for argument in arguments])
        return Outcome(status, said.getvalue() + message)

    def build(self, values: Mapping[str, Any], name: str = "run", until: str = "report") -> Path:
        """Run the stages of a run one after another; the folder of its results."""
        file = self.write(values, name)
        for stage in STAGES[: STAGES.index(until) + 1]:
            outcome = self.sciflow(stage, file)
            assert outcome.status == 0, f"{stage}: {outcome.text}"
        return self.results(name)

    def copy(self, folder: Path) -> Path:
        """Everything here, in another folder."""
        return shutil.copytree(self.folder, folder)

    def results(self, name: str = "run") -> Path:
        """The folder of the results of a run."""
        return self.folder / "results" / name

    def forget(self, name: str = "run") -> None:
        """Remove what the stages of a run keep, finished work too: the next command does all of it."""
        for folder in self.results(name).glob(".state/*/*/"):
            shutil.rmtree(folder)

    def files(self) -> dict[Path, bytes]:
        """Everything on disk here, journals apart, in which every command leaves a line."""
        files = [file for file in sorted(self.folder.rglob("*")) if file.is_file() and file.name != journal.FILE]
        return {file: file.read_bytes() for file in files}


@contextlib.contextmanager
def restored_tables() -> Iterator[None]:
    """Take out of the public tables what plugins put in."""
    from sciflow.listing import tables
    from sciflow.metrics import BETTER, METRICS

    known = [METRICS, BETTER, *tables().values(), *config.SLOTS.values(), *_domain_tables()]
    before = [(table, dict(table)) for table in known]
    try:
        yield
    finally:
        for table, entries in before:
            if table != entries:
                table.clear()  # type: ignore[attr-defined]
                table.update(entries)  # type: ignore[attr-defined]
        config.model.cache_clear()
        config._finished.cache_clear()
        config.loaded.clear()


def _domain_tables() -> Iterator[dict[str, Any]]:
    from sciflow.domains import DOMAINS
    from sciflow.domains.protocol import question

    for domain in DOMAINS:
        for stage, table in (("dataset", "DATASETS"), ("evaluate", "METRICS"), ("report", "FIGURES")):
            yield getattr(question(domain, stage), table)
