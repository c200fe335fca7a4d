"""Computed tomography: line integrals through an image, along parallel rays or rays from a point.

Lengths are in pixels, x along the columns and y along the rows of an image, from its centre; angles turn from x to y.
The matrix of a scanner is made once per geometry and grid and kept; its transpose is exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import LinearOperator
from sciflow.inverse.sparse import SparseMap
from sciflow.types import placed

MOST_GIGABYTES = 8.0
"""Of a system matrix with its transpose; a larger one is refused before it is made."""
BYTES = 2 * (8 + 4 + 4 + 4)  # of an entry: its value in both precisions and its index, there and in the transpose
MOST_RAYS = 10**7  # that are followed one by one to see how many pixels they meet
DENSE = 1024  # measurements up to which systems are solved by the eigenbasis of A Aᵀ, once per geometry
GRAZE = 1e-6  # pixels: a ray along the edge of pixels is two rays of half the weight, this far to either side
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class Rays(NamedTuple):
    """Lines: a point of each and its unit direction, both (view, detector, 2), as (x, y) in pixels from the centre."""

    points: np.ndarray
    directions: np.ndarray


class _Tomography:
    """What scanners share, once they say where their rays run."""

    shape: tuple[int, ...]
    n_views: int
    n_detectors: int | None
    pixel_size: float

    def rays(self, grid: tuple[int, int]) -> Rays:
        """The rays through an image of `grid` (rows, columns)."""
        raise TypeError(f"{type(self).__name__} must define rays.")

    def detectors(self, grid: tuple[int, int]) -> int:
        """Number of detector bins."""
        raise TypeError(f"{type(self).__name__} must define detectors.")

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        name = type(self).__name__
        if len(shape) != 3:
            raise InputError(f"{name} measures images (channel, y, x), got events of shape {shape}. Name both axes.")
        if self.n_views < 1 or not (self.pixel_size > 0 and math.isfinite(self.pixel_size)):
            got = f"n_views = {self.n_views}, pixel_size = {self.pixel_size}"
            raise InputError(f"{name} needs n_views ≥ 1 and a finite pixel_size > 0, got {got}.")
        grid = (shape[1], shape[2])
        n_rays, most = self.n_views * self.detectors(grid), MOST_GIGABYTES * 1e9
        size = n_rays * sum(grid) * BYTES  # a ray meets at most sum(grid) pixels
        if size > most and n_rays <= MOST_RAYS:
            size = most_entries(self, grid) * BYTES
        if size > most:
            raise InputError(
                f"{name}: the system matrix of {self.n_views} views on {grid} pixels may take {size / 1e9:.3g} GB, the "
                f"limit is {MOST_GIGABYTES:g} GB. Take fewer views or detectors, or coarser pixels."
            )

    @cached_property
    def _map(self) -> SparseMap:
        return system_matrix(self, (self.shape[1], self.shape[2]))

    @cached_property
    def range_shape(self) -> tuple[int, ...]:
        """(channel, view, detector)."""
        return (self.shape[0], self.n_views, self.detectors((self.shape[1], self.shape[2])))

    def forward(self, x: Tensor) -> Tensor:
        return self._map(x.reshape(-1, math.prod(self.shape[1:]))).reshape(len(x), -1)

    def backward(self, y: Tensor) -> Tensor:
        return self._map.transpose(y.reshape(-1, math.prod(self.range_shape[1:]))).reshape(len(y), *self.shape)

    @property
    def gram_basis(self) -> tuple[Tensor, Tensor]:
        values, vectors = self._eigen
        channels = torch.eye(self.shape[0], dtype=values.dtype)
        return values.repeat(self.shape[0]), torch.kron(channels, vectors)

    @property
    def gram_spectrum(self) -> Tensor:
        return self._eigen[0].repeat(self.shape[0])

    @property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        return _eigen(self, (self.shape[1], self.shape[2]))

    @property
    def _is_small(self) -> bool:
        return math.prod(self.range_shape[1:]) <= DENSE

    def _scaled(self, v: Tensor, factors: Tensor) -> Tensor:
        """U diag(factors) Uᵀ v for each channel; factors (m,) or (batch, 1, m)."""
        vectors = placed(self._eigen[1], v.device, v.dtype)
        channels = v.reshape(len(v), self.shape[0], -1)
        return (channels @ vectors * factors.to(v.device, v.dtype) @ vectors.T).reshape(v.shape)

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        if not self._is_small:
            return LinearOperator.gram_solve(self, v, ridge, scale)  # type: ignore[arg-type]
        values = placed(self._eigen[0], v.device)
        ridge, scale = (n[:, None] if isinstance(n, Tensor) and n.ndim else n for n in (ridge, scale))
        return self._scaled(v, 1 / (scale * values + ridge))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y; up to 1024 measurements eigenvalues of A Aᵀ below rounding count as zero."""
        if not self._is_small:
            return LinearOperator.pseudo_inverse(self, y)  # type: ignore[arg-type]
        values = self._eigen[0]
        kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
        return self.backward(self._scaled(y, torch.where(kept, 1 / torch.where(kept, values, 1), 0)))


@functools.lru_cache(maxsize=8)
def system_matrix(scanner: _Tomography, grid: tuple[int, int]) -> SparseMap:
    """Length of each ray in each pixel, times the pixel's size; one for all operators of one geometry.

    Source: Siddon (1985), Fast calculation of the exact radiological path for a three-dimensional CT array.
    """
    from scipy.sparse import coo_array, vstack  # a quarter of a second, and only here

    rays, n_pixels = scanner.rays(grid), math.prod(grid)
    views = []
    for points, directions in zip(*rays, strict=True):  # one at a time: unsorted entries take twice the memory
        ray, pixel, length = path_lengths(points, directions, grid)
        entries = length * scanner.pixel_size, (ray.astype(np.int32), pixel.astype(np.int32))
        views.append(coo_array(entries, shape=(len(points), n_pixels)).tocsr())
    return SparseMap(vstack(views, format="csr"))


@functools.lru_cache(maxsize=8)
def most_entries(scanner: _Tomography, grid: tuple[int, int]) -> int:
    """Upper bound of the entries of a scanner's matrix, by the way of each ray through the image.

        pixels ≤ 1 + ⌈|Δx|⌉ + ⌈|Δy|⌉,   Δ: from where the ray enters the image to where it leaves

    Rays along an axis count twice, as they are split.
    """
    rays, half = scanner.rays(grid), np.array([grid[1], grid[0]]) / 2
    straight = np.abs(rays.directions) < GRAZE
    steps = np.where(straight, 1.0, rays.directions)
    ends = np.stack([(side * half - rays.points) / steps for side in (-1, 1)])
    free = np.where(np.abs(rays.points) <= half + GRAZE, np.inf, -np.inf)  # along the axis: all of it or none
    entry = np.where(straight, -free, ends.min(0)).max(-1)
    leave = np.where(straight, free, ends.max(0)).min(-1)
    way = np.maximum(leave - entry, 0)[..., None] * np.abs(rays.directions)
    met = np.where(leave >= entry, 1 + np.ceil(way).sum(-1), 0)
    return int((met * (1 + straight.any(-1))).sum())


@functools.lru_cache(maxsize=8)
def _eigen(scanner: _Tomography, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """g and U of A Aᵀ = U diag(g) Uᵀ for one channel, float64."""
    matrix = system_matrix(scanner, grid).matrix
    values, vectors = torch.linalg.eigh(torch.as_tensor((matrix @ matrix.T).toarray()))
    return values.clamp_min(0), vectors.contiguous()


def path_lengths(
    points: np.ndarray, directions: np.ndarray, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels lines meet, and along what length.

    Args:
        points: of each line, (ray, 2), (x, y) in pixels from the centre of the image.
        directions: unit vectors, (ray, 2).
        grid: rows and columns.

    Returns:
        Ray, pixel (row by row) and length in pixels of each entry.
    """
    number, weight = np.arange(len(points)), np.ones(len(points))
    straight = np.abs(directions).min(1) < GRAZE
    if straight.any():
        aside = GRAZE * np.stack([-directions[straight, 1], directions[straight, 0]], 1)
        points = np.concatenate([points[~straight], points[straight] + aside, points[straight] - aside])
        directions = np.concatenate([directions[~straight], *[directions[straight]] * 2])
        number = np.concatenate([number[~straight], *[number[straight]] * 2])
        weight = np.concatenate([weight[~straight], *[0.5 * weight[straight]] * 2])
    half = np.array([grid[1], grid[0]]) / 2
    crossings, entry, leave = [], np.full(len(points), -np.inf), np.full(len(points), np.inf)
    for axis, n in enumerate((grid[1], grid[0])):
        along, start = directions[:, axis], points[:, axis]
        moves = np.abs(along) >= GRAZE
        planes = np.arange(n + 1) - half[axis]
        at = (planes - start[:, None]) / np.where(moves, along, 1)[:, None]
        inside = np.where(np.abs(start) < half[axis], np.inf, -np.inf)  # of a line along the planes: all of it or none
        entry = np.maximum(entry, np.where(moves, np.minimum(at[:, 0], at[:, -1]), -inside))
        leave = np.minimum(leave, np.where(moves, np.maximum(at[:, 0], at[:, -1]), inside))
        crossings.append(np.where(moves[:, None], at, np.nan))
    met = entry < leave
    bounds = np.where(met, entry, 0)[:, None], np.where(met, leave, 0)[:, None]
    at = np.concatenate(crossings, 1)
    at = np.sort(np.clip(np.where(np.isnan(at), bounds[0], at), *bounds), 1)
    length, middle = np.diff(at, axis=1), 0.5 * (at[:, 1:] + at[:, :-1])
    ray, piece = np.nonzero(length > 1e-9)
    where = points[ray] + middle[ray, piece, None] * directions[ray] + half
    column, row = (np.clip(where[:, axis].astype(np.int64), 0, n - 1) for axis, n in ((0, grid[1]), (1, grid[0])))
    return number[ray], row * grid[1] + column, length[ray, piece] * weight[ray]


@dataclass(frozen=True)
class ParallelBeam(_Tomography, LinearOperator):
    """Parallel-beam tomography: line integrals of an image along parallel rays, view by view.

        y_{k j} = ∫ x(s_j n_k + r n_k^⊥) dr,   n_k = (cos θ_k, sin θ_k),   θ_k = first_angle + arc k/n_views

    View k + 1 is turned by arc/n_views from view k; s_j are equidistant and centred. A pixel is a square of constant
    value, and an entry of A the length of the ray in it. Measurements are ordered (channel, view, detector).

    Exactness: the integrals are exact for the pixel image; adjoint exact; solves by the eigenbasis of A Aᵀ up to 1024
        measurements per channel, beyond by conjugate gradients.
    Cost: about 2.5 × views × detectors × side products; the matrix is made once per geometry.
    Bias: none for pixel images; O(pixel) for objects with edges, O(pixel²) for smooth ones.
    Args:
        n_views: views over the arc.
        n_detectors: detector bins of a view; null: as many as the diagonal of the image needs.
        spacing: distance of neighbouring bins [pixels].
        arc: angle over which the views are spread, its end left out; less than 180 is a limited angle [degrees].
        pixel_size: side of a pixel [length]; values × length is what is measured.
        first_angle: θ_0, that of the first view [degrees].
    Raises:
        InputError: events that are no images, or a matrix beyond memory.
    Source: Natterer (2001), The mathematics of computerized tomography; Siddon (1985) for the lengths.
    """

    n_views: Count = 20
    n_detectors: Count | None = None
    spacing: Positive = 1.0
    arc: Annotated[float, Field(gt=0, le=360)] = 180.0
    pixel_size: Positive = 1.0
    first_angle: Annotated[float, Field(ge=-360, le=360)] = 0.0

    def detectors(self, grid: tuple[int, int]) -> int:
        return self.n_detectors or math.ceil(math.hypot(*grid) / self.spacing)

    def rays(self, grid: tuple[int, int]) -> Rays:
        n = self.detectors(grid)
        angle = np.radians(self.first_angle) + np.radians(self.arc) * np.arange(self.n_views)[:, None] / self.n_views
        offset = (np.arange(n) - (n - 1) / 2)[None] * self.spacing
        normal = np.stack([np.cos(angle), np.sin(angle)], -1)
        across = np.stack([-np.sin(angle), np.cos(angle)], -1)
        return Rays(offset[..., None] * normal, np.broadcast_to(across, (self.n_views, n, 2)))


@dataclass(frozen=True)
class FanBeam(_Tomography, LinearOperator):
    """Fan-beam tomography: line integrals of an image along rays from a point source that turns around it.

        source_k = R (cos β_k, sin β_k),   β_k = first_angle ± arc k/n_views,   rays at γ_j to the central one

    γ grows as β does, whichever way the source turns. Measurements are ordered (channel, view, detector).

    Exactness: as `parallel_beam`.
    Cost: as `parallel_beam`.
    Bias: none for pixel images; O(pixel) for objects with edges, O(pixel^{3/2}) for smooth ones.
    Args:
        n_views: source positions over the arc.
        n_detectors: detector bins of a view; null: as many as the diagonal of the image has pixels.
        source_distance: R, from the source to the centre [diagonals of the image].
        detector: "flat": bins at equal distances, tan γ; "arc": at equal angles γ around the source.
        arc: angle over which the sources are spread, its end left out [degrees].
        pixel_size: side of a pixel [length].
        fan_angle: between the outer edges of the first and the last bin [degrees]; null: as wide as the circle around
            the image.
        first_angle: β_0 [degrees].
        clockwise: whether β falls from view to view.
        offset: of the detector, towards larger γ [bins]; a quarter has opposite views measure other lines.
    Raises:
        InputError: events that are no images, or a matrix beyond memory.
    Source: Kak and Slaney (1988), Principles of computerized tomographic imaging, section 3.4.
    """

    n_views: Count = 20
    n_detectors: Count | None = None
    source_distance: Annotated[float, Field(gt=0.5)] = 1.5
    detector: Literal["flat", "arc"] = "flat"
    arc: Annotated[float, Field(gt=0, le=360)] = 360.0
    pixel_size: Positive = 1.0
    fan_angle: Annotated[float, Field(gt=0, lt=180)] | None = None
    first_angle: Annotated[float, Field(ge=-360, le=360)] = 0.0
    clockwise: bool = False
    offset: float = 0.0

    def detectors(self, grid: tuple[int, int]) -> int:
        return self.n_detectors or math.ceil(math.hypot(*grid))

    @property
    def half_angle(self) -> float:
        """γ of the outer edge of the last bin, but for the offset [radians]."""
        return self.least_half_angle if self.fan_angle is None else math.radians(self.fan_angle) / 2

    @property
    def least_half_angle(self) -> float:
        """γ of the rays that touch the circle around the image [radians]."""
        return math.asin(0.5 / self.source_distance)

    def radius(self, grid: tuple[int, int]) -> float:
        """R [pixels]."""
        return self.source_distance * math.hypot(*grid)

    @property
    def turns(self) -> np.ndarray:
        """How far the source has turned at each view, β_k − β_0 [radians]."""
        return (-1 if self.clockwise else 1) * np.radians(self.arc) * np.arange(self.n_views) / self.n_views

    def rays(self, grid: tuple[int, int]) -> Rays:
        n = self.detectors(grid)
        widest = self.half_angle
        place = (2 * (np.arange(n) + self.offset) + 1 - n) / n  # middles of the bins, in (−1, 1) without an offset
        gamma = np.arctan(place * math.tan(widest)) if self.detector == "flat" else place * widest
        beta = math.radians(self.first_angle) + self.turns[:, None]
        source = self.radius(grid) * np.stack([np.cos(beta), np.sin(beta)], -1)
        towards = beta + math.pi + gamma[None]
        points = np.broadcast_to(source, (self.n_views, n, 2))
        return Rays(points, np.stack([np.cos(towards), np.sin(towards)], -1))
