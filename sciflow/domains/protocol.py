"""What a domain is: five modules that answer five questions, one per stage."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.inverse.likelihood import Likelihood, LikelihoodModel
from sciflow.metrics.better import BETTER, Direction, directions
from sciflow.metrics.score import Score
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTIONS = {"dataset": "simulate", "train": "network", "sample": "target", "evaluate": "metrics", "report": "figures"}
"""Stage → the module of a domain that answers it."""


@runtime_checkable
class Dataset(Protocol):
    """An entry of a domain's DATASETS: what is the data?"""

    def simulate(self, stream: Stream) -> xr.Dataset:
        """Named tensors with units: `data`, `split`, and `truth`, `observation`, `operator_…` if there are any."""
        ...


class Simulate(Protocol):
    """simulate.py: what is the data?"""

    DATASETS: Mapping[str, type]


class Network(Protocol):
    """network.py: what learns it?"""

    def closed_form(self, data: xr.Dataset, schedule: Schedule) -> Denoiser:
        """The prior that needs no training."""
        ...


class Target(Protocol):
    """target.py: what do we sample?"""

    def likelihood(
        self,
        model: LikelihoodModel,
        data: xr.Dataset,
        index: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Likelihood:
        """The likelihood of one recorded observation."""
        ...


@dataclass(frozen=True)
class Row:
    """One number of metrics.csv.

    Args:
        posterior: name of the sampler, as in the run file; "exact" is the floor that exact samples reach.
        metric: name of the metric.
        score: value, standard error, observations, unit, note.
    """

    posterior: str
    metric: str
    score: Score


@dataclass(frozen=True)
class Findings:
    """What `evaluate` found: rows of a table, and the arrays behind the figures, empty where none were asked for."""

    rows: Sequence[Row]
    arrays: xr.Dataset


class Metrics(Protocol):
    """metrics.py: what is good?"""

    METRICS: Mapping[str, Any]
    BETTER: Mapping[str, Mapping[str, Direction]]  # of its own metrics; may be left out
    LEAST_MEMBERS: int  # draws that the metrics need of each posterior

    def evaluate(
        self,
        names: Sequence[str],
        data: xr.Dataset,
        samples: xr.Dataset,
        likelihood: LikelihoodModel,
        stream: Stream,
        shown: Sequence[str] | None = None,
    ) -> Findings:
        """Rows and arrays; `likelihood` is what the samples assumed.

        The rows of `names` come metric by metric and do not depend on one another, so that the shards of `evaluate`
        can share the metrics. What belongs to no metric alone is made once for all metrics of the run, `shown`: the
        arrays, and the rows that come with them, which stand last. None takes `names`; nothing of it is made for none.
        """
        ...


@dataclass(frozen=True)
class Evidence:
    """All that a figure may draw from."""

    data: xr.Dataset
    samples: xr.Dataset
    arrays: xr.Dataset
    rows: Sequence[Mapping[str, Any]]
    history: Mapping[str, Any]
    prior: Denoiser


@dataclass(frozen=True)
class Drawing:
    """One figure of the report.

    Args:
        axes: what was drawn, or one panel of it.
        caption: one or two sentences on what the reader sees.
    """

    axes: Axes
    caption: str

    @property
    def figure(self) -> Figure:
        """The whole figure that the axes stand in."""
        return cast("Figure", self.axes.get_figure(root=True))


def unmarked(name: str) -> str:
    """A name from a run file as a figure shows it, dollar signs and all: between two of them matplotlib reads TeX."""
    return str(name).replace("$", r"\$")


class Figures(Protocol):
    """figures.py: what do we show?"""

    FIGURES: Mapping[str, Callable[[Evidence], Drawing | None]]  # None: there is nothing to show

    def verdicts(self, evidence: Evidence) -> list[str]:
        """What the numbers say, in sentences for someone who has not seen the run file."""
        ...


def question(domain: str, stage: str) -> Any:
    """The module with which a domain answers a stage's question."""
    return importlib.import_module(f"sciflow.domains.{domain}.{QUESTIONS[stage]}")


def better(domain: str) -> dict[str, str]:
    """Row of a domain's tables → which way is better ("less", "more", the value that is right), plugins' rows too."""
    return directions(BETTER, getattr(question(domain, "evaluate"), "BETTER", {}))
