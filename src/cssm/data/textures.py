"""Textures for composed videos: photographs inside scikit-image and procedural ones, no image in two splits.

Every texture is 8-bit RGB, its short side 256 px, with a second level at half of that. Photographs are CC0 or in the
public domain; grey ones stay grey here and are tinted where they are used. Procedural ones are drawn by NumPy with a
seed of their split: noise of a power-law spectrum, plain or in steps; warped stripes; the cells of random points.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cssm.core.errors import UsageError

SIDE = 256  # px, the short side of the finer level
PROCEDURAL = 12  # textures a split
SHARE = 0.6  # of the places in the list are of photographs
PHOTOGRAPHS = {
    "train": (
        "astronaut.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "brick.png", "grass.png",
        "coins.png", "cell.png", "page.png",
    ),
    "val": ("retina.jpg", "camera.png", "clock_motion.png"),
    "test": ("chelsea.png", "gravel.png", "moon.png"),
}  # fmt: skip


class Textures(NamedTuple):
    """Textures one after the other: pixels (p, 3) uint8, and for each level of each texture where it begins, its
    height and its width: places (textures, 2, 3) int64, in which photographs stand several times."""

    pixels: np.ndarray
    places: np.ndarray


@cache
def textures(split: str) -> Textures:
    """The textures of a split.

    Raises UsageError where scikit-image is not installed.
    """
    images = [*_photographs(split), *_procedural(split)]
    pixels, places, begin = [], [], 0
    for image in images:
        levels = [image, image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)]
        for level in levels:
            pixels.append(np.asarray(level).reshape(-1, 3))
            places.append((begin, level.height, level.width))
            begin += level.height * level.width
    found = np.array(places, np.int64).reshape(-1, 2, 3)
    photographs = len(PHOTOGRAPHS[split])
    often = round(SHARE / (1 - SHARE) * PROCEDURAL / photographs)
    return Textures(np.concatenate(pixels), np.concatenate([found, *[found[:photographs]] * (often - 1)]))


def _photographs(split: str) -> list[Image.Image]:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise UsageError("the photographs are part of scikit-image: pip install scikit-image")
    folder = Path(found.origin).parent / "data"
    return [_fitted(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS[split]]


def _fitted(image: Image.Image) -> Image.Image:
    scale = SIDE / min(image.size)
    width, height = (round(scale * n) for n in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _procedural(split: str) -> list[Image.Image]:
    rng = np.random.RandomState(sorted(PHOTOGRAPHS).index(split))
    kinds = (_clouds, _steps, _stripes, _cells)
    return [_coloured(kinds[i % len(kinds)](rng), rng) for i in range(PROCEDURAL)]


def _coloured(field: np.ndarray, rng: np.random.RandomState) -> Image.Image:
    """A field of 0..1 along a path of three colours."""
    colours = rng.uniform(0, 255, (3, 3))
    colours += rng.uniform(0, 0.8) * (colours.mean(1, keepdims=True) - colours)  # paler
    image = np.stack([np.interp(field, (0, 0.5, 1), colours[:, c]) for c in range(3)], -1)
    return Image.fromarray(np.rint(image).astype(np.uint8))


def _clouds(rng: np.random.RandomState) -> np.ndarray:
    """Noise whose amplitude falls as 1 / frequency**slope, by rank: every value comes equally often."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij"))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(SIDE, SIDE))) / frequency ** rng.uniform(0.8, 1.6)
    field = np.fft.irfft2(spectrum, (SIDE, SIDE))
    return np.argsort(np.argsort(field.ravel())).reshape(SIDE, SIDE) / (SIDE * SIDE - 1)


def _steps(rng: np.random.RandomState) -> np.ndarray:
    levels = rng.randint(2, 6)
    return np.floor(_clouds(rng) * levels * 0.999) / (levels - 1)


def _stripes(rng: np.random.RandomState) -> np.ndarray:
    """Stripes bent by noise, over fainter noise."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle, bend = rng.uniform(0, np.pi), _clouds(rng)
    phase = rng.uniform(6, 16) * (x * np.cos(angle) + y * np.sin(angle)) + 1.5 * bend
    return 0.65 * (0.5 + 0.5 * np.clip(3 * np.sin(2 * np.pi * phase), -1, 1)) + 0.35 * _clouds(rng)


def _cells(rng: np.random.RandomState) -> np.ndarray:
    """Each point of the torus by the nearest of random points: their shades, darker at the borders."""
    points, shades = rng.uniform(0, SIDE, (80, 2)), rng.uniform(0, 1, 80)
    y, x = np.mgrid[:SIDE, :SIDE]
    away = np.stack([y, x], -1)[:, :, None] - points
    squares = np.square(away - SIDE * np.rint(away / SIDE)).sum(-1)
    first, second = np.sqrt(np.partition(squares, 1, -1)[..., :2]).transpose(2, 0, 1)
    return shades[squares.argmin(-1)] * np.clip((second - first) / 3, 0.2, 1)
