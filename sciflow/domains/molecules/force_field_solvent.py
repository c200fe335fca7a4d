"""Generalised Born solvents that OpenMM's own files write as a CustomGBForce, known by their formulas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch

from sciflow.domains.molecules.force_field_nonbonded import Born, Neck
from sciflow.errors import InputError

NUMBER = r"([-+0-9.eE]+)"
VDW = (
    "select(step(r+sr2-or1),0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r),0);"
    "U=r+sr2;L=max(or1,D);D=abs(r-sr2)"
)
GAP = "(r-getd0(radindex1,radindex2))"
NECK = (
    "Ivdw+neckScale*Ineck;Ineck=step(radius1+radius2+neckCut-r)*getm0(radindex1,radindex2)/"
    f"(1+100*{GAP}^2+0.3*1000000*{GAP}^6);Ivdw={VDW};"
    "radius1=or1+offset;radius2=or2+offset;neckScale=#;neckCut=#;offset=#"
)
PSI = ";psi=I*or;radius=or+offset;offset=#"
RADIUS = {  # the formula of B → its numbers in their order
    "1/(1/or-I)": (),
    "1/(1/or-tanh(#*psi+#*psi^3)/radius)" + PSI: ("alpha", "gamma", "offset"),
    "1/(1/or-tanh(psi-#*psi^2+#*psi^3)/radius)" + PSI: ("beta", "gamma", "offset"),
    "1/(1/or-tanh(#*psi-#*psi^2+#*psi^3)/radius)" + PSI: ("alpha", "beta", "gamma", "offset"),
    "1/(1/or-tanh(alpha*psi-beta*psi^2+gamma*psi^3)/radius)" + PSI: ("offset",),
}
EXPONENTS = ["alpha", "beta", "gamma"]
NAMES = (  # of the numbers of an atom
    ["charge", "or", "sr"],
    ["charge", "or", "sr", "radindex"],
    ["charge", "or", "sr", *EXPONENTS, "radindex"],
)
CONSTANTS = ";solventDielectric=#;soluteDielectric=#;kappa=#;offset=#"
OWN, PAIR, SURFACE = "self energy", "pair energy", "surface"
SINGLE_PARTICLE, PAIR_NO_EXCLUSIONS = 0, 2  # as OpenMM numbers the types of a computation
KNOWN = "OpenMM's implicit/hct.xml, obc1.xml, obc2.xml, gbn.xml and gbn2.xml"


def numbers(formula: str, text: str) -> list[float] | None:
    """The numbers that stand where a formula has #; None for another formula. White space does not count."""
    pattern = re.escape(formula).replace(r"\#", "#").replace("#", NUMBER)
    match = re.fullmatch(pattern, re.sub(r"\s", "", text))
    return None if match is None else [float(group) for group in match.groups()]


def _first(formulas: Iterable[str], text: str, where: str) -> tuple[str, list[float]]:
    for formula in formulas:
        found = numbers(formula, text)
        if found is not None:
            return formula, found
    raise InputError(
        f"CustomGBForce has for {where} the formula {text!r}, known are those of {KNOWN}. Take one of those."
    )


def reach(force: Any) -> float:
    """The cutoff of a solvent [nm]; infinite where it has none."""
    return math.inf if force.getNonbondedMethod() == 0 else float(force.getCutoffDistance()._value)


def custom_born(force: Any) -> Born:
    """The solvent of a CustomGBForce.

    Raises:
        InputError: its formulas are not those of a solvent that is known.
    """
    names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
    values = [force.getComputedValueParameters(k) for k in range(force.getNumComputedValues())]
    if names not in NAMES or [value[0] for value in values] != ["I", "B"]:
        raise InputError(
            f"CustomGBForce has the parameters {names} and computes {[value[0] for value in values]}, known are "
            f"those of {KNOWN}. Take one of those."
        )
    if force.getNumExclusions() or force.getNumGlobalParameters():
        raise InputError("CustomGBForce has exclusions or global parameters. Make a System without them.")
    if [value[2] for value in values] != [PAIR_NO_EXCLUSIONS, SINGLE_PARTICLE]:
        raise InputError("CustomGBForce computes I not over pairs, or B not of atoms. Take OpenMM's implicit/obc1.xml.")
    integral, of_neck = _first([VDW, NECK], values[0][1], "I")
    formula, found = _first(RADIUS, values[1][1], "B")
    told = {"alpha": 1.0, "beta": 0.0, "offset": 0.0, **dict(zip(RADIUS[formula], found, strict=True))}
    coupling, salt, surface, offset = _energies(force, reach(force))
    rows = torch.tensor([force.getParticleParameters(i) for i in range(force.getNumParticles())], dtype=torch.float64)
    columns = dict(zip(names, rows.T.unsqueeze(2), strict=True))
    radius = columns["or"] + offset
    shape: Any = None
    if "gamma" in told:
        shape = told["alpha"], told["beta"], told["gamma"]
    elif RADIUS[formula]:
        shape = torch.stack([columns[name] for name in EXPONENTS])
    neck = _neck(force, columns["radindex"][:, 0].long(), *of_neck) if integral == NECK else None
    if any(other != offset for other in (*of_neck[2:], *([told["offset"]] if RADIUS[formula] else []))):
        raise InputError(f"CustomGBForce has several offsets of its radii. Take one of {KNOWN}.")
    numbers_of = columns["charge"], radius, columns["or"], columns["sr"]
    return Born(*numbers_of, shape, coupling, salt, surface, False, neck, reach(force))


def _neck(force: Any, kinds: torch.Tensor, scale: float, reach: float, offset: float) -> Neck:
    """Depths and places of the necks between atoms, from tables of pairs of radii."""
    names = {force.getTabulatedFunctionName(k): k for k in range(force.getNumTabulatedFunctions())}
    tables = {}
    for name in ("getm0", "getd0"):
        width, height, values = force.getTabulatedFunction(names[name]).getFunctionParameters()
        table = torch.tensor(values, dtype=torch.float64).reshape(height, width).T  # the first argument runs fastest
        tables[name] = table[kinds[:, None], kinds]
    return Neck(scale * tables["getm0"], tables["getd0"], reach)


def _formulas(is_cut: bool) -> dict[str, tuple[str, bool]]:
    """The formulas of energies → what they are of, and whether there is salt."""
    end, over = (CONSTANTS + ";cutoff=#", "*(1/f-#)") if is_cut else (CONSTANTS, "/f")
    found = {"#*(radius+0.14)^2*(radius/B)^6;radius=or+offset" + end: (SURFACE, False)}
    for salt, salted in (("1", False), ("exp(-kappa*%s)", True)):
        own, pair = (f"(1/soluteDielectric-{salt.replace('%s', at)}/solventDielectric)*charge" for at in "Bf")
        found[f"-0.5*#*{own}^2/B{end}"] = OWN, salted
        found[f"-#*{pair}1*charge2{over};f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2))){end}"] = PAIR, salted
    return found


def _energies(force: Any, cutoff: float) -> tuple[tuple[float, float], float, float, float]:
    """κ of solute and solvent, 1/λ, c, offset: one term of atoms with themselves, one of pairs, perhaps a surface."""
    told: dict[str, tuple[tuple[float, float], float, float]] = {}
    surface, is_cut = 0.0, cutoff < math.inf
    formulas = _formulas(is_cut)
    for k in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(k)
        formula, found = _first(formulas, text, "an energy")
        of, salted = formulas[formula]
        constant, (solvent, solute, salt, offset) = found[0], found[-5:-1] if is_cut else found[-4:]
        if kind != (PAIR_NO_EXCLUSIONS if of == PAIR else SINGLE_PARTICLE) or of in told:
            raise InputError(f"CustomGBForce computes {text!r} twice, or of other pairs. Take one of {KNOWN}.")
        if is_cut and of == PAIR and not math.isclose(found[1] * cutoff, 1):
            raise InputError(f"CustomGBForce has a cutoff of {cutoff} nm, but shifts 1/f by {found[1]}. Take 1/cutoff.")
        if of == SURFACE:
            surface = constant
        else:
            told[of] = (constant / solute, constant / solvent), salt if salted else 0.0, offset
    if set(told) != {OWN, PAIR} or told[OWN] != told[PAIR]:
        raise InputError(
            "CustomGBForce has not one self energy and one pair energy of the same dielectrics and salt. Take one of "
            f"{KNOWN}."
        )
    return *told[OWN][:2], surface, told[OWN][2]
