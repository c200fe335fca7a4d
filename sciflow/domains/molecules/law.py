"""The law that samples should have: exact on a grid where there is one, certified frames where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.domains.molecules.collective import Collective, collective_of
from sciflow.domains.molecules.potential import OnGrid, Potential, is_on_grid
from sciflow.domains.molecules.quadrature import Grid, draws, lattice, probabilities
from sciflow.domains.molecules.simulate import event_dims
from sciflow.domains.molecules.stored_potential import potential_of
from sciflow.errors import InputError
from sciflow.metrics.boltzmann import cell_masses, js_divergence, pmf_error, w2_1d
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

FINE = 1000  # cells along each axis, for the shares of basins
N_BINS = 60  # of a coordinate whose potential of mean force is shown
N_CELLS = 24  # along a collective variable: 15° of a circle


@dataclass(frozen=True)
class Law:
    """A Boltzmann law, perfect draws of it, and the distances of samples from it.

    Args:
        potential: U and kT.
        frames: certified frames that no model was trained on, (frame, *shape).
        cells: along each axis, where the law is known on a grid.
        stream: of perfect draws.
        units: the chain of each frame, (frame,): no chain is on both sides of a comparison.
        collective: variables with their ranges, where the frames have some.
    """

    potential: Potential
    frames: Tensor
    cells: int
    stream: Stream
    units: Tensor | None = None
    collective: Collective = field(default_factory=Collective)

    @classmethod
    def of(cls, data: xr.Dataset, stream: Stream) -> Law:
        """The law of a data set."""
        potential = potential_of(data)
        held_out = data["data"][data["split"].to_numpy() == "test"]
        frames = from_xarray(held_out, ("sample", *event_dims(potential)), torch.float64)
        units = torch.as_tensor(data["unit"].to_numpy()[data["split"].to_numpy() == "test"])
        law = cls(potential, frames, int(data.attrs.get("cells", 0)), stream, units, collective_of(data))
        return law.turned(0)

    @property
    def is_exact(self) -> bool:
        """Whether the probabilities of cells are known."""
        return is_on_grid(self.potential)

    def size(self, n: int) -> int:
        """Samples that are compared: n, or fewer where there are not twice as many frames."""
        return n if self.is_exact else min(n, len(self.frames) // 2)

    def turned(self, k: int) -> Law:
        """The same law, with its chains in the k-th random order: another half of them is compared with the rest."""
        if self.units is None or self.is_exact:
            return self
        names, index = self.units.unique(return_inverse=True)
        order = torch.randperm(len(names), generator=self.stream.child("turned", k).generator())
        rows = order[index].argsort(stable=True)
        return replace(self, frames=self.frames[rows], units=self.units[rows])

    def perfect(self, k: int, n: int) -> Tensor:
        """The k-th set of n perfect draws, (n, *shape); set 0 is what others are compared with.

        Of an exact law they are independent. Of frames they are without repeats, set 0 from one half of the chains, the
        others from the other half.
        """
        if self.is_exact:
            assert isinstance(self.potential, OnGrid)
            return draws(self.potential, n, self.stream.child("perfect", k))
        half = len(self.frames) // 2
        pool = self.frames[:half] if k == 0 else self.frames[half:]
        return pool[torch.randperm(len(pool), generator=self.stream.child("perfect", k).generator())[:n]]

    @cached_property
    def grid(self) -> Grid:
        """Cells of the window.

        Raises:
            InputError: the law is not known on a grid.
        """
        if not isinstance(self.potential, OnGrid) or not self.is_exact or self.cells < 1:
            raise InputError(
                f"the law of {type(self.potential).__name__} is not known on a grid. Leave out js, pmf_error."
            )
        return probabilities(self.potential, self.potential.window, self.cells)

    @cached_property
    def masses(self) -> Tensor:
        """Exact probability of each cell, and last of what lies outside."""
        return torch.cat([self.grid.mass.flatten(), torch.tensor([self.grid.outside], dtype=torch.float64)])

    def js(self, x: Tensor, other: Tensor | None = None) -> float:
        """Jensen–Shannon divergence from the exact law, or from other samples, on the grid."""
        known = self.masses if other is None else cell_masses(other, self.grid.edges)
        return js_divergence(known, cell_masses(x, self.grid.edges))

    def pmf_error(self, x: Tensor) -> float:
        """Mean squared error of the potential of mean force on the grid."""
        return pmf_error(self.masses, cell_masses(x, self.grid.edges))

    def collective_js(self, x: Tensor) -> float:
        """Jensen–Shannon divergence of the first two collective variables from those of perfect draws, on cells."""
        edges = [axis.edges(N_CELLS) for axis in self.collective.axes[:2]]
        atoms = self.potential.molecule.atoms  # type: ignore[attr-defined]
        both = (self.collective.values(part, atoms)[:, :2] for part in (self.perfect(0, len(x)), x))
        return js_divergence(*(cell_masses(values, edges) for values in both))

    def number_w2(self, name: str, x: Tensor) -> float:
        """W2 distance of the energy, or of an observable, to that of perfect draws."""
        values = [self.number(name, part) for part in (self.perfect(0, len(x)), x)]
        return w2_1d(*values)

    def number(self, name: str, x: Tensor) -> Tensor:
        """Energy [kT] or an observable of each row."""
        x = x.double()
        return self.potential.energy(x) / self.potential.temperature if name == "energy" else self.observables(x)[name]

    def observables(self, x: Tensor) -> Mapping[str, Tensor]:
        return self.potential.observables(x)

    @property
    def coordinate(self) -> str:
        """The observable along which the potential of mean force is shown."""
        return next(iter(self.observables(self.frames[:1])))

    @cached_property
    def free_energy(self) -> float | None:
        """Of basin 1 above basin 0 [kT], exact; None where the potential has no basins or no grid."""
        basins = getattr(self.potential, "basins", None)
        if basins is None or not isinstance(self.potential, OnGrid) or not self.is_exact:
            return None
        grid = probabilities(self.potential, self.potential.support, FINE, 2)
        side = basins(lattice([0.5 * (edges[1:] + edges[:-1]) for edges in grid.edges]))
        mass = grid.mass.flatten()
        return float((mass[side == 0].sum() / mass[side == 1].sum()).log())

    @cached_property
    def profile(self) -> tuple[Tensor, Tensor]:
        """Edges along the coordinate that is shown, (N_BINS + 1,), and the probability of each bin."""
        if isinstance(self.potential, OnGrid) and self.is_exact:
            box = (self.potential.window[0], *self.potential.support[1:])
            grid = probabilities(self.potential, box, N_BINS)
            return grid.edges[0], grid.mass.reshape(N_BINS, -1).sum(1)
        values = self.number(self.coordinate, self.frames)
        low, high = (float(values.quantile(q)) for q in (0.001, 0.999))
        edges = torch.linspace(low, high, N_BINS + 1, dtype=torch.float64)
        return edges, cell_masses(values[:, None], [edges])[:-1]
