"""Generalised Born solvents that OpenMM's own files write as a CustomGBForce, known by their formulas."""

from __future__ import annotations

import re
from typing import Any

import torch

from sciflow.domains.molecules.force_field_nonbonded import Born
from sciflow.errors import InputError

NUMBER = r"([-+0-9.eE]+)"
INTEGRAL = (
    "select(step(r+sr2-or1),0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r),0);"
    "U=r+sr2;L=max(or1,D);D=abs(r-sr2)"
)
RADIUS = {  # the formula of B → the order of its numbers α, β, γ
    "1/(1/or-tanh(#*psi+#*psi^3)/radius);psi=I*or;radius=or+offset;offset=#": ("alpha", "gamma", "offset"),
    "1/(1/or-tanh(psi-#*psi^2+#*psi^3)/radius);psi=I*or;radius=or+offset;offset=#": ("beta", "gamma", "offset"),
}
CONSTANTS = ";solventDielectric=#;soluteDielectric=#;kappa=#;offset=#"
SELF = "-0.5*#*(1/soluteDielectric-1/solventDielectric)*charge^2/B" + CONSTANTS
SURFACE = "#*(radius+0.14)^2*(radius/B)^6;radius=or+offset" + CONSTANTS
PAIR = "-#*(1/soluteDielectric-1/solventDielectric)*charge1*charge2/f;f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))" + CONSTANTS
SINGLE_PARTICLE, PAIR_NO_EXCLUSIONS = 0, 2  # as OpenMM numbers the types of a computation


def numbers(formula: str, text: str) -> list[float] | None:
    """The numbers that stand where a formula has #; None for another formula. White space does not count."""
    pattern = re.escape(formula).replace(r"\#", "#").replace("#", NUMBER)
    match = re.fullmatch(pattern, re.sub(r"\s", "", text))
    return None if match is None else [float(group) for group in match.groups()]


def _first(formulas: Any, text: str, where: str) -> tuple[str, list[float]]:
    for formula in formulas:
        found = numbers(formula, text)
        if found is not None:
            return formula, found
    raise InputError(
        f"CustomGBForce has for {where} the formula {text!r}, known are those of OpenMM's implicit/obc1.xml and "
        "obc2.xml without salt and cutoff. Take one of those."
    )


def custom_born(force: Any) -> Born:
    """The solvent of a CustomGBForce.

    Raises:
        InputError: its formulas are not those of OBC1 or OBC2.
    """
    names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
    values = [force.getComputedValueParameters(k) for k in range(force.getNumComputedValues())]
    if names != ["charge", "or", "sr"] or [value[0] for value in values] != ["I", "B"]:
        raise InputError(
            f"CustomGBForce has the parameters {names} and computes {[value[0] for value in values]}, known are "
            "['charge', 'or', 'sr'] and ['I', 'B'] of OpenMM's implicit/obc1.xml and obc2.xml. Take one of those."
        )
    if force.getNonbondedMethod() != 0 or force.getNumExclusions() or force.getNumGlobalParameters():
        raise InputError("CustomGBForce has a cutoff, exclusions or global parameters. Make a System without them.")
    if [value[2] for value in values] != [PAIR_NO_EXCLUSIONS, SINGLE_PARTICLE]:
        raise InputError("CustomGBForce computes I not over pairs, or B not of atoms. Take OpenMM's implicit/obc1.xml.")
    _first([INTEGRAL], values[0][1], "I")
    formula, found = _first(RADIUS, values[1][1], "B")
    shape = {"alpha": 1.0, "beta": 0.0, **dict(zip(RADIUS[formula], found, strict=True))}
    coupling, surface = _energies(force)
    rows = torch.tensor([force.getParticleParameters(i) for i in range(force.getNumParticles())], dtype=torch.float64)
    charge, offset_radius, scaled = rows.T.unsqueeze(2)
    exponents = (shape["alpha"], shape["beta"], shape["gamma"])
    return Born(charge, offset_radius + shape["offset"], offset_radius, scaled, exponents, coupling, surface, False)


def _energies(force: Any) -> tuple[float, float]:
    """κ and c: one term of atoms with themselves, one of pairs, and perhaps one of the surface."""
    couplings, surface = {}, 0.0
    for k in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(k)
        formula, found = _first([SELF, PAIR, SURFACE], text, "an energy")
        if formula == SURFACE:
            surface += found[0]
            continue
        constant, solvent, solute, _, _ = found
        couplings[formula] = constant * (1 / solute - 1 / solvent)
        if kind != (SINGLE_PARTICLE if formula == SELF else PAIR_NO_EXCLUSIONS):
            raise InputError(f"CustomGBForce computes {text!r} of other pairs. Take OpenMM's implicit/obc1.xml.")
    if set(couplings) != {SELF, PAIR} or len(set(couplings.values())) != 1:
        raise InputError(
            "CustomGBForce has not one self energy and one pair energy of the same dielectrics. Take OpenMM's "
            "implicit/obc1.xml."
        )
    return couplings[SELF], surface
