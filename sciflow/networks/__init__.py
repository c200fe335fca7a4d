"""Networks: small specs whose `build(shape)` gives a module (x, noise_level) -> like x."""

from __future__ import annotations

from sciflow.networks.egnn import EGNN
from sciflow.networks.energy import EnergyMLP
from sciflow.networks.fourier import FNO
from sciflow.networks.mlp import MLP, Network
from sciflow.networks.unet import UNet

NETWORKS = {"fno": FNO, "mlp": MLP, "unet": UNet, "energy_mlp": EnergyMLP, "egnn": EGNN}

__all__ = ["EGNN", "FNO", "MLP", "NETWORKS", "EnergyMLP", "Network", "UNet"]
