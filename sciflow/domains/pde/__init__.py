"""Partial differential equations: fields that evolve, and what sensors see of them."""
