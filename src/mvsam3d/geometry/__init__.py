"""Rotations, cameras and grids: pure functions without learning."""
