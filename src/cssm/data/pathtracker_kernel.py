"""Compiled PathTracker: paths, foils and drawing.

Path: the heading goes ang <- .95 (ang ± d), d uniform on {0, .95, ..., 89.3} degrees, sign fixed per path,
65 times, with 5 equal steps along each heading: 326 points, scaled per axis to [0, 27], half of them
reversed. A dot shows a random window of its path. A dot at position p covers pixel floor(p) + 1 (and the next
one, when 2x2); its ring is the 3x3 border about that pixel.

Matched foil. Let a window of a random path run from its start to its end; W is its law.
1. s is the start of a window. From W given start s draw two windows, the target, which ends at e1, and one that
   ends at e2; redraw both until s, e1 and e2 lie apart.
2. The foil is drawn from W given end e2. To be tilted as the target is by the redraws of step 1, it gets a
   companion, a window with its start; redraw both until start, e2 and the companion's end lie apart.
Given s, e1 and e2 are exchangeable, hence (start marker, end marker) has one distribution in both classes; and the
track that ends in the end marker has one law, so neither marker positions nor its speed can tell the classes
apart. (In windows below some 48 points the markers are so near each other that the target, which starts beside the
blue ring of a negative, makes one more dot there: measured .64 from dots within 3 px of the ring at 16 points, and
.50 at 64.)
"""

import math
from typing import no_type_check

import numpy as np

from .rng import compiled, integer, stream, uniform

POINTS, HEADINGS, STEPS, EXTENT = 326, 65, 5, 27.0
RESTYLED, EQUAL, PUBLISHED = 0, 1, 2
MATCHED, NEAREST, RANDOM = 0, 1, 2
TRIES = 200_000  # paths drawn before a pixel is given up
PAIRS = 200  # pairs of windows tried before a start is given up
SEPARATION = 3  # px (Chebyshev) between start and ends of matched tracks: rings do not overlap
MOST = 12  # windows of one path that start in one pixel: more are as good as 12
TURN = 1024  # angles of the sine table, linearly interpolated: 5e-6 of an error
SINES = np.sin(np.arange(TURN + TURN // 4 + 1) * (2 * np.pi / TURN)).astype(np.float32)


@compiled
@no_type_check
def sine_cosine(degrees):
    """Table look-up of sine and cosine."""
    at = degrees * (TURN / 360.0)
    whole = math.floor(at)
    part, i = at - whole, int(whole) & (TURN - 1)
    j = i + TURN // 4
    return SINES[i] + part * (SINES[i + 1] - SINES[i]), SINES[j] + part * (SINES[(j + 1)] - SINES[j])


@compiled
@no_type_check
def draw_path(state, nodes):
    """Fill `nodes` (66, 2) with the turning points (y, x) of a path, in [0, 27]."""
    x, y = uniform(state), uniform(state)
    angle = math.atan2(y, x)  # radians read as degrees, as published
    sign = 1.0 if uniform(state) < 0.5 else -1.0
    back = uniform(state) < 0.5
    low_x, high_x, low_y, high_y = x, x, y, y
    for i in range(HEADINGS + 1):
        at = HEADINGS - i if back else i
        nodes[at, 0], nodes[at, 1] = y, x
        low_x, high_x, low_y, high_y = min(low_x, x), max(high_x, x), min(low_y, y), max(high_y, y)
        angle = 0.95 * (angle + sign * 0.95 * integer(state, 95))
        dy, dx = sine_cosine(angle)
        x, y = x + dx, y + dy
    scale_y, scale_x = EXTENT / max(high_y - low_y, 1e-9), EXTENT / max(high_x - low_x, 1e-9)
    for i in range(HEADINGS + 1):
        nodes[i, 0] = (nodes[i, 0] - low_y) * scale_y
        nodes[i, 1] = (nodes[i, 1] - low_x) * scale_x


@compiled
@no_type_check
def cell(nodes, i):
    """The pixel of point i, coded as 32 row + column."""
    j, part = i // STEPS, (i % STEPS) / STEPS
    if j == HEADINGS:
        j, part = j - 1, 1.0
    y = nodes[j, 0] + part * (nodes[j + 1, 0] - nodes[j, 0])
    x = nodes[j, 1] + part * (nodes[j + 1, 1] - nodes[j, 1])
    return (int(y) + 1) * 32 + int(x) + 1


@compiled
@no_type_check
def separation(a, b):
    """Chebyshev distance of two coded pixels."""
    return max(abs(a // 32 - b // 32), abs(a % 32 - b % 32))


@compiled
@no_type_check
def apart(a, b, c):
    """Whether three pixels keep SEPARATION from each other."""
    return min(separation(a, b), separation(a, c), separation(b, c)) >= SEPARATION


@compiled
@no_type_check
def copy_window(nodes, begin, points, track):
    """Write the pixels of the frames at begin + points into `track` (t,)."""
    for k in range(points.size):
        track[k] = cell(nodes, begin + points[k])


@compiled
@no_type_check
def free_window(state, nodes, points, track):
    """A uniformly random window of a new path."""
    draw_path(state, nodes)
    copy_window(nodes, integer(state, POINTS - points[-1]), points, track)


@compiled
@no_type_check
def visits(nodes, pixel, first, count, found):
    """List in `found` the points first..first+count-1 that lie in `pixel`; returns how many."""
    row, column, n = pixel // 32 - 1, pixel % 32 - 1, 0
    for j in range(first // STEPS, min(HEADINGS, (first + count - 1) // STEPS + 1)):
        y, x, next_y, next_x = nodes[j, 0], nodes[j, 1], nodes[j + 1, 0], nodes[j + 1, 1]
        if max(y, next_y) < row or min(y, next_y) > row + 1 or max(x, next_x) < column or min(x, next_x) > column + 1:
            continue
        for i in range(max(first, STEPS * j), min(first + count, STEPS * (j + 1) + (j == HEADINGS - 1))):
            if cell(nodes, i) == pixel:
                found[n] = i
                n += 1
    return n


@compiled
@no_type_check
def window_at(state, nodes, points, offset, pixel, found, track):
    """A random window whose point at `offset` lies in `pixel`: paths are kept in proportion to such windows.

    False when TRIES paths have none.
    """
    for _ in range(TRIES):
        draw_path(state, nodes)
        n = visits(nodes, pixel, offset, POINTS - points[-1], found)
        if n and (n >= MOST or integer(state, MOST) < n):
            copy_window(nodes, found[integer(state, n)] - offset, points, track)
            return True
    return False


@compiled
@no_type_check
def draw_target(state, nodes, points, found, target, other):
    """Step 1 of the matched foil: the target; returns e2, or -1 when no pair comes."""
    free_window(state, nodes, points, target)
    start, last = target[0], points.size - 1
    for _ in range(PAIRS):
        if not window_at(state, nodes, points, 0, start, found, target):
            return -1
        if separation(start, target[last]) < SEPARATION:
            continue
        if not window_at(state, nodes, points, 0, start, found, other):
            return -1
        if apart(start, target[last], other[last]):
            return other[last]
    return -1


@compiled
@no_type_check
def draw_foil(state, nodes, points, found, start, end, foil, other):
    """Step 2 of the matched foil: a track to `end` that does not begin in `start`; False when none comes."""
    last = points.size - 1
    for _ in range(PAIRS):
        if not window_at(state, nodes, points, points[last], end, found, foil):
            return False
        if separation(foil[0], end) < SEPARATION or foil[0] == start:
            continue
        if not window_at(state, nodes, points, 0, foil[0], found, other):
            return False
        if apart(foil[0], end, other[last]):
            return True
    return False


@compiled
@no_type_check
def matched_pair(state, nodes, points, target, foil):
    """Target and foil tracks of which neither markers nor speed tell the label (module docstring)."""
    found, other = np.empty(POINTS, np.int64), np.empty_like(foil)
    while True:
        end = draw_target(state, nodes, points, found, target, other)
        if end >= 0 and draw_foil(state, nodes, points, found, target[0], end, foil, other):
            return


@compiled
@no_type_check
def draw_tracks(state, nodes, points, foil, tracks):
    """Fill `tracks` (n, t): row 0 the target, row 1 the foil, the others distractors."""
    last = points.size - 1
    first = 0
    if foil == MATCHED:
        matched_pair(state, nodes, points, tracks[0], tracks[1])
        first = 2
    for i in range(first, tracks.shape[0]):
        free_window(state, nodes, points, tracks[i])
    while foil == RANDOM and tracks[1, last] == tracks[0, last]:  # one end pixel: no label
        free_window(state, nodes, points, tracks[1])
    if foil == NEAREST:
        best, least = -1, 1 << 30
        while best < 0:
            for i in range(1, tracks.shape[0]):
                dy = tracks[i, last] // 32 - tracks[0, last] // 32
                dx = tracks[i, last] % 32 - tracks[0, last] % 32
                if 0 < dy * dy + dx * dx < least:
                    best, least = i, dy * dy + dx * dx
            if best < 0:
                free_window(state, nodes, points, tracks[1])
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
    nodes = np.empty((HEADINGS + 1, 2))
    tracks = np.empty((distractors + 2, points.size), np.int64)
    for n in range(indices.size):
        state = stream(key, indices[n])
        label[n] = integer(state, 2)
        draw_tracks(state, nodes, points, foil, tracks)
        start, end = tracks[0, 0], tracks[1 - label[n], points.size - 1]
        draw_video(tracks, style, start, end, video[n])
        markers[n, 0, 0], markers[n, 0, 1] = start // 32 + 0.5, start % 32 + 0.5
        markers[n, 1, 0], markers[n, 1, 1] = end // 32 + 0.5, end % 32 + 0.5
