"""The script benchmarks/generated_meshes.py: what the evaluator reads is the object that the generator made."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from mvsam3d.evaluation.metrics import filled
from mvsam3d.evaluation.solids import solid_cells
from mvsam3d.evaluation.subjects import read_subject, subject_files
from mvsam3d.training import objects
from mvsam3d.training.data import generated_object
from mvsam3d.training.recipes import SMALL_RECIPE, held_out_plans

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "generated_meshes.py"


def test_a_generated_mesh_has_the_objects_solid_and_colours(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generated_meshes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(tmp_path), "--objects", "2", "--resolution", "96"])

    plan, *_ = held_out_plans(SMALL_RECIPE, None)
    for i, file in enumerate(subject_files(tmp_path)):
        thing, subject = generated_object(plan.seed(i), plan.config), read_subject(file)
        assert file.name == f"{i:03d}-{thing.name}"
        assert subject.solid is not None, "closed"
        cells = filled(torch.from_numpy(objects.solid_grid(thing, 32))[None])[
            0
        ].numpy()  # of closed hollows meshes know nothing
        made = solid_cells(subject.mesh, 32)
        assert (cells & made).sum() / (cells | made).sum() > 0.95
        vertices = subject.mesh.vertices[:: len(subject.mesh.vertices) // 500].astype(np.float32)
        assert np.abs(objects.signed_distance(thing, vertices)).max() < 0.5 / 96
        assert subject.mesh.vertex_colours is not None
        shown = subject.mesh.vertex_colours[:: len(subject.mesh.vertices) // 500]
        np.testing.assert_allclose(shown, objects.surface_colour(thing, vertices).clip(0, 1), atol=0.02)
