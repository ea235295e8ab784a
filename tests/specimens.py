"""Mixers under test and their witness: `step`, frame by frame, differentiated and compiled once per mixer.

Most of a law's time is compiling. Every law that says "equals frame by frame" reads the same compiled witness: it takes
T frames and a cotangent for the state and output after each, so that any prefix, readout or static clip is a slice.
"""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import made
from cssm.nn import MIXERS
from tolerances import assert_close

RECURRENT = [name for name in MIXERS.names() if MIXERS[name].recurrent]
CONTROLS = [name for name in MIXERS.names() if not MIXERS[name].recurrent]
TIMED = [name for name in RECURRENT if MIXERS[name].takes_dt]
VARIANTS = {"no_gate, zero boundary": ("no_gate", {"boundary": "zero", "margin": 3})}  # options that change the path
QUICK = {"rglru": {"a_min": 0.01, "a_max": 0.1}}  # law 6 waits 2,000 frames for a state to settle
SHIPPED = {path.stem for path in (Path(__file__).parents[1] / "docs" / "images" / "mixers").glob("*.png")}  # documented
CHANNELS = 8
B, T, GRID = 2, 7, (6, 9)
GRADIENT_LIMIT = 2e-5  # float32 sums over all pixels and frames


@cache
def build(name, seed=0):
    """The graph and parameters of a mixer, moved away from their initial values."""
    registered, options = VARIANTS.get(name, (name, QUICK.get(name, {})))
    mixer = made.mixer(registered, CHANNELS, grid=GRID, seed=seed, **options)
    return nnx.split(made.moved(mixer, 0.2, seed + 1))


def merged(name):
    return nnx.merge(*build(name))


def clip(t=T, grid=GRID, seed=2, batch=B):
    return np.asarray(made.clip(t=t, grid=grid, channels=CHANNELS, batch=batch, seed=seed))


@cache
def fresh_state(name):
    return jax.tree.map(np.asarray, merged(name).init_state(B, GRID))


@cache
def carried_state(name):
    """A state with a past of three frames."""
    return jax.tree.map(lambda v: v[2], frames_alone(name, fresh_state(name), clip(seed=5))[0])


def pulled(name, function):
    """(state, x, cotangent) -> (outputs, gradients) of function(mixer, state, x), as one compiled program.

    The gradients are those of parameters, state and x. Integers have neither cotangent nor gradient: zeros.
    """
    graph, moved = build(name)

    @jax.jit
    def run(params, state, x, cotangent):
        outputs, pull = jax.vjp(lambda p, s, v: function(nnx.merge(graph, p), s, v), params, state, x)
        gradients = pull(jax.tree.map(lambda v, c: c if _smooth(v) else _no_slope(v), outputs, cotangent))
        return outputs, jax.tree.map(lambda g: jnp.zeros(g.shape) if g.dtype == jax.dtypes.float0 else g, gradients)

    return lambda state, x, cotangent, params=moved: jax.tree.map(np.asarray, run(params, state, x, cotangent))


def _smooth(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _no_slope(leaf):
    return np.zeros(leaf.shape, jax.dtypes.float0)


@cache
def witness(name):
    """(state, x, cotangent) -> ((states, y), gradients), frame by frame, time first; x has T frames."""

    def by_step(mixer, state, x):
        def body(state, frame):
            state, y = mixer.step(state, frame)
            return state, (state, y)

        return lax.scan(body, state, jnp.moveaxis(x, 1, 0))[1]

    return pulled(name, by_step)


@cache
def scanned(name):
    """(state, x, cotangent) -> ((state, y), gradients) of `scan`; x has any number of frames."""
    return pulled(name, lambda mixer, state, x: mixer.scan(state, x))


def cotangents(tree):
    """Numbers for every output, none like another."""
    chance = np.random.default_rng(7)

    def draw(leaf):
        if not _smooth(leaf):
            return np.zeros(leaf.shape, leaf.dtype)
        real, imag = chance.normal(size=(2, *leaf.shape))
        return (real + 1j * imag if np.iscomplexobj(leaf) else real).astype(leaf.dtype)

    return jax.tree.map(draw, tree)


def read(y, readout="all", pooled=False):
    """(n, B, H, W, C) time first -> what `scan` shows, or its mean over space."""
    shown = {"all": lambda: np.moveaxis(y, 0, 1), "last": lambda: y[-1], "mean": lambda: y.mean(0)}[readout]()
    return shown.mean((-3, -2)) if pooled else shown


def unread(shown, n, readout="all", pooled=False):
    """The transpose of `read`: a cotangent for each of n frames, time first."""
    if pooled:
        pixels = GRID[0] * GRID[1]
        shown = np.broadcast_to(shown[..., None, None, :] / pixels, (*shown.shape[:-1], *GRID, shown.shape[-1]))
    if readout == "all":
        return np.moveaxis(shown, 1, 0)
    weights = np.full(n, 1 / n) if readout == "mean" else np.eye(n)[-1]
    return weights.reshape(n, *[1] * shown.ndim) * shown


def frames_alone(name, state, x):
    """The states and outputs after each of T frames, time first."""
    return witness(name)(state, x, nothing(state, x))[0]


def nothing(state, x):
    """A cotangent of zeros for the witness."""
    return jax.tree.map(lambda v: np.zeros((T, *v.shape), v.dtype), (state, x[:, 0]))


def frame_by_frame(name, state, x, *, frames=None, params=None, seen=cotangents, **reading):
    """(state, shown) after a clip of at most T frames, their cotangents, and the gradients.

    frames: indices of those that are shown, and that x is differentiated by. params: others than those of `build`.
    seen: (state, shown) -> their cotangents.
    """
    n, given = x.shape[1], {} if params is None else {"params": params}
    frames = list(range(n)) if frames is None else frames
    padded = np.concatenate([x, np.zeros((x.shape[0], T - n, *x.shape[2:]), x.dtype)], 1)
    full = nothing(state, padded)
    states, y = witness(name)(state, padded, full, **given)[0]
    result = jax.tree.map(lambda v: v[n - 1], states), read(y[frames], **reading)
    cotangent = seen(result)
    jax.tree.map(lambda total, c: total.__setitem__(n - 1, c), full[0], cotangent[0])
    full[1][frames] = unread(cotangent[1], len(frames), **reading)
    parameters, past, slope = witness(name)(state, padded, full, **given)[1]
    return result, cotangent, (parameters, past, slope[:, frames])


def assert_equal_to_frames(name, function, x, **reading):
    """function(mixer, state, x) -> (state, shown) has the values and all gradients of `step`, frame by frame."""
    state = carried_state(name)
    expected, cotangent, slopes = frame_by_frame(name, state, x, **reading)
    compare(pulled(name, function)(state, x, cotangent), (expected, slopes))


def compare(actual, expected):
    """(outputs, gradients) twice."""
    assert_close(actual[0], expected[0], what="values")
    assert_close(actual[1], expected[1], GRADIENT_LIMIT, what="gradients")
