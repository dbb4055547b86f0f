"""Endless textured objects: parametric everyday classes and free compositions, with distances, colours and renders."""
