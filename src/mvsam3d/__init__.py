"""mvsam3d: a few photos of an object in; a textured mesh, a Gaussian splat and the object's pose out."""

__version__ = "0.1.0"
