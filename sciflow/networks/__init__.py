"""Networks: small specs whose `build(shape)` gives a module (x, noise_level) -> like x."""

from __future__ import annotations

from sciflow.networks.mlp import MLP, Network
from sciflow.networks.unet import UNet

NETWORKS = {"mlp": MLP, "unet": UNet}

__all__ = ["MLP", "NETWORKS", "Network", "UNet"]
