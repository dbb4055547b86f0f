"""Sampling: schedules, solvers, guidance, fusion of views."""
