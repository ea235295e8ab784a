"""Compiled scenes of layers: what is drawn at random, where a point of a layer is at a time, and what covers it.

A layer is a tile of S x S texels with a colour and an alpha each. At time t a place u of the tile (texels from its
centre) is seen at pixel p:

    u = w + e_t(w),    p = A_t w + c_t

A_t is a turn and a scale; e_t is a smooth wave, given in this direction so that a pixel finds its texel directly
(`texel_of`); a point finds its pixel by iteration (`pixel_of`, to 1e-9 px). Layer 0 is the background: it covers all,
its tile is continued in mirror images. What stands nearer follows the camera more.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np

from .rng import compiled, integer, uniform

ITERATIONS = 60  # of pixel_of: a wave of slope .3 leaves .3**60
SOFT = 1.5  # texels over which alpha falls from 1 to 0 at an edge
ANGLES = 256  # of the outline's table
HARMONICS = 6


class Difficulty(NamedTuple):
    """Ranges of what is drawn; lengths in px, angles in rad, times in frames."""

    layers: float  # for each 128 x 128 px of the frame
    more_layers: float  # up to that many more
    smallest: float  # radius of a layer
    largest: float
    speed: float  # of a layer, at most
    sway: float  # amplitude of its curves, at most
    spin: float  # per frame, at most
    zoom: float  # of the logarithm of its scale
    bend: float  # slope of its wave, at most .3
    camera: float  # speed and, tenfold, amplitude of the camera
    light: float  # amplitude of gains over time and space
    noise: float  # standard deviation, of 0..1
    blur: float  # probability of motion blur
    shadow: float  # probability that a layer casts a shadow


@compiled
@no_type_check
def between(state, low, high):
    return low + (high - low) * uniform(state)


@compiled
@no_type_check
def mixed(easy, hard, part):
    """A difficulty between two."""
    return Difficulty(
        easy.layers + part * (hard.layers - easy.layers),
        easy.more_layers + part * (hard.more_layers - easy.more_layers),
        easy.smallest + part * (hard.smallest - easy.smallest),
        easy.largest + part * (hard.largest - easy.largest),
        easy.speed + part * (hard.speed - easy.speed),
        easy.sway + part * (hard.sway - easy.sway),
        easy.spin + part * (hard.spin - easy.spin),
        easy.zoom + part * (hard.zoom - easy.zoom),
        easy.bend + part * (hard.bend - easy.bend),
        easy.camera + part * (hard.camera - easy.camera),
        easy.light + part * (hard.light - easy.light),
        easy.noise + part * (hard.noise - easy.noise),
        easy.blur + part * (hard.blur - easy.blur),
        easy.shadow + part * (hard.shadow - easy.shadow),
    )


@compiled
@no_type_check
def wave(x):
    """A smooth wave of period 1 between -1 and 1, slope 8 at most: two parabolas."""
    f = x - math.floor(x) - 0.5
    return 8.0 * f * (2.0 * abs(f) - 1.0)


@compiled
@no_type_check
def texel_of(place, bend, time, x, y):
    """(u, v) of pixel (x, y). place (a, b, x, y): A_t = [[a, -b], [b, a]]; bend: of `draw_motion`."""
    a, b, x, y = place[0], place[1], x - place[2], y - place[3]
    size = a * a + b * b
    w, z = (a * x + b * y) / size, (a * y - b * x) / size
    drift = bend[4] * time
    return (
        w + bend[0] * wave(bend[1] * z + bend[2] + drift),
        z + bend[0] * wave(bend[1] * w + bend[3] + drift),
    )


@compiled
@no_type_check
def pixel_of(place, bend, time, u, v):
    """(x, y) of texel (u, v): `texel_of` the other way round."""
    w, z, drift = u, v, bend[4] * time
    for _ in range(ITERATIONS):
        w, z = (
            u - bend[0] * wave(bend[1] * z + bend[2] + drift),
            v - bend[0] * wave(bend[1] * w + bend[3] + drift),
        )
    return place[0] * w - place[1] * z + place[2], place[1] * w + place[0] * z + place[3]


@compiled
@no_type_check
def alpha_at(tile, size, u, v):
    """The alpha of a tile at (u, v), bilinear; 0 outside."""
    x, y = u + 0.5 * size - 0.5, v + 0.5 * size - 0.5
    if not (x >= 0 and y >= 0 and x < size - 1 and y < size - 1):
        return 0.0
    i, j = int(y), int(x)
    s, t = y - i, x - j
    upper = tile[i, j, 3] + t * (tile[i, j + 1, 3] - tile[i, j, 3])
    lower = tile[i + 1, j, 3] + t * (tile[i + 1, j + 1, 3] - tile[i + 1, j, 3])
    return upper + s * (lower - upper)


@compiled
@no_type_check
def mirrored(i, n):
    """Index i of a row of n, continued in mirror images."""
    i = i % (2 * n)
    return i if i < n else 2 * n - 1 - i


@compiled
@no_type_check
def background_at(tile, u, v, channel):
    """A channel of the background at (u, v), bilinear."""
    size = tile.shape[0]
    x, y = u + 0.5 * size - 0.5, v + 0.5 * size - 0.5
    i, j = math.floor(y), math.floor(x)
    s, t = y - i, x - j
    i, k = mirrored(i, size), mirrored(i + 1, size)
    j, m = mirrored(j, size), mirrored(j + 1, size)
    upper = tile[i, j, channel] + t * (tile[i, m, channel] - tile[i, j, channel])
    lower = tile[k, j, channel] + t * (tile[k, m, channel] - tile[k, j, channel])
    return upper + s * (lower - upper)


@compiled
@no_type_check
def top_layer(tiles, sizes, places, bends, time, frame, x, y):
    """The nearest layer whose alpha at a pixel is above .5, and that pixel's texel (u, v)."""
    for layer in range(sizes.size - 1, 0, -1):
        place, size = places[layer, frame], sizes[layer]
        reach = 0.75 * size  # half of a diagonal
        if (x - place[2]) ** 2 + (y - place[3]) ** 2 > reach * reach * (place[0] ** 2 + place[1] ** 2):
            continue
        u, v = texel_of(place, bends[layer], time, x, y)
        if alpha_at(tiles[layer - 1], size, u, v) > 0.5:
            return layer, u, v
    u, v = texel_of(places[0, frame], bends[0], time, x, y)
    return 0, u, v


@compiled
@no_type_check
def draw_texture(state, pixels, levels, tile, size):
    """Fill the colours of a tile: a turned and scaled part of a random texture, in other colours, 0..1."""
    texture = integer(state, levels.shape[0])
    scale, angle = between(state, 0.6, 1.6), between(state, 0, 2 * math.pi)
    level = 1 if scale > 1.2 else 0
    begin, height, width = levels[texture, level]
    scale = 0.5 * scale if level == 1 else scale
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    x0, y0 = between(state, 0, width), between(state, 0, height)
    gain, base, order = np.empty(3), np.empty(3), np.arange(3)
    if uniform(state) < 0.5:
        order[:] = (order + 1 + integer(state, 2)) % 3
    contrast = between(state, 0.7, 1.3)
    for c in range(3):
        gain[c] = contrast * between(state, 0.75, 1.25) / 255.0
        base[c] = between(state, -0.1, 0.1) + 0.5 * (1 - 255.0 * gain[c])
    if uniform(state) < 0.15:  # a negative
        for c in range(3):
            gain[c], base[c] = -gain[c], 1 - base[c]
    for row in range(size):
        for column in range(size):
            dx, dy = column - 0.5 * size, row - 0.5 * size
            x, y = x0 + a * dx - b * dy, y0 + b * dx + a * dy
            i, j = math.floor(y), math.floor(x)
            s, t = y - i, x - j
            i, k = mirrored(i, height), mirrored(i + 1, height)
            j, m = mirrored(j, width), mirrored(j + 1, width)
            for c in range(3):
                o = order[c]
                upper = (1 - t) * pixels[begin + i * width + j, o] + t * pixels[begin + i * width + m, o]
                lower = (1 - t) * pixels[begin + k * width + j, o] + t * pixels[begin + k * width + m, o]
                value = gain[c] * ((1 - s) * upper + s * lower) + base[c]
                tile[row, column, c] = min(max(value, 0.0), 1.0)


@compiled
@no_type_check
def draw_outline(state, radius, outline):
    """Fill the table of radii by angle of a superellipse or a star polygon of that outer radius."""
    if uniform(state) < 0.4:  # |x / p|^n + |y / q|^n = 1
        power, ratio = between(state, 0.8, 5.0), between(state, 0.45, 1.0)
        for i in range(outline.size):
            angle = 2 * math.pi * i / outline.size
            c, s = abs(math.cos(angle)), abs(math.sin(angle)) / ratio
            outline[i] = (c**power + s**power) ** (-1 / power)
    else:
        corners = 3 + integer(state, 8)
        nodes = np.empty((corners, 2))
        for k in range(corners):
            angle = 2 * math.pi * (k + between(state, -0.3, 0.3)) / corners
            length = between(state, 0.4, 1.0)
            nodes[k, 0], nodes[k, 1] = length * math.cos(angle), length * math.sin(angle)
        for i in range(outline.size):
            angle = 2 * math.pi * i / outline.size
            outline[i] = ray(nodes, math.cos(angle), math.sin(angle))
    largest = outline.max()
    for i in range(outline.size):
        outline[i] *= radius / largest


@compiled
@no_type_check
def ray(nodes, c, s):
    """How far a ray from the centre in direction (c, s) goes to the nearest side of a polygon about it."""
    found = 0.05
    for k in range(nodes.shape[0]):
        x, y = nodes[k]
        dx, dy = nodes[(k + 1) % nodes.shape[0], 0] - x, nodes[(k + 1) % nodes.shape[0], 1] - y
        across = c * dy - s * dx
        if abs(across) < 1e-12:
            continue
        along, part = (x * dy - y * dx) / across, (x * s - y * c) / across
        if along > 0 and part >= 0 and part <= 1:
            found = max(found, along)
    return found


@compiled
@no_type_check
def draw_alpha(state, tile, size):
    """Fill the alpha of a tile: an outline with soft edges, perhaps with holes."""
    outline, holes = np.empty(ANGLES), np.zeros((2, 3))
    radius = 0.5 * size - 3.0
    draw_outline(state, radius, outline)
    if uniform(state) < 0.3:
        for h in range(1 + integer(state, 2)):
            angle, away = between(state, 0, 2 * math.pi), between(state, 0, 0.5) * radius
            holes[h, 0], holes[h, 1] = away * math.cos(angle), away * math.sin(angle)
            holes[h, 2] = between(state, 0.1, 0.3) * radius
    for row in range(size):
        for column in range(size):
            x, y = column + 0.5 - 0.5 * size, row + 0.5 - 0.5 * size
            at = (math.atan2(y, x) / (2 * math.pi)) % 1.0 * ANGLES
            i = int(at)
            edge = outline[i % ANGLES] + (at - i) * (outline[(i + 1) % ANGLES] - outline[i % ANGLES])
            inside = edge - math.sqrt(x * x + y * y)
            for h in range(2):
                if holes[h, 2] > 0:
                    inside = min(inside, math.sqrt((x - holes[h, 0]) ** 2 + (y - holes[h, 1]) ** 2) - holes[h, 2])
            tile[row, column, 3] = min(max(inside / SOFT + 0.5, 0.0), 1.0)


@compiled
@no_type_check
def draw_motion(state, hard, own, size, extent, times, camera, near, places, bend):
    """Fill a layer's places (times, 4) and its wave bend (amplitude, frequency, two phases, drift).

    It passes a random place of the frame at a random time. own: 1, or 0 for what moves with the camera alone. camera
    (times, 4): shift x, y, turn, zoom; near: how much of them it follows.
    """
    speed, direction = own * hard.speed * uniform(state), between(state, 0, 2 * math.pi)
    vx, vy = speed * math.cos(direction), speed * math.sin(direction)
    middle = between(state, times[0], times[-1])
    height, width = extent
    x0, y0 = between(state, -0.1, 1.1) * width, between(state, -0.1, 1.1) * height
    turn, spin = between(state, 0, 2 * math.pi), own * between(state, -hard.spin, hard.spin)
    sway, rate, phase = np.empty(4), np.empty(4), np.empty(4)
    for i in range(4):  # x, y, turn, zoom
        most = hard.sway if i < 2 else (0.3 * hard.spin / 0.04 if i == 2 else hard.zoom)
        sway[i], rate[i], phase[i] = (
            own * most * uniform(state),
            2 * math.pi / between(state, 16, 64),
            between(state, 0, 6.3),
        )
    for k in range(times.size):
        t = times[k] - middle
        swing = sway * (np.sin(rate * t + phase) - np.sin(phase))
        angle = turn + spin * t + swing[2] + near * camera[k, 2]
        scale = math.exp(swing[3] + near * camera[k, 3])
        x, y = x0 + vx * t + swing[0] - 0.5 * width, y0 + vy * t + swing[1] - 0.5 * height
        c, s = math.cos(near * camera[k, 2]), math.sin(near * camera[k, 2])
        grown = math.exp(near * camera[k, 3])
        places[k, 0], places[k, 1] = scale * math.cos(angle), scale * math.sin(angle)
        places[k, 2] = 0.5 * width + grown * (c * x - s * y) + near * camera[k, 0]
        places[k, 3] = 0.5 * height + grown * (s * x + c * y) + near * camera[k, 1]
    bend[1] = between(state, 0.7, 1.5) / size
    bend[0] = hard.bend * uniform(state) / (8 * bend[1])
    bend[2], bend[3], bend[4] = uniform(state), uniform(state), between(state, -0.04, 0.04)


@compiled
@no_type_check
def draw_camera(state, hard, times, camera):
    """Fill the camera's path (times, 4): shift x, y, turn, zoom."""
    direction, speed = between(state, 0, 2 * math.pi), hard.camera * uniform(state)
    sway = np.array([10 * hard.camera, 10 * hard.camera, 0.05 * hard.camera, 0.05 * hard.camera])
    middle = 0.5 * (times[0] + times[-1])
    for i in range(4):
        size, rate, phase = sway[i] * uniform(state), 2 * math.pi / between(state, 20, 80), between(state, 0, 6.3)
        drift = speed * (math.cos(direction) if i == 0 else math.sin(direction)) if i < 2 else 0.0
        for k in range(times.size):
            t = times[k] - middle
            camera[k, i] = drift * t + size * (math.sin(rate * t + phase) - math.sin(phase))
