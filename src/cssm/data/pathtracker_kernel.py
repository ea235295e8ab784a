"""Compiled PathTracker: paths, foils and drawing.

Path: the heading goes ang <- .95 (ang ± d), d uniform on {0, .95, ..., 89.3} degrees, sign fixed per path,
65 times, with 5 equal steps along each heading: 326 points, scaled per axis to [0, 27], half of them
reversed. A dot shows a random window of its path. A dot at position p covers pixel floor(p) + 1 (and the next
one, when 2x2); its ring is the 3x3 border about that pixel.

Matched foil. Draw a start pixel s. Draw two windows that start at s, by the same rule; redraw both until
their end pixels differ enough. The first is the target's path, the second only supplies an end pixel e2, and
the foil is a window that ends at e2. Given s, target end and e2 are exchangeable, hence (start marker, end
marker) has one distribution in both classes: no function of marker positions can beat chance.
"""

import math
from typing import no_type_check

import numpy as np

from .rng import compiled, integer, stream, uniform

POINTS, HEADINGS, STEPS, EXTENT = 326, 65, 5, 27.0
RESTYLED, EQUAL, PUBLISHED = 0, 1, 2
MATCHED, NEAREST, RANDOM = 0, 1, 2
TRIES = 100_000  # paths drawn before a start pixel is given up
PAIRS = 50  # pairs of ends tried before a start pixel is given up
SEPARATION = 3  # px (Chebyshev) between the ends of target and matched foil: rings do not overlap


@compiled
@no_type_check
def draw_path(state, path):
    """Fill `path` (326, 2) with points (y, x) in [0, 27]."""
    x, y = uniform(state), uniform(state)
    angle = math.atan2(y, x)  # radians read as degrees, as published
    sign = 1.0 if uniform(state) < 0.5 else -1.0
    low_x, high_x, low_y, high_y = x, x, y, y
    path[0, 0], path[0, 1] = y, x
    for i in range(HEADINGS):
        angle = 0.95 * (angle + sign * 0.95 * integer(state, 95))
        dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        for k in range(1, STEPS + 1):
            path[i * STEPS + k, 0] = y + dy * (k / STEPS)
            path[i * STEPS + k, 1] = x + dx * (k / STEPS)
        x, y = x + dx, y + dy
        low_x, high_x, low_y, high_y = min(low_x, x), max(high_x, x), min(low_y, y), max(high_y, y)
    scale_y, scale_x = EXTENT / max(high_y - low_y, 1e-9), EXTENT / max(high_x - low_x, 1e-9)
    for i in range(POINTS):
        path[i, 0] = (path[i, 0] - low_y) * scale_y
        path[i, 1] = (path[i, 1] - low_x) * scale_x
    if uniform(state) < 0.5:
        for i in range(POINTS // 2):
            for axis in range(2):
                path[i, axis], path[POINTS - 1 - i, axis] = path[POINTS - 1 - i, axis], path[i, axis]


@compiled
@no_type_check
def cell(path, i):
    """The pixel of point i, coded as 32 row + column."""
    return (int(path[i, 0]) + 1) * 32 + int(path[i, 1]) + 1


@compiled
@no_type_check
def separation(a, b):
    """Chebyshev distance of two coded pixels."""
    return max(abs(a // 32 - b // 32), abs(a % 32 - b % 32))


@compiled
@no_type_check
def copy_window(path, begin, points, track):
    """Write the pixels of the frames at begin + points into `track` (t,)."""
    for k in range(points.size):
        track[k] = cell(path, begin + points[k])


@compiled
@no_type_check
def free_window(state, path, points, track):
    """A uniformly random window of a new path."""
    draw_path(state, path)
    copy_window(path, integer(state, POINTS - points[-1]), points, track)


@compiled
@no_type_check
def window_through(state, path, points, frame, pixel, track):
    """A window whose `frame`-th pixel is `pixel`: the first path that has one, any of its windows."""
    for _ in range(TRIES):
        draw_path(state, path)
        found = 0
        for begin in range(POINTS - points[-1]):
            if cell(path, begin + points[frame]) == pixel:
                found += 1
        if found:
            chosen = integer(state, found)
            for begin in range(POINTS - points[-1]):
                if cell(path, begin + points[frame]) == pixel:
                    if chosen == 0:
                        copy_window(path, begin, points, track)
                        return True
                    chosen -= 1
    return False


@compiled
@no_type_check
def matched_pair(state, path, points, target, foil):
    """Target and foil tracks whose markers say nothing (module docstring)."""
    last = points.size - 1
    while True:
        free_window(state, path, points, target)
        start = target[0]
        for _ in range(PAIRS):
            if not window_through(state, path, points, 0, start, target):
                break
            if not window_through(state, path, points, 0, start, foil):
                break
            end = foil[last]
            if start == end or start == target[last] or separation(end, target[last]) < SEPARATION:
                continue
            if not window_through(state, path, points, last, end, foil):
                break
            return


@compiled
@no_type_check
def draw_tracks(state, path, points, foil, tracks):
    """Fill `tracks` (n, t): row 0 the target, row 1 the foil, the others distractors."""
    last = points.size - 1
    first = 0
    if foil == MATCHED:
        matched_pair(state, path, points, tracks[0], tracks[1])
        first = 2
    for i in range(first, tracks.shape[0]):
        free_window(state, path, points, tracks[i])
    while foil == RANDOM and tracks[1, last] == tracks[0, last]:  # one end pixel: no label
        free_window(state, path, points, tracks[1])
    if foil == NEAREST:
        best, least = -1, 1 << 30
        while best < 0:
            for i in range(1, tracks.shape[0]):
                dy = tracks[i, last] // 32 - tracks[0, last] // 32
                dx = tracks[i, last] % 32 - tracks[0, last] % 32
                if 0 < dy * dy + dx * dx < least:
                    best, least = i, dy * dy + dx * dx
            if best < 0:
                free_window(state, path, points, tracks[1])
        for k in range(points.size):
            tracks[1, k], tracks[best, k] = tracks[best, k], tracks[1, k]


@compiled
@no_type_check
def draw_dot(frame, pixel, width):
    """A green square of `width` px whose top left pixel is `pixel`."""
    y, x = pixel // 32, pixel % 32
    for i in range(y, y + width):
        for j in range(x, x + width):
            frame[i, j, 0], frame[i, j, 1], frame[i, j, 2] = 0, 255, 0


@compiled
@no_type_check
def draw_ring(frame, pixel, channel):
    """The 8 pixels about `pixel` in one pure colour."""
    y, x = pixel // 32, pixel % 32
    for i in range(y - 1, y + 2):
        for j in range(x - 1, x + 2):
            if i != y or j != x:
                frame[i, j, 0], frame[i, j, 1], frame[i, j, 2] = 0, 0, 0
                frame[i, j, channel] = 255


@compiled
@no_type_check
def draw_video(tracks, style, start, end, video):
    """Draw every frame; rings come last when restyled, target and foil in the other styles."""
    width = 1 if style == RESTYLED else 2
    for k in range(video.shape[0]):
        frame = video[k]
        for i in range(2, tracks.shape[0]):
            draw_dot(frame, tracks[i, k], 1 if style == PUBLISHED else width)
        if style == RESTYLED:
            draw_dot(frame, tracks[0, k], 1)
            draw_dot(frame, tracks[1, k], 1)
        draw_ring(frame, start, 0)
        draw_ring(frame, end, 2)
        if style != RESTYLED:
            draw_dot(frame, tracks[0, k], 2)
            draw_dot(frame, tracks[1, k], 2)


@compiled
@no_type_check
def render_batch(key, indices, points, distractors, style, foil, video, label, markers):
    """Render `indices` into video (b, t, 32, 32, 3), zeroed; label (b,); markers (b, 2, 2) px, (y, x)."""
    path = np.empty((POINTS, 2))
    tracks = np.empty((distractors + 2, points.size), np.int64)
    for n in range(indices.size):
        state = stream(key, indices[n])
        label[n] = integer(state, 2)
        draw_tracks(state, path, points, foil, tracks)
        start, end = tracks[0, 0], tracks[1 - label[n], points.size - 1]
        draw_video(tracks, style, start, end, video[n])
        markers[n, 0, 0], markers[n, 0, 1] = start // 32 + 0.5, start % 32 + 0.5
        markers[n, 1, 0], markers[n, 1, 1] = end // 32 + 0.5, end % 32 + 0.5
