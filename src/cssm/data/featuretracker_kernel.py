"""Compiled FeatureTracker: PathTracker's tracks drawn in changing colours."""

from typing import no_type_check

import numpy as np

from .pathtracker_kernel import HEADINGS, draw_ring, draw_tracks
from .rng import compiled, integer, stream, uniform

HUE_STEP = 360 / 64  # degrees a frame


@compiled
@no_type_check
def hue_channel(degrees, shift):
    """One channel of the fully saturated colour of a hue: a trapezium over 240 of the 360 degrees."""
    at = (degrees + shift) % 360.0 / 60.0
    return np.uint8(255 * min(1.0, max(0.0, 2.0 - abs(at - 2.0))) + 0.5)


@compiled
@no_type_check
def draw_coloured_dot(frame, pixel, hue):
    """A 2x2 square of one hue whose top left pixel is `pixel`."""
    red, green, blue = hue_channel(hue, 120.0), hue_channel(hue, 0.0), hue_channel(hue, 240.0)
    for i in range(pixel // 32, pixel // 32 + 2):
        for j in range(pixel % 32, pixel % 32 + 2):
            frame[i, j, 0], frame[i, j, 1], frame[i, j, 2] = red, green, blue


@compiled
@no_type_check
def draw_video(tracks, hues, half, start, end, video):
    """Draw every frame: distractors, rings, then target and foil. hues (n,) in degrees, of the first frame."""
    for k in range(video.shape[0]):
        frame = video[k]
        for i in range(tracks.shape[0] - 1, -1, -1):
            if i == 1:
                draw_ring(frame, start, 0)
                draw_ring(frame, end, 2)
            draw_coloured_dot(frame, tracks[i, k], 180.0 * half + (hues[i] + k * HUE_STEP) % 180.0)


@compiled
@no_type_check
def render_batch(key, indices, points, distractors, half, foil, video, label, markers):
    """Render `indices` into video (b, t, 32, 32, 3), zeroed; label (b,); markers (b, 2, 2) px, (y, x)."""
    nodes = np.empty((HEADINGS + 1, 2))
    tracks = np.empty((distractors + 2, points.size), np.int64)
    hues = np.empty(distractors + 2)
    for n in range(indices.size):
        state = stream(key, indices[n])
        label[n] = integer(state, 2)
        draw_tracks(state, nodes, points, foil, tracks)
        for i in range(hues.size):
            hues[i] = 180.0 * uniform(state)
        start, end = tracks[0, 0], tracks[1 - label[n], points.size - 1]
        draw_video(tracks, hues, half, start, end, video[n])
        markers[n, 0, 0], markers[n, 0, 1] = start // 32 + 0.5, start % 32 + 0.5
        markers[n, 1, 0], markers[n, 1, 1] = end // 32 + 0.5, end % 32 + 0.5
