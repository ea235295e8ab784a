"""Compiled videos of layers with exact tracks: the scene of tracks_scene.py, drawn from the back to the front.

Every frame is the mean over the moments of its exposure (one, or with motion blur three), each composed by
colour <- (1 - alpha) colour + alpha texture, layer after layer, a layer's shadow before it; then gains over time and
space, and noise. A track is the pixel of one texel at the middle of every exposure. It is occluded outside the frame
and where a nearer layer's alpha is above .5.
"""

import math
from typing import no_type_check

import numpy as np

from .rng import compiled, integer, next_u64, stream, uniform
from .tracks_scene import (
    alpha_at,
    between,
    draw_alpha,
    draw_camera,
    draw_motion,
    draw_texture,
    mirrored,
    mixed,
    pixel_of,
    texel_of,
    top_layer,
    wave,
)

EXPOSURE = 3  # moments of a frame with motion blur, the middle one its time
SHUTTER = 0.5  # of the time between two frames
SOLID = 0.95  # alpha of a place that is tracked: none at an edge
CONTRAST = 0.03  # standard deviation of the brightness about a place that is tracked
HIDDEN = 3  # frames of an occlusion that counts
RETURNING = 0.4  # of the tracks are to be hidden and come back, where so many do
ATTEMPTS = 40  # places tried for each track


@compiled
@no_type_check
def paint_background(frame, tile, place, bend, time):
    height, width, size = frame.shape[0], frame.shape[1], tile.shape[0]
    for row in range(height):
        for column in range(width):
            u, v = texel_of(place, bend, time, column + 0.5, row + 0.5)
            x, y = u + 0.5 * size - 0.5, v + 0.5 * size - 0.5
            i, j = math.floor(y), math.floor(x)
            s, t = np.float32(y - i), np.float32(x - j)
            i, k = mirrored(i, size), mirrored(i + 1, size)
            j, m = mirrored(j, size), mirrored(j + 1, size)
            for c in range(3):
                upper = tile[i, j, c] + t * (tile[i, m, c] - tile[i, j, c])
                lower = tile[k, j, c] + t * (tile[k, m, c] - tile[k, j, c])
                frame[row, column, c] = upper + s * (lower - upper)


@compiled
@no_type_check
def box(place, size, height, width):
    """The rows and columns that a tile may cover: first and one after the last."""
    reach = 0.75 * size * math.sqrt(place[0] ** 2 + place[1] ** 2)
    return (
        max(0, int(place[3] - reach)),
        min(height, int(place[3] + reach) + 1),
        max(0, int(place[2] - reach)),
        min(width, int(place[2] + reach) + 1),
    )


@compiled
@no_type_check
def paint_layer(frame, tile, size, place, bend, time):
    top, bottom, left, right = box(place, size, frame.shape[0], frame.shape[1])
    for row in range(top, bottom):
        for column in range(left, right):
            u, v = texel_of(place, bend, time, column + 0.5, row + 0.5)
            x, y = u + 0.5 * size - 0.5, v + 0.5 * size - 0.5
            if not (x >= 0 and y >= 0 and x < size - 1 and y < size - 1):
                continue
            i, j = int(y), int(x)
            s, t = np.float32(y - i), np.float32(x - j)
            upper = tile[i, j, 3] + t * (tile[i, j + 1, 3] - tile[i, j, 3])
            lower = tile[i + 1, j, 3] + t * (tile[i + 1, j + 1, 3] - tile[i + 1, j, 3])
            alpha = upper + s * (lower - upper)
            if alpha <= 0:
                continue
            for c in range(3):
                upper = tile[i, j, c] + t * (tile[i, j + 1, c] - tile[i, j, c])
                lower = tile[i + 1, j, c] + t * (tile[i + 1, j + 1, c] - tile[i + 1, j, c])
                frame[row, column, c] += alpha * (upper + s * (lower - upper) - frame[row, column, c])


@compiled
@no_type_check
def paint_shadow(frame, tile, size, place, bend, time, shadow):
    """Darken what is below a layer, where its shape moved by shadow (x, y, strength) lies."""
    moved = place.copy()
    moved[2] += shadow[0]
    moved[3] += shadow[1]
    top, bottom, left, right = box(moved, size, frame.shape[0], frame.shape[1])
    for row in range(top, bottom):
        for column in range(left, right):
            u, v = texel_of(moved, bend, time, column + 0.5, row + 0.5)
            left_over = np.float32(1 - shadow[2] * alpha_at(tile, size, u, v))
            for c in range(3):
                frame[row, column, c] *= left_over


@compiled
@no_type_check
def finish(state, frame, light, time, deviation, out):
    """Gains of light (7,) and noise, then 8 bits."""
    height, width = frame.shape[0], frame.shape[1]
    gain, spread = np.empty(3, np.float32), np.float32(deviation * math.sqrt(3.0) / 2**20)
    for c in range(3):
        gain[c] = 1 + light[c] * wave(light[3] + light[4] * time)
    across, along = np.float32(light[5] / width), np.float32(light[6] / height)
    middle = np.float32(1 - 0.5 * (light[5] + light[6]))
    for row in range(height):
        for column in range(width):
            bits, field = next_u64(state), middle + across * column + along * row
            for c in range(3):
                noise = np.float32(np.int64((bits >> np.uint64(21 * c)) & np.uint64(2097151)) - 1048576)
                value = frame[row, column, c] * gain[c] * field + spread * noise
                out[row, column, c] = np.uint8(min(max(value, np.float32(0)), np.float32(1)) * np.float32(255) + 0.5)


@compiled
@no_type_check
def contrast(tile, size, u, v):
    """The standard deviation of the brightness in 7 x 7 texels about (u, v)."""
    i, j = int(v + 0.5 * size) - 3, int(u + 0.5 * size) - 3
    total = square = 0.0
    for row in range(i, i + 7):
        for column in range(j, j + 7):
            y, x = mirrored(row, size), mirrored(column, size)
            value = (tile[y, x, 0] + tile[y, x, 1] + tile[y, x, 2]) / 3
            total += value
            square += value * value
    return math.sqrt(max(square / 49 - (total / 49) ** 2, 0.0))


@compiled
@no_type_check
def find_place(state, ground, tiles, sizes, places, bends, extent, moments):
    """A place to track: (layer, u, v, whether it will do). Half of them on a layer's own ground, half by pixels."""
    if sizes.size > 1 and uniform(state) < 0.6:
        layer = 1 + integer(state, sizes.size - 1)
        size = sizes[layer]
        u, v = (uniform(state) - 0.5) * size, (uniform(state) - 0.5) * size
    else:
        frame = integer(state, places.shape[1] // moments)
        x, y = uniform(state) * extent[1], uniform(state) * extent[0]
        layer, u, v = top_layer(tiles, sizes, places, bends, frame, frame * moments + moments // 2, x, y)
    if layer == 0:
        return layer, u, v, contrast(ground, ground.shape[0], u, v) >= CONTRAST
    tile, size = tiles[layer - 1], sizes[layer]
    return layer, u, v, alpha_at(tile, size, u, v) > SOLID and contrast(tile, size, u, v) >= CONTRAST


@compiled
@no_type_check
def follow(layer, u, v, tiles, sizes, places, bends, extent, moments, track, occluded):
    """Fill the track (t, 2) and occluded (t,) of a place; how many frames it is seen in, and whether it comes back."""
    seen, hidden, returns = 0, 0, False
    for t in range(track.shape[0]):
        k = t * moments + moments // 2
        x, y = pixel_of(places[layer, k], bends[layer], t, u, v)
        track[t, 0], track[t, 1] = x, y
        inside = x >= 0 and y >= 0 and x < extent[1] and y < extent[0]
        covered = not inside
        for other in range(sizes.size - 1, layer, -1):
            if covered:
                break
            covered = covers(tiles[other - 1], sizes[other], places[other, k], bends[other], t, x, y)
        occluded[t] = covered
        if not covered:
            returns = returns or (seen > 0 and hidden >= HIDDEN)
            seen += 1
            hidden = 0
        else:
            hidden += 1
    return seen, returns


@compiled
@no_type_check
def covers(tile, size, place, bend, time, x, y):
    reach = 0.75 * size
    if (x - place[2]) ** 2 + (y - place[3]) ** 2 > reach * reach * (place[0] ** 2 + place[1] ** 2):
        return False
    u, v = texel_of(place, bend, time, x, y)
    return alpha_at(tile, size, u, v) > 0.5


@compiled
@no_type_check
def choose_tracks(state, ground, tiles, sizes, places, bends, extent, moments, tracks, occluded, where):
    """Fill tracks (n, t, 2), occluded (n, t) and where (n, 3) (layer, u, v); those that come back go first."""
    n, steps = occluded.shape
    wanted, most = math.ceil(RETURNING * n), ATTEMPTS * n
    taken = spare = 0
    track, hidden = np.empty((steps, 2), np.float32), np.empty(steps, np.bool_)
    spares, spare_hidden = np.empty((n, steps, 2), np.float32), np.empty((n, steps), np.bool_)
    spare_where = np.empty((n, 3))
    for attempt in range(most):
        if taken >= wanted and taken + spare >= n:
            break
        if attempt > most // 2 and taken + spare >= n:  # too few come back
            break
        layer, u, v, good = find_place(state, ground, tiles, sizes, places, bends, extent, moments)
        if not good and attempt < most - 4 * n:
            continue
        seen, returns = follow(layer, u, v, tiles, sizes, places, bends, extent, moments, track, hidden)
        if seen < min(3, steps):
            continue
        if returns and taken < wanted:
            tracks[taken], occluded[taken] = track, hidden
            where[taken, 0], where[taken, 1], where[taken, 2] = layer, u, v
            taken += 1
        elif spare < n:
            spares[spare], spare_hidden[spare] = track, hidden
            spare_where[spare, 0], spare_where[spare, 1], spare_where[spare, 2] = layer, u, v
            spare += 1
    for i in range(taken, n):
        k = (i - taken) % max(spare, 1)
        if spare > 0:
            tracks[i], occluded[i], where[i] = spares[k], spare_hidden[k], spare_where[k]
        elif taken > 0:
            tracks[i], occluded[i], where[i] = tracks[i % taken], occluded[i % taken], where[i % taken]
        else:  # no place that was tried is seen for long: there is no point, which counts nowhere
            occluded[i] = True


@compiled
@no_type_check
def choose_queries(state, random_start, tracks, occluded, queries):
    """Fill queries (n, 3) (t, y, x): the first frame a point is seen in, or with random_start half of them any."""
    for i in range(occluded.shape[0]):
        seen = 0
        for t in range(occluded.shape[1]):
            seen += not occluded[i, t]
        skip = 0
        if random_start and uniform(state) < 0.5:
            skip = integer(state, max(1, 2 * seen // 3))
        for t in range(occluded.shape[1]):
            if not occluded[i, t]:
                if skip == 0:
                    queries[i, 0], queries[i, 1], queries[i, 2] = t, tracks[i, t, 1], tracks[i, t, 0]
                    break
                skip -= 1


@compiled
@no_type_check
def draw_scene(state, hard, pixels, levels, extent, times, ground, tiles, sizes, places, bends, shadows):
    """Fill all of a scene; how many layers lie on the background."""
    camera = np.empty((times.size, 4))
    draw_camera(state, hard, times, camera)
    draw_texture(state, pixels, levels, ground, ground.shape[0])
    draw_motion(state, hard, 0.0, ground.shape[0], extent, times, camera, 0.4, places[0], bends[0])
    area = extent[0] * extent[1] / 128.0**2
    layers = min(tiles.shape[0], int(area * between(state, hard.layers, hard.layers + hard.more_layers) + 0.5))
    for i in range(layers):
        size = 2 * int(between(state, hard.smallest, min(hard.largest, 0.5 * tiles.shape[1] - 1)))
        sizes[i + 1] = size
        draw_texture(state, pixels, levels, tiles[i], size)
        draw_alpha(state, tiles[i], size)
        near = 0.6 + 0.6 * (i + 1) / layers
        draw_motion(state, hard, 1.0, size, extent, times, camera, near, places[i + 1], bends[i + 1])
        casts = uniform(state) < hard.shadow
        shadows[i + 1, 0], shadows[i + 1, 1] = between(state, 2, 8), between(state, -2, 8)
        shadows[i + 1, 2] = between(state, 0.2, 0.5) if casts else 0.0
    return layers


@compiled
@no_type_check
def paint(state, hard, extent, moments, times, ground, tiles, sizes, places, bends, shadows, video):
    """Fill video (t, h, w, 3)."""
    light = np.empty(7)
    for i in range(7):
        light[i] = hard.light * between(state, -1, 1)
    light[3], light[4] = uniform(state), between(state, 0.01, 0.05)
    frame = np.empty((extent[0], extent[1], 3), np.float32)
    total = np.empty_like(frame)
    for t in range(video.shape[0]):
        total[:] = 0
        for m in range(moments):
            k = t * moments + m
            paint_background(frame, ground, places[0, k], bends[0], times[k])
            for i in range(1, sizes.size):
                if shadows[i, 2] > 0:
                    paint_shadow(frame, tiles[i - 1], sizes[i], places[i, k], bends[i], times[k], shadows[i])
                paint_layer(frame, tiles[i - 1], sizes[i], places[i, k], bends[i], times[k])
            if moments > 1:
                total += frame / np.float32(moments)
        finish(state, total if moments > 1 else frame, light, t, hard.noise, video[t])


@compiled
@no_type_check
def moments_of(state, hard, steps):
    """How many moments a frame has, and all of them (times,)."""
    moments = EXPOSURE if uniform(state) < hard.blur else 1
    times = np.empty(steps * moments)
    for t in range(steps):
        for m in range(moments):
            times[t * moments + m] = t + SHUTTER * (m - moments // 2) / max(1, moments - 1)
    return moments, times


@compiled
@no_type_check
def render(key, index, easy, hard, pixels, levels, random_start, video, tracks, occluded, queries, where):
    """One clip: video (t, h, w, 3), tracks (n, t, 2) x, y, occluded (n, t), queries (n, 3) t, y, x, where (n, 3)."""
    state = stream(key, index)
    level = mixed(easy, hard, uniform(state))
    extent = video.shape[1], video.shape[2]
    area = extent[0] * extent[1] / 128.0**2
    most = max(1, int(area * (level.layers + level.more_layers) + 1))
    side = 2 * int(level.largest) + 2
    moments, times = moments_of(state, level, video.shape[0])
    ground = np.empty((max(160, max(extent) * 5 // 4), max(160, max(extent) * 5 // 4), 4), np.float32)
    tiles = np.empty((most, side, side, 4), np.float32)
    sizes, shadows = np.zeros(most + 1, np.int64), np.zeros((most + 1, 3))
    places, bends = np.empty((most + 1, times.size, 4)), np.empty((most + 1, 5))
    layers = draw_scene(state, level, pixels, levels, extent, times, ground, tiles, sizes, places, bends, shadows)
    tiles, sizes, places = tiles[:layers], sizes[: layers + 1], places[: layers + 1]
    paint(state, level, extent, moments, times, ground, tiles, sizes, places, bends, shadows, video)
    choose_tracks(state, ground, tiles, sizes, places, bends, extent, moments, tracks, occluded, where)
    choose_queries(state, random_start, tracks, occluded, queries)
    return ground, tiles, sizes, places, bends, moments
