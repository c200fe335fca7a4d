"""The public tables as a user sees them: `sciflow list`, and the tables of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from sciflow.data.formats import FORMATS
from sciflow.data.layouts import LAYOUTS
from sciflow.diffusion import DENOISERS, FORECASTERS, LOSSES, SCHEDULES, TIMES
from sciflow.domains import DATASETS, DOMAINS
from sciflow.domains.molecules.potentials import POTENTIALS
from sciflow.domains.molecules.systems import MOLECULES
from sciflow.domains.pde.equations import EQUATIONS
from sciflow.domains.protocol import question
from sciflow.errors import InputError
from sciflow.inverse import GUIDANCE, LIKELIHOODS, NOISES, NONLINEAR_OPERATORS, OPERATORS, POSTERIORS
from sciflow.metrics.better import BETTER, declared
from sciflow.networks import NETWORKS
from sciflow.particles import KERNELS, RESAMPLERS
from sciflow.runs import did_you_mean
from sciflow.search import SEARCHES
from sciflow.solvers import LANGEVIN_SOLVERS, SOLVERS
from sciflow.stages import TRAININGS
from sciflow.types import facts


def _of_domains(stage: str, table: str) -> dict[str, Any]:
    return {name: entry for domain in DOMAINS for name, entry in getattr(question(domain, stage), table, {}).items()}


def tables() -> dict[str, Mapping[str, Any]]:
    """Every public table by the name under which it is listed."""
    return {
        "solvers": SOLVERS,
        "langevin_solvers": LANGEVIN_SOLVERS,
        "schedules": SCHEDULES,
        "times": TIMES,
        "searches": SEARCHES,
        "denoisers": DENOISERS,
        "losses": LOSSES,
        "forecasters": FORECASTERS,
        "networks": NETWORKS,
        "trainings": TRAININGS,
        "operators": OPERATORS,
        "nonlinear_operators": NONLINEAR_OPERATORS,
        "noises": NOISES,
        "likelihoods": LIKELIHOODS,
        "guidance": GUIDANCE,
        "posteriors": POSTERIORS,
        "particles": RESAMPLERS,
        "kernels": KERNELS,
        "metrics": _of_domains("evaluate", "METRICS"),
        "figures": _of_domains("report", "FIGURES"),
        "datasets": DATASETS,
        "equations": EQUATIONS,
        "potentials": POTENTIALS,
        "molecules": MOLECULES,
        "formats": FORMATS,
        "layouts": LAYOUTS,
    }


def rows(kind: str = "") -> list[dict[str, str]]:
    """The entries of one table, or the names of all tables.

    Raises:
        InputError: there is no such table.
    """
    known = tables()
    if not kind:
        return [{"name": name, "entries": ", ".join(table)} for name, table in known.items()]
    if kind not in known:
        raise InputError(f"there is no table {kind!r}, only {list(known)}.{did_you_mean(kind, known)}")
    told = [{"name": name, **facts(entry)} for name, entry in known[kind].items()]
    if kind == "metrics":
        directions = {**BETTER, **_of_domains("evaluate", "BETTER")}
        return [{**entry, "better": declared(entry["name"], directions)} for entry in told]
    return told


def show(kind: str = "") -> None:
    """Print a table on the terminal."""
    entries = rows(kind)
    columns = list(dict.fromkeys(key for entry in entries for key in entry if key != "source"))
    if "order" in columns and "exactness" in columns:
        columns.remove("order")
        merged = [entry.get("exactness") or f"order {entry.get('order', '')}" for entry in entries]
        entries = [{**entry, "exactness": text} for entry, text in zip(entries, merged, strict=True)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column == "name", overflow="fold")  # a name is there to be copied
    for entry in entries:
        table.add_row(*(entry.get(column, "") for column in columns))
    Console().print(table)
