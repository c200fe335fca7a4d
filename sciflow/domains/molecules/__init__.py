"""Molecules: potentials, their Boltzmann laws, and models that sample and simulate them."""
