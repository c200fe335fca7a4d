"""What is the data? Frames of a molecule: of Langevin dynamics, or of files of the user's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.data.schema import BOX
from sciflow.data.split import shares, split
from sciflow.data.trajectories.reading import open_trajectory, trajectory_files
from sciflow.domains.molecules.collective import Collective
from sciflow.domains.molecules.force_field_terms import Box
from sciflow.domains.molecules.images import check_cells, check_whole, check_within
from sciflow.domains.molecules.molecule import check_apart
from sciflow.domains.molecules.reference import drifts, largest, numbers
from sciflow.domains.molecules.stored_potential import packed
from sciflow.domains.molecules.systems import AlanineDipeptide, MolecularSystem
from sciflow.errors import InputError
from sciflow.metrics.convergence import split_rhat
from sciflow.random import Stream
from sciflow.solvers.kinetic import BAOAB, Kinetic
from sciflow.solvers.solve import solve
from sciflow.solvers.times import times

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
N_PIECES = 16  # at least, of all chains: what is split
N_STEEP = 256  # frames whose configurational temperature is asked for
DIFFERENCE = 1e-5  # [nm]: 10⁻¹⁰ of third derivatives of 10⁷ kJ/mol/nm³, and rounding of 10⁻¹⁰/10⁻⁵, against 10⁵
HIGHEST = 10.0  # kT for each coordinate above the start: the law has ½ above the minimum
N_GROUPS = 8  # of chains: the unit of the error of an average


def steepness(system: MolecularSystem, x: Tensor) -> tuple[Tensor, Tensor]:
    """|∇U|²/kT and ∇²U of each row [kJ/mol/nm²], equal on average if the frames follow e^{−U/kT}.

    ∫ ∇·(e^{−U/kT} ∇U) dx = 0. The curvature is the sum of central differences of forces along every coordinate; in a
    periodic box, which has many, zᵀ(∇∇U)z by one such difference, of random signs z, whose mean it is.

    Args:
        system: U and kT.
        x: (batch, atom, 3), float64.
    Source: Rugh (1997), Dynamical approach to temperature; Butler et al. (1998), The configurational temperature;
        random signs: Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.
    """
    force, width = system.molecule.field.force, x[0].numel()
    curvature = torch.zeros(len(x), dtype=x.dtype)
    if system.molecule.field.box is None:
        moves = DIFFERENCE * torch.eye(width, dtype=x.dtype).unflatten(1, x.shape[1:])
        for k, move in enumerate(moves):
            curvature -= (force(x + move) - force(x - move)).flatten(1)[:, k] / (2 * DIFFERENCE)
    else:
        signs = (Stream(0).child("probes").uniform(len(x), tuple(x.shape[1:]), dtype=x.dtype) - 0.5).sign()
        change = force(x + DIFFERENCE * signs) - force(x - DIFFERENCE * signs)
        curvature -= (signs * change).sum((1, 2)) / (2 * DIFFERENCE)
    return force(x).square().sum((1, 2)) / system.temperature, curvature


def certificate(system: MolecularSystem, frames: Tensor) -> dict[str, float | str | int]:
    """What frames (chain, frame, atom, 3) say about themselves, for the attributes of a file.

    Groups of chains are the unit of every error. A well that no chain has entered shows in none of these numbers.
    """
    n = len(frames) // N_GROUPS * N_GROUPS
    half = frames.shape[1] // 2
    if n == 0 or half == 0:
        return {}
    before, after = (numbers(system, frames[:n, k]) for k in (0, -1))
    drift_of, drift = largest(drifts(before, after, N_GROUPS))
    chosen = frames[:n, torch.linspace(0, frames.shape[1] - 1, max(1, min(frames.shape[1], N_STEEP // n))).long()]
    slope, curvature = (part.reshape(N_GROUPS, -1).mean(1) for part in steepness(system, chosen.flatten(0, 1)))
    values = slope / curvature
    observed = numbers(system, frames.flatten(0, 1))
    rhats = {name: split_rhat(row.reshape(frames.shape[:2])) for name, row in observed.items()}
    rhat_of, rhat = largest({name: value for name, value in rhats.items() if math.isfinite(value)} or {"": math.nan})
    return {
        "chains_drift": drift,
        "chains_drift_of": drift_of,
        "chains_rhat": rhat,
        "chains_rhat_of": rhat_of,
        "chains_temperature": float(values.mean()) * system.kelvin,
        "chains_temperature_stderr": system.kelvin * float(values.std()) / math.sqrt(N_GROUPS),
    }


def named(
    system: MolecularSystem,
    frames: Tensor,
    shares: Mapping[str, float],
    n_repeats: int,
    stream: Stream,
    collective: Collective,
) -> xr.Dataset:
    """Frames (chain, frame, atom, 3) as a data set: `data` with its centre at 0, energies, angles, split by chain."""
    n_chains, n_frames = frames.shape[:2]
    x = frames.double().transpose(0, 1).flatten(0, 1)
    x = x - x.mean(1, keepdim=True)
    chain = np.arange(len(x)) % n_chains
    facts: dict[str, Any] = {"kelvin": system.kelvin, "temperature": system.temperature}
    labels = split(chain, dict(shares), stream.child("split"))
    observed = {name.partition(" [")[0]: value for name, value in system.observables(x).items()}
    values = {"data": x.float(), "potential_energy": system.energy(x), **observed}
    units = {name.partition(" [")[0]: name.partition("[")[2].removesuffix("]") for name in system.observables(x[:1])}
    dims: dict[str, tuple[str, ...]] = {name: ("sample",) for name in values}
    dims["data"] = ("sample", "particle", "axis")
    if collective.names:
        values["collective"] = collective.values(x, system.molecule.atoms)
        dims["collective"], units["collective"] = ("sample", "variable"), collective.unit
    coords: dict[str, Any] = {
        "split": ("sample", labels.astype(str)),
        "unit": ("sample", chain.astype(np.int64)),
        "frame": ("sample", np.repeat(np.arange(n_frames), n_chains)),
        "observation": np.arange(n_repeats),
        "atom_name": ("particle", np.array([atom.name for atom in system.molecule.atoms])),
        "element": ("particle", np.array([atom.element for atom in system.molecule.atoms])),
        "residue": ("particle", np.array([atom.residue for atom in system.molecule.atoms])),
        "topology": ((), np.array(system.molecule.told)),
    }
    if collective.names:
        coords["variable"] = np.array(collective.names)
        coords["variable_unit"] = ("variable", np.array([axis.unit for axis in collective.axes]))
        facts["collective"] = collective.packed()
    if system.molecule.field.box is not None:
        facts[BOX] = system.molecule.field.box.vectors.flatten().tolist()
    made = to_xarray(values, dims, coords, {"data": "nm", "potential_energy": "kJ/mol", **units})
    handed, cis = system.molecule.handedness(x), system.molecule.cis(x)
    if handed.shape[1]:
        facts["share_left_handed"] = float((handed > 0).double().mean())
    if cis.shape[1]:
        facts["share_cis"] = float(cis.double().mean())
    return made.assign_attrs(potential=packed(system), **facts, **certificate(system, frames.double()))


class OfFrames:
    """What every data set of frames of a molecule can be asked."""

    molecule: MolecularSystem
    collective: Collective

    def look(self) -> None:
        """Raise InputError if the molecule cannot be had, or has not the atoms of the collective variables."""
        molecule = self.molecule.molecule
        check_within(self.collective.atoms(molecule.atoms), molecule.molecules, molecule.field.box)

    def has_images(self) -> bool:
        """Whether each atom is the same in every cell of a periodic box."""
        return self.molecule.molecule.field.box is not None


@dataclass(frozen=True)
class Langevin(OfFrames):
    """Frames of a molecule from Langevin dynamics with inertia, many chains at once.

        dx = v dt,   dv = (F(x)/m − γ v) dt + √(2 γ kT/m) dW,   by BAOAB

    "Observations" are independent repeats of the sampling, which tell its noise.

    Exactness: that of the attributes `chains_…`: drift of averages between the first and last frame, and the
        temperature that the positions show; a well that no chain has entered shows in neither
    Cost: n_chains × (warm_up + n_frames × every) forces, in float32
    Bias: O(step²) of the positions beyond the harmonic part; all chains start from one conformation
    Args:
        molecule: U and its temperature.
        n_chains: that run side by side, a multiple of 8.
        n_frames: kept of each.
        every: steps between two frames.
        warm_up: steps that are thrown away.
        step: [ps]; at most 0.002, since hydrogens are not constrained.
        friction: γ [1/ps].
        collective: torsions, distances and radii, and basins in which frames are counted.
        n_repeats: independent sets of draws that every sampler makes.
        validation: share of the chains for the validation loss.
        test: share of the chains that samples are compared with.
    Raises:
        InputError: shares that leave nothing to train on, or chains that are no multiple of 8.
    Source: Leimkuhler and Matthews (2013), Rational construction of stochastic numerical methods for molecular
        sampling.
    """

    molecule: MolecularSystem = field(default_factory=AlanineDipeptide)
    n_chains: Annotated[int, Field(ge=16)] = 128
    n_frames: Annotated[int, Field(ge=2)] = 100
    every: Count = 200
    warm_up: Annotated[int, Field(ge=0)] = 10_000
    step: Annotated[float, Field(gt=0, le=0.002)] = 0.001
    friction: Positive = 5.0
    collective: Collective = field(default_factory=Collective)
    n_repeats: Count = 2
    validation: Share = 0.1
    test: Share = 0.4

    def __post_init__(self) -> None:
        shares(self.test, self.validation)
        if self.n_chains % N_GROUPS:
            raise InputError(f"dataset.n_chains must be a multiple of {N_GROUPS}, got {self.n_chains}.")

    def simulate(self, stream: Stream) -> xr.Dataset:
        self.look()
        frames = self.frames(stream.child("dynamics"))
        parts = shares(self.test, self.validation)
        made = named(self.molecule, frames, parts, self.n_repeats, stream, self.collective)
        return made.assign_attrs(frame_interval=self.every * self.step)

    def frames(self, stream: Stream) -> Tensor:
        """(chain, frame, atom, 3) [nm], float32.

        Raises:
            InputError: the chains blow up.
        """
        molecule = self.molecule.molecule
        mass = molecule.field.masses[:, None]  # Da nm²/ps² are kJ/mol
        bath = Kinetic(molecule.field.force, self.molecule.temperature, self.friction, mass)
        start = molecule.positions.float().repeat(self.n_chains, 1, 1)
        state = bath.thermal(start, stream.child("velocities").normal(self.n_chains, tuple(start.shape[1:])))
        highest = molecule.field.energy(start[:1]) + HIGHEST * start[0].numel() * self.molecule.temperature
        solver: Any = BAOAB()
        found = []
        with torch.no_grad():
            for k, n_steps in enumerate([self.warm_up + self.every] + [self.every] * (self.n_frames - 1)):
                grid = times(n_steps, 0.0, n_steps * self.step)
                state = solve(bath, state, grid, solver, stream=stream.child("frame", k))
                if not bool((molecule.field.energy(state[:, 0]) < highest).all()):
                    raise InputError(
                        f"dynamics blew up before frame {k}: a step of {self.step} ps is too long for this molecule, "
                        "or its conformation too tense. Lower dataset.step, or minimise the conformation."
                    )
                found.append(state[:, 0].clone())
        return torch.stack(found, 1)


@dataclass(frozen=True)
class TrajectoryFile(OfFrames):
    """Frames of a molecule from files of your own: mdtraj HDF5, NPZ, PDB, XTC, DCD, TRR, NetCDF.

    Exactness: values as stored, in float32; that they follow the law is told by the attributes `chains_…`
    Cost: all frames in memory, refused above `max_gigabytes` before they are read
    Bias: XTC rounds positions to 0.001 nm: energies of its frames are some kJ/mol off
    Args:
        path: the file, of one chain, or a folder with one for each chain, of equal lengths.
        top: a PDB file that says what the atoms are, where the files do not.
        length, time, energy: units of a NPZ, which cannot say them, e.g. nm, ps, kJ/mol; empty if it needs none.
        molecule: whose frames they are, with the temperature.
        max_gigabytes: largest array that is read.
        collective: torsions, distances and radii, and basins in which frames are counted.
        n_repeats: independent sets of draws that every sampler makes.
        validation: share for the validation loss, of the pieces into which the chains are cut, 16 or more.
        test: share of the pieces that samples are compared with.
    Source: the formats' own documentation; see sciflow.data.trajectories.
    """

    path: str = ""
    top: str = ""
    length: str = ""
    time: str = ""
    energy: str = ""
    molecule: MolecularSystem = field(default_factory=AlanineDipeptide)
    max_gigabytes: Positive = 8.0
    collective: Collective = field(default_factory=Collective)
    n_repeats: Count = 2
    validation: Share = 0.125
    test: Share = 0.375

    def __post_init__(self) -> None:
        shares(self.test, self.validation)

    def look(self) -> None:
        """Raise InputError for whatever the files show to be wrong."""
        super().look()
        self._frames()

    def _frames(self) -> Tensor:
        said = {"length": self.length, "time": self.time, "energy": self.energy}
        units = {kind: unit for kind, unit in said.items() if unit}
        files = trajectory_files(self.path, self.top or None)
        found = open_trajectory(files, self.top or None, units, self.max_gigabytes)
        atoms, box = self.molecule.molecule.atoms, self.molecule.molecule.field.box
        elements, names = ([getattr(atom, what) for atom in atoms] for what in ("element", "name"))
        if found["element"].to_numpy().tolist() != elements:
            theirs = "".join(found["element"].to_numpy().tolist())
            raise InputError(
                f"{self.path}: the atoms are {theirs}, those of the molecule {''.join(elements)}. Reorder."
            )
        for k, (theirs, ours) in enumerate(zip(found["atom_name"].to_numpy().tolist(), names, strict=True)):
            if theirs and theirs != ours:
                logger.warning(
                    "%s: atom %d is %r, in the molecule %r: is the order the same?", self.path, k, theirs, ours
                )
                break
        frames = from_xarray(found["positions"], ("chain", "frame", "atom", "xyz"), torch.float64)
        for file, chain in zip(files, frames, strict=True):
            for which, frame in {"first": chain[0], "last": chain[-1]}.items():
                check_apart(frame, atoms, f"{file}, {which} frame: ", box)
            check_whole(chain, self.molecule.molecule.bonds, box, atoms, f"{file}: ")
        if box is not None:
            self._check_cells(files, found, box)
        return frames

    def _check_cells(self, files: Sequence[Path], found: xr.Dataset, box: Box) -> None:
        """Hold the box of every file against that of the System."""
        has_cell = found["has_cell"].to_numpy().tolist()
        if not any(has_cell):
            logger.warning("no box in %s, the System's is assumed", self.path)
        elif not all(has_cell):
            raise InputError(
                f"{files[has_cell.index(False)]} has no box, {files[has_cell.index(True)]} has one. Write that of the "
                "System into all files, or into none."
            )
        else:
            for file, cells in zip(files, found["cell"].to_numpy(), strict=True):
                check_cells(box, cells, str(file))

    def simulate(self, stream: Stream) -> xr.Dataset:
        super().look()  # the files are read once
        frames = self._frames()
        n_chains, n_frames = frames.shape[:2]
        n_pieces = -(-N_PIECES // n_chains)  # of each chain
        size = n_frames // n_pieces  # neighbouring frames stay in one piece
        if size == 0:
            raise InputError(f"{self.path} has {n_frames} frames, needs at least {n_pieces}. Give a longer one.")
        frames = frames[:, : n_pieces * size].reshape(n_chains * n_pieces, size, *frames.shape[2:])
        parts = shares(self.test, self.validation)
        return named(self.molecule, frames, parts, self.n_repeats, stream, self.collective)
