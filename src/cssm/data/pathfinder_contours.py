"""Compiled Pathfinder geometry: contours grown paddle by paddle on a mask of taken pixels.

A paddle is (tail y, tail x, head y, head x) in window px, pixel centres at integers. The mask counts the paddles,
each dilated by the margin, that cover a pixel; the border counts as one. A paddle enters the mask when its
successor stands, so that a contour does not collide with its own end.
"""

import math
from typing import no_type_check

import numpy as np

from .raster import draw_disc, draw_paddle, resize_grey
from .rng import compiled, integer, normal, stream, uniform

TRIES = 3  # draws of one paddle, in a target contour
DISTRACTOR_TRIES = 5
SEEDS = 100  # places tried for a distractor: a place fails 100 times when some 1% of the scene is free
TOLERANCE = 2.0  # window px at most between the two marker distances of a matched scene


@compiled
@no_type_check
def sweep(mask, paddle, reach, step):
    """Add `step` to the mask within `reach` of the paddle; with step 0 say instead whether a pixel there is taken."""
    ty, tx, hy, hx = paddle[0], paddle[1], paddle[2], paddle[3]
    dy, dx = hy - ty, hx - tx
    scale, limit = 1.0 / (dy * dy + dx * dx), reach * reach
    left, right = max(0, int(min(tx, hx) - reach)), min(mask.shape[1], int(max(tx, hx) + reach) + 2)
    for y in range(max(0, int(min(ty, hy) - reach)), min(mask.shape[0], int(max(ty, hy) + reach) + 2)):
        for x in range(left, right):
            if step == 0 and mask[y, x] == 0:
                continue
            t = min(1.0, max(0.0, ((y - ty) * dy + (x - tx) * dx) * scale))
            ey, ex = y - ty - t * dy, x - tx - t * dx
            if ey * ey + ex * ex <= limit:
                if step == 0:
                    return True
                mask[y, x] += step
    return False


@compiled
@no_type_check
def near_taken(mask, y, x, radius):
    """Whether a pixel within `radius` of (y, x) is taken or outside."""
    if min(y, x) < radius or max(y, x) >= mask.shape[0] - radius:
        return True
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            if i * i + j * j <= radius * radius and mask[y + i, x + j] > 0:
                return True
    return False


@compiled
@no_type_check
def seed_paddle(state, mask, layout, reach, y, x, paddle):
    """A first paddle with its tail at (y, x) in a random direction; False when it collides."""
    angle = math.radians(integer(state, 360))
    paddle[0], paddle[1] = y, x
    paddle[2] = np.rint(y + layout.length * math.sin(angle))
    paddle[3] = np.rint(x + layout.length * math.cos(angle))
    return not sweep(mask, paddle, reach, 0)


@compiled
@no_type_check
def extend(state, mask, layout, margin, reach, tries, last, paddle, scratch):
    """The successor `paddle` of `last`; False when none is found.

    Candidate heads are pixels on a circle about the pivot; the chance of one is cos^2 of its turn times the
    continuity, and 0 where it is not free. `scratch` (4, n) holds sines and cosines of n angles, then work space.
    """
    uy, ux = last[2] - last[0], last[3] - last[1]
    norm = math.hypot(uy, ux)
    uy, ux = uy / norm, ux / norm
    py, px = last[2] + margin * uy, last[3] + margin * ux
    radius, least = layout.length + margin, math.cos(math.pi / 2 / layout.continuity)
    count, total = 0, 0.0
    for k in range(scratch.shape[1]):
        y, x = np.rint(py + radius * scratch[0, k]), np.rint(px + radius * scratch[1, k])
        cosine = ((y - py) * uy + (x - px) * ux) / math.hypot(y - py, x - px)
        if cosine > least and not near_taken(mask, int(y), int(x), margin):
            total += math.cos(layout.continuity * math.acos(min(1.0, cosine))) ** 2
            scratch[2, count], scratch[3, count] = math.atan2(y - py, x - px), total
            count += 1
    for _ in range(tries if count else 0):
        draw, k = uniform(state) * total, 0
        while k < count - 1 and draw >= scratch[3, k]:
            k += 1
        angle = scratch[2, k] + math.radians(layout.turn_noise) * normal(state)
        sine, cosine = math.sin(angle), math.cos(angle)
        paddle[0], paddle[1] = py + margin * sine, px + margin * cosine
        paddle[2], paddle[3] = np.rint(py + radius * sine), np.rint(px + radius * cosine)
        if not sweep(mask, paddle, reach, 0):
            return True
    return False


@compiled
@no_type_check
def seed_pair(state, mask, layout, reach, pair):
    """First paddles of both targets; False when one collides. The first tail keeps away from the border."""
    away = int(2 * layout.seed_distance)
    room = layout.window - 2 * away
    y, x = away + integer(state, room), away + integer(state, room)
    if not seed_paddle(state, mask, layout, reach, y, x, pair[0, 0]):
        return False
    angle = math.radians(integer(state, 360))
    y = np.rint(y + layout.seed_distance * math.sin(angle))
    x = np.rint(x + layout.seed_distance * math.cos(angle))
    return seed_paddle(state, mask, layout, reach, y, x, pair[1, 0])


@compiled
@no_type_check
def extend_pair(state, mask, layout, margin, reach, n, pair, scratch):
    """Paddle n of both targets in turn; on failure the mask is as before."""
    for s in range(2):
        head = pair[1 - s, n - 1 + s]  # the other's last paddle, not in the mask yet, is in the way too
        sweep(mask, head, reach, 1)
        grown = extend(state, mask, layout, margin, reach, TRIES, pair[s, n - 1], pair[s, n], scratch)
        sweep(mask, head, reach, -1)
        if not grown:
            if s == 1:
                sweep(mask, pair[0, n - 1], reach, -1)
            return False
        sweep(mask, pair[s, n - 1], reach, 1)
    return True


@compiled
@no_type_check
def grow_pair(state, mask, layout, margin, reach, pair, scratch):
    """Fill `pair` (2, CL, 4) with the target contours and the mask with all but their last paddles.

    A dead end takes both contours back 2, 4, 8, ... paddles until they pass it; back to nothing is a new scene.
    """
    total, pad = pair.shape[1], layout.padding
    while True:
        mask[:] = 1
        mask[pad : layout.window - pad, pad : layout.window - pad] = 0
        if not seed_pair(state, mask, layout, reach, pair):
            continue
        n, deepest, back = 1, 1, 1
        while 0 < n < total:
            if extend_pair(state, mask, layout, margin, reach, n, pair, scratch):
                n += 1
                if n > deepest:
                    deepest, back = n, 1
                continue
            back *= 2
            keep = max(0, n - back)
            for i in range(max(keep - 1, 0), n - 1):
                for s in range(2):
                    sweep(mask, pair[s, i], reach, -1)
            n = keep
        if n == total:
            return


@compiled
@no_type_check
def grow_distractors(state, mask, layout, margin, reach, paddles, length, scratch):
    """Fill `paddles` (n, 4) with contours of `length`, as many and as long as fit; returns how many paddles stand."""
    n = 0
    pad, room = layout.padding, layout.window - 2 * layout.padding
    for _ in range(paddles.shape[0] // length):
        for _ in range(SEEDS):
            y, x = pad + integer(state, room), pad + integer(state, room)
            if mask[y, x] == 0 and seed_paddle(state, mask, layout, reach, y, x, paddles[n]):
                break
        else:
            return n
        n += 1
        for _ in range(length - 1):
            tries = DISTRACTOR_TRIES
            if not extend(state, mask, layout, margin, reach, tries, paddles[n - 1], paddles[n], scratch):
                break
            sweep(mask, paddles[n - 1], reach, 1)
            n += 1
        sweep(mask, paddles[n - 1], reach, 1)
    return n


@compiled
@no_type_check
def tip(pair, s, end):
    """(y, x) of the first (end 0) or last (end 1) tip of contour s."""
    if end == 0:
        return pair[s, 0, 0], pair[s, 0, 1]
    return pair[s, pair.shape[1] - 1, 2], pair[s, pair.shape[1] - 1, 3]


@compiled
@no_type_check
def marker_gap(pair, s, end):
    """Distances from tip (s, end) to the opposite tips of its own and of the other contour: their difference."""
    (y, x), own, other = tip(pair, s, end), tip(pair, s, 1 - end), tip(pair, 1 - s, 1 - end)
    return math.hypot(own[0] - y, own[1] - x) - math.hypot(other[0] - y, other[1] - x)


@compiled
@no_type_check
def grow_scene(state, mask, layout, margin, reach, matched, pair, scratch):
    """Grow the targets; returns (s, end) of the tip to mark first. Matched: redraw until distance is no cue.

    The tolerance is at most a quarter of the spread of the distances, which grows as the square of the length.
    """
    tolerance = min(TOLERANCE, pair.shape[1] ** 2 * (layout.length + 2 * margin) / 500)
    while True:
        grow_pair(state, mask, layout, margin, reach, pair, scratch)
        if not matched:
            return integer(state, 2), 0
        first = integer(state, 4)
        for i in range(4):
            s, end = ((first + i) % 4) // 2, (first + i) % 2
            if abs(marker_gap(pair, s, end)) < tolerance:
                return s, end


@compiled
@no_type_check
def render_batch(key, indices, layout, contour_length, length, number, matched, taps, image, label, markers):
    """Render `indices` into image (b, m, m, 3), label (b,) and markers (b, 2, 2) in px of the image, (y, x)."""
    mask = np.empty((layout.window, layout.window), np.uint8)
    canvas = np.empty((layout.window, layout.window), np.uint8)
    rows = np.empty((image.shape[1], layout.window), np.float32)
    pair, others = np.empty((2, contour_length, 4)), np.empty((length * number, 4))
    angles = 2 * math.pi / 64 * np.arange(64)
    scratch = np.stack((np.sin(angles), np.cos(angles), angles, angles))
    zoom = image.shape[1] / layout.window
    for b in range(indices.size):
        state = stream(key, indices[b])
        label[b] = integer(state, 2)
        margin = layout.margin + integer(state, layout.spare_margin - layout.margin + 1)
        reach = layout.thickness / 2 + margin
        s, end = grow_scene(state, mask, layout, margin, reach, matched, pair, scratch)
        for i in range(2):
            sweep(mask, pair[i, contour_length - 1], reach, 1)
        count = grow_distractors(state, mask, layout, margin, reach, others, length, scratch)
        canvas[:] = 0
        for paddle in pair.reshape(-1, 4):
            draw_paddle(canvas, paddle, layout.thickness, layout.contrast)
        for paddle in others[:count]:
            draw_paddle(canvas, paddle, layout.thickness, layout.contrast)
        for i in range(2):
            y, x = tip(pair, s if i == 0 or label[b] else 1 - s, (end + i) % 2)
            draw_disc(canvas, y, x, layout.radius)
            markers[b, i, 0], markers[b, i, 1] = (y + 0.5) * zoom, (x + 0.5) * zoom
        resize_grey(canvas, taps[0], taps[1], rows, image[b])
