"""Every entry of the tables that a run file may name runs to its end, with its defaults, in a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sciflow import config
from sciflow.inverse.guidance import Guidance
from sciflow.inverse.likelihood import NoiseModel
from sciflow.inverse.operator import LinearOperator
from sciflow.inverse.posterior import Posterior
from sciflow.networks.mlp import Network
from sciflow.solvers.solve import Solver
from tests.tiny import ANALYTIC, IMAGING, Place, change

GUIDED: dict[str, Any] = {"kind": "guided"}
PROJECTED = {"kind": "twisted_smc", "n_particles": 16, "twist": "pigdm"}
N_STEPS = {"sample.times.n_steps": 6}  # as many as the highest order of the multistep solvers


def posterior(entry: dict[str, Any]) -> dict[str, Any]:
    return {**N_STEPS, "sample.posteriors": {"a": entry}}


def operator(kind: str) -> dict[str, Any]:
    names = ("dataset.observation.operator", "sample.likelihood.operator")
    return {**{name: {"kind": kind} for name in names}, **posterior(GUIDED), "train": {"kind": "closed_form"}}


# Table → (run, last stage, what to change for a kind)
ROWS: dict[type, tuple[dict[str, Any], str, Callable[[str], dict[str, Any]]]] = {
    Solver: (ANALYTIC, "sample", lambda kind: posterior({**GUIDED, "solver": {"kind": kind}})),
    config.Schedule: (ANALYTIC, "sample", lambda kind: {"train.schedule": {"kind": kind}, **posterior(PROJECTED)}),
    config.Times: (ANALYTIC, "sample", lambda kind: {"sample.times": {"kind": kind, "n_steps": 6}}),
    Guidance: (ANALYTIC, "sample", lambda kind: posterior({**GUIDED, "guidance": {"kind": kind}})),
    Posterior: (ANALYTIC, "sample", lambda kind: posterior({"kind": kind})),
    NoiseModel: (ANALYTIC, "dataset", lambda kind: {"dataset.observation.noise": {"kind": kind}}),
    LinearOperator: (IMAGING, "sample", operator),
    config.Loss: (IMAGING, "train", lambda kind: {"train.loss": {"kind": kind}, "train.optimisation.n_steps": 1}),
    Network: (IMAGING, "train", lambda kind: {"train.network": {"kind": kind}, "train.optimisation.n_steps": 1}),
}
ELSEWHERE = {config.Training, config.Dataset, config.LikelihoodModel}  # in test_train, domains and everywhere
KINDS = [(protocol, kind) for protocol in ROWS for kind in config.SLOTS[protocol]]
REFUSED = {"torchsde"}  # it solves SDEs, and no entry of POSTERIORS makes one; tests/test_config.py has its message


def test_every_table_is_looked_at() -> None:
    assert set(config.SLOTS) == {*ROWS, *ELSEWHERE}


@pytest.mark.parametrize(("protocol", "kind"), KINDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_entry_runs_to_its_end(protocol: type, kind: str, place: Place) -> None:
    values, last, changes = ROWS[protocol]
    small = {"dataset.n_problems": 1} if values is ANALYTIC else {"dataset.n_observations": 1}
    run = change(values, {**small, **changes(kind)})
    if kind in REFUSED:
        assert place.sciflow("check", place.write(run)).status == 2
    else:
        place.build(run, until=last)
