"""A finished reconstruction on a page of this machine: mesh and Gaussian splat side by side, upright, at one scale.

Drawn by viser (extra `view`), which brings its page along: nothing is fetched from the internet. The splat keeps its
colours to the bit; viser passes those of the mesh through a film curve (ACES), so LIGHT is set to come close.
"""

import html
import json
import logging
import math
import socket
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from mvsam3d.errors import BadFile, InvalidOption, MissingExtra
from mvsam3d.geometry.rotations import matrix_from_quaternion
from mvsam3d.io.glb import read_glb
from mvsam3d.io.photos import open_image, rgb_pixels
from mvsam3d.io.ply import read_ply
from mvsam3d.io.runs import Json
from mvsam3d.types import GaussianCloud

if TYPE_CHECKING:
    import viser

MESH, SPLAT, PREVIEW, REPORT = "result.glb", "result.ply", "preview.png", "report.json"
SH_DC = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))
OBJECT_FROM_GLB = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # a quarter turn about x: +Y up becomes +Z up
APART = 1.4  # between the centres: the diagonals of two unit cubes just pass each other
LABEL = (0.0, 0.0, -0.65)  # under the object
FIELD_OF_VIEW = 30.0  # degrees, up and down
DISTANCE, ELEVATION = 4.5, 20.0  # of the first camera, from the front (-Y); degrees
LIGHT = math.pi  # of a lamp from everywhere: what leaves a rough surface is its colour
DIM = 0.5  # the part of LIGHT that stays when viser's lamps above show the shape
ENLARGED = 16.0  # viser keeps covariances in float16: a standard deviation of 0.001 would lose its digits
PORTS = 50  # tried from the wanted one on
MOST_FACTS = 80
LONGEST = 120  # letters of a fact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What the page shows of a folder."""

    name: str
    mesh: bytes  # GLB
    gaussians: GaussianCloud
    preview: UInt8[np.ndarray, "h w 3"] | None
    facts: tuple[tuple[str, str], ...]  # names and values of the report


def read_result(folder: Path) -> Result:
    """Read a folder that `reconstruct` wrote.

    Raises: BadFile: no mesh, no splat, or a broken file. BadPhoto: a broken preview.
    """
    missing = [name for name in (MESH, SPLAT) if not (folder / name).is_file()]
    if missing:
        raise BadFile(f"{folder} holds no {' and no '.join(missing)}: give the folder that `mvsam3d reconstruct` wrote")
    read_glb(folder / MESH)  # a broken mesh is an error here, not an empty half of the page
    preview, report = folder / PREVIEW, folder / REPORT
    return Result(
        folder.resolve().name,
        (folder / MESH).read_bytes(),
        read_ply(folder / SPLAT),
        rgb_pixels(open_image(preview, str(preview))) if preview.is_file() else None,
        read_facts(report) if report.is_file() else (),
    )


def read_facts(report: Path) -> tuple[tuple[str, str], ...]:
    """The report's names and values in its order, without matrices and long lists. Raises: BadFile: not JSON."""
    try:
        content = json.loads(report.read_bytes())
        return tuple(_facts(content, ""))[:MOST_FACTS]
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(
            f"{report} cannot be read as JSON ({error}): delete it or run the reconstruction again"
        ) from error


def _facts(value: Json, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _facts(inner, f"{name} {key}".strip())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value):
                yield from _facts(item, f"{name} {i}".strip())
        elif not any(isinstance(item, Mapping | list) for item in value):
            yield name, ", ".join(_text(item) for item in value)[:LONGEST]
    else:
        yield name, _text(value)[:LONGEST]


def _text(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def covariances(cloud: GaussianCloud) -> Float[np.ndarray, "gaussian 3 3"]:
    """Second moments of the Gaussians in the object frame: R S S Rᵀ."""
    axes = matrix_from_quaternion(cloud.rotations) * cloud.scales[:, None, :]
    moments: Float[np.ndarray, "gaussian 3 3"] = (axes @ axes.mT).numpy()
    return moments


@contextmanager
def open_page(folder: Path, *, port: int = 8080, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the page of a result while the context lasts; yields its address.

    Args:
        folder: holds result.glb and result.ply, and may hold preview.png and report.json.
        port: the first to try; where it is taken the next free one serves, which the address tells. 0: any.
        host: of this machine only: 127.0.0.1 or localhost.
    Raises: BadFile, BadPhoto: see `read_result`. InvalidOption: another host, or no free port. MissingExtra: no viser.
    """
    result = read_result(folder)
    host = "127.0.0.1" if host == "localhost" else host  # else also ::1, for which viser waits where there is no IPv6
    port = _free_port(host, port)
    try:
        import viser
    except ModuleNotFoundError as error:
        raise MissingExtra(f'the viewer needs the package {error.name}: pip install "mvsam3d[view]"') from error
    with redirect_stdout(StringIO()):  # it announces its address, and its end, whether asked or not
        server = viser.ViserServer(host=host, port=port, label=result.name, verbose=False)
    server.__dict__["request_share_url"] = _stay_here  # what any page that connects could else ask for
    try:
        _furnish(server, result)
        address = f"http://{host}:{server.get_port()}"
        logger.info("%s is shown at %s", folder, address)
        yield address
    finally:
        with redirect_stdout(StringIO()):
            server.stop()


def serve_view(
    folder: Path,
    *,
    port: int = 8080,
    open_browser: bool = True,
    host: str = "127.0.0.1",
    announce: Callable[[str], object] | None = None,
) -> None:
    """Show a result in the browser until Ctrl-C.

    Args:
        open_browser: also ask the desktop to open the page.
        announce: called once with the address when the page can be opened.
    Raises: as `open_page`, whose other arguments these are.
    """
    with open_page(folder, port=port, host=host) as address:
        if announce is not None:
            announce(address)
        if open_browser and not webbrowser.open(address):
            logger.info("no browser was found: open %s yourself", address)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            logger.info("no longer shown")


def _stay_here(verbose: bool = True) -> None:
    """Takes the place of viser's tunnel to a public address."""
    logger.warning("a public address was asked for and refused")


def _free_port(host: str, port: int) -> int:
    """The wanted port or the first free one after it: viser itself would wait for ever where there is none."""
    if not _is_loopback(host):
        raise InvalidOption(f"host = {host}: the page is for this machine only, use 127.0.0.1")
    if not 0 <= port < 1 << 16:
        raise InvalidOption(f"port = {port}: choose one of 1024 to 65535, or 0 for any free one")
    tried = range(port, min(port + PORTS, 1 << 16))
    for candidate in tried:
        try:
            with socket.create_server((host, candidate)):
                pass
        except OSError:
            continue
        if candidate != port:
            logger.warning("port %d is in use, %d serves instead", port, candidate)
        return candidate
    raise InvalidOption(f"none of the ports {tried[0]} to {tried[-1]} of {host} can be used: choose another --port")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).version == 4 and ip_address(host).is_loopback
    except ValueError:
        return False


def _furnish(server: "viser.ViserServer", result: Result) -> None:
    """Put camera, light, both objects and the panel in place."""
    elevation = math.radians(ELEVATION)
    server.initial_camera.up = (0.0, 0.0, 1.0)
    server.initial_camera.fov = math.radians(FIELD_OF_VIEW)
    server.initial_camera.look_at = (0.0, 0.0, 0.0)
    server.initial_camera.position = (0.0, -DISTANCE * math.cos(elevation), DISTANCE * math.sin(elevation))
    stands = (_mesh_stand(server, result.mesh), _splat_stand(server, result.gaussians))
    _panel(server, result, stands)


def _mesh_stand(server: "viser.ViserServer", content: bytes) -> "viser.FrameHandle":
    stand = server.scene.add_frame("/mesh", show_axes=False)
    server.scene.add_glb("/mesh/object", content, wxyz=OBJECT_FROM_GLB)
    server.scene.add_label("/mesh/label", "Mesh", position=LABEL, anchor="top-center")
    return stand


def _splat_stand(server: "viser.ViserServer", cloud: GaussianCloud) -> "viser.FrameHandle":
    stand = server.scene.add_frame("/splat", show_axes=False)
    server.scene.add_gaussian_splats(
        "/splat/object",
        cloud.means.numpy() * ENLARGED,
        covariances(cloud) * ENLARGED**2,
        np.clip(0.5 + SH_DC * cloud.sh_dc.numpy(), 0, 1),
        cloud.opacities.numpy()[:, None],
        scale=1 / ENLARGED,
    )
    server.scene.add_label("/splat/label", "Gaussian splat", position=LABEL, anchor="top-center")
    return stand


def _panel(
    server: "viser.ViserServer", result: Result, stands: tuple["viser.FrameHandle", "viser.FrameHandle"]
) -> None:
    """What turns, moves and lights the objects, the preview and the facts."""
    gui = server.gui
    gui.configure_theme(show_logo=False, show_share_button=False)
    gui.main_panel.dock_right()
    turn = gui.add_slider("Turn", min=-180, max=180, step=1, initial_value=0)
    apart = gui.add_slider("Apart", min=0, max=2, step=0.05, initial_value=APART)
    shaded = gui.add_checkbox("Shaded", initial_value=False, hint="Light the mesh from above to see its shape")
    lamp = server.scene.add_light_ambient("/light")
    server.scene.configure_environment_map(None)

    def place(_: object = None) -> None:
        half = math.radians(turn.value) / 2
        for stand, side in zip(stands, (-1, 1), strict=True):
            stand.wxyz = (math.cos(half), 0.0, 0.0, math.sin(half))
            stand.position = (side * apart.value / 2, 0.0, 0.0)

    def light(_: object = None) -> None:
        server.scene.configure_default_lights(shaded.value, cast_shadow=False)
        lamp.intensity = LIGHT * (DIM if shaded.value else 1)

    for knob, effect in ((turn, place), (apart, place), (shaded, light)):
        knob.on_update(effect)
        effect()
    if result.preview is not None:
        gui.add_image(result.preview, label="Preview")
    if result.facts:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(fact)}</td></tr>" for name, fact in result.facts
        )
        gui.add_html(f'<table style="font-size: small; padding: 0 1em">{rows}</table>')
