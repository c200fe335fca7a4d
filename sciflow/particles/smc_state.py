"""An ensemble between two steps: what the driver carries, and what a checkpoint keeps so that nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles.evidence import Evidence
from sciflow.particles.genealogy import Genealogy
from sciflow.particles.particles import Particles
from sciflow.particles.ranks import Ranks
from sciflow.particles.slots import Slots, log_sums, mean, tile_sums

Facts = dict[str, Any]
TRACES = ("ess", "parents", "evidence", "weight_zero")


@dataclass
class SMCState:
    """Everything that the rest of a run depends on, besides the model: random numbers are drawn by name and step.

    `as_dict()` is what to save, e.g. by `torch.save`, before the callback that got this state returns, because the run
    goes on in the same memory; `from_dict` reads it. On several ranks each saves its own; `joined` makes one of all,
    which may be continued on any number of ranks.

    Args:
        facts: seed, purpose, tile, n, islands, n_steps, threshold and scheme of the run.
        particles: of this rank: "x" and whatever else the model carries along.
        log_weights: normalised within each island, (own islands, own particles of each).
        families: genealogy of each own island; of an island on several ranks, all of it.
        log_evidence: log Ẑ of every island, (islands,).
        ess: effective sample size of every island, (islands,).
        first: number of the first particle here.
        k: steps done; −1 before the start.
        traces: "ess", "parents", "evidence" and number of particles of "weight_zero" after the start and each step.
        diagnostics: what the model said after each of them.
        events: what a reader should know.
    """

    facts: Facts
    particles: dict[str, Tensor]
    log_weights: Tensor
    families: list[Genealogy]
    log_evidence: Tensor
    ess: Tensor
    first: int = 0
    k: int = -1
    traces: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TRACES})
    diagnostics: list[dict[str, Tensor]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, particles: dict[str, Tensor], facts: Facts, slots: Slots) -> SMCState:
        """Equal weights, everyone their own founder."""
        m, device, own = slots.per_island, particles["x"].device, len(slots.own_islands)
        weights = torch.full((own, slots.count // own), -math.log(m), dtype=torch.float64, device=device)
        numbers = torch.zeros(slots.islands, dtype=torch.float64)
        families = [Genealogy.of(m, device) for _ in range(own)]
        return cls(facts, particles, weights, families, numbers, numbers + m, slots.start)

    def weigh(self, potential: Tensor, slots: Slots, ranks: Ranks, where: str) -> None:
        """Multiply by the potential; the sum of the weights is the factor of the evidence.

        Raises:
            InputError: a potential of the wrong shape.
            NonFiniteError: NaN or +inf potentials, or an island without a survivor.
        """
        if potential.shape != (slots.count,):
            raise InputError(f"{where}: the log-potential has shape {tuple(potential.shape)}, needs ({slots.count},).")
        self.log_weights += potential.detach().view_as(self.log_weights)
        extremes = torch.stack(torch.aminmax(potential.detach())).double()  # NaN if one is
        tiles = tile_sums(self.log_weights, slots)
        if slots.is_cut:
            tiles, extremes = _shared(tiles, extremes, slots, ranks)
        factor, square = log_sums(tiles)
        are_finite, factors, sizes = _told([factor, (2 * factor - square).exp(), extremes], slots, ranks)
        n_bad, n_dead = (0, 0) if are_finite else _counted(potential, slots, ranks)
        if n_bad:
            raise NonFiniteError(
                f"{where}: {n_bad} of {slots.n} log-potentials are NaN or +inf. "
                "Check the model there; −inf is the only infinite value with a meaning."
            )
        lost = [island for island, one in enumerate(factors.tolist()) if one == -math.inf]
        if lost:
            which = f" of island {lost[0] + 1}" if slots.islands > 1 else ""
            raise NonFiniteError(
                f"{where}: all {slots.per_island} particles{which} have weight zero. "
                "Use more particles, smaller steps or a softer potential."
            )
        if n_dead:
            self.events.append(f"{where}: {n_dead} of {slots.n} particles have weight zero")
        self.log_weights -= factor[:, None]
        self.log_evidence, self.ess = self.log_evidence + factors, sizes
        self.k += 1
        size, evidence = sizes, self.log_evidence
        if slots.islands > 1:  # pooled with weights Ẑ_r
            size = 1 / (self.log_evidence.softmax(0).square() / sizes).sum()
            evidence = self.log_evidence.logsumexp(0) - math.log(slots.islands)
        self.traces["ess"].append(float(size))
        self.traces["evidence"].append(float(evidence))
        self.traces["parents"].append(slots.n)
        self.traces["weight_zero"].append(n_dead)
        self.diagnostics.append({})

    def note(self, said: Mapping[str, Tensor], slots: Slots, ranks: Ranks, where: str) -> None:
        """Keep what the model says of the last step, without asking the device.

        Raises:
            InputError: numbers that are neither those of the particles nor those of all.
        """
        for name, value in said.items():
            if value.shape != (slots.count,) and (value.ndim != 2 or len(value) != 1):
                raise InputError(
                    f"{where}: the diagnostic {name!r} has shape {tuple(value.shape)}, needs ({slots.count},), one "
                    "number for each particle, or (1, J), numbers of all."
                )
            told = mean(value, slots, ranks)[None] if value.ndim == 1 else value[0].detach().double()
            self.diagnostics[-1][name] = told

    def as_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text alone, without a copy: `torch.load(..., weights_only=True)` reads them."""
        content = {name: value for name, value in vars(self).items() if name != "families"}
        return {**content, "families": [vars(family) for family in self.families]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SMCState:
        """From what `as_dict` gave, with memory of its own.

        Raises:
            InputError: something else.
        """
        wanted = set(cls.__dataclass_fields__)
        if set(content) != wanted:
            raise InputError(f"this is no state of smc: it has {sorted(map(str, content))}, needs {sorted(wanted)}.")
        copied = _copied(content)
        return cls(**{**copied, "families": [Genealogy(**family) for family in copied["families"]]})

    @classmethod
    def joined(cls, parts: Sequence[SMCState]) -> SMCState:
        """One state of the parts that the ranks saved after the same step, in any order.

        Raises:
            InputError: parts of different runs or steps, or not all of them.
        """
        parts = sorted(parts, key=lambda part: part.first)
        rows = sum(len(part.particles["x"]) for part in parts)
        if any((part.facts, part.k) != (parts[0].facts, parts[0].k) for part in parts) or rows != parts[0].facts["n"]:
            raise InputError(
                f"{len(parts)} states of {rows} particles do not make one of {parts[0].facts['n']}: give those of all "
                "ranks, after the same step of the same run."
            )
        is_cut = parts[0].facts["islands"] == 1
        families = parts[0].families if is_cut else [family for part in parts for family in part.families]
        particles = {name: torch.cat([part.particles[name] for part in parts]) for name in parts[0].particles}
        weights = torch.cat([part.log_weights for part in parts], dim=1 if is_cut else 0)
        return replace(parts[0], particles=particles, log_weights=weights, families=families)

    def part(self, slots: Slots) -> SMCState:
        """What one rank holds of this state, in memory of its own.

        Raises:
            InputError: the state does not hold the rank's particles.
        """
        offset, rows = slots.start - self.first, len(self.particles["x"])
        if offset < 0 or offset + slots.count > rows:
            raise InputError(
                f"this state holds particles {self.first} … {self.first + rows - 1}, this rank needs {slots.start} … "
                f"{slots.stop - 1}. Give the state that this rank saved, or `SMCState.joined` of all."
            )
        particles = {name: value[offset : offset + slots.count].clone() for name, value in self.particles.items()}
        weights, families = self.log_weights[:, offset : offset + slots.count], self.families
        if slots.islands > 1:
            own = slice(offset // slots.per_island, (offset + slots.count) // slots.per_island)
            weights, families = self.log_weights[own], self.families[own]
        traces = {name: list(values) for name, values in self.traces.items()}
        families = [replace(family, excess=family.excess.clone()) for family in families]
        return replace(
            self, particles=particles, log_weights=weights.clone(), families=families, first=slots.start,
            traces=traces, diagnostics=[dict(said) for said in self.diagnostics], events=list(self.events),
        )  # fmt: skip

    def result(self, slots: Slots, ranks: Ranks) -> Particles:
        """The ensemble at the end; on several ranks, this rank's part of it."""
        whole = self.log_weights
        if slots.is_cut:
            whole = ranks.gathered(self.log_weights[0], slots.lengths())[None]
        stated = [family.stderr(weights) for family, weights in zip(self.families, whole, strict=True)]
        told = torch.tensor([stated, [family.generations for family in self.families]], dtype=torch.float64).T
        if slots.size > 1 and not slots.is_cut:
            told = ranks.gathered(told, [length // slots.per_island for length in slots.lengths()])
        evidence = Evidence(self.log_evidence, told[:, 0])
        shares = self.log_evidence.log_softmax(0).to(whole.device)
        weights = self.log_weights + shares[slots.own_islands.start : slots.own_islands.stop, None]
        founders = zip(slots.own_islands, self.families, strict=True)
        eve = torch.cat([family.eve + island * slots.per_island for island, family in founders])
        return Particles(
            x=self.particles["x"],
            log_weights=weights.reshape(-1),
            log_evidence=evidence.log_value,
            log_evidence_stderr=evidence.stderr,
            log_evidence_stderr_islands=evidence.stderr_islands,
            log_evidence_interval=evidence.interval_islands() if slots.islands >= 4 else evidence.interval(),
            island_log_evidence=self.log_evidence,
            ess_trace=torch.tensor(self.traces["ess"], dtype=torch.float64),
            parents_trace=torch.tensor(self.traces["parents"], dtype=torch.int64),
            evidence_trace=torch.tensor(self.traces["evidence"], dtype=torch.float64),
            eve=eve[slots.start : slots.stop] if slots.is_cut else eve,
            n_resampled=int(told[:, 1].sum()),
            events=tuple(self.events),
            diagnostics=self._diagnosed(slots),
        )

    def _diagnosed(self, slots: Slots) -> dict[str, Tensor]:
        """Name → (step, J), on the host; NaN where a step said nothing."""
        found: dict[str, Tensor] = {}
        for name in sorted({name for said in self.diagnostics for name in said}):
            like = next(said[name] for said in self.diagnostics if name in said)
            nothing = torch.full_like(like, math.nan)
            found[name] = torch.stack([said.get(name, nothing) for said in self.diagnostics]).cpu()
        if any(self.traces["weight_zero"]):
            found["weight_zero"] = torch.tensor(self.traces["weight_zero"], dtype=torch.float64)[:, None] / slots.n
        return found


def _counted(potential: Tensor, slots: Slots, ranks: Ranks) -> tuple[int, int]:
    """How many potentials of all ranks are NaN or +inf, and how many −inf."""
    bad, dead = potential.isnan() | (potential == math.inf), potential == -math.inf
    counts = ranks.gathered(torch.stack([bad.sum(), dead.sum()]), [2] * slots.size).view(-1, 2).sum(0)
    return int(counts[0]), int(counts[1])


def _shared(tiles: Tensor, extremes: Tensor, slots: Slots, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The sums of all tiles of one island and the extremes of all ranks: the one message of a step."""
    lengths = [3 * -(-length // slots.tile) + 2 for length in slots.lengths()]
    parts = ranks.gathered(torch.cat([tiles.flatten(), extremes]), lengths).split(lengths)
    return torch.cat([part[:-2] for part in parts]).view(1, -1, 3), torch.cat([part[-2:] for part in parts])


def _told(said: list[Tensor], slots: Slots, ranks: Ranks) -> tuple[bool, Tensor, Tensor]:
    """Whether all potentials are finite, factor and ESS of all islands: the one host synchronisation of a step.

    Args:
        said: factor and ESS of own islands, and extremes of the potentials.
    """
    told, n_last = torch.cat(said), len(said[-1])
    lengths = [len(told)]
    if slots.size > 1 and not slots.is_cut:
        lengths = [2 * (length // slots.per_island) + n_last for length in slots.lengths()]
        told = ranks.gathered(told, lengths)
    parts = [part.split([own := (len(part) - n_last) // 2, own, n_last]) for part in told.cpu().split(lengths)]
    factors, sizes, extremes = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return bool(extremes.isfinite().all()), factors, sizes


def _copied(value: Any) -> Any:
    """Plain containers of tensors, each with memory of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value
