"""Files of trajectories of molecules, read as named arrays (chain, frame, atom, xyz) in nm, ps and kJ/mol."""

from __future__ import annotations

from sciflow.data.trajectories.reading import open_trajectory
from sciflow.data.trajectories.recording import write_trajectory

__all__ = ["open_trajectory", "write_trajectory"]
