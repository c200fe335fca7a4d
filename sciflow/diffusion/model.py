"""A denoiser as a file: plain tensors, numbers and names, loaded without executing anything it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sciflow.archives import check_stored
from sciflow.diffusion.centred import CentredModule, event_shape
from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.forecast import Forecasts
from sciflow.diffusion.known import CHAINS, KnownDynamics
from sciflow.diffusion.mixture import EmpiricalDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.one_step import DiffusionModel, ForecastModel, RefinerModel, RegressionModel, Scale
from sciflow.diffusion.own import OwnDenoiser
from sciflow.diffusion.patched import PatchedDenoiser
from sciflow.diffusion.schedule import Scaled, Schedule
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.diffusion.windowed import WindowedDenoiser
from sciflow.errors import InputError
from sciflow.solvers.state_space import HiddenChain, StateSpace

FORMAT = 1


def _kind(slot: str, entry: object) -> str:
    return next(kind for kind, cls in _table(slot).items() if cls is type(entry))


def _table(slot: str) -> Mapping[str, type]:
    """A public table, read when it is needed: it lists modules that import this one."""
    from sciflow.diffusion import SCHEDULES
    from sciflow.networks import NETWORKS
    from sciflow.solvers import CHAOTIC, SOLVERS

    return {"schedule": SCHEDULES, "network": NETWORKS, "equation": CHAOTIC, "solver": SOLVERS}[slot]


def _pack_schedule(schedule: Schedule) -> dict[str, Any]:
    if isinstance(schedule, Scaled):
        return {"std": schedule.std, **_pack_schedule(schedule.base)}
    return {"kind": _kind("schedule", schedule), **asdict(schedule)}  # type: ignore[call-overload]


def _unpack_schedule(fields: Mapping[str, Any]) -> Schedule:
    options = dict(fields)
    std, kind = options.pop("std", None), options.pop("kind")
    known = _table("schedule")
    if kind not in known:
        raise InputError(f"its schedule {kind!r} is not known, only {sorted(known)}. Load the plugin that defines it.")
    base = known[kind](**options)
    return base if std is None else Scaled(base, std)


NUMBERS = ("std", "noise", "n_substeps", "spin_up")  # of a state space
CONVENTIONS = ("mean", "offset", "scale", "predicts", "told")  # of a network that was trained elsewhere


def _pack_space(space: HiddenChain) -> dict[str, Any]:
    kind = getattr(space, "kind", None)
    if kind in CHAINS:
        return {"chain": kind, **CHAINS[kind].stored(space)}  # type: ignore[arg-type]
    if not isinstance(space, StateSpace):
        raise TypeError(f"a {type(space).__name__} has no stored form. Add it to CHAINS.")
    equation = {"kind": _kind("equation", space.dynamics), **asdict(space.dynamics)}  # type: ignore[call-overload]
    solver = {"kind": _kind("solver", space.solver), **asdict(space.solver)}  # type: ignore[call-overload]
    numbers = {name: getattr(space, name) for name in NUMBERS}
    return {"equation": equation, "solver": solver, "grid": list(space.grid), "mean": space.mean, **numbers}


def _unpack_space(fields: Mapping[str, Any]) -> HiddenChain:
    if "chain" in fields:
        if fields["chain"] not in CHAINS:
            raise InputError(
                f"its chain {fields['chain']!r} is not known, only {sorted(CHAINS)}. `import sciflow.domains` first, "
                "or load the plugin that defines it."
            )
        return CHAINS[fields["chain"]].restored(fields)
    parts = {}
    for slot in ("equation", "solver"):
        options = dict(fields[slot])
        parts[slot] = _table(slot)[options.pop("kind")](**options)
    numbers = {name: fields[name] for name in NUMBERS}
    return StateSpace(parts["equation"], tuple(fields["grid"]), fields["mean"], solver=parts["solver"], **numbers)


def _pack_own(model: ForecastModel) -> dict[str, Any]:
    """What a forecaster of this kind has and others have not."""
    if isinstance(model, RegressionModel):
        return {"spectrum": model.spectrum}
    if isinstance(model, RefinerModel):
        return {"n_refinements": model.n_refinements, "min_noise": model.min_noise}
    return _pack_schedule(model.schedule)


def _unpack_own(own: Mapping[str, Any], common: tuple[nn.Module, tuple[int, ...], int, Scale]) -> ForecastModel:
    if "spectrum" in own:
        return RegressionModel(*common, **own)
    if "n_refinements" in own:
        return RefinerModel(*common, **own)
    return DiffusionModel(*common, _unpack_schedule(own))


def _pack_scale(scale: Scale) -> dict[str, Any]:
    """As numbers and names; of constants and bounded axes where there are some: older files say nothing of them."""
    return {name: value for name, value in asdict(scale).items() if value or name not in ("constants", "bounded")}


def _pack_forecasts(forecasts: Forecasts, network: Any) -> dict[str, Any]:
    """Every forecaster with the entry of NETWORKS that built its module."""
    models = {}
    for name, model in forecasts.models.items():
        common = {"weights": model.module.state_dict(), "shape": list(model.shape), "n_given": model.n_given}
        models[name] = {**common, "scale": _pack_scale(model.scale), "own": _pack_own(model)}
    spec = {"kind": _kind("network", network), **asdict(network)}
    return {"models": models, "network": spec, "interval": forecasts.interval}


def _unpack_forecasts(fields: Mapping[str, Any]) -> Forecasts:
    options, models = dict(fields["network"]), {}
    spec = _table("network")[options.pop("kind")](**options)
    for name, stored in fields["models"].items():
        shape, n_given, own = tuple(stored["shape"]), stored["n_given"], stored["own"]
        channels = (n_given if "spectrum" in own else n_given + 1) * shape[0]
        scale = Scale(**stored["scale"])
        module = _restored(spec.build((channels + scale.n_beside, *shape[1:])), stored["weights"])
        models[name] = _unpack_own(own, (module, shape, n_given, scale))
    return Forecasts(models, tuple(fields["shape"]), fields["interval"])


def _restored(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """The module with stored weights, where they are, ready to be called."""
    module.load_state_dict(weights)
    place = next((weight.device for weight in weights.values()), None)  # it may have no weights
    return module.to(device=place).eval().requires_grad_(False)


def pack(denoiser: Denoiser, network: Any = None) -> dict[str, Any]:
    """A denoiser as nested dictionaries of tensors and plain values.

    Args:
        denoiser: what to store.
        network: for a `NetworkDenoiser`, `OwnDenoiser` or `Forecasts`, or windows of one, the entry of `NETWORKS` that
            built its module.

    Raises:
        TypeError: a denoiser that has no stored form.
    """
    common = {"format": FORMAT, "schedule": _pack_schedule(denoiser.schedule), "shape": list(denoiser.shape)}
    if isinstance(denoiser, NetworkDenoiser):
        spec = {"kind": _kind("network", network), **asdict(network)}
        centred = isinstance(denoiser.module, CentredModule)
        module = denoiser.module.of_positions if isinstance(denoiser.module, CentredModule) else denoiser.module
        own = {"mean": denoiser.mean, "network": spec, "weights": module.state_dict(), "centred": centred}
        return {**common, "kind": "network", **own, "shape": list(event_shape(denoiser))}
    if isinstance(denoiser, OwnDenoiser):
        spec = {"kind": _kind("network", network), **asdict(network)}
        conventions = {name: getattr(denoiser, name) for name in CONVENTIONS}
        return {**common, "kind": "own", "network": spec, "weights": denoiser.module.state_dict(), **conventions}
    if isinstance(denoiser, MixtureDenoiser):
        mixture = denoiser.mixture
        tensors = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
        return {**common, "kind": "mixture", **tensors}
    if isinstance(denoiser, SubspaceDenoiser):
        law, mixture = denoiser.law, denoiser.law.mixture
        tensors = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
        outside = {"basis": law.basis, "centre": law.centre, "width": law.width}
        return {**common, "kind": "subspace_mixture", **tensors, **outside}
    if isinstance(denoiser, PatchedDenoiser):
        own = {"piece": pack(denoiser.piece), "stride": denoiser.stride, "mean": denoiser.mean}
        return {**common, "kind": "patched", **own}
    if isinstance(denoiser, EmpiricalDenoiser):
        return {**common, "kind": "empirical", "points": denoiser.points, "width": denoiser.width}
    if isinstance(denoiser, Forecasts):
        return {**common, "kind": "forecasts", **_pack_forecasts(denoiser, network)}
    if isinstance(denoiser, KnownDynamics):
        return {**common, "kind": "dynamics", **_pack_space(denoiser.space)}
    if isinstance(denoiser, WindowedDenoiser):
        return {**common, "kind": "windowed", "window": pack(denoiser.window, network)}
    raise TypeError(f"a {type(denoiser).__name__} has no stored form. Store the denoiser it wraps.")


def unpack(fields: Mapping[str, Any]) -> Denoiser:
    """The denoiser that `pack` stored.

    Raises:
        InputError: a schedule that no table knows (a plugin that is not loaded).
        KeyError: a network that no table knows.
    """
    schedule, shape = _unpack_schedule(fields["schedule"]), tuple(fields["shape"])
    if fields["kind"] == "mixture":
        return MixtureDenoiser(GaussianMixture(fields["weights"], fields["means"], fields["covariances"]), schedule)
    if fields["kind"] == "subspace_mixture":
        mixture = GaussianMixture(fields["weights"], fields["means"], fields["covariances"])
        law = SubspaceMixture(fields["basis"], mixture, fields["centre"], fields["width"])
        return SubspaceDenoiser(law, schedule, shape)
    if fields["kind"] == "patched":
        assert isinstance(schedule, Scaled), "a prior of pieces is scaled by the standard deviation of its data"
        return PatchedDenoiser(unpack(fields["piece"]), schedule, shape, fields["stride"], fields["mean"])
    if fields["kind"] == "empirical":
        return EmpiricalDenoiser(fields["points"], schedule, fields["width"])
    if fields["kind"] == "dynamics":
        return KnownDynamics(_unpack_space(fields), schedule)
    if fields["kind"] == "forecasts":
        return _unpack_forecasts(fields)
    if fields["kind"] == "windowed":
        return WindowedDenoiser(unpack(fields["window"]), shape[0], shape[1:])
    options = dict(fields["network"])
    module = _restored(_table("network")[options.pop("kind")](**options).build(shape), fields["weights"])
    assert isinstance(schedule, Scaled), "a network's schedule is scaled by the standard deviation of its data"
    if fields["kind"] == "own":
        return OwnDenoiser(module, schedule, shape, **{name: fields[name] for name in CONVENTIONS})
    if fields.get("centred", False):
        module, shape = CentredModule(module), (shape[0] - 1, *shape[1:])
    return NetworkDenoiser(module, schedule, shape, fields["mean"])


def _cast(denoiser: Denoiser, dtype: torch.dtype) -> None:
    """Give the networks of a denoiser this precision."""
    if isinstance(denoiser, WindowedDenoiser):
        _cast(denoiser.window, dtype)
    elif isinstance(denoiser, NetworkDenoiser | OwnDenoiser):
        denoiser.module.to(dtype)
    elif isinstance(denoiser, Forecasts):
        denoiser.to(dtype)


def load(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Denoiser:
    """The denoiser in a `model.pt`, on the device where it is to be called.

    Args:
        path: of the file.
        device: of its tensors.
        dtype: of its networks; None leaves them as they were stored.

    Raises:
        InputError: the file is missing, truncated, of another kind, unpacks to more than it is, or names a network or
            schedule that is not known.
    """
    check_stored(path)
    try:
        fields = torch.load(path, map_location=device, weights_only=True)
        denoiser = unpack(fields)
        if dtype is not None:
            _cast(denoiser, dtype)
        return denoiser
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such model. Run `sciflow train` first, or check train.path.") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a readable sciflow model ({type(error).__name__}: {reason}). "
            "Delete it and train again, load the plugin that defines its network, or pass the right file."
        ) from error
