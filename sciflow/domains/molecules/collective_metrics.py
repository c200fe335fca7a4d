"""What chemists ask of collective variables: free energies of basins and along them, with errors from chains."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.domains.molecules.collective import Collective, collective_of
from sciflow.domains.molecules.reweighting import Replicas, Reweighted
from sciflow.domains.molecules.stored_potential import potential_of
from sciflow.domains.protocol import Row
from sciflow.metrics.boltzmann import free_energy_difference, interval
from sciflow.metrics.convergence import pareto_shape
from sciflow.metrics.score import Score, average
from sciflow.particles.resampling import ess
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

FRAMES, MBAR, HOTTEST = "held-out frames", "MBAR", "hottest, reweighted"
N_PROFILE, N_SURFACE = 60, 36  # cells along a variable: of a circle 6° for a profile, 10° for a map
UNIT = "kJ/mol"


@dataclass(frozen=True, eq=False)
class Conformations:
    """Collective variables of held-out frames and of every sampler, and what is asked of them.

    Args:
        collective: variables with their ranges, and basins.
        temperature: kT [kJ/mol].
        frames: of held-out chains, (chain, frame, variable) [°, nm].
        drawn: sampler → (repeat, member, variable) [°, nm].
        log_evidence: sampler → of each repeat; NaN where it says none.
        replicas: held-out ladders, where there are some.
        stream: of bootstraps.
    """

    collective: Collective
    temperature: float
    frames: Tensor
    drawn: Mapping[str, Tensor]
    log_evidence: Mapping[str, Tensor]
    replicas: Replicas | None
    stream: Stream

    @classmethod
    def of(
        cls, data: xr.Dataset, samples: xr.Dataset, drawn: Mapping[str, Tensor], stream: Stream
    ) -> Conformations | None:
        """Those of a run; None where the data set names no variable."""
        collective = collective_of(data)
        if not collective.names:
            return None
        potential: Any = potential_of(data)
        held_out = data.isel(sample=np.flatnonzero(data["split"].to_numpy() == "test"))
        order = np.argsort(held_out["unit"].to_numpy(), kind="stable")  # chain by chain, each in the order of time
        n_chains = len(set(held_out["unit"].to_numpy().tolist()))
        frames = from_xarray(held_out["collective"][order], ("sample", "variable"), torch.float64)
        atoms = potential.molecule.atoms
        evidence = {name: from_xarray(samples["log_evidence"].sel(posterior=name), ("observation",)) for name in drawn}
        return cls(
            collective,
            potential.temperature,
            frames.unflatten(0, (n_chains, -1)),
            {name: collective.values(x, atoms) for name, x in drawn.items()},
            evidence,
            Replicas.of(data),
            stream,
        )

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Basins that are compared with the first one."""
        return [(name, k) for k, name in enumerate(self.collective.basins)][1:]

    @functools.cached_property
    def resampled(self) -> Tensor:
        """Of MBAR, (bootstrap, basins after the first, then f of the hottest, then profiles)."""
        assert self.replicas is not None

        def asked(replicas: Replicas, found: Reweighted) -> Tensor:
            values = replicas.values
            return torch.cat([self._differences(values, found.log_weights), found.free_energies[-1:],
                              self._shares(values, found.log_weights).flatten()])  # fmt: skip

        return self.replicas.bootstrap(self.stream.child("mbar"), asked)

    def _differences(self, values: Tensor, log_weights: Tensor) -> Tensor:
        """ΔF of each basin after the first [kJ/mol], of weighted samples; infinite where a basin is empty."""
        basins = self.collective.basin(values)
        n = max(1, len(self.collective.basins))
        shares = torch.zeros(n + 1, dtype=torch.float64).index_add_(0, basins + 1, log_weights.exp())[1:]
        return -self.temperature * (shares[1:] / shares[0]).log()

    def _shares(self, values: Tensor, log_weights: Tensor) -> Tensor:
        """Probability of each cell of each variable, (variable, cell); beyond the ends of a line nothing is shown."""
        empty = torch.zeros(N_PROFILE + 1, dtype=torch.float64)
        columns = zip(self.collective.axes, values.unbind(-1), strict=True)
        cells = [axis.cells(column, N_PROFILE) for axis, column in columns]
        return torch.stack([empty.index_add(0, own, log_weights.exp()) for own in cells])[:, :-1]

    def basin_rows(self) -> list[Row]:
        """ΔF of each basin above the first: by counting, by MBAR, by every sampler, and their z against the former."""
        rows: list[Row] = []
        for place, (name, k) in enumerate(self.pairs):
            metric = f"free_energy_{name}"
            counted = self._counted(self.frames, k, self.stream.child("frames", k))
            best = counted if self.replicas is None else self._by_mbar(place)
            rows.append(Row(FRAMES, metric, counted))
            if self.replicas is not None:
                rows += [Row(MBAR, metric, best), Row(HOTTEST, metric, self._by_hottest(place))]
            for posterior, values in self.drawn.items():
                score = self._of_repeats(values, k)
                rows.append(Row(posterior, metric, score))
                rows.append(Row(posterior, f"{metric}_z", z_of(score, best)))
        return rows

    def _counted(self, chains: Tensor, k: int, stream: Stream) -> Score:
        basins = self.collective.basin(chains)
        found = free_energy_difference(
            side(basins.flatten(), k), stream, block=chains.shape[1], temperature=self.temperature, unit=UNIT
        )
        first = next(iter(self.collective.basins))
        return Score(found.value, found.stderr, found.n, UNIT, f"above {first}; {found.note}")

    def _by_mbar(self, place: int) -> Score:
        assert self.replicas is not None
        value = float(self._differences(self.replicas.values, self.replicas.all.log_weights)[place])
        return bootstrapped(value, self.resampled[:, place], UNIT, f"{self.replicas.energies.shape[1]} ladders")

    def _by_hottest(self, place: int) -> Score:
        """What frames at the hottest temperature alone say, if they are weighted: k̂ tells whether to believe it."""
        assert self.replicas is not None
        weights, values = self.replicas.hottest(), self.replicas.collective[-1].flatten(0, 1)
        value = float(self._differences(values, weights)[place])
        note = f"k̂ = {pareto_shape(weights):.2f}, {float(ess(weights)):.0f} effective of {len(weights)} frames"
        return Score(value if math.isfinite(value) else math.nan, math.nan, len(weights), UNIT, note)

    def _of_repeats(self, values: Tensor, k: int) -> Score:
        """Of one sampler, each repeat by itself; NaN where a basin is empty in one of them."""
        counts = torch.stack([(self.collective.basin(values) == basin).double().sum(1) for basin in (0, k)])
        if not bool((counts > 0).all()):
            return Score(math.nan, math.inf, values.shape[0], UNIT, "a basin is empty")
        found = -self.temperature * (counts[1] / counts[0]).log()
        return average(found, UNIT, f"{len(found)} repeats of {values.shape[1]} draws")

    def mbar_rows(self) -> list[Row]:
        """Whether MBAR can be believed, and log Z at the temperature over that at the hottest, of all who know it."""
        if self.replicas is None:
            return []
        found, hottest = self.replicas.all, self.replicas.hottest()
        n, neighbours = len(found.log_weights), found.overlap.diagonal(1)
        blocks, of_hottest = f"{self.replicas.energies.shape[1]} ladders", self.resampled[:, len(self.pairs)]
        log_ratio = bootstrapped(float(found.free_energies[-1]), of_hottest, "nat", blocks)
        rows = [
            Row(MBAR, "log_partition", log_ratio),
            Row(MBAR, "ess", Score(self.replicas.ess, math.nan, n, "1", f"of {n} frames")),
            Row(MBAR, "khat", Score(pareto_shape(found.log_weights), math.nan, n, "1", "below 0.7 to be of use")),
            Row(MBAR, "overlap_min", Score(float(neighbours.min()), math.nan, len(neighbours), "1", "of neighbours")),
            Row(HOTTEST, "ess", Score(float(ess(hottest)), math.nan, len(hottest), "1", f"of {len(hottest)} frames")),
            Row(HOTTEST, "khat", Score(pareto_shape(hottest), math.nan, len(hottest), "1", "below 0.7 to be of use")),
        ]
        for posterior, values in self.log_evidence.items():
            if bool(values.isfinite().all()):
                score = average(values.double(), "nat", f"{len(values)} repeats")
                rows += [Row(posterior, "log_partition", score),
                         Row(posterior, "log_partition_z", z_of(score, log_ratio))]  # fmt: skip
        return rows

    def arrays(self) -> xr.Dataset:
        """What the figures show: profiles, a map of the first two variables, variables of draws, overlaps."""
        profiles = {FRAMES: self._profile(self.frames)}
        if self.replicas is not None:
            shares = self._shares(self.replicas.values, self.replicas.all.log_weights)
            spread = self.resampled[:, len(self.pairs) + 1 :].std(0).reshape(shares.shape)
            profiles[MBAR] = self._force(shares, spread)
        profiles |= {name: self._profile(values) for name, values in self.drawn.items()}
        axes = self.collective.axes
        edges = torch.stack([axis.edges(N_PROFILE) for axis in axes])
        values = {
            "collective_pmf": torch.stack([pmf for pmf, _ in profiles.values()]),
            "collective_pmf_stderr": torch.stack([stderr for _, stderr in profiles.values()]),
            "collective_at": 0.5 * (edges[:, 1:] + edges[:, :-1]),
            "collective": torch.stack(list(self.drawn.values())).float(),
            "held_out_collective": self.frames.flatten(0, 1).float(),
        }
        dims: dict[str, tuple[str, ...]] = {
            **dict.fromkeys(("collective_pmf", "collective_pmf_stderr"), ("estimate", "variable", "cell")),
            "collective_at": ("variable", "cell"),
            "collective": ("posterior", "observation", "member", "variable"),
            "held_out_collective": ("frame", "variable"),
        }
        units = {**dict.fromkeys(values, self.collective.unit),
                 **dict.fromkeys(("collective_pmf", "collective_pmf_stderr", "surface"), UNIT)}  # fmt: skip
        if len(axes) > 1:
            values["surface"], dims["surface"] = self._surface(), ("cell_1", "cell_2")
        if self.replicas is not None:
            values["overlap"], dims["overlap"] = self.replicas.all.overlap, ("replica", "other_replica")
        coords: dict[str, Any] = {
            "posterior": np.array(list(self.drawn)),
            "estimate": np.array(list(profiles)),
            "variable": np.array(self.collective.names),
            "variable_unit": ("variable", np.array([axis.unit for axis in axes])),
        }
        return to_xarray(values, dims, coords, units)

    def _profile(self, chains: Tensor) -> tuple[Tensor, Tensor]:
        """Potential of mean force of each variable [kJ/mol] and its error from whole chains, (variable, cell)."""
        flat = torch.full((chains.shape[1],), -math.log(chains.shape[1]), dtype=torch.float64)
        shares = torch.stack([self._shares(chain, flat) for chain in chains])
        return self._force(shares.mean(0), shares.std(0) / math.sqrt(len(chains)))

    def _force(self, shares: Tensor, stderr: Tensor) -> tuple[Tensor, Tensor]:
        """−kT log p above its least value, infinite where nothing fell, and kT δp/p."""
        return above_least(-self.temperature * shares.log(), -1), self.temperature * stderr / shares

    def _surface(self) -> Tensor:
        """−kT log p on cells of the first two variables above its least value, by MBAR where there are replicas."""
        if self.replicas is None:
            values = self.frames.flatten(0, 1)
            log_weights = torch.full((len(values),), -math.log(len(values)), dtype=torch.float64)
        else:
            values, log_weights = self.replicas.values, self.replicas.all.log_weights
        size = N_SURFACE + 1  # the last row and column hold what lies beyond the ends of a line
        first, second = (axis.cells(values[:, k], N_SURFACE) for k, axis in enumerate(self.collective.axes[:2]))
        shares = torch.zeros(size**2, dtype=torch.float64).index_add(0, first * size + second, log_weights.exp())
        return above_least(-self.temperature * shares.reshape(size, size)[:-1, :-1].log(), (0, 1))


def above_least(energies: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Energies above their least along some axes; infinite ones stay so where nothing was found at all."""
    least = energies.amin(dim, keepdim=True)
    return torch.where(least.isfinite(), energies - least, energies)


def side(basins: Tensor, k: int) -> Tensor:
    """Basin 0 as 0, basin k as 1, all others as −1."""
    return torch.where(basins == 0, 0, torch.where(basins == k, 1, -1))


def bootstrapped(value: float, resampled: Tensor, unit: str, blocks: str) -> Score:
    """A value with the error and interval of its bootstrap; NaN where nothing is in a basin."""
    known = resampled[resampled.isfinite()]
    if not math.isfinite(value) or len(known) < 2:
        return Score(math.nan, math.inf, len(resampled), unit, "a basin is empty")
    lost = len(resampled) - len(known)
    note = f"{interval(known)} by bootstrap of {blocks}" + (f"; {lost} had an empty basin" if lost else "")
    return Score(value, float(known.std()), len(resampled), unit, note)


def z_of(score: Score, reference: Score) -> Score:
    """(value − reference)/√(se² + se²): perfect is 0 ± 1."""
    width = math.hypot(score.stderr, reference.stderr)
    z = (score.value - reference.value) / width if 0 < width < math.inf else math.nan
    note = "(value − reference)/error of both; perfect is 0 ± 1"
    return Score(z, math.nan if math.isnan(z) else 1.0, score.n, "1", note)
