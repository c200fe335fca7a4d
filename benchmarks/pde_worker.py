"""One side of a comparison in a process of its own: each line of its input asks for one timing.

    python -P benchmarks/pde_worker.py SIDE BATCH WIDTH SIZE MODES        SIDE: ours, neuralop, neuralop-default
    python -P benchmarks/pde_worker.py SIDE BATCH SIZE STEPS              SIDE: solve, exponax

The first line of its answer says how far a training step raises the peak memory, in MiB, or an error of resampling;
then CPU seconds of a training step, or of all the time steps, for each line.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable


def operator(side: str, batch: int, width: int, size: int, modes: int) -> tuple[Callable[[], None], dict]:
    """A training step of a Fourier network of four layers, and its memory."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    if side == "ours":
        from sciflow.networks.fourier import FNO, SpectralConv

        net = FNO(width, modes).build((1, size, size))
        conv = SpectralConv(1, 1, modes, 2)
        with torch.no_grad():
            conv.weight.zero_()[..., 0] = 1
        resample = lambda x, n: conv(x, (n, n))  # noqa: E731
    else:
        from neuralop.layers.spectral_convolution import SpectralConv as Peer
        from neuralop.models import FNO as PeerFNO

        bare = {"use_channel_mlp": False, "positional_embedding": None} if side == "neuralop" else {}
        count = (2 * modes - 1, 2 * modes - 1)
        net = PeerFNO(count, in_channels=1, out_channels=1, hidden_channels=width, n_layers=4, **bare)
        conv = Peer(1, 1, count, bias=False)
        with torch.no_grad():
            conv.weight.tensor.zero_().add_(1)
        resample = lambda x, n: conv(x, output_shape=(n, n))  # noqa: E731
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)

    def step(n: int = batch) -> None:
        x, y = torch.randn(n, 1, size, size), torch.randn(n, 1, size, size)
        optimiser.zero_grad(set_to_none=True)
        (net(x) - y).square().mean().backward()
        optimiser.step()

    with torch.no_grad():
        facts = {"doubling": doubling(resample, size, modes), "parameters": counted(net)}
    step(1)
    optimiser.zero_grad(set_to_none=True)
    before = status("VmRSS")
    step()
    step()
    return step, {**facts, "memory": status("VmHWM") - before}


def status(name: str) -> float:
    """A number of this process, in MiB; its peak is its own, where that of getrusage is inherited from the parent."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def doubling(resample: Callable, size: int, modes: int) -> float:
    """Largest error of a field on twice the points, by a layer whose weights are one."""
    import math

    import torch

    def field(n: int) -> torch.Tensor:
        x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
        y = x[:, None]
        return ((modes - 2) * x + y).cos() + (3 * y - 2 * x).sin() + 0.5 * (x - 5 * y).cos()

    found = resample(field(size)[None, None].float(), 2 * size)
    return float((found[0, 0].double() - field(2 * size)).abs().max())


def counted(net: object) -> int:
    """Real parameters."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in net.parameters())  # type: ignore[attr-defined]


def chaos(side: str, batch: int, size: int, n_steps: int) -> tuple[Callable[[], None], dict]:
    """Time steps of Kuramoto–Sivashinsky fields by ETDRK4 in float64, steps of 0.05 on a ring of length 64."""
    import numpy as np

    x = 64 * np.arange(size) / size
    draw = np.random.default_rng(0)
    start = sum(
        draw.uniform(-0.5, 0.5, (batch, 1)) * np.sin(2 * np.pi * k * x / 64 + draw.uniform(0, 6.28, (batch, 1)))
        for k in (1, 2, 1, 2)
    )
    if side == "solve":
        import torch

        from sciflow.domains.pde.boxes import Ring
        from sciflow.domains.pde.equations import KuramotoSivashinsky, semilinear
        from sciflow.domains.pde.evolve import fields

        torch.set_num_threads(1)
        ring = Ring(64.0, size)
        equation, begin = semilinear(KuramotoSivashinsky(), ring), torch.as_tensor(start)

        def run() -> np.ndarray:
            return fields(equation, ring, begin, [0.0, 0.05 * n_steps], 0.05)[:, -1].numpy()
    else:
        import jax

        jax.config.update("jax_enable_x64", True)
        import exponax
        import jax.numpy as jnp

        stepper = exponax.stepper.KuramotoSivashinskyConservative(1, 64.0, size, 0.05, order=4)
        many = jax.jit(
            lambda u: jax.lax.fori_loop(0, n_steps, lambda _, v: jax.vmap(stepper)(v), u),
        )
        begin_jax = jnp.asarray(start)[:, None]

        def run() -> np.ndarray:
            return np.asarray(many(begin_jax).block_until_ready())[:, 0]

    end = run()
    return run, {"end": [float(v) for v in end[0, :4]]}  # type: ignore[return-value]


def main(side: str, *numbers: str) -> None:
    sizes = [int(number) for number in numbers]
    run, facts = (chaos if side in ("solve", "exponax") else operator)(side, *sizes)
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(json.dumps(time.process_time() - start), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
