"""Incompressible flow on a torus, as the vorticity's modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.domains.pde.boxes import Torus
from sciflow.solvers.dynamics import Equation, linear


@dataclass(frozen=True)
class NavierStokes:
    """Two-dimensional incompressible flow in vorticity form, with drag and Kolmogorov's forcing.

        ω_t + u·∇ω = ν Δω − μ ω − κ A cos(κ y),   u = (∂_y ψ, −∂_x ψ),   −Δψ = ω

    The forcing is the curl of A sin(κ y) e_x, with κ = 2π n/length; A = 0 leaves decaying turbulence.

    Exactness: Taylor–Green vortices decay as e^{−(ν|k|² + μ)t}, and ω = −κ A cos(κy)/(νκ² + μ) stays, to rounding
    Cost: five transforms per call
    Bias: none beyond grid and step; a step above the size of a cell over max|u| blows up
    Args:
        viscosity: ν.
        drag: μ ≥ 0.
        amplitude: A of the forcing.
        waves: n, waves of the forcing along a side.
    Source: Kolmogorov's flow as in Chandler and Kerswell (2013), J. Fluid Mech. 722; drag as in Boffetta and Ecke
        (2012), Annu. Rev. Fluid Mech. 44.
    """

    viscosity: Annotated[float, Field(gt=0)] = 1e-3
    drag: Annotated[float, Field(ge=0)] = 0.0
    amplitude: float = 0.0
    waves: Annotated[int, Field(gt=0)] = 4
    box = Torus

    def dynamics(self, torus: Torus) -> Equation:
        """The dynamics of the modes of ω, (batch, size, size/2 + 1), with its linear part as the frame "linear"."""
        along, across = torus.wavenumbers
        kept, forcing = torus.kept, torus.modes(self.forcing(torus))

        def convection(t: float, modes: Tensor) -> Tensor:
            u, v = velocity(torus, modes)
            slope_x, slope_y = torus.values(1j * across * modes), torus.values(1j * along * modes)
            return forcing - kept * torus.modes(u * slope_x + v * slope_y)

        return linear(-self.viscosity * (along**2 + across**2) - self.drag, convection)

    def forcing(self, torus: Torus) -> Tensor:
        """−κ A cos(κ y) on the grid, (size, size)."""
        wave = 2 * torch.pi * self.waves / torus.length
        return -wave * self.amplitude * (wave * torus.places).cos()[:, None].expand(torus.size, torus.size)

    def fastest(self, torus: Torus, fields: Tensor) -> float:
        """max|u|, of vorticities (batch, size, size)."""
        u, v = velocity(torus, torus.modes(fields))
        return float((u.square() + v.square()).max().sqrt())


def velocity(torus: Torus, modes: Tensor) -> tuple[Tensor, Tensor]:
    """u = (∂_y ψ, −∂_x ψ), −Δψ = ω, on the grid, of the modes of ω; neither has a mean."""
    along, across = torus.wavenumbers
    squared = along**2 + across**2
    stream = torch.where(squared > 0, 1 / squared.clamp_min(1e-300), 0.0) * modes
    return torus.values(1j * along * stream), torus.values(-1j * across * stream)
