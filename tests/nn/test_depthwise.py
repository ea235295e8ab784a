"""The mixers of ConvNeXt's blocks: step and scan, cuts and resets, closed forms, bounds, PyTorch's convolution."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

import made
from cssm.core.errors import UsageError
from cssm.nn.parts.depthwise import Depthwise, DepthwiseSSM, DepthwiseSSM3D, GatedSSM
from made import with_gradients
from tolerances import assert_close

C, GRID = 8, (9, 7)
MIXERS = {
    "ssm": lambda: DepthwiseSSM(C, 3, bias=True, rngs=nnx.Rngs(0)),
    "ssm, circular": lambda: DepthwiseSSM(C, 3, bias=True, boundary="circular", rngs=nnx.Rngs(0)),
    "gated": lambda: GatedSSM(C, 3, rngs=nnx.Rngs(0)),
    "3d": lambda: DepthwiseSSM3D(C, (3, 3, 3), conv_size=None, rngs=nnx.Rngs(0)),
}
every = pytest.mark.parametrize("name", MIXERS)


def build(name, scale=0.1):
    return made.moved(MIXERS[name](), scale)


def clip(t=5, batch=2):
    return made.clip(grid=GRID, channels=C, t=t, batch=batch)


def by_step(mixer, x):
    frames = jnp.moveaxis(x, 1, 0)
    state, y = lax.scan(lambda s, frame: mixer.step(s, frame), mixer.init_state(x.shape[0], GRID), frames)
    return state, jnp.moveaxis(y, 0, 1)


@every
def test_scan_equals_step_with_every_gradient(name):
    run = lambda m, x: m.scan(m.init_state(2, GRID), x)  # noqa: E731
    assert_close(with_gradients(run, build(name), clip()), with_gradients(by_step, build(name), clip()), 2e-5)


@every
def test_cuts_resets_and_readouts(name):
    mixer, x = build(name), clip()
    state, y = mixer.scan(mixer.init_state(2, GRID), x)
    cut, _ = mixer.scan(mixer.init_state(2, GRID), x[:, :2])
    assert_close(mixer.scan(cut, x[:, 2:]), (state, y[:, 2:]), 1e-5)
    reset = jnp.zeros((2, 5), bool).at[:, 2].set(True)
    assert_close(mixer.scan(cut, x[:, 2:], reset=reset[:, 2:]), mixer.scan(mixer.init_state(2, GRID), x[:, 2:]), 1e-5)
    for readout, expected in (("last", y[:, -1]), ("mean", y.mean(1))):
        assert_close(mixer.scan(mixer.init_state(2, GRID), x, readout=readout), (state, expected), 1e-5)


@every
def test_static_equals_the_repeated_frame(name):
    mixer, x = build(name), clip(t=1)[:, 0]
    start = mixer.scan(mixer.init_state(2, GRID), clip(t=3))[0]
    repeated = jnp.repeat(x[:, None], 6, 1)
    slow = with_gradients(lambda m, s, x: m.scan(s, x, readout="last"), mixer, start, repeated, by=(0, 1))
    fast = with_gradients(lambda m, s, x: m.static(s, x, 6), mixer, start, x, by=(0, 1))
    assert_close(fast, slow, 2e-5)
    alone, past = (
        with_gradients(lambda m, x, s=s: m.static(s, x, 6), mixer, x) for s in (None, mixer.init_state(2, GRID))
    )
    assert_close(alone, past, 2e-5)


@every
def test_the_state_stays_within_its_bound(name):
    mixer = build(name, 1.0)
    x = jnp.sign(clip(t=200, batch=1))
    bound = mixer.state_bound(GRID)
    for leaf in jax.tree.leaves(jax.jit(lambda x: mixer.scan(mixer.init_state(1, GRID), x, readout="last")[0])(x)):
        assert 0 < float(jnp.abs(leaf).max()) <= bound


def test_the_convolution_is_that_of_pytorch():
    """Correlation, zeros outside, as lax writes it."""
    layer, x = made.moved(Depthwise(C, 5, rngs=nnx.Rngs(0)), 0.1), clip()
    frames, kernel = x.reshape(-1, *x.shape[2:]), jnp.moveaxis(layer.kernel[...], 0, -1)[:, :, None]
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": C}
    expected = lax.conv_general_dilated(frames, kernel, (1, 1), "SAME", precision="highest", **options)
    assert_close(layer(x), expected.reshape(x.shape) + layer.bias[...], 2e-6)


@pytest.mark.parametrize("name", [name for name in MIXERS if name != "gated"])  # whose gates never open wholly
def test_a_recurrence_that_passes_on(name):
    mixer, x = build(name), clip()
    mixer.pass_on()
    u = x if mixer.conv is None else mixer.conv(x)
    assert_close(mixer(x), u, 2e-6)
    assert_close(mixer.static(mixer.init_state(2, GRID), x[:, 0], 4)[1], u[:, 0], 2e-6)


def test_bad_sizes_are_named():
    with pytest.raises(UsageError, match="kernel_size is 4, expected an odd number"):
        Depthwise(C, 4, rngs=nnx.Rngs(0))
    with pytest.raises(UsageError, match="unknown boundary 'mirror': use zero or circular"):
        Depthwise(C, 3, boundary="mirror", rngs=nnx.Rngs(0))
    with pytest.raises(UsageError, match=r"size \(2, 3, 3\), expected odd"):
        DepthwiseSSM3D(C, (2, 3, 3), rngs=nnx.Rngs(0))
