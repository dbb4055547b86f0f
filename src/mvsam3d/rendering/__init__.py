"""Pictures of meshes and splats."""
