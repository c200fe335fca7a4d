"""What an artefact must hold: named dims, units, kinds of numbers. Every violation is listed at once.

`*event` in a list of dims stands for any dims (channel, y, x; dimension; …) that are the same wherever it appears.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciflow.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

KINDS = {"float": "f", "integer": "iu", "string": "UTO", "bool": "b", "number": "fiu"}
"""Kind of number -> NumPy type codes."""
BOX = "periodic_box"
"""Attribute of a data set of atoms that have images: rows a, b, c [nm], nine numbers."""


@dataclass(frozen=True)
class Variable:
    """One named array.

    Args:
        name: of the variable or coordinate.
        dims: names in order; one of them may be `*event`.
        units: text of its `units` attribute; None accepts any, also a missing one.
        kind: float, integer, number (either), string or bool.
        is_required: false lets it be absent.
        is_finite: NaN and infinite values are refused.
    """

    name: str
    dims: tuple[str, ...]
    units: str | None = None
    kind: str = "float"
    is_required: bool = True
    is_finite: bool = True


@dataclass(frozen=True)
class Schema:
    """A named list of variables; others may stand beside them.

    Args:
        name: of the kind of artefact, for messages.
        variables: what must be there.
    """

    name: str
    variables: tuple[Variable, ...]


DATA = Schema(
    "data.nc",
    (
        Variable("data", ("sample", "*event")),
        Variable("split", ("sample",), kind="string"),
        Variable("truth", ("observation", "*event"), is_required=False),
        Variable("measured", ("observation", "measurement"), is_required=False),
    ),
)

SAMPLES = Schema(
    "samples.nc",
    (
        Variable("samples", ("posterior", "observation", "member", "*event")),
        Variable("posterior", ("posterior",), kind="string"),
        Variable("log_weights", ("posterior", "observation", "member"), is_required=False),
        Variable("log_evidence", ("posterior", "observation"), is_required=False, is_finite=False),
        Variable("log_evidence_stderr", ("posterior", "observation"), is_required=False, is_finite=False),
        Variable("log_evidence_stderr_islands", ("posterior", "observation"), is_required=False, is_finite=False),
        Variable("ess", ("posterior", "observation"), is_required=False, is_finite=False),
        Variable("nfe", ("posterior", "observation"), kind="number", is_required=False),
        Variable("solves", ("posterior", "observation"), kind="number", is_required=False),
        Variable("ess_trace", ("posterior", "observation", "smc_step"), is_required=False, is_finite=False),
        Variable("parents_trace", ("posterior", "observation", "smc_step"), is_required=False, is_finite=False),
        Variable("log_evidence_trace", ("posterior", "observation", "smc_step"), is_required=False, is_finite=False),
    ),
)


def check(dataset: xr.Dataset, schema: Schema, where: str = "", look_inside: bool = True) -> None:
    """Compare a data set with its schema.

    Args:
        dataset: what was read.
        schema: what is needed.
        where: file name, for the message.
        look_inside: also read the values and refuse NaN; false reads headers only.

    Raises:
        InputError: one line for each violation, with what was got and what is needed.
    """
    found = list(violations(dataset, schema, look_inside))
    if found:
        raise InputError("\n".join(f"{where or schema.name}: {line}" for line in found))


def violations(dataset: xr.Dataset, schema: Schema, look_inside: bool = True) -> Iterable[str]:
    """Each violation as a sentence. Arguments as in `check`."""
    event: tuple[str, ...] | None = None
    for wanted in schema.variables:
        if wanted.name not in dataset.variables:
            if wanted.is_required:
                names = sorted(map(str, dataset.variables))
                yield f"variable {wanted.name!r} is missing, found {names}.{suggestion(wanted.name, names)}"
            continue
        array = dataset.variables[wanted.name]
        bound = _match(tuple(map(str, array.dims)), wanted.dims, event)
        if bound is None:
            needed = tuple(dim for name in wanted.dims for dim in (event if name == "*event" and event else (name,)))
            yield f"variable {wanted.name!r} has dims {array.dims}, needs {needed}."
        elif "*event" in wanted.dims:
            event = bound
        yield from _contents(array, wanted, look_inside)


def _match(dims: tuple[str, ...], wanted: tuple[str, ...], event: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The dims that `*event` stands for, () without one, None where the dims do not match."""
    if "*event" not in wanted:
        return () if dims == wanted else None
    before = wanted.index("*event")
    after = len(wanted) - before - 1
    bound = dims[before : len(dims) - after]
    matches = len(dims) >= before + after and (*dims[:before], *dims[len(dims) - after :]) == (
        *wanted[:before],
        *wanted[before + 1 :],
    )
    return bound if matches and event in (None, bound) else None


def _contents(array: xr.Variable, wanted: Variable, look_inside: bool) -> Iterable[str]:
    """Violations of kind, units, size and finiteness of one variable."""
    if array.dtype.kind not in KINDS[wanted.kind]:
        yield f"variable {wanted.name!r} holds {array.dtype}, needs {wanted.kind} values."
    units = array.attrs.get("units")
    if wanted.units is not None and units != wanted.units:
        got = "no units" if units is None else f"units {units!r}"
        yield f"variable {wanted.name!r} has {got}, needs {wanted.units!r}. Convert it, or correct the attribute."
    if array.size == 0:
        yield f"variable {wanted.name!r} is empty: sizes {dict(array.sizes)}. Give at least one of each."
    elif look_inside and wanted.is_finite and array.dtype.kind == "f":
        bad = not_finite(array.to_numpy(), tuple(map(str, array.dims)))
        if bad:
            yield f"variable {wanted.name!r} has {bad}. Remove or fill them."


def not_finite(values: np.ndarray, dims: tuple[str, ...]) -> str:
    """How many values are NaN or infinite and where the first one stands; '' if none is."""
    import numpy as np

    bad = ~np.isfinite(values)
    if not bad.any():
        return ""
    first = ", ".join(f"{dim} {int(i)}" for dim, i in zip(dims, np.argwhere(bad)[0], strict=True))
    return f"{int(bad.sum())} of {values.size} values NaN or infinite, the first at ({first})"


def suggestion(name: str, names: list[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name or last part of a path, or ''."""
    known = {known.rpartition("/")[2]: known for known in names} | {known: known for known in names}
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {known[near[0]]!r}?" if near else ""
