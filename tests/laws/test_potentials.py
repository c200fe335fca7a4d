"""Every potential of the public table: its gradient, its symmetries, its stationary points, its log Z."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sciflow.domains.molecules.clusters import DW4, LJ13ECNF, LJ13IDEM, pair_distances
from sciflow.domains.molecules.potential import FreeCoordinates, force, is_on_grid
from sciflow.domains.molecules.potentials import POTENTIALS
from sciflow.domains.molecules.quadrature import draws, lattice, log_integral, probabilities
from sciflow.domains.molecules.wells import DoubleWell, DoubleWellChain, ManyWell, MullerBrown
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import facts

ROUNDING = 1e-12  # float64, some hundred operations on numbers of order one
NAMES = sorted(POTENTIALS)


def places(name: str, n: int = 8) -> tuple[object, Tensor]:
    """A potential and places of moderate energy."""
    potential = POTENTIALS[name]()
    x = Stream(3).normal(n, potential.shape, dtype=torch.float64)
    if len(potential.shape) == 2:  # corners of a grid, so that no pair overlaps
        sites = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * potential.shape[1])
        x = 1.2 * sites[: potential.shape[0]] + 0.05 * x
    return potential, x


@pytest.mark.parametrize("name", NAMES)
def test_forces_are_finite_differences_and_rows_do_not_meet(name: str) -> None:
    potential, x = places(name)
    forces, direction = force(potential)(x), Stream(4).normal(len(x), potential.shape, dtype=torch.float64)
    h = 1e-5
    slope = (potential.energy(x + h * direction) - potential.energy(x - h * direction)) / (2 * h)
    along = -(forces * direction).flatten(1).sum(1)
    # h² of third derivatives (10⁵ for Lennard-Jones), and 1e-16/h of the energies
    assert torch.allclose(slope, along, rtol=1e-5, atol=1e-6 * float(potential.energy(x).abs().max()))
    assert torch.equal(potential.energy(x[:3]), potential.energy(x)[:3])
    single = potential.energy(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), potential.energy(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_far_and_overlapping_places_have_energy_infinity_and_never_nan(name: str) -> None:
    potential, x = places(name)
    for scale in (0.0, 1e3, 1e80, 1e160):
        assert not bool(potential.energy(scale * x).isnan().any())


@pytest.mark.parametrize("name", [name for name in NAMES if len(POTENTIALS[name]().shape) == 2])
def test_clusters_do_not_see_place_turn_mirror_nor_order(name: str) -> None:
    potential, x = places(name)
    turn, _ = torch.linalg.qr(Stream(5).normal(x.shape[2], (x.shape[2],), dtype=torch.float64))
    order = torch.randperm(x.shape[1], generator=Stream(6).generator())
    energy = potential.energy(x)
    for moved in (x + 3.7, x @ turn.T, x * torch.tensor([-1.0] + [1.0] * (x.shape[2] - 1)), x[:, order]):
        assert torch.allclose(potential.energy(moved), energy, rtol=1e-11, atol=1e-11)
    with pytest.raises(InputError, match="are \\(batch, particle, axis\\)"):
        potential.energy(x.flatten(1))


@pytest.mark.parametrize("name", NAMES)
def test_free_coordinates_keep_lengths_and_leave_the_centre_where_it_is(name: str) -> None:
    potential, x = places(name)
    free = FreeCoordinates(potential)
    z = free.of(x)
    assert z.shape == (len(x), free.dimension)
    events = free.events(z)
    assert torch.allclose(free.of(events), z, rtol=0, atol=ROUNDING)
    assert torch.allclose(potential.energy(events), potential.energy(x), rtol=1e-10, atol=1e-10)
    assert torch.allclose((z[0] - z[1]).norm(), (events[0] - events[1]).norm(), rtol=0, atol=10 * ROUNDING)
    if free.is_centred:
        assert float(events.mean(1).abs().max()) < ROUNDING
    assert torch.allclose(free.log_density(z), -potential.energy(x) / potential.temperature, rtol=1e-10, atol=1e-10)


STATIONARY = [
    (potential, point, index)
    for potential in (MullerBrown(), DoubleWell(1), DoubleWell(3, curvature=-6.0))
    for index, points in ((0, potential.minima), (1, potential.saddles))
    for point in points
]


@pytest.mark.parametrize(("potential", "point", "index"), STATIONARY, ids=str)
def test_published_stationary_points(potential: object, point: object, index: int) -> None:
    x = torch.tensor([point.place], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda row: potential.energy(row[None])[0], x[0])
    step = torch.linalg.solve(hessian, force(potential)(x)[0])
    assert float(step.norm()) < 1e-6  # the places are given to six decimals
    assert float(potential.energy(x)) == pytest.approx(point.energy, abs=1e-4)  # and the energies to four
    assert int((torch.linalg.eigvalsh(hessian) < 0).sum()) == index


def icosahedron() -> Tensor:
    """The least energy of thirteen particles of Lennard-Jones: a centre and twelve corners, (1, 13, 3)."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    turned = [corner[k:] + corner[:k] for corner in corners for k in range(3)]
    return torch.tensor([(0.0, 0.0, 0.0), *turned], dtype=torch.float64)[None]


def test_the_least_energy_of_lennard_jones_is_the_published_one_in_both_conventions() -> None:
    """−44.326801 (Wales and Doye), with the radius found by golden section: it is the only free number."""
    shape = icosahedron() / float(icosahedron()[0, 1].norm())
    once, twice = LJ13ECNF(), LJ13IDEM()
    radii = torch.linspace(0.9, 1.0, 10_001, dtype=torch.float64)
    energies = once.pair_energy(radii[:, None, None] * shape)
    assert float(energies.min()) == pytest.approx(-44.326801, abs=1e-6)
    best = radii[energies.argmin()] * shape
    assert float(twice.pair_energy(best)) == pytest.approx(2 * -44.326801, abs=2e-6)
    oscillator = 0.5 * float(best.square().sum())
    for potential in (once, twice):  # the oscillator is the same in both
        pairs = float(potential.pair_energy(best))
        assert float(potential.energy(best)) == pytest.approx(pairs + oscillator, abs=1e-9)


def test_the_energy_of_dw4_is_the_sum_over_pairs_once() -> None:
    x = Stream(0).normal(5, (4, 2), dtype=torch.float64) * 2
    by_hand = torch.zeros(5, dtype=torch.float64)
    for i in range(4):
        for j in range(i):
            stretch = (x[:, i] - x[:, j]).norm(dim=1) - 4
            by_hand += 0.9 * stretch**4 - 4 * stretch**2
    assert torch.allclose(DW4().energy(x), by_hand, rtol=0, atol=1e-10)
    assert pair_distances(x).shape == (5, 6)


def test_log_partitions_against_published_and_independent_numbers() -> None:
    # Müller–Brown: a finer and wider grid; many wells: Z of the quartic part is 11784.50927
    potential = MullerBrown()
    wider = log_integral(potential, ((-4.5, 4.2), (-3.5, 5.1)), 1300)
    assert potential.log_partition() == pytest.approx(wider, abs=1e-10)
    assert ManyWell(1).log_partition() == pytest.approx(math.log(11784.50927) + 0.5 * math.log(2 * math.pi), abs=1e-8)
    assert ManyWell(16).log_partition() == pytest.approx(16 * ManyWell(1).log_partition(), abs=1e-10)
    plane = DoubleWell(2, tilt=0.3, temperature=0.7)
    assert plane.log_partition() == pytest.approx(log_integral(plane, plane.support, 1000), abs=1e-10)
    pair = DoubleWellChain(2, coupling=1.7, temperature=0.8)  # in the plane, where it can be integrated
    assert pair.log_partition() == pytest.approx(log_integral(pair, ((-5.0, 5.0), (-5.0, 5.0)), 1000), abs=1e-10)
    loose = DoubleWellChain(5, coupling=0.0)
    single = DoubleWell(1, loose.tilt, loose.curvature, loose.quartic).log_partition()
    assert loose.log_partition() == pytest.approx(5 * single, abs=1e-10)
    mixture = POTENTIALS["gmm40"]()
    assert log_integral(mixture, mixture.support, 400) == pytest.approx(0, abs=1e-6)  # one mean is 5.5 s from an edge


def test_coupling_orders_the_chain() -> None:
    """ΔF of stiffer springs is the mean of their energy: d log Z/dk = −⟨Σ (x_{i+1} − x_i)²⟩/2 < 0, and convex."""
    found = [DoubleWellChain(8, coupling=k).log_partition() for k in (0.0, 0.5, 1.0, 1.5)]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(step < 0 for step in steps) and steps == sorted(steps)


@pytest.mark.parametrize("name", [name for name in NAMES if is_on_grid(POTENTIALS[name]())])
def test_exact_draws_have_the_exact_shares_of_cells_and_moments(name: str) -> None:
    potential, n = POTENTIALS[name](), 20_000
    x = draws(potential, n, Stream(1))
    grid = probabilities(potential, potential.support, 300, 2)
    assert float(grid.mass.sum()) == pytest.approx(1, abs=1e-5)  # the midpoints of cells
    points, mass = lattice([0.5 * (edges[1:] + edges[:-1]) for edges in grid.edges]), grid.mass.flatten()
    for values, exact in ((x, points), (x.square(), points.square()), (potential.energy(x), potential.energy(points))):
        mean = mass @ exact.reshape(len(mass), -1).nan_to_num(posinf=0.0)
        drawn = values.reshape(n, -1)
        width = max(float(edges[1] - edges[0]) for edges in grid.edges)
        # four standard errors; a cell of width w has a variance w²/12 that its midpoint does not
        bound = 4 * drawn.std(0) / math.sqrt(n) + width**2 * (1 if drawn.shape[1] > 1 else 30)
        assert ((drawn.mean(0) - mean).abs() < bound).all()
    assert torch.equal(draws(potential, 10, Stream(1)), x[:10])


def test_what_is_not_on_a_grid_is_refused() -> None:
    with pytest.raises(InputError, match="DW4 has no density on a grid"):
        probabilities(DW4(), ((0.0, 1.0),), 10)


@pytest.mark.parametrize("name", NAMES)
def test_every_potential_states_its_facts(name: str) -> None:
    assert {"summary", "exactness", "cost", "bias", "source"} <= facts(POTENTIALS[name]).keys()
