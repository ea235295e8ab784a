"""Spectral cells: the compiled kernel against the equations in XLA's operations, in values and every gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import ShapeError, UsageError
from cssm.ops.cell import cell_explain, cell_scan, cell_step, convolution, delta, gated, opponent, system
from cssm.ops.spectral.native_call import without_compiled_kernels
from cssm.shared.cell import OPPONENT

CELLS = {
    "gated": gated(),
    "opponent": opponent(0.9),
    "delta": delta(2),
    "delta of 3": delta(3),
    "convolution": convolution(),
    "system": system(),
}
EVERY = pytest.mark.parametrize("name", CELLS)
native, plain = partial(cell_scan, implementation="native"), partial(cell_scan, implementation="plain")


def arguments(name, shape=(2, 5, 6, 7, 3), seed=0, dtype=np.float64):
    """What a cell takes: x, planes, gates, statics, state; and resets."""
    cell, (batch, steps, height, width, channels) = CELLS[name], shape
    count, rng, half = cell.counts, np.random.default_rng(seed), (height, width // 2 + 1)
    x = rng.normal(size=(*shape[:4], count.inputs * channels))
    planes = rng.uniform(0, 1, (batch, steps, count.planes, *half))
    gates = rng.uniform(0, 1, (batch, steps, count.gates, channels))
    statics = np.fft.rfft2(rng.normal(size=(count.statics, channels, height, width)) / np.sqrt(height * width))
    if cell.kind == OPPONENT:
        statics[2] = np.abs(statics[0]) + 1j * np.abs(statics[1])
    state = np.fft.rfft2(rng.normal(size=(batch, count.states, channels, height, width)))
    compound = np.complex128 if dtype == np.float64 else np.complex64
    arrays = *(a.astype(dtype) for a in (x, planes, gates)), *(a.astype(compound) for a in (statics, state))
    return tuple(map(jnp.asarray, arrays)), jnp.asarray(rng.random((batch, steps)) < 0.25)


def loss(run, cell, reset, readout, *arrays):
    """A number that every entry of the state and of y moves, and both."""
    state, y = run(cell, *arrays, reset=reset, readout=readout)
    total = jnp.sum(jnp.cos(jnp.arange(state.size)).reshape(state.shape) * (state.real**2 + state.real * state.imag))
    return total / max(1, state[0].size) + (0 if y is None else jnp.sum(y**3)), (state, y)


def slopes(run, name, readout, arrays, reset):
    call = partial(loss, run, CELLS[name], reset, readout)
    return jax.jit(jax.value_and_grad(call, argnums=(0, 1, 2, 3, 4), has_aux=True))(*arrays)


def gradient(name, run, *arrays):
    *arrays, reset = arrays
    return jax.grad(lambda *a: loss(run, CELLS[name], reset, "all", *a)[0], argnums=(0, 1, 2, 3, 4))(*arrays)


def near(found, expected, tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = float(jnp.abs(other).max()) if other.size else 0
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * (scale + 1e-30))


@pytest.mark.parametrize(
    ("name", "readout"),
    [(name, "all") for name in CELLS]
    + [("opponent", "none"), ("gated", "mean")]
    + [
        pytest.param(name, readout, marks=pytest.mark.slow)
        for name in CELLS
        for readout in ("none", "mean")
        if (name, readout) not in (("opponent", "none"), ("gated", "mean"))
    ],
)
def test_equals_the_equations_with_every_gradient(x64, name, readout):
    for shape in ((2, 5, 6, 7, 3), (1, 9, 8, 4, 9)):  # lanes in part; segments of the gradient of 3 frames
        arrays, reset = arguments(name, shape)
        near(slopes(native, name, readout, arrays, reset), slopes(plain, name, readout, arrays, reset), 1e-13)


SHAPES = (1, 1, 3, 5, 17), (1, 40, 1, 2, 8), (3, 4, 97, 2, 16)
FAST = dict(zip(("gated", "opponent", "delta"), SHAPES, strict=True))


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(n, s, marks=[] if FAST[n] == s else pytest.mark.slow) for n in FAST for s in SHAPES],
    ids=str,
)
def test_single_precision_of_any_shape(name, shape):
    arrays, reset = arguments(name, shape, dtype=np.float32)
    near(slopes(native, name, "all", arrays, reset), slopes(plain, name, "all", arrays, reset), 2e-5)


def test_one_frame_is_a_step():
    for name in CELLS:
        (x, planes, gates, statics, state), _ = arguments(name, (2, 1, 4, 6, 8), dtype=np.float32)
        state_after, y = native(CELLS[name], x, planes, gates, statics, state)
        near((state_after, y[:, 0]), cell_step(CELLS[name], x[:, 0], planes[:, 0], gates[:, 0], statics, state), 2e-6)


@EVERY
def test_a_reset_forgets_even_a_poisoned_past(name):
    (*arrays, state), _ = arguments(name, (2, 4, 4, 6, 8), dtype=np.float32)
    reset = jnp.zeros((2, 4), bool).at[0, 2].set(True)
    after, y = native(CELLS[name], *arrays, state.at[0].set(jnp.nan), reset=reset)
    later = (a if a is arrays[3] else a[:, 2:] for a in arrays)
    expected, expected_y = plain(CELLS[name], *later, jnp.zeros_like(state))
    near((after[0], y[0, 2:]), (expected[0], expected_y[0]), 2e-6)
    assert bool(jnp.isfinite(y[1]).all())  # the other row never knew


ONE = pytest.mark.parametrize(
    "name", ["opponent", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gated", "delta"))]
)


@ONE
def test_vmap(x64, name):
    arrays, reset = arguments(name, (4, 3, 4, 5, 2))
    several = tuple(a if i == 3 else a.reshape(2, 2, *a.shape[1:]) for i, a in enumerate((*arrays, reset)))

    for axes in ((0, 0, 0, None, 0, 0), (None, 0, 0, None, None, None), (0, 0, 0, 0, 0, 0)):
        given = [
            jnp.stack([a, a / 2]) if i == 3 and axis == 0 else a if i == 3 or axis == 0 else a[0]
            for i, (axis, a) in enumerate(zip(axes, several, strict=True))
        ]
        found, expected = (jax.vmap(partial(gradient, name, run), axes)(*given) for run in (native, plain))
        near(found, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated", "opponent", "delta"])
def test_second_derivatives(x64, name):
    arrays, reset = arguments(name, (2, 3, 4, 5, 2))

    def slope(run, x, statics):
        slopes = gradient(name, run, x, *arrays[1:3], statics, *arrays[4:], reset)
        return sum(jnp.sum(jnp.abs(g) ** 2) / g.size for g in slopes if g.size)

    found, expected = (jax.grad(partial(slope, run), (0, 1))(arrays[0], arrays[3]) for run in (native, plain))
    near(found, expected, 1e-11)


def test_the_same_bits_every_time_and_with_one_thread():
    from cssm.kernels import xla_cpu

    arrays, reset = arguments("opponent", (3, 6, 8, 8, 20), dtype=np.float32)
    first = slopes(native, "opponent", "all", arrays, reset)
    with xla_cpu.limited_to(1):
        alone = slopes(native, "opponent", "all", arrays, reset)
    for again in (alone, slopes(native, "opponent", "all", arrays, reset)):
        jax.tree.map(np.testing.assert_array_equal, first, again)


def test_the_choice_is_explained():
    (x, *_, state), _ = arguments("gated", (1, 2, 4, 6, 8), dtype=np.float32)
    assert cell_explain(x, state) == "native: a CPU, the spectra never leave the cache"
    assert cell_explain(x[..., :3], state[:, :, :3]) == "plain: 3 channels fill less than half of their vectors of 16"
    with without_compiled_kernels():
        assert cell_explain(x, state) == "plain: compiled kernels are turned off here"


def test_bad_input_is_named():
    arrays, _ = arguments("gated", dtype=np.float32)
    with pytest.raises(ShapeError, match=r"planes has shape \(2, 5, 1, 6, 4\), expected \(2, 5, 3, 6, 4\)"):
        cell_scan(gated(), arrays[0], arrays[1][:, :, :1], *arrays[2:])
    with pytest.raises(UsageError, match="unknown readout 'last' of cell_scan: use all, mean, none"):
        cell_scan(gated(), *arrays, readout="last")
    with pytest.raises(UsageError, match="unknown implementation 'fast' of cell_scan: use native or plain"):
        cell_scan(gated(), *arrays, implementation="fast")
    with (
        without_compiled_kernels(),
        pytest.raises(UsageError, match="cannot run here: compiled kernels are turned off"),
    ):
        native(gated(), *arrays)
