"""Streams of more frames than float32 can count: one pixel, 2^24 frames and 2 * 10^7, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cssm.nn.parts.norm import RunningMoments, create_norm
from cssm.nn.parts.position import Time
from cssm.nn.parts.readout import Read, Readout

CHANNELS = 2
WANTED = 1e-4


def pixel(t, xp):
    """(..., 2): two numbers of frame t in [25, 26], the same float32 in NumPy and JAX."""
    chance = (t.astype(xp.uint32) * xp.uint32(2654435761)) >> xp.uint32(8)  # 24 bits, exact in float32
    unit = chance.astype(xp.float32) * xp.float32(2.0**-24)
    return xp.stack([unit, 1 - unit], -1) + xp.float32(25)


def streamed(norm, readout, start, first, count):
    """`count` frames, one after another: the states after them, the last normalised pixel."""
    angles = 10000.0 ** (-np.arange(3) / 9.0)

    @jax.jit
    def run(states):
        def body(i, carry):
            (moments, read, time), _ = carry
            x = pixel(first + i, jnp).reshape(1, 1, 1, CHANNELS)
            moments, y = norm.step(moments, x)
            return (moments, readout.step(read, x)[0], time.after(jnp.ones((1, 1)))), y[0, 0, 0]

        states, y = lax.fori_loop(0, count, body, (states, jnp.zeros(CHANNELS)))
        return states, y, states[2].angles(angles)

    return run(start), angles


def assert_right(found, frames, angles, mean, variance):
    """mean (2,) of both channels and the variance of all pixels so far, in float64."""
    ((moments, read, time), y, turned) = found
    assert int(moments.frames[0]) == int(read.frames[0]) == int(time.frames[0]) == frames
    last = pixel(np.asarray([frames - 1]), np)[0].astype(np.float64)
    errors = {
        "mean": np.abs(np.asarray(read.held[0, :, 0]) - mean).max(),
        "norm": np.abs(np.asarray(y) - (last - mean.mean()) / np.sqrt(variance + 1e-6)).max(),
        "phase": np.abs(np.exp(1j * np.asarray(turned[0], np.float64)) - np.exp(1j * frames * angles)).max(),
    }
    print(f"after {frames:,} frames:", {name: f"{error:.1e}" for name, error in errors.items()})
    assert max(errors.values()) <= WANTED


def build(grid):
    norm, readout = create_norm("global_layer_causal", CHANNELS), Readout(CHANNELS, 3, "mean", "mean", rngs=nnx.Rngs(0))
    return norm, readout, (norm.init_state(1, grid), readout.init_state(1, grid), Time.zero(1))


@pytest.mark.slow
def test_twenty_million_frames_of_one_pixel():
    frames = 20_000_000
    norm, readout, start = build((1, 1))
    found, angles = streamed(norm, readout, start, 0, frames)
    total, square = np.zeros(CHANNELS), 0.0
    for first in range(0, frames, 10**6):
        x = pixel(np.arange(first, first + 10**6), np).astype(np.float64)
        total, square = total + x.sum(0), square + np.square(x - 25.5).sum()
    mean = total / frames
    variance = square / (CHANNELS * frames) - (mean.mean() - 25.5) ** 2
    assert_right(found, frames, angles, mean, variance)


def test_past_two_to_the_24_frames_still_count():
    """As after 2^24 - 500 frames of mean 25 and variance 1/12: 1,000 more, of mean 25.5, move both as in float64."""
    before, more = 2**24 - 500, 1000
    norm, readout, _ = build((1, 1))
    count = jnp.full((1,), before, jnp.int32)
    moments = RunningMoments(count, jnp.array([[25.0, 0.0]]), jnp.array([[1 / 12, 0.0]]))
    start = (moments, Read(count, jnp.array([[[25.0, 0.0]] * CHANNELS])), Time(count, jnp.zeros(1, jnp.int32)))
    found, angles = streamed(norm, readout, start, before, more)
    x = pixel(before + np.arange(more), np).astype(np.float64)
    frames = before + more
    mean = (25.0 * before + x.sum(0)) / frames
    whole = mean.mean()
    variance = (
        before * (float(jnp.float32(1 / 12)) + (25.0 - whole) ** 2) + np.square(x - whole).mean(1).sum()
    ) / frames
    assert_right(found, frames, angles, mean, variance)
    moved = np.asarray(found[0][1].held[0], np.float64).sum(-1) - 25
    np.testing.assert_allclose(moved, mean - 25, rtol=1e-3)  # 3e-5: a float32 sum of 4e8 moves by 0 or by 32
