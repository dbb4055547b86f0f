"""Materials and decals, and how they are drawn at random."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

Colour = tuple[float | int, float | int, float | int]
Texture = Literal[
    "solid",
    "stripes",
    "checker",
    "rings",
    "patches",
    "clouds",
    "wood",
    "marble",
    "speckles",
    "gradient",
    "dots",
    "bricks",
    "plaid",
]
DecalShape = Literal["box", "disk", "star", "bars"]

TEXTURES: tuple[Texture, ...] = Texture.__args__  # type: ignore[attr-defined]
DECALS: tuple[DecalShape, ...] = DecalShape.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Material:
    """Two sRGB colours mixed by a procedural texture, and how it shines."""

    texture: Texture
    first: Colour
    second: Colour
    frame: Float64[np.ndarray, "3 3"]  # from the object (or the part) to periods of the texture
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    amount: float = 0.5  # share of the second colour
    local: bool = False  # fixed to each part rather than to the object
    grain: float = 0.05  # fine unevenness
    roughness: float = 0.5  # width of the highlight
    specular: float = 0.1  # its strength

    def row(self) -> Float64[np.ndarray, " n"]:
        """As the kernels read it."""
        kind = float(TEXTURES.index(self.texture))
        mix = [*self.frame.ravel(), *self.offset, self.amount, float(self.local)]
        return np.array([kind, *self.first, *self.second, *mix, self.grain, self.roughness, self.specular])


@dataclass(frozen=True)
class Decal:
    """A flat mark: pixels (x, y) of its plane within (width, height) / 2, seen along -z; paints only where z > 0."""

    material: int
    shape: DecalShape
    rgb: Colour
    origin: tuple[float | int, ...]
    rotation: Float64[np.ndarray, "3 3"]  # decal frame to the builder's
    width: float | int
    height: float | int

    def row(self) -> Float64[np.ndarray, " n"]:
        """As the kernels read it."""
        kind = float(DECALS.index(self.shape))
        half = (0.5 * self.width, 0.5 * self.height)
        return np.array([self.material, kind, *self.rgb, *self.origin, *self.rotation.T.ravel(), *half])


def hsv(hue: float | int, saturation: float | int, value: float | int) -> Colour:
    """sRGB of a hue (any real, period 1), saturation and value."""
    steps = ((shift + 6 * hue) % 6 for shift in (5.0, 3.0, 1.0))
    r, g, b = (value * (1 - saturation * max(0.0, min(k, 4 - k, 1.0))) for k in steps)
    return min(r, 1.0), min(g, 1.0), min(b, 1.0)


class Palette:
    """Draws colours and materials that go together: one object, one palette."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.hue = rng.uniform()
        self.turn = rng.choice([0.08, 0.33, 0.5])

    def colour(self, *, value: tuple[float, float] = (0.25, 0.95)) -> Colour:
        """Any colour, mostly near one of the object's hues; sometimes grey."""
        rng = self.rng
        hue = self.hue + rng.choice([0.0, self.turn, -self.turn]) + rng.normal(0, 0.03)
        saturation = rng.uniform(0, 0.08) if rng.uniform() < 0.2 else rng.uniform(0.25, 0.9)
        return hsv(hue, saturation, rng.uniform(*value))

    def _frame(self, frequency: float, *, free: bool) -> Float64[np.ndarray, "3 3"]:
        q, _ = np.linalg.qr(self.rng.normal(size=(3, 3)))
        order = np.eye(3)[self.rng.permutation(3)]
        frame: Float64[np.ndarray, "3 3"] = frequency * (q if free else order)
        return frame

    def _make(
        self,
        texture: Texture,
        first: Colour,
        second: Colour,
        *,
        roughness: tuple[float, float],
        specular: tuple[float, float],
        grain: float = 0.04,
        local: bool = False,
    ) -> Material:
        rng = self.rng
        low, high = {
            "gradient": (0.8, 1.2),
            "patches": (2.5, 6.0),
            "clouds": (2.0, 8.0),
            "wood": (5.0, 14.0),
            "marble": (1.5, 4.0),
            "speckles": (6.0, 20.0),
        }.get(texture, (4.0, 14.0))
        free = texture in ("wood", "marble", "clouds") or rng.uniform() < 0.15
        offset = tuple(
            float(v) for v in rng.uniform(-0.2, 0.2, 3) + (0.0 if texture in ("rings", "gradient") else 40.0)
        )
        return Material(
            texture,
            first,
            second,
            self._frame(rng.uniform(low, high), free=free),
            (offset[0], offset[1], offset[2]),
            rng.uniform(0.3, 0.65),
            local,
            grain * rng.uniform(0.3, 2.0),
            rng.uniform(*roughness),
            rng.uniform(*specular),
        )

    def plain(self, rgb: Colour | None = None, *, gloss: float = 0.2) -> Material:
        """One colour."""
        rgb = rgb or self.colour()
        return self._make("solid", rgb, rgb, roughness=(0.2, 0.7), specular=(0.0, 2.0 * gloss))

    def shade(self, low: float, high: float) -> Material:
        """A grey between two values: rubber, screens, steel."""
        v = self.rng.uniform(low, high)
        return self.plain((v, v, v * self.rng.uniform(0.95, 1.05)))

    def metal(self) -> Material:
        """Grey, brass or copper with a sharp highlight."""
        rgb: Colour = [(0.7, 0.71, 0.74), (0.45, 0.46, 0.48), (0.78, 0.62, 0.3), (0.72, 0.45, 0.32), (0.2, 0.2, 0.22)][
            self.rng.integers(5)
        ]
        texture: Texture = "clouds" if self.rng.uniform() < 0.3 else "solid"
        darker = (0.8 * rgb[0], 0.8 * rgb[1], 0.8 * rgb[2])
        return self._make(texture, rgb, darker, roughness=(0.12, 0.35), specular=(0.4, 1.0))

    def wood(self) -> Material:
        """Veined brown."""
        rng = self.rng
        hue, value = rng.uniform(0.04, 0.11), rng.uniform(0.3, 0.85)
        first, second = hsv(hue, rng.uniform(0.3, 0.7), value), hsv(hue - 0.01, rng.uniform(0.4, 0.8), 0.7 * value)
        return self._make("wood", first, second, roughness=(0.3, 0.7), specular=(0.0, 0.2))

    def fabric(self) -> Material:
        """Matt, plain or patterned."""
        texture: Texture = self._pick("solid", "solid", "plaid", "stripes", "dots", "clouds", "speckles", "checker")
        return self._make(texture, self.colour(), self.colour(), roughness=(0.6, 1.0), specular=(0.0, 0.05), grain=0.12)

    def painted(self) -> Material:
        """Glossy, plain or patterned: plastic, lacquer, ceramics."""
        texture: Texture = self._pick(
            "solid",
            "solid",
            "solid",
            "stripes",
            "checker",
            "dots",
            "gradient",
            "marble",
            "speckles",
            "patches",
            "clouds",
        )
        return self._make(texture, self.colour(), self.colour(), roughness=(0.15, 0.5), specular=(0.05, 0.6))

    def fur(self) -> Material:
        """Coats of animals."""
        rng = self.rng
        texture: Texture = self._pick("solid", "clouds", "patches", "patches", "stripes", "speckles")
        first = hsv(rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.7), rng.uniform(0.15, 0.95))
        second = hsv(rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.6), rng.uniform(0.1, 1.0))
        return self._make(texture, first, second, roughness=(0.6, 1.0), specular=(0.0, 0.05), grain=0.15)

    def leaves(self) -> Material:
        """Green, seldom autumn."""
        rng = self.rng
        hue = rng.uniform(0.22, 0.4) if rng.uniform() < 0.85 else rng.uniform(0.0, 0.14)
        value = rng.uniform(0.25, 0.7)
        first, second = hsv(hue, rng.uniform(0.4, 0.85), value), hsv(hue + 0.03, rng.uniform(0.4, 0.85), 1.3 * value)
        texture: Texture = self._pick("clouds", "speckles", "solid", "patches")
        return self._make(texture, first, second, roughness=(0.4, 0.9), specular=(0.0, 0.15), grain=0.12)

    def masonry(self) -> Material:
        """Bricks, plaster or stone."""
        rng = self.rng
        first = hsv(rng.uniform(0.0, 0.12), rng.uniform(0.05, 0.65), rng.uniform(0.4, 0.9))
        v = rng.uniform(0.5, 0.9)
        texture: Texture = self._pick("bricks", "bricks", "solid", "clouds", "speckles")
        material = self._make(texture, first, (v, v, 0.95 * v), roughness=(0.8, 1.0), specular=(0.0, 0.03), grain=0.1)
        if texture != "bricks":
            return material
        rate = rng.uniform(5, 9)
        frame = np.diag([rate, rate, 2.2 * rate])
        return Material("bricks", first, material.second, frame, amount=0.6, roughness=0.9, specular=0.0)

    def any(self) -> Material:
        """Any of the kinds."""
        kinds = (self.painted, self.painted, self.fabric, self.wood, self.metal, self.plain)
        return kinds[self.rng.integers(len(kinds))]()

    def mark(self) -> DecalShape:
        """Any shape of decal."""
        return DECALS[self.rng.integers(len(DECALS))]

    def _pick(self, *kinds: Texture) -> Texture:
        return kinds[self.rng.integers(len(kinds))]
