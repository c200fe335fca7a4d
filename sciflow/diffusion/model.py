"""A denoiser as a file: plain tensors, numbers and names, loaded without executing anything it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.mixture import EmpiricalDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Scaled, Schedule
from sciflow.errors import InputError

FORMAT = 1


def _kind(slot: str, entry: object) -> str:
    return next(kind for kind, cls in _table(slot).items() if cls is type(entry))


def _table(slot: str) -> Mapping[str, type]:
    """A public table, read when it is needed: it lists modules that import this one."""
    from sciflow.diffusion import SCHEDULES
    from sciflow.networks import NETWORKS

    return {"schedule": SCHEDULES, "network": NETWORKS}[slot]


def _pack_schedule(schedule: Schedule) -> dict[str, Any]:
    if isinstance(schedule, Scaled):
        return {"std": schedule.std, **_pack_schedule(schedule.base)}
    return {"kind": _kind("schedule", schedule), **asdict(schedule)}  # type: ignore[call-overload]


def _unpack_schedule(fields: Mapping[str, Any]) -> Schedule:
    options = dict(fields)
    std, kind = options.pop("std", None), options.pop("kind")
    base = _table("schedule")[kind](**options)
    return base if std is None else Scaled(base, std)


def pack(denoiser: Denoiser, network: Any = None) -> dict[str, Any]:
    """A denoiser as nested dictionaries of tensors and plain values.

    Args:
        denoiser: what to store.
        network: for a `NetworkDenoiser`, the entry of `NETWORKS` that built its module.

    Raises:
        TypeError: a denoiser that has no stored form.
    """
    common = {"format": FORMAT, "schedule": _pack_schedule(denoiser.schedule), "shape": list(denoiser.shape)}
    if isinstance(denoiser, NetworkDenoiser):
        spec, weights = {"kind": _kind("network", network), **asdict(network)}, denoiser.module.state_dict()
        return {**common, "kind": "network", "mean": denoiser.mean, "network": spec, "weights": weights}
    if isinstance(denoiser, MixtureDenoiser):
        mixture = denoiser.mixture
        tensors = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
        return {**common, "kind": "mixture", **tensors}
    if isinstance(denoiser, EmpiricalDenoiser):
        return {**common, "kind": "empirical", "points": denoiser.points, "width": denoiser.width}
    raise TypeError(f"a {type(denoiser).__name__} has no stored form. Store the denoiser it wraps.")


def unpack(fields: Mapping[str, Any]) -> Denoiser:
    """The denoiser that `pack` stored.

    Raises:
        KeyError: a kind that no table knows (a plugin that is not loaded).
    """
    schedule, shape = _unpack_schedule(fields["schedule"]), tuple(fields["shape"])
    if fields["kind"] == "mixture":
        return MixtureDenoiser(GaussianMixture(fields["weights"], fields["means"], fields["covariances"]), schedule)
    if fields["kind"] == "empirical":
        return EmpiricalDenoiser(fields["points"], schedule, fields["width"])
    options = dict(fields["network"])
    module = _table("network")[options.pop("kind")](**options).build(shape)
    module.load_state_dict(fields["weights"])
    module.to(next(iter(fields["weights"].values())).device)
    assert isinstance(schedule, Scaled), "a network's schedule is scaled by the standard deviation of its data"
    return NetworkDenoiser(module.eval().requires_grad_(False), schedule, shape, fields["mean"])


def load(path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser in a `model.pt`, on the device where it is to be called.

    Raises:
        InputError: the file is missing, truncated, of another kind, or names a network that is not known.
    """
    try:
        fields = torch.load(path, map_location=device, weights_only=True)
        return unpack(fields)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such model. Run `sciflow train` first, or check train.path.") from None
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a readable sciflow model ({type(error).__name__}: {reason}). "
            "Delete it and train again, load the plugin that defines its network, or pass the right file."
        ) from error
