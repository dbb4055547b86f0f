"""Each layout, kind of mask and kind of damage is made here, file by file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvsam3d.errors import BadPhoto, BadScene
from mvsam3d.io import photos
from mvsam3d.io.photos import load_photos, natural_key, read_mask, without_copies

H, W = 20, 30
MASK = np.zeros((H, W), bool)
MASK[4:12, 6:10] = True
RGB = np.arange(H * W * 3, dtype=np.int64).reshape(H, W, 3).astype(np.uint8)


def save(array, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def grey_mask(mask=MASK):
    return np.where(mask, 255, 0).astype(np.uint8)


def scene_of(folder: Path, names=("0", "1", "2")) -> Path:
    for name in names:
        save(RGB, folder / "images" / f"{name}.png")
        save(grey_mask(), folder / "masks" / "cup" / f"{name}.png")
    return folder


def cut_out(rgb=RGB, mask=MASK):
    return np.dstack([rgb, grey_mask(mask)])


LAYOUTS = {
    "images and masks/cup": ("images/{}.png", "masks/cup/{}.png"),
    "images and cup": ("images/{}.png", "cup/{}.png"),
    "images and cup, suffix": ("images/{}.PNG", "cup/{}_mask.png"),
    "root and masks/cup": ("{}.png", "masks/cup/{}.png"),
    "root and suffix": ("{}.webp", "{}_mask.png"),
    "images and suffix": ("images/{}.png", "images/{}_mask.png"),
    "root and loose masks": ("{}.png", "masks/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    photo, mask = LAYOUTS[layout]
    for name in ("10", "2", "front"):
        save(RGB, tmp_path / photo.format(name), **({"lossless": True} if photo.endswith("webp") else {}))
        save(grey_mask(), tmp_path / mask.format(name))
    found, skipped = load_photos(tmp_path)
    assert [photo.name for photo in found] == ["2", "10", "front"]
    assert skipped == ()
    for photo_found in found:
        np.testing.assert_array_equal(photo_found.rgb, RGB)
        np.testing.assert_array_equal(photo_found.mask, MASK)
    if "cup" in layout:
        assert len(load_photos(tmp_path, object_name="cup")[0]) == 3


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_cut_outs(suffix, tmp_path):
    save(cut_out(), tmp_path / f"0.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    (photo,), _ = load_photos(tmp_path)
    np.testing.assert_array_equal(photo.mask, MASK)
    np.testing.assert_array_equal(photo.rgb, RGB)


def test_jpeg_of_any_case(tmp_path):
    for name in ("0.JPG", "1.jpeg", "2.JPEG"):
        save(RGB, tmp_path / "images" / name, format="JPEG")
        save(grey_mask(), tmp_path / "masks" / "cup" / f"{name[0]}.png")
    assert len(load_photos(tmp_path)[0]) == 3


def test_one_of_several_objects(tmp_path):
    scene_of(tmp_path)
    save(grey_mask(~MASK), tmp_path / "masks" / "bowl" / "0.png")
    (photo,), _ = load_photos(tmp_path, object_name="bowl", views=[0])
    np.testing.assert_array_equal(photo.mask, ~MASK)
    with pytest.raises(BadScene, match="bowl, cup"):
        load_photos(tmp_path)
    with pytest.raises(BadScene, match=r"'plate'.*bowl, cup"):
        load_photos(tmp_path, object_name="plate")


def test_folders_without_masks_are_no_objects(tmp_path):
    scene_of(tmp_path)
    save(RGB, tmp_path / "renders" / "picture.png")
    (tmp_path / "notes").mkdir()
    assert len(load_photos(tmp_path)[0]) == 3


def test_natural_order():
    names = ["b2", "10", "a", "2", "b10", "007", "x1y2", "x1y10"]
    assert sorted(names, key=natural_key) == ["2", "007", "10", "a", "b2", "b10", "x1y2", "x1y10"]


def test_chosen_views_keep_their_order(tmp_path):
    found, _ = load_photos(scene_of(tmp_path), views=["2", 0])
    assert [photo.name for photo in found] == ["2", "0"]
    with pytest.raises(BadScene, match=r"no view 7 .* 0, 1, 2"):
        load_photos(tmp_path, views=[0, 7], skip_bad_views=True)
    for views in ([0, "0"], []):
        with pytest.raises(BadScene, match="once"):
            load_photos(tmp_path, views=views)


def palette_mask():
    image = Image.fromarray(MASK.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0])  # the first two colours of PASCAL VOC
    return image


MASKS = {
    "grey": grey_mask(),
    "soft edge": np.where(MASK, 128, 127).astype(np.uint8),
    "RGB": np.repeat(grey_mask()[..., None], 3, axis=2),
    "one channel of RGB": np.dstack([grey_mask(), 0 * grey_mask(), 0 * grey_mask()]),
    "1-bit": Image.fromarray(grey_mask()).convert("1"),
    "palette": palette_mask(),
    "16-bit": np.where(MASK, 65535, 32767).astype(np.uint16),
    "alpha": np.dstack([RGB, np.where(MASK, 128, 127).astype(np.uint8)]),
    "opaque RGBA": np.dstack([np.repeat(grey_mask()[..., None], 3, axis=2), np.full((H, W), 255, np.uint8)]),
    "grey with alpha": Image.fromarray(cut_out()).convert("LA"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_kinds_of_mask(kind, tmp_path):
    np.testing.assert_array_equal(read_mask(save(MASKS[kind], tmp_path / "0.png")), MASK)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path):
    """The stored picture is the upright one taken back through the orientation, so the upright one must come out."""
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),  # shown turned by 90 degrees clockwise
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(np.ascontiguousarray(back(RGB)), tmp_path / "images" / "0.png", exif=exif)
    save(grey_mask(), tmp_path / "masks" / "cup" / "0.png")  # painted on the photo as it is shown
    save(np.ascontiguousarray(back(RGB)), tmp_path / "images" / "1.png", exif=exif)
    save(np.ascontiguousarray(back(grey_mask())), tmp_path / "masks" / "cup" / "1.png", exif=exif)
    for photo in load_photos(tmp_path)[0]:
        np.testing.assert_array_equal(photo.rgb, RGB)
        np.testing.assert_array_equal(photo.mask, MASK)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA"])
def test_kinds_of_photo(mode, tmp_path):
    grey = RGB[..., 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) << 8)
    else:
        image = Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    save(image, tmp_path / f"0.{suffix}", **({"quality": 100} if mode == "CMYK" else {}))
    save(grey_mask(), tmp_path / "0_mask.png")
    (photo,), _ = load_photos(tmp_path)
    worst = np.abs(photo.rgb.astype(int) - grey[..., None]).max()
    limit = {"1": 255, "P": 52, "CMYK": 80}.get(mode, 0)  # dithered; web palette; JPEG at a saw-tooth
    assert worst <= limit


def test_first_picture_of_a_phone_photo(tmp_path):
    extra = Image.fromarray(np.zeros((H, W, 3), np.uint8))
    save(
        Image.fromarray(np.full((H, W, 3), 200, np.uint8)),
        tmp_path / "0.jpg",
        format="MPO",
        save_all=True,
        append_images=[extra],
    )
    save(grey_mask(), tmp_path / "0_mask.png")
    (photo,), _ = load_photos(tmp_path)
    assert photo.rgb.min() >= 198


def truncated(folder):
    path = save(RGB, folder / "images" / "1.png")
    path.write_bytes(path.read_bytes()[:-60])


def animated(folder):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    (folder / "images" / "1.png").unlink()
    save(frames[0], folder / "images" / "1.webp", save_all=True, append_images=frames[1:])


def heic(folder):
    (folder / "images" / "1.png").rename(folder / "images" / "1.heic")


DAMAGE = {
    "missing mask": (lambda f: (f / "masks/cup/1.png").unlink(), r"no mask.*1\.png is missing"),
    "empty mask": (lambda f: save(grey_mask() // 255, f / "masks/cup/1.png"), r"1\.png is an empty mask.*value is 1"),
    "full mask": (lambda f: save(grey_mask() * 0 + 255, f / "masks/cup/1.png"), r"1\.png marks every pixel"),
    "full alpha": (lambda f: save(cut_out(mask=MASK | True) - 1, f / "masks/cup/1.png"), "every pixel"),
    "another size": (
        lambda f: save(grey_mask()[1:], f / "masks/cup/1.png"),
        "30 x 20 pixels upright, its mask 30 x 19",
    ),
    "on its side": (lambda f: save(grey_mask().T.copy(), f / "masks/cup/1.png"), "on its side"),
    "truncated photo": (truncated, r"1\.png cannot be read"),
    "no photo at all": (lambda f: (f / "images/1.png").write_text("hello"), r"1\.png cannot be read"),
    "empty file": (lambda f: (f / "images/1.png").write_bytes(b""), r"1\.png cannot be read"),
    "broken mask": (lambda f: (f / "masks/cup/1.png").write_bytes(b"\x89PNG\r\n\x1a\n"), r"1\.png cannot be read"),
    "same name twice": (lambda f: save(RGB, f / "images/1.jpg"), r"view 1 has 2 photos.*1\.jpg and .*1\.png"),
    "tiny object": (
        lambda f: save(grey_mask(np.pad([[1] * 2] * 2, ((0, 18), (0, 28))) > 0), f / "masks/cup/1.png"),
        "only 2",
    ),
    "animation": (animated, r"1\.webp is animated"),
    "unread kind": (heic, r"\.heic photos are not read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_bad_views(kind, tmp_path):
    damage, message = DAMAGE[kind]
    damage(scene_of(tmp_path))
    with pytest.raises(BadPhoto, match=message):
        load_photos(tmp_path, object_name="cup")
    found, skipped = load_photos(tmp_path, object_name="cup", skip_bad_views=True)
    assert [photo.name for photo in found] == ["0", "2"]
    assert [view.name for view in skipped] == ["1"]
    with pytest.raises(BadScene, match="not one usable view"):
        load_photos(tmp_path, views=[1], skip_bad_views=True)


def test_opaque_photos_without_masks(tmp_path):
    save(RGB, tmp_path / "0.png")
    with pytest.raises(BadPhoto, match=r"0_mask\.png"):
        load_photos(tmp_path)
    save(cut_out(mask=MASK & False), tmp_path / "0.png")
    with pytest.raises(BadPhoto, match="transparent everywhere"):
        load_photos(tmp_path)
    save(np.dstack([RGB, 254 - 0 * RGB[..., :1]]), tmp_path / "0.png")
    with pytest.raises(BadPhoto, match="opaque everywhere"):
        load_photos(tmp_path)


def test_image_bombs(tmp_path, monkeypatch):
    scene_of(tmp_path)
    monkeypatch.setattr(photos, "MAX_PIXELS", H * W - 1)
    with pytest.raises(BadPhoto, match="scale it down"):
        load_photos(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 3)  # Pillow's own error
    with pytest.raises(BadPhoto, match="scale it down"):
        load_photos(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)  # Pillow's own warning
    with pytest.raises(BadPhoto, match="scale it down"):
        load_photos(tmp_path)


def test_scenes_that_are_none(tmp_path):
    with pytest.raises(BadScene, match="does not exist"):
        load_photos(tmp_path / "nowhere")
    with pytest.raises(BadScene, match="holds no photos"):
        load_photos(tmp_path)
    with pytest.raises(BadScene, match="is a file"):
        load_photos(save(RGB, tmp_path / "0.png"))
    for place in ("cup", "masks/cup"):
        save(grey_mask(), tmp_path / place / "0.png")
    with pytest.raises(BadScene, match="two mask folders"):
        load_photos(tmp_path, object_name="cup")


def test_a_photo_given_twice_counts_once(tmp_path):
    scene = scene_of(tmp_path, names=("0", "1", "2", "3"))
    other = RGB.copy()
    other[0, 0] = 255 - other[0, 0]
    save(other, scene / "images" / "2.png")
    save(grey_mask(~MASK), scene / "masks" / "cup" / "3.png")  # the same picture, another thing in it
    kept, copies = without_copies(load_photos(scene)[0])
    assert [photo.name for photo in kept] == ["0", "2", "3"]
    assert [(view.name, view.reason) for view in copies] == [
        ("1", "it is the same picture as view 0, with the same mask")
    ]
