"""Compiled drawing on uint8 grey canvases: paddles, discs, and Pillow's bilinear resize."""

import math
from typing import no_type_check

import numpy as np

from .rng import compiled


@compiled
@no_type_check
def overlap(centre, half):
    """How much of the unit interval about `centre` lies in [-half, half]."""
    return max(0.0, min(centre + 0.5, half) - max(centre - 0.5, -half))


@compiled
@no_type_check
def draw_paddle(canvas, paddle, thickness, contrast):
    """Max a rectangle, from (y, x) to (y, x), into `canvas`; a pixel's coverage is exact when axis-aligned."""
    ty, tx, hy, hx = paddle[0], paddle[1], paddle[2], paddle[3]
    length = math.hypot(hy - ty, hx - tx)
    uy, ux = (hy - ty) / length, (hx - tx) / length
    cy, cx = (ty + hy) / 2, (tx + hx) / 2
    reach = (length + thickness) / 2 + 1
    for y in range(max(0, int(cy - reach)), min(canvas.shape[0], int(cy + reach) + 2)):
        for x in range(max(0, int(cx - reach)), min(canvas.shape[1], int(cx + reach) + 2)):
            along = (y - cy) * uy + (x - cx) * ux
            across = (y - cy) * ux - (x - cx) * uy
            cover = overlap(along, length / 2) * overlap(across, thickness / 2)
            canvas[y, x] = max(canvas[y, x], np.uint8(255 * contrast * cover + 0.5))


@compiled
@no_type_check
def draw_disc(canvas, cy, cx, radius):
    """Max a filled white disc with a one pixel soft edge into `canvas`."""
    for y in range(max(0, int(cy - radius) - 1), min(canvas.shape[0], int(cy + radius) + 3)):
        for x in range(max(0, int(cx - radius) - 1), min(canvas.shape[1], int(cx + radius) + 3)):
            cover = min(1.0, max(0.0, radius + 0.5 - math.hypot(y - cy, x - cx)))
            canvas[y, x] = max(canvas[y, x], np.uint8(255 * cover + 0.5))


def bilinear_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """First input px (target,) and weights (target, taps) of the triangle filter, widened when shrinking.

    The filter of Pillow's `Image.resize(..., BILINEAR)`: support one input px, times the reduction factor.
    """
    scale = source / target
    width = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum(0, np.floor(centre - width + 0.5)).astype(np.int64)
    last = np.minimum(source, np.floor(centre + width + 0.5)).astype(np.int64)
    taps = int((last - first).max())
    first = np.minimum(first, source - taps)
    at = first[:, None] + np.arange(taps)
    weights = np.maximum(0, 1 - np.abs((at + 0.5 - centre[:, None]) / width))
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@compiled
@no_type_check
def resize_grey(canvas, first, weights, rows, image):
    """Resize `canvas` (n, n) into all channels of `image` (m, m, 3); `rows` (m, n) float32 is scratch."""
    for i in range(rows.shape[0]):
        row = rows[i]
        row[:] = 0
        for k in range(weights.shape[1]):
            weight, line = weights[i, k], canvas[first[i] + k]
            for x in range(row.size):
                row[x] += weight * np.float32(line[x])
    for i in range(rows.shape[0]):
        for j in range(rows.shape[0]):
            total = np.float32(0.5)
            for k in range(weights.shape[1]):
                total += weights[j, k] * rows[i, first[j] + k]
            value = np.uint8(total)
            image[i, j, 0], image[i, j, 1], image[i, j, 2] = value, value, value
