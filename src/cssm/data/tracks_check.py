"""Whether the tracks of `Tracks` are those of its pictures: a point's pixel has the colour of its texel."""

import dataclasses
from typing import NamedTuple

import numpy as np

from .tracks import Scene, Tracks

SURE = 1e-3  # of alpha: nothing of another layer is mixed in


class TracksFacts(NamedTuple):
    """What was found in some videos."""

    compared: int
    """Pixels that were compared."""
    colour: float
    """The largest difference of a channel between a pixel and its texel, of 255; rounding alone makes .5."""
    place: float
    """The largest distance between a texel and that of its pixel, texels."""
    returning: float
    """The share of points that are hidden for 3 frames or more and come back."""
    visible: float
    """The share of points and frames that are seen."""


def check_tracks(data: Tracks, split: str = "train", samples: int = 20, seed: int = 0) -> TracksFacts:
    """Compare pictures without light, noise, blur and shadows with their textures, and count what comes back.

    >>> facts = check_tracks(Tracks(frames=8, size=64, points=4), samples=2)
    >>> facts.compared > 0 and facts.colour < 1 and facts.place < 1e-6
    True
    """
    clean = dataclasses.replace(data, level="clean").source(split, size=samples, seed=seed)
    found = [_compare(clean.scene(i)) for i in range(samples)]
    occluded = data.source(split, size=samples, seed=seed).batch(range(samples))["occluded"]
    return TracksFacts(
        compared=sum(f[0] for f in found), colour=max(f[1] for f in found), place=max(f[2] for f in found),
        returning=float(comes_back(occluded).mean()), visible=float((~occluded).mean()),
    )  # fmt: skip


def comes_back(occluded: np.ndarray, frames: int = 3) -> np.ndarray:
    """Which points are seen, then hidden for `frames` or more, then seen again: (..., t) -> (...).

    >>> comes_back(np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 1, 0, 0]], bool)).tolist()
    [True, False, False]
    """
    out = np.zeros(occluded.shape[:-1], bool)
    seen, gap = out.copy(), np.zeros(out.shape, int)
    for hidden in np.moveaxis(occluded, -1, 0):
        out |= ~hidden & seen & (gap >= frames)
        seen |= ~hidden
        gap = np.where(hidden, gap + 1, 0)
    return out


def _compare(scene: Scene) -> tuple[int, float, float]:
    """(pixels compared, largest difference of colour, of place) over the points that are seen."""
    from .tracks_scene import alpha_at, background_at, pixel_of, texel_of

    count, colour, place = 0, 0.0, 0.0
    video, occluded = scene.sample["input"], scene.sample["occluded"]
    for n, t in zip(*np.nonzero(~occluded), strict=True):
        layer, u, v = int(scene.where[n, 0]), *scene.where[n, 1:]
        k = t * scene.moments + scene.moments // 2
        x, y = pixel_of(scene.places[layer, k], scene.bends[layer], float(t), u, v)
        back = texel_of(scene.places[layer, k], scene.bends[layer], float(t), x, y)
        place = max(place, float(np.hypot(back[0] - u, back[1] - v)))
        row, column = int(y), int(x)
        if not (0 <= row < video.shape[1] and 0 <= column < video.shape[2]):
            continue
        at = texel_of(scene.places[layer, k], scene.bends[layer], float(t), column + 0.5, row + 0.5)
        alphas = []
        for other in range(max(layer, 1), len(scene.sizes)):
            texel = texel_of(scene.places[other, k], scene.bends[other], float(t), column + 0.5, row + 0.5)
            alphas.append(alpha_at(scene.tiles[other - 1], scene.sizes[other], *texel))
        own = 1.0 if layer == 0 else alphas.pop(0)
        if own < 1 - SURE or max(alphas, default=0.0) > SURE:
            continue
        size = scene.ground.shape[0] if layer == 0 else int(scene.sizes[layer])
        tile = scene.ground if layer == 0 else scene.tiles[layer - 1, :size, :size]
        texel = [background_at(tile, at[0], at[1], c) for c in range(3)]
        difference = np.abs(255 * np.array(texel) - video[t, row, column])
        count, colour = count + 1, max(colour, float(difference.max()))
    return count, colour, place
