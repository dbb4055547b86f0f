import numpy as np
import pytest
import trimesh

from mvsam3d.errors import InvalidOption
from mvsam3d.meshing.unwrap import ByProjection, ByXatlas, _hidden, unwrapped
from mvsam3d.types import Mesh

RESOLUTION = 256


def shape(kind):
    match kind:
        case "ball":
            made = trimesh.creation.icosphere(3, radius=0.5)
        case "torus":
            made = trimesh.creation.torus(0.35, 0.15)
        case "box":
            made = trimesh.creation.box()
        case "ramp":  # goes round twice above itself: seen from above it lies on itself
            return ramp()
        case "soup":
            corners = np.random.default_rng(0).random((120, 3))
            return Mesh(corners, np.arange(120).reshape(40, 3))
    return Mesh(made.vertices, made.faces, vertex_colours=made.vertices - made.vertices.min())


def ramp():
    angle = np.linspace(0, 4 * np.pi, 200)
    edges = [np.stack([r * np.cos(angle), r * np.sin(angle), angle / 30], axis=1) for r in (0.2, 0.5)]
    a, count = np.arange(199), 200
    faces = np.concatenate([np.stack([a, a + count, a + 1], 1), np.stack([a + 1, a + count, a + count + 1], 1)])
    return Mesh(np.concatenate(edges), faces)


def signed_areas(mesh):
    a, b, c = (mesh.uv[mesh.faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


@pytest.mark.parametrize("how", [ByProjection(), ByXatlas()])
@pytest.mark.parametrize("kind", ["ball", "torus", "box", "ramp", "soup"])
def test_the_surface_stays_and_nothing_lies_on_each_other(kind, how):
    mesh = shape(kind)
    flat = unwrapped(mesh, how, resolution=RESOLUTION)
    order = np.arange(len(mesh.faces))
    if isinstance(how, ByProjection):
        np.testing.assert_allclose(flat.vertices[flat.faces], mesh.vertices[mesh.faces])
    if mesh.vertex_colours is not None:
        np.testing.assert_allclose(flat.vertex_colours, flat.vertices - mesh.vertices.min())
    assert flat.uv.min() >= 0
    assert flat.uv.max() <= 1
    texels = flat.uv.astype(np.float64) * RESOLUTION
    assert not _hidden(texels, flat.faces, order, np.zeros(len(order), np.int64), RESOLUTION).any()


def test_charts_keep_their_distance():
    """A box has six charts, each a rectangle of its own: at least 2 + 2 free texels between any two."""
    flat = unwrapped(shape("box"), resolution=RESOLUTION, padding=2)
    assert len(flat.vertices) == 24
    boxes = [(c.min(axis=0), c.max(axis=0)) for c in charts_of(flat)]
    assert len(boxes) == 6
    for i, (low, high) in enumerate(boxes):
        for low2, high2 in boxes[:i]:
            gap = np.maximum(low2 - high, low - high2).max()
            assert gap >= 4


def charts_of(mesh):
    adjacency = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).face_adjacency
    labels = trimesh.graph.connected_component_labels(adjacency, node_count=len(mesh.faces))
    return [mesh.uv[np.unique(mesh.faces[labels == label])] * RESOLUTION for label in range(labels.max() + 1)]


def test_texels_are_shared_out_fairly():
    """On a ball no face gets under 0.3 (the least cosine) of the density of another, and half the texture is used."""
    flat = unwrapped(shape("ball"), resolution=1024)
    density = np.abs(signed_areas(flat)) / trimesh.Trimesh(flat.vertices, flat.faces, process=False).area_faces
    assert density.min() / density.max() >= 0.3
    assert np.abs(signed_areas(flat)).sum() > 0.5


def test_charts_are_not_mirrored():  # text would read backwards
    for kind in ("ball", "torus"):
        areas = signed_areas(unwrapped(shape(kind)))
        assert (areas > -1e-9).all()


def test_too_many_charts_for_the_texture():
    with pytest.raises(InvalidOption, match="40 charts do not fit into 16"):
        unwrapped(shape("soup"), resolution=16)


def test_empty_mesh():
    assert unwrapped(Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))).uv.shape == (0, 2)
