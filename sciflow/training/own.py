"""A network that was trained elsewhere: its weights are read, and it is tried on noisy data before use."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from sciflow.archives import check_stored
from sciflow.diffusion.own import OwnDenoiser, Predicts, Told
from sciflow.errors import InputError, is_passing
from sciflow.networks.mlp import Network
from sciflow.random import Stream
from sciflow.training.checkpoint import UNREADABLE

LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""σ/α at which it is tried, in standard deviations of the data; at less noise even good networks err by more."""

WORST = 2.0
"""Mean squared error over that of shrinking towards the mean: the exact one has at most 1, and 64 rows fluctuate."""

SAME = 1e-3  # of the data's standard deviation: sums in float32 in another order differ by 1e-5 in a deep network
CLEARLY = 1.2  # another reading that errs so much less, on the same answers and noise, is no accident of 1024 numbers
LEAST, MOST, NUMBERS = 8, 64, 2**14  # rows to try it on, and numbers in them: of large images a few tell enough

Convention = tuple[Predicts, Told]
logger = logging.getLogger(__name__)


def built(network: Network, shape: tuple[int, ...], path: str | None) -> nn.Module:
    """The network for events of this shape with the weights in a file, ready to be called.

    Args:
        network: an entry of NETWORKS.
        shape: of an event.
        path: what `torch.save(network.state_dict(), path)` wrote; None where `build` makes it complete.

    Raises:
        InputError: `build` fails, the file cannot be read, or its weights are not those of the network.
    """
    where, modules = f"train.network: {type(network).__name__}.build({shape})", []
    for seed in range(1 if path else 2):  # from two seeds, to know drawn weights from given ones
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                modules.append(network.build(shape))
        except Exception as error:
            raise InputError(
                f"{where} raised {type(error).__name__}: {error}. Mend it, or give it such events."
            ) from error
        if not isinstance(modules[-1], nn.Module):
            raise InputError(f"{where} returned a {type(modules[-1]).__name__}. It must return a torch.nn.Module.")
    module = modules[0]
    if path:
        _load(module, weights(path), path)
    elif drawn := _differing(*modules):
        raise InputError(
            f"train.path is not given, but {where} draws {_few(drawn)} at random. Name the file of its weights."
        )
    return module.eval().requires_grad_(False)


def _differing(module: nn.Module, other: nn.Module) -> list[str]:
    """Names of weights that are not the same in both."""
    theirs = other.state_dict()
    return [name for name, value in module.state_dict().items() if not torch.equal(value, theirs[name])]


def weights(path: str) -> dict[str, Tensor]:
    """The tensors of a `state_dict` by name; nothing in the file is executed.

    Raises:
        InputError: the file cannot be read, or holds something else; says what.
    """
    remedy = "Write it by `torch.save(network.state_dict(), path)`."
    if Path(path).suffix == ".safetensors":
        convert = 'torch.save(safetensors.torch.load_file("x.safetensors"), "x.pt")'
        raise InputError(f"train.path {path}: is of safetensors, which is not read here. Convert it: {convert}")
    check_stored(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if is_passing(error):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"train.path {path}: cannot be read as weights without running code ({reason}). {remedy}"
        ) from None
    if not isinstance(found, Mapping):
        raise InputError(f"train.path {path}: holds a {type(found).__name__}, not weights by name. {remedy}")
    others = [f"{name!r} ({type(value).__name__})" for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        holds = f"holds {_few(others)}" if others else "is empty"
        raise InputError(f"train.path {path}: {holds}, not weights by name alone. {remedy}")
    return dict(found)


def _load(module: nn.Module, found: Mapping[str, Tensor], path: str) -> None:
    own = module.state_dict()
    wrong = {
        "lacks": [name for name in own if name not in found],
        "has besides": [name for name in found if name not in own],
        "has in other shapes": [
            f"{name} {tuple(found[name].shape)}, not {tuple(value.shape)}"
            for name, value in own.items()
            if name in found and found[name].shape != value.shape
        ],
    }
    said = [f"{verb} {_few(names)}" for verb, names in wrong.items() if names]
    if said:
        raise InputError(
            f"train.path {path} holds weights of another network than train.network: it {'; it '.join(said)}. Set the "
            "network's sizes to those it was trained with, and take a prefix such as 'module.' off the names."
        )
    module.load_state_dict(found)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def examined(denoiser: OwnDenoiser, rows: Tensor, stream: Stream) -> dict[str, float]:
    """How well it denoises: mean squared error over that of the best shrinkage, by noise level.

        E‖D(x_t) − x₁‖² / E‖m + s²/(s² + u²) (y − m) − x₁‖²,   y = x_t/α,   u = σ/α

    Both on the same noise. The posterior mean of data of mean m and variance s² has 1 at most, and 1 if white.
    Its answers are read in all other conventions too: the right one errs least, at every level.

    Args:
        denoiser: in its conventions.
        rows: held-out events, (n, *shape).
        stream: of the noise.

    Returns:
        "0.1" → ratio, and so on: `LEVELS`, as far as its schedule reaches.

    Raises:
        InputError: an answer of another shape or precision, that is not finite, that depends on other rows or on
            chance, that has no gradient, or that does not denoise.
    """
    rows = rows[: min(MOST, max(LEAST, NUMBERS // rows[0].numel()))]
    noise = {level: stream.child("noise", i).normal(len(rows), rows.shape[1:]) for i, level in enumerate(LEVELS)}
    noise = {level: one for level, one in noise.items() if _reached(denoiser, level)}
    if not noise:
        low, high = (math.exp(-float(denoiser.schedule.base.log_snr(t))) for t in (1.0, 0.0))
        raise InputError(
            f"train.schedule reaches from σ/α = {low:.3g} to {high:.3g} standard deviations of the data, with none "
            f"of {LEVELS} in between. Give the noise levels that the network was trained for."
        )
    first = next(iter(noise))
    _behaves(denoiser, *_noisy(denoiser, rows, noise[first], first))
    table = _table(denoiser, rows, noise)
    ratios = table.pop((denoiser.predicts, denoiser.told))
    broken = [level for level, ratio in ratios.items() if not math.isfinite(ratio)]
    if broken:
        raise InputError(
            f"the network's answer is not finite at σ/α = {broken[0]:g} standard deviations of the data. Look for "
            "divisions by the noise level, and for numbers that half precision cannot hold."
        )
    _judge(ratios, table)
    return {f"{level:g}": round(ratio, 4) for level, ratio in ratios.items()}


def _reached(denoiser: OwnDenoiser, level: float) -> bool:
    base = denoiser.schedule.base
    return float(base.log_snr(0.0)) <= -math.log(level) <= float(base.log_snr(1.0))


def _noisy(denoiser: OwnDenoiser, rows: Tensor, noise: Tensor, level: float) -> tuple[Tensor, float]:
    """States x_t at σ/α = level × std, and t."""
    schedule = denoiser.schedule
    t = float(schedule.base.time(-math.log(level)))
    return float(schedule.alpha(t)) * rows + float(schedule.sigma(t)) * noise, t


def _asked(denoiser: OwnDenoiser, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """`OwnDenoiser.ask`; whatever the network raises is said in words, as it is somebody else's code.

    Raises:
        InputError: it raised something, or answers in another shape or precision.
    """
    try:
        return denoiser.ask(x, t)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the network raised {type(error).__name__}: {error}. It is called with {tuple(x.shape)} float32 and one "
            f"number for each row, told: {denoiser.told}."
        ) from error


def _behaves(denoiser: OwnDenoiser, x: Tensor, t: float) -> None:
    """What samplers take for granted: one answer for one row, whatever stands beside it, with a gradient."""
    std = denoiser.schedule.std
    with torch.no_grad():
        answers = [denoiser.estimate(*_asked(denoiser, x, t)) for _ in range(2)]
        answers.append(torch.cat([denoiser.estimate(*_asked(denoiser, row, t)) for row in x.split(1)]))
    gaps = [float((other - answers[0]).abs().max()) / std for other in answers[1:]]
    if gaps[0] > SAME:
        raise InputError(
            f"the network's answer changes by {gaps[0]:.2g} standard deviations from one call to the next. Leave out "
            "what it draws, such as dropout by a function."
        )
    if gaps[1] > SAME:
        raise InputError(
            f"the network's answer for a row changes by {gaps[1]:.2g} standard deviations with the rows beside it. "
            "Normalise over the numbers of a row, not over the batch."
        )
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        answer = denoiser(leaf, t)
        total = answer.square().sum()
        slopes = torch.autograd.grad(total, leaf, allow_unused=True) if answer.requires_grad else (None,)
    if slopes[0] is None:
        raise InputError(
            "the network's answer has no gradient with respect to its input, which guided samplers follow. Take "
            "`torch.no_grad` and `detach` out of its `forward`."
        )


@torch.no_grad()
def _table(denoiser: OwnDenoiser, rows: Tensor, noise: Mapping[float, Tensor]) -> dict[Convention, dict[float, float]]:
    """The measure of `examined` in every convention; those that the network cannot be told are left out, and said.

    Raises:
        InputError: the network fails in its own convention.
    """
    mean, std, found = denoiser.mean, denoiser.schedule.std, {}
    shrunk = {level: mean + (rows + level * std * one - mean) / (1 + level**2) for level, one in noise.items()}
    least = {level: float((guess - rows).double().square().mean()) for level, guess in shrunk.items()}
    for told in get_args(Told):
        other = replace(denoiser, told=told)
        try:
            answers = {level: _asked(other, *_noisy(denoiser, rows, one, level)) for level, one in noise.items()}
        except InputError as error:
            if told == denoiser.told:
                raise
            logger.info("told: %s is not tried as another reading: %s", told, error)
            continue
        for predicts in get_args(Predicts):
            guess = replace(other, predicts=predicts).estimate
            errors = {level: float((guess(*said) - rows).double().square().mean()) for level, said in answers.items()}
            found[predicts, told] = {level: error / least[level] for level, error in errors.items()}
    return found


def _judge(ratios: Mapping[float, float], others: Mapping[Convention, Mapping[float, float]]) -> None:
    """Refuse what does not denoise; warn where answers read otherwise would denoise clearly better."""
    better = {
        c: one for c, one in others.items() if all(map(math.isfinite, one.values())) and max(one.values()) <= WORST
    }
    best = min(better, key=lambda convention: _typical(better[convention]), default=None)
    hint = ""
    if best is not None and _typical(better[best]) < _typical(ratios) / CLEARLY:
        hint = f"With `predicts: {best[0]}, told: {best[1]}` it is {_shown(better[best])}: was it trained so?"
    said = (
        f"the network's mean squared error on held-out data, over that of shrinking every number towards the mean, is "
        f"{_shown(ratios)}, at σ/α in standard deviations of the data."
    )
    if max(ratios.values()) > WORST:
        units = (
            "No other `predicts` and `told` would do better. Check train.schedule, and that (data − offset)/scale is "
            "what the network was trained on."
        )
        raise InputError(f"{said} That is no denoiser of these data: an exact one has 1 at most. {hint or units}")
    if hint:
        logger.warning("%s %s", said, hint)


def _typical(ratios: Mapping[float, float]) -> float:
    """The geometric mean over the levels."""
    return math.exp(sum(math.log(max(ratio, 1e-300)) for ratio in ratios.values()) / len(ratios))


def _shown(ratios: Mapping[float, float]) -> str:
    return ", ".join(f"{ratio:.3g} at {level:g}" for level, ratio in ratios.items())
