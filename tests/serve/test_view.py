import json
import logging
import shutil
import socket
import sys
import time
import urllib.request
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from mvsam3d.errors import BadFile, BadPhoto, InvalidOption, MissingExtra
from mvsam3d.io.glb import write_glb
from mvsam3d.io.ply import write_ply
from mvsam3d.serve import view
from mvsam3d.types import GaussianCloud, Mesh

SIDE = 0.6  # of the cube
FRONT, RIGHT, TOP, REST = (200, 40, 40), (40, 40, 200), (40, 180, 40), (220, 220, 40)  # sRGB of its faces
# normal, first and second axis of each face, first x second = normal
FACES = (
    ((0, -1, 0), (1, 0, 0), (0, 0, 1), FRONT),
    ((1, 0, 0), (0, 1, 0), (0, 0, 1), RIGHT),
    ((0, 0, 1), (1, 0, 0), (0, 1, 0), TOP),
    ((0, 1, 0), (-1, 0, 0), (0, 0, 1), REST),
    ((-1, 0, 0), (0, -1, 0), (0, 0, 1), REST),
    ((0, 0, -1), (1, 0, 0), (0, -1, 0), REST),
)


def cube() -> Mesh:
    """A textured cube: each face has its own square of the texture."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    vertices, faces, uv = [], [], []
    texture = np.zeros((8, 8 * len(FACES), 3), np.uint8)
    for i, (normal, first, second, colour) in enumerate(FACES):
        places = np.array(normal) + corners[:, :1] * np.array(first) + corners[:, 1:] * np.array(second)
        vertices.append(places * SIDE / 2)
        faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + 4 * i)
        uv.append(np.stack([(i + 0.5 + corners[:, 0] / 4) / len(FACES), 0.5 + corners[:, 1] / 4], axis=1))
        texture[:, 8 * i : 8 * i + 8] = colour
    parts = (np.concatenate(part) for part in (vertices, faces, uv))
    vertices, faces, uv = parts
    return Mesh(vertices.astype(np.float32), faces, uv=uv.astype(np.float32), texture=texture)


def splat_cube(steps: int = 10) -> GaussianCloud:
    """The same cube of flat Gaussians, each lying in its face."""
    grid = (np.arange(steps) + 0.5) / steps * 2 - 1
    spread = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    means, rotations, colours = [], [], []
    quarter = np.sqrt(0.5)
    turns = {0: (quarter, 0, quarter, 0), 1: (quarter, quarter, 0, 0), 2: (1, 0, 0, 0)}  # z onto the face's normal
    for normal, first, second, colour in FACES:
        places = np.array(normal) + spread[:, :1] * np.array(first) + spread[:, 1:] * np.array(second)
        means.append(places * SIDE / 2)
        rotations += [turns[int(np.argmax(np.abs(normal)))]] * len(spread)
        colours += [colour] * len(spread)
    count = len(colours)
    return GaussianCloud(
        means=torch.tensor(np.concatenate(means), dtype=torch.float32),
        scales=torch.tensor([0.7, 0.7, 0.01]).repeat(count, 1) * SIDE / steps,
        rotations=torch.tensor(rotations, dtype=torch.float32),
        opacities=torch.full((count,), 0.99),
        sh_dc=(torch.tensor(colours) / 255 - 0.5) / view.SH_DC,
    )


def write_result(folder) -> None:
    write_glb(folder / view.MESH, cube())
    write_ply(folder / view.SPLAT, splat_cube())
    Image.new("RGB", (64, 32), (250, 0, 250)).save(folder / view.PREVIEW)
    report = {"seed": 7, "seconds": {"stage 1": 1.25}, "views": ["a", "<b>"], "frame": [[1.0, 0.0], [0.0, 1.0]]}
    (folder / view.REPORT).write_text(json.dumps(report))


@contextmanager
def chromium(width=1000, height=600):
    """Headless Chromium with WebGL in software; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the PyPI package selenium")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver_path = shutil.which("chromedriver")
    if browser is None or driver_path is None:
        pytest.skip("needs Chromium and ChromeDriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "use-gl=angle", "use-angle=swiftshader"),
        *("enable-unsafe-swiftshader", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", f"window-size={width},{height}"),
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def result(tmp_path):
    write_result(tmp_path)
    return tmp_path


def scene_picture(driver):
    """Pixels of the 3D part of the page."""
    page = np.array(Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")).astype(int)
    box = driver.execute_script("const b = document.querySelector('canvas').getBoundingClientRect(); return b.toJSON()")
    return page[round(box["top"]) : round(box["bottom"]), round(box["left"]) : round(box["right"])]


def near(pixels, colour):
    """Where a colour is seen: viser's film curve moves the mesh's by up to about 30."""
    return (np.abs(pixels - np.array(colour)) <= 45).all(axis=-1)


def settled(driver, ready, seconds=60):
    """The halves of the scene once `ready(left, right)` holds and nothing moves any more."""
    before, end = None, time.monotonic() + seconds
    while time.monotonic() < end:
        picture = scene_picture(driver) if driver.find_elements("css selector", "canvas") else None
        if picture is not None and before is not None and np.array_equal(picture, before):
            middle = picture.shape[1] // 2
            if ready(picture[:, :middle], picture[:, middle : 2 * middle]):
                return picture[:, :middle], picture[:, middle : 2 * middle]
        before = picture
        time.sleep(0.5)
    pytest.fail("the page never showed what was expected")


def front_is(colour):
    return lambda left, right: all(near(half, colour).sum() > 2000 for half in (left, right))


def test_both_stand_upright_at_one_scale_in_the_browser(result):
    pytest.importorskip("viser")
    with view.open_page(result, port=0) as address, chromium() as driver:
        driver.implicitly_wait(60)
        driver.get(address)
        driver.find_element("css selector", ".mantine-Notification-closeButton").click()  # "software rendering"
        halves = settled(driver, front_is(FRONT))
        for half in halves:
            front, top = near(half, FRONT), near(half, TOP)
            assert top.sum() > 500
            assert np.argwhere(top)[:, 0].max() <= np.argwhere(front)[:, 0].min() + 10  # the top is above the front
            below = half[np.argwhere(front)[:, 0].max() + 15 :]
            assert (below.max(axis=-1) < 100).sum() > 20  # the letters of the label
        boxes = [np.argwhere(near(half, FRONT)) for half in halves]
        sizes = [box.max(axis=0) - box.min(axis=0) for box in boxes]
        np.testing.assert_allclose(sizes[1], sizes[0], rtol=0.1)  # a Gaussian's soft rim is 5 % of the side
        middles = [(box.max(axis=0) + box.min(axis=0)) / 2 for box in boxes]
        assert abs(middles[0][0] - middles[1][0]) < 6  # at one height, but for the rim
        text = driver.find_element("tag name", "body").text
        for expected in (result.name, "Turn", "seconds stage 1", "1.25", "a, <b>"):
            assert expected in text
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in loaded if not name.startswith((address, "blob:", "data:"))] == []

        turn = driver.find_element("css selector", "input[type=text][value='0']")
        turn.click()
        turn.send_keys("\ue009a\ue000-90\n")  # select all, type
        settled(driver, front_is(RIGHT))


def test_the_page_answers_and_ends(result):
    pytest.importorskip("viser")
    with view.open_page(result, port=0) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"<html" in answer.read(1000)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


def test_nothing_is_printed_and_no_public_address_given(result, monkeypatch, capsys):
    viser = pytest.importorskip("viser")
    servers, started = [], viser.ViserServer

    def start(*args, **options):
        servers.append(started(*args, **options))
        return servers[-1]

    monkeypatch.setattr(viser, "ViserServer", start)
    with view.open_page(result, port=0):
        assert servers[0].request_share_url() is None
        assert servers[0].get_host() == "127.0.0.1"
    assert capsys.readouterr().out == ""


def test_a_taken_port_gives_way_to_the_next(result, caplog):
    pytest.importorskip("viser")
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.WARNING):
        port = taken.getsockname()[1]
        with view.open_page(result, port=port) as address:
            serving = int(address.rsplit(":", 1)[1])
            assert port < serving < port + view.PORTS
    assert f"port {port} is in use, {serving} serves instead" in caplog.text


def test_no_free_port(monkeypatch):
    monkeypatch.setattr(view, "PORTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidOption, match="choose another --port"):
        view._free_port("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(("host", "port"), [("0.0.0.0", 0), ("example.org", 0), ("::", 0), ("127.0.0.1", 65536)])
def test_other_hosts_and_impossible_ports_are_refused(result, host, port):
    with pytest.raises(InvalidOption), view.open_page(result, port=port, host=host):
        pass


def test_ctrl_c_ends_it(result, monkeypatch):
    pytest.importorskip("viser")
    told, opened = [], []

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(view.time, "sleep", interrupt)
    monkeypatch.setattr(view.webbrowser, "open", lambda address: bool(opened.append(address)))
    view.serve_view(result, port=0, announce=told.append)
    assert opened == told
    assert len(told) == 1
    view.serve_view(result, port=0, open_browser=False)
    assert len(opened) == 1


def test_without_viser(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingExtra, match=r'pip install "mvsam3d\[view\]"'), view.open_page(result, port=0):
        pass


@pytest.mark.parametrize("name", [view.MESH, view.SPLAT])
def test_both_files_are_needed(result, name):
    (result / name).unlink()
    with pytest.raises(BadFile, match=f"holds no {name}"):
        view.read_result(result)


@pytest.mark.parametrize(
    ("name", "error"),
    [(view.MESH, BadFile), (view.SPLAT, BadFile), (view.REPORT, BadFile), (view.PREVIEW, BadPhoto)],
)
def test_broken_files_are_named(result, name, error):
    (result / name).write_bytes(b"glTF? ply? no.")
    with pytest.raises(error, match=name):
        view.read_result(result)


def test_preview_and_report_may_be_absent(result):
    (result / view.PREVIEW).unlink()
    (result / view.REPORT).unlink()
    found = view.read_result(result)
    assert found.preview is None
    assert found.facts == ()


def test_facts_of_a_report(tmp_path):
    report = {
        "seed": 7,
        "seconds": {"stage 1": 1.23456, "all": None},
        "views": [{"name": "a", "iou": 0.5}, {"name": "b", "frame": [[1, 0], [0, 1]]}],
        "size": [3, 4],
        "text": "x" * 1000,
    }
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert view.read_facts(tmp_path / "r.json") == (
        ("seed", "7"),
        ("seconds stage 1", "1.235"),
        ("seconds all", "None"),
        ("views 0 name", "a"),
        ("views 0 iou", "0.5"),
        ("views 1 name", "b"),
        ("size", "3, 4"),
        ("text", "x" * view.LONGEST),
    )


def test_covariance_of_a_quarter_turn():  # closed form: about x it swaps the extents along y and z
    quarter = float(np.sqrt(0.5))
    cloud = GaussianCloud(
        means=torch.zeros(1, 3),
        scales=torch.tensor([[1.0, 2.0, 3.0]]),
        rotations=torch.tensor([[quarter, quarter, 0.0, 0.0]]),
        opacities=torch.ones(1),
        sh_dc=torch.zeros(1, 3),
    )
    np.testing.assert_allclose(view.covariances(cloud)[0], np.diag([1.0, 9.0, 4.0]), atol=1e-5)  # float32
