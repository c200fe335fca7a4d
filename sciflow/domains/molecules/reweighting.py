"""Free energies from frames at several temperatures at once: MBAR through pymbar, with errors from whole ladders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.domains.molecules.molecule import BOLTZMANN
from sciflow.errors import InputError
from sciflow.particles.resampling import ess
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

N_BOOTSTRAP = 100  # an error from so many is known to 7 %
UNSOLVED = 1e-6  # how far weights of a state may be from a sum of one: pymbar asks for 10⁻¹²
APART = 1e-6  # 1 minus the second eigenvalue of the overlap: below, free energies across the gap mean nothing


def need_pymbar() -> Any:
    """The class MBAR of pymbar.

    Raises:
        InputError: it is not installed.
    """
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it greets at import; whether it converged is asked below
    try:
        from pymbar import MBAR
    except ImportError:
        raise InputError(
            "free energies from several temperatures need pymbar. Install the extra: pip install 'sciflow[molecule]'."
        ) from None
    return MBAR


class Reweighted(NamedTuple):
    """Samples of several states as samples of the first one.

    Attributes:
        log_weights: of all samples in the first state, normalised, (n,), float64.
        free_energies: −log Z_k/Z_0 of each state, (state,).
        overlap: O_ij, the probability that a sample of state i is taken for one of j, (state, state).
    """

    log_weights: Tensor
    free_energies: Tensor
    overlap: Tensor


def mbar(reduced: Tensor, counts: list[int], start: Tensor | None = None) -> Reweighted:
    """The multistate Bennett acceptance ratio.

        f_i = −log Σ_n e^{−u_i(x_n)} / Σ_k N_k e^{f_k − u_k(x_n)},   f_0 = 0

    Exactness: consistent; of all estimators from these samples that with the least asymptotic variance
    Cost: iterations × states × samples
    Bias: O(1/independent samples); none is left where neighbours overlap by less than about 0.03

    Args:
        reduced: u_k(x_n) = U_k/kT_k of every sample in every state, (state, n), samples sorted by their state.
        counts: N_k, samples of each state, in the same order.
        start: f to begin with.

    Raises:
        InputError: pymbar is not installed, the equations are not solved, or states do not overlap, so that any f
            would do.
    Source: Shirts and Chodera (2008), Statistically optimal analysis of samples from multiple equilibrium states,
        eq. 11; Klimovich, Shirts and Mobley (2015), Guidelines for the analysis of free energy calculations, for O.
    """
    found = need_pymbar()(
        reduced.double().numpy(),
        np.array(counts),
        initial_f_k=None if start is None else start.numpy(),
        solver_protocol=[{"method": "adaptive"}],
    )
    weights = torch.from_numpy(np.asarray(found.W_nk))
    overlap = weights.T @ weights * torch.tensor(counts, dtype=torch.float64)
    off = float((weights.sum(0) - 1).abs().max())
    if not off < UNSOLVED or 1 - float(torch.linalg.eigvals(overlap).real.sort().values[-2]) < APART:
        raise InputError(
            f"MBAR cannot join the states: weights of a state sum to one within {off:.1e}, and neighbours overlap by "
            f"{float(overlap.diagonal(1).min()):.1e} or more. Take more temperatures, or more frames."
        )
    free = torch.from_numpy(np.asarray(found.f_k))
    return Reweighted(weights[:, 0].log(), free - free[0], overlap)


@dataclass(frozen=True, eq=False)
class Replicas:
    """Held-out ladders at all temperatures.

    Args:
        inverse: 1/kT [mol/kJ], (state,); the first is the temperature that is asked for.
        energies: U, (state, ladder, frame) [kJ/mol].
        collective: (state, ladder, frame, variable) [°, nm].
    """

    inverse: Tensor
    energies: Tensor
    collective: Tensor

    @classmethod
    def of(cls, data: xr.Dataset) -> Replicas | None:
        """Those of a data set; None where it has one temperature."""
        if "replica_energy" not in data.variables:
            return None
        held_out = data.isel(sample=np.flatnonzero(data["split"].to_numpy() == "test"))
        n_ladders = len(set(held_out["unit"].to_numpy().tolist()))

        def by_ladder(values: Tensor) -> Tensor:
            """Samples stand frame by frame: (state, sample, …) → (state, ladder, frame, …)."""
            return values.unflatten(1, (-1, n_ladders)).transpose(1, 2)

        energies = from_xarray(held_out["replica_energy"], ("replica", "sample"), torch.float64)
        variables = from_xarray(held_out["replica_collective"], ("replica", "sample", "variable"), torch.float64)
        kelvins = torch.as_tensor(held_out["replica_kelvin"].to_numpy())
        return cls(1 / (BOLTZMANN * kelvins), by_ladder(energies), by_ladder(variables))

    def chosen(self, ladders: Tensor) -> Replicas:
        """Some of the ladders, each as often as it is named."""
        return Replicas(self.inverse, self.energies[:, ladders], self.collective[:, ladders])

    def solved(self, start: Tensor | None = None) -> Reweighted:
        """MBAR of all frames."""
        flat = self.energies.flatten()
        counts = [self.energies[0].numel()] * len(self.inverse)
        return mbar(self.inverse[:, None] * flat, counts, start)

    @cached_property
    def all(self) -> Reweighted:
        """MBAR of all ladders."""
        return self.solved()

    @property
    def values(self) -> Tensor:
        """Collective variables of all frames in the order of the weights, (n, variable)."""
        return self.collective.flatten(0, 2)

    @cached_property
    def ess(self) -> float:
        """Kish's number of effective samples at the first temperature."""
        return float(ess(self.all.log_weights))

    def hottest(self) -> Tensor:
        """Log-weights at the first temperature of the frames at the last one alone, normalised, (n,)."""
        reduced = (self.inverse[-1] - self.inverse[0]) * self.energies[-1].flatten()
        return reduced - reduced.logsumexp(0)

    def bootstrap(self, stream: Stream, asked: Callable[[Replicas, Reweighted], Tensor]) -> Tensor:
        """Some numbers of MBAR for sets of ladders drawn with replacement, (N_BOOTSTRAP, numbers).

        A ladder is one block: replicas that exchange are not independent of one another.
        Source: Künsch (1989), The jackknife and the bootstrap for general stationary observations.
        """
        n = self.energies.shape[1]
        draws = (stream.uniform(N_BOOTSTRAP, (n,), dtype=torch.float64) * n).long()
        found = []
        for ladders in draws:
            part = self.chosen(ladders)
            found.append(asked(part, part.solved(self.all.free_energies)))
        return torch.stack(found)
