"""A force field in torch: energies and forces of many conformations of one molecule at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sciflow.domains.molecules.force_field_terms import Box, Term
from sciflow.errors import InputError

ROWS = 256  # at once: what 22 atoms need for them stays in the second-level cache

COARSE = 1e-3  # nm: a position in a box that rounds so coarsely, at 8 µm in float32, has no image worth the name


@dataclass(frozen=True, eq=False)
class ForceField:
    """A molecular-mechanics energy, of atoms as they are or with their images in a periodic box.

        U(x) = Σ bonds + Σ angles + Σ torsions + Σ maps + Σ_{i<j} (A r⁻¹² − C r⁻⁶ + Q r⁻¹) + solvent

    The box does not change. `energy` can be differentiated once: its gradient is the closed form that
    `energy_and_force` gives.

    Args:
        terms: parts of the energy.
        masses: of the atoms [Da], (atom,), float64.
        box: whose images are seen; None where atoms have none.
        rows: of a batch that are worked on at once; results do not depend on it but for rounding.
        n_constraints: bonds of fixed length in the System, of which the energy knows nothing: no atom may be moved by
            forces that lack them.
    Source: made by `force_field_openmm.force_field` from an OpenMM System.
    """

    terms: tuple[Term, ...]
    masses: Tensor
    box: Box | None = None
    rows: int = ROWS
    n_constraints: int = 0
    _cast: dict[tuple[torch.dtype, torch.device], tuple[Term, ...]] = field(default_factory=dict, repr=False)

    @property
    def n_atoms(self) -> int:
        return len(self.masses)

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U [kJ/mol], (batch,), and −∇U [kJ/mol/nm], of positions (batch, atom, 3) [nm].

        Where atoms lie on each other or too far apart for the dtype, the energy is infinite and the force 0.

        Raises:
            InputError: positions of another form.
        """
        if x.ndim != 3 or tuple(x.shape[1:]) != (self.n_atoms, 3):
            raise InputError(
                f"positions of this molecule are (batch, particle, axis) = (…, {self.n_atoms}, 3), got shape "
                f"{tuple(x.shape)}."
            )
        with torch.no_grad():
            parts = [self._rows(part) for part in x.detach().split(self.rows)] or [(x.new_zeros(0), x.detach())]
        energy, force = (torch.cat(values) for values in zip(*parts, strict=True))
        return energy, force

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = x.permute(1, 2, 0).contiguous()
        force = torch.zeros_like(at)
        energies = [term.add(at, force) for term in self._terms(x)]
        energy = torch.stack(energies).sum(0)
        force = force.permute(2, 0, 1).contiguous()
        bad = ~(energy.isfinite() & force.isfinite().all(2).all(1))
        if self.box is not None:  # far away images are rounding alone, and look like any other place
            bad |= x.abs().amax((1, 2)) * torch.finfo(x.dtype).eps > COARSE
        if bool(bad.any()):
            energy = energy.masked_fill(bad, torch.inf)
            force = force.masked_fill(bad[:, None, None], 0.0)
        return energy, force

    def _terms(self, like: Tensor) -> tuple[Term, ...]:
        key = (like.dtype, like.device)
        if key not in self._cast:
            self._cast[key] = tuple(term.to(like) for term in self.terms)
        return self._cast[key]

    def energy(self, x: Tensor) -> Tensor:
        """U [kJ/mol] of each row."""
        if torch.is_grad_enabled() and x.requires_grad:
            found: Tensor = _Energy.apply(x, self)
            return found
        return self.energy_and_force(x)[0]

    def force(self, x: Tensor) -> Tensor:
        """−∇U [kJ/mol/nm] of each row."""
        return self.energy_and_force(x)[1]


class _Energy(torch.autograd.Function):
    """The energy, whose gradient is found together with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, field: ForceField) -> Tensor:
        energy, force = field.energy_and_force(x)
        ctx.save_for_backward(force)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (force,) = ctx.saved_tensors
        return -grad[:, None, None] * force, None
