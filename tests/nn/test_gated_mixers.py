"""The gated mixers against what they must equal: a scalar decay, plain recurrences, GOOM over materialised gates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.extend.core import jaxprs_in_params

import made
from cssm.bench.mixers_plain import gated_goom, opponent_goom
from cssm.core.errors import UsageError
from cssm.nn.mixers.opponent import transition
from cssm.nn.shared.causal_conv import CausalConv, DepthwiseConv
from cssm.nn.shared.gates import Clock, FactoredGates, interpolation, outer
from made import with_gradients
from tolerances import assert_close

CHANNELS, GRID = 2, (4, 6)


build = partial(made.mixer, channels=CHANNELS)
clip = partial(made.clip, grid=GRID, channels=CHANNELS)
shaken = partial(made.moved, scale=0.3)


def frozen_gates(mixer, **offsets):
    """Gates that do not depend on the input: the logit of each."""
    gates = mixer.gates
    gates.dense.kernel[...] = jnp.zeros_like(gates.dense.kernel[...])
    logits = [np.full(2 * gates.knots, offsets[name]) for name in gates.names]
    gates.dense.bias[...] = jnp.asarray(np.concatenate(logits), gates.dense.bias[...].dtype)


@pytest.mark.parametrize("name", ["gated", "no_fft"])
def test_constant_gates_and_a_kernel_of_one_pixel_are_a_scalar_decay(name, x64):
    mixer = build(name, **({"kernel_size": 1, "memory": 3.0, "init_scale": 0.0} if name == "gated" else {}))
    frozen_gates(mixer, step=0.3, write=1.5, read=-0.7)
    x = clip().astype(jnp.float64)
    past = mixer.time_conv.init_state(2, GRID)
    v = jax.jit(lambda x: mixer.time_conv.scan(past, mixer.space_conv(mixer.inner(x)))[1])(x)
    u, step = np.asarray(jax.nn.silu(v), np.float64), 2 * np.log1p(np.exp(0.3))
    gain = 0.999 * 3 / 4 if name == "gated" else 1 / (1 + np.exp(-2.0))
    state, states = np.zeros_like(u[:, 0]), []
    for t in range(u.shape[1]):
        state = gain * np.exp(-step) * state + step * 1.5**2 * u[:, t]
        states.append((-0.7) ** 2 * state)
    y = jnp.asarray(np.stack(states, 1))
    y = y if name == "gated" else mixer.norm(y)
    y = jax.jit(lambda x, y: (mixer(x), mixer.out(y * jax.nn.silu(mixer.gate(x)))))(x, y)
    assert_close(*y, 1e-6)


def test_opponent_without_couplings_is_two_standard_recurrences():
    mixer, x = build("opponent"), clip()
    for kernel in (mixer.excitation_kernel, mixer.inhibition_kernel):
        kernel[...] = jnp.zeros_like(kernel[...])
    frozen_gates(mixer, excite=2.0, inhibit=1.0, to_excitation=4.0, to_inhibition=4.0, write=100.0)
    decay, _, _ = mixer.transition_parts(GRID)
    start = jax.tree.map(lambda s: s, mixer.init_state(2, GRID))
    spectra = jnp.fft.rfft2(jnp.moveaxis(clip(t=2), -1, -3))
    state, _ = mixer.scan(start._replace(excitation=spectra[:, 0], inhibition=spectra[:, 1]), x)
    for logit, begin, frames, final in (
        (2.0, spectra[:, 0], x, state.excitation),
        (1.0, spectra[:, 1], 0 * x, state.inhibition),
    ):
        gain = decay.ravel() * jax.nn.sigmoid(logit) ** 2
        standard = build("standard", kernel_size=1)  # rho k / (1 + k) = gain
        standard.recurrence_kernel[...] = (gain / (0.999 - gain))[:, None, None]
        plain = standard.init_state(2, GRID)._replace(spectrum=begin)
        assert_close(final, standard.scan(plain, frames)[0].spectrum, 1e-6)


@pytest.mark.parametrize(("name", "plain"), [("gated", gated_goom), ("opponent", opponent_goom)])
def test_equals_goom_over_materialised_gates(name, plain):
    mixer, x = shaken(build(name)), clip()
    fast = with_gradients(lambda m, x: m(x), mixer, x)
    assert_close(fast, with_gradients(plain, mixer, x), 2e-5)
    sequential = jax.jit(lambda x: plain(mixer, x, implementation="sequential"))(x)
    assert_close(fast[0], sequential, 1e-5)


@pytest.mark.parametrize("readout", ["all", *(pytest.param(r, marks=pytest.mark.slow) for r in ("last", "mean"))])
def test_opponent_on_logarithms_equals_direct(readout):
    x, reset = clip(), jnp.zeros((2, 5), bool).at[0, 2].set(True).at[1, 0].set(True)
    direct, goom = (shaken(build("opponent", numerics=numerics)) for numerics in ("direct", "goom"))
    past = jax.jit(lambda x: direct.scan(direct.init_state(2, GRID), x)[0])(clip(t=3))
    run = lambda m, s, x: m.scan(s, x, reset=reset, readout=readout)  # noqa: E731
    expected, actual = (with_gradients(run, mixer, past, x) for mixer in (direct, goom))
    assert_close(actual, jax.tree.unflatten(jax.tree.structure(actual), jax.tree.leaves(expected)), 2e-5)
    if readout == "all":
        steps = [jax.jit(lambda x, m=m: m.step(past, x))(x[:, 0]) for m in (goom, direct)]
        assert_close(*steps, 1e-5)
    else:
        static = [jax.jit(lambda x, m=m: m.static(past, x, 3, readout=readout))(x[:, 0]) for m in (goom, direct)]
        assert_close(*static, 1e-5)


def test_opponent_rows_are_scaled_where_they_must_be():
    mixer = shaken(build("opponent", kernel_size=3), scale=3.0)
    frozen_gates(mixer, excite=9.0, inhibit=9.0, to_excitation=9.0, to_inhibition=9.0, write=0.0)
    mixer.decay_logit[...] = jnp.full((CHANNELS,), 9.0)
    gates = mixer.factors(clip()[:, 0], jnp.zeros((2, 1)))
    parts = mixer.transition_parts(GRID)

    def matrices(rho):
        rows, _ = transition(parts, rho, gates)
        m = np.stack([np.stack(np.broadcast_arrays(*map(np.asarray, row)), -1) for row in rows], -2)
        return np.abs(m).sum(-1).max(), np.abs(np.linalg.eigvals(m)).max()

    row_sum, radius = matrices(1e9)
    assert row_sum > 1.5 and radius > 1.1  # without scaling it would blow up
    row_sum, radius = matrices(mixer.rho)
    assert row_sum < 0.999 + 1e-6 and radius < 0.999 + 1e-6


@pytest.mark.parametrize("name", ["gated", "no_fft", "opponent"])
@pytest.mark.parametrize("logit", [-6.0, 1.0, 6.0])
def test_the_state_bound_holds_over_4096_frames(name, logit):
    """Gates held at their extremes, gains near one, and every pixel at its limit."""
    mixer, grid = shaken(build(name, **({} if name == "no_fft" else {"kernel_size": 3})), scale=1.0), (4, 4)
    opened = {"step": logit, "excite": 9.0, "inhibit": 9.0, "to_excitation": logit, "to_inhibition": logit}
    frozen_gates(mixer, **{gate: opened.get(gate, 3.0) for gate in mixer.gates.names})
    for leaf in ("recurrence_kernel", "excitation_kernel", "inhibition_kernel"):
        if hasattr(mixer, leaf):
            getattr(mixer, leaf)[...] = getattr(mixer, leaf)[...].at[:, 1, 1].add(300.0)
    mixer.decay_logit = nnx.Param(jnp.full((CHANNELS,), 9.0))
    signs = jnp.sign(clip(t=8, grid=grid))

    def run(state, _):
        state = mixer.scan(state, signs, readout="last")[0]
        return state, jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(state)]).max()

    largest = jax.jit(lambda: jax.lax.scan(run, mixer.init_state(2, grid), length=512)[1])()
    bound = mixer.state_bound(grid)
    assert np.isfinite(bound) and float(largest.max()) <= bound


def test_gates_are_even_and_the_same_function_of_frequency_on_every_grid():
    gates = FactoredGates(3, {"a": 0.5}, knots=5, rngs=nnx.Rngs(0))
    context = jax.random.normal(jax.random.key(0), (2, 3))
    (rows, columns), (fine_rows, fine_columns) = jax.jit(lambda c: [gates(c, g)["a"] for g in ((8, 12), (16, 24))])(
        context
    )
    assert_close(rows[:, 1:], rows[:, :0:-1])
    assert_close(rows, fine_rows[:, ::2])
    assert_close(columns, fine_columns[:, ::2])
    for weights in (*interpolation((7, 9), 5, "frequency"), *interpolation((7, 9), 5, "space")):
        np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-6)


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (1, 4)])
def test_gates_keep_the_field_real(grid):
    """A gated spectrum is that of a real field: through the field and back it is unchanged."""
    gates = FactoredGates(3, {"a": 0.5}, rngs=nnx.Rngs(0))
    gain = outer(*gates(jnp.ones(3), grid)["a"])
    spectrum = gain * jnp.fft.rfft2(jax.random.normal(jax.random.key(2), grid))
    assert_close(jnp.fft.rfft2(jnp.fft.irfft2(spectrum, s=grid)), spectrum)


def test_the_clock_is_exact_for_ever():
    clock, reset = Clock(5), jnp.zeros((2, 9), bool).at[0, 4].set(True)
    turns, shown = clock.scan(clock.init_state(2), 9, reset)
    frames = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4], range(9)])[..., None]
    np.testing.assert_array_equal(shown, frames * clock.units / 65536 % 1)
    np.testing.assert_array_equal(turns, (frames[:, -1] + 1) * clock.units / 65536 % 1)
    late = jax.lax.fori_loop(0, 100_000, lambda _, s: clock.step(s), clock.init_state(1))
    np.testing.assert_array_equal(late[0], 100_000 * clock.units.astype(np.int64) / 65536 % 1)
    assert clock.embed(shown).shape == (2, 9, 5)


def test_convolutions_equal_their_sums(x64):
    x, reset = np.asarray(clip(t=6), np.float64), np.zeros((2, 6), bool)
    reset[0, 3] = True
    conv = shaken(CausalConv(CHANNELS, 4, rngs=nnx.Rngs(0)))
    kernel, bias = (np.asarray(p[...], np.float64) for p in (conv.kernel, conv.bias))
    expected = np.zeros_like(x) + bias
    for row, starts in enumerate(([0, 0, 0, 3, 3, 3], [0] * 6)):
        for t, start in enumerate(starts):
            expected[row, t] += sum(kernel[lag] * x[row, t - lag] for lag in range(4) if t - lag >= start)
    past, y = conv.scan(conv.init_state(2, GRID), jnp.asarray(x), jnp.asarray(reset))
    assert_close(y, jnp.asarray(expected))
    assert_close(past, jnp.asarray(x[:, 3:]))
    space = shaken(DepthwiseConv(CHANNELS, 3, rngs=nnx.Rngs(0)))
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    expected = np.einsum("bthwcij,ijc->bthwc", windows, space.kernel[...]) + space.bias[...]
    assert_close(space(jnp.asarray(x)), jnp.asarray(expected))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_depthwise_gradients_are_those_of_the_grouped_convolution(x64, size):
    conv, x = shaken(DepthwiseConv(CHANNELS, size, rngs=nnx.Rngs(0))), clip(t=2).astype("float64")

    def grouped(conv, x):
        around = [(size // 2, size - 1 - size // 2)] * 2
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": CHANNELS}
        frames = x.reshape(-1, *x.shape[2:])
        y = lax.conv_general_dilated(frames, conv.kernel[...][:, :, None].astype(x.dtype), (1, 1), around, **options)
        return y.reshape(x.shape) + conv.bias[...]

    got, expected = (with_gradients(call, conv, x) for call in (lambda conv, x: conv(x), grouped))
    assert_close(got, expected, 1e-6)  # parameters and their gradients are float32


def test_causal_gradients_are_those_of_the_masked_sum():
    conv, x, past = shaken(CausalConv(CHANNELS, 4, rngs=nnx.Rngs(0))), clip(t=6), clip(t=3)
    call = lambda conv, x, past, reset: conv.scan(past, x, reset)  # noqa: E731
    got = with_gradients(partial(call, reset=None), conv, x, past)
    assert_close(got, with_gradients(partial(call, reset=jnp.zeros((2, 6), bool)), conv, x, past))


@pytest.mark.parametrize("name", ["gated", "opponent"])
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_no_gate_exists_per_frame_channel_and_frequency(name, readout):
    """All gates of all frames at once are (B, T, at most 5, H, Wf), for all channels."""
    channels, (height, width) = 16, GRID
    mixer, x = build(name, channels=channels), clip(t=9, channels=channels)
    limit = x.shape[0] * x.shape[1] * 5 * height * (width // 2 + 1)
    assert limit < x.shape[0] * x.shape[1] * channels * height * (width // 2 + 1)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            for value in (*equation.invars, *equation.outvars):
                if value.aval.shape[-2:] == (height, width // 2 + 1):
                    yield value.aval.size
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    run = lambda x: mixer.scan(mixer.init_state(2, GRID), x, readout=readout)  # noqa: E731
    assert max(sizes(jax.make_jaxpr(run)(x).jaxpr)) <= limit


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("gated", {"kernel_size": 0}, "kernel_size is 0"),
        ("gated", {"rho": 1.5}, "rho is 1.5"),
        ("gated", {"conv_size": 0}, "kernel_size is 0"),
        ("gated", {"conv_frames": 0}, "0 taps, expected at least one"),
        ("no_fft", {"conv_frames": 0}, "0 taps, expected at least one"),
        ("no_fft", {"knots": 1}, "knots is 1, expected at least 2"),
        ("no_fft", {"kernel_size": 3}, "cannot honour kernel_size"),
        ("opponent", {"numerics": "log"}, "unknown numerics 'log', use direct or goom"),
        ("opponent", {"rho": 0.0}, "rho is 0.0"),
    ],
)
def test_bad_options_are_named(name, options, says):
    with pytest.raises(UsageError, match=says):
        build(name, **options)


def test_unknown_gate_domain_is_named():
    with pytest.raises(UsageError, match="unknown domain 'time', use frequency or space"):
        FactoredGates(2, {"a": 0.0}, domain="time", rngs=nnx.Rngs(0))
