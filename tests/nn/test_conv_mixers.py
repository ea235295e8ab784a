"""mingru, conv3d, the recurrence in space, and the attention controls, each against an independent witness."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import made
from cssm.core.errors import UsageError
from cssm.nn.shared.in_space import convolve, folded, in_space_parallel, in_space_sequential
from cssm.ops import kernel_spectrum, spectral_scan
from made import with_gradients
from tolerances import assert_close

B, T, GRID, CHANNELS = 2, 5, (4, 6), 4


build = partial(made.mixer, channels=CHANNELS)
clip = partial(made.clip, t=T, grid=GRID, channels=CHANNELS, batch=B)


def scanned(mixer, x, state=None, **options):
    """Compiled mixer.scan, from no past unless told."""
    graph, params = nnx.split(mixer)
    state = mixer.init_state(B, x.shape[2:4]) if state is None else state
    return jax.jit(lambda p, s, x: nnx.merge(graph, p).scan(s, x, **options))(params, state, x)


def double(array):
    return np.asarray(array, np.float64)


# mingru


def spatial_dense_by_hand(layer, x):
    """float64: y[p] = W^T sum_q k[q] x[p - q] + b, circular, one tap after another."""
    kernel, total = double(layer.kernel), np.zeros_like(x)
    size = kernel.shape[-1]
    for i in range(size):
        for j in range(size):
            total += kernel[:, i, j] * np.roll(x, (i - size // 2, j - size // 2), (-3, -2))
    return total @ double(layer.mix.kernel) + double(layer.mix.bias)


@pytest.mark.parametrize("numerics", ["direct", "log"])
@pytest.mark.parametrize("kernel_size", [3, 9])  # 9: larger than the grid
def test_mingru_equals_the_sequential_equation_in_float64(numerics, kernel_size):
    mixer, x = build("mingru", numerics=numerics, kernel_size=kernel_size), clip()
    z = 1 / (1 + np.exp(-spatial_dense_by_hand(mixer.gate, double(x))))
    v = spatial_dense_by_hand(mixer.candidate, double(x))
    candidate = np.where(v >= 0, v + 0.5, 1 / (1 + np.exp(-v)))
    start = mixer.init_state(B, GRID)._replace(memory=jnp.abs(clip(seed=3)[:, 0]))
    h, expected = double(start.memory), []
    for t in range(T):
        h = (1 - z[:, t]) * h + z[:, t] * candidate[:, t]
        expected.append(h @ double(mixer.out.kernel) + double(mixer.out.bias))
    state, y = scanned(mixer, x, start)
    assert_close(double(y), np.stack(expected, 1), 3e-6)
    assert_close(double(state.memory), h, 3e-6)


def logistic(v):
    return 1 / (1 + np.exp(-v))


def test_rglru_equals_the_equations_of_griffin_in_float64():
    """De et al. 2024, section 2.4: gates from nearly shut (where 1 - a^2 cancels in float32) to wide open."""
    mixer = made.moved(build("rglru"), 0.5)
    mixer.decay_gate.bias[...] = jnp.array([-30.0, -12.0, 0.0, 8.0])
    x, start = clip(), mixer.scan(mixer.init_state(B, GRID), clip(seed=9))[0]
    h, rate, expected = double(start.memory), np.log1p(np.exp(double(mixer.Lambda))), []
    for frame in np.moveaxis(double(x), 1, 0):
        r, i = (logistic(frame @ double(g.kernel) + double(g.bias)) for g in (mixer.decay_gate, mixer.input_gate))
        a = np.exp(-8 * rate * r)
        h = a * h + np.sqrt(-np.expm1(-16 * rate * r)) * i * frame
        expected.append(h @ double(mixer.out.kernel) + double(mixer.out.bias))
    state, y = scanned(mixer, x, start)
    assert_close(double(y), np.stack(expected, 1), 3e-6)
    assert_close(double(state.memory), h, 3e-6)


def test_the_root_of_rglru_has_the_slope_of_float64_at_every_gate(x64):
    """sqrt(1 - a^2) has an infinite slope at a = 1; as a function of the gate its slope is finite, and right."""
    mixer = build("rglru", channels=1)
    mixer.decay_gate.kernel[...] = jnp.ones((1, 1))
    gates = np.array([-200.0, -80.0, -20.0, -9.0, -6.0, -5.0, -3.0, 0.1, 5.0])
    rate = 8 * np.log1p(np.exp(double(mixer.Lambda)))

    def weight(gate):
        x = gate[None]
        return (mixer.gates(x)[1] / (jax.nn.sigmoid(mixer.input_gate(x)) * x))[0]

    for dtype, limit in ((np.float64, 1e-12), (np.float32, 3e-6)):
        found = jax.vmap(jax.value_and_grad(weight))(jnp.asarray(gates, dtype))
        r, span = logistic(gates), rate * logistic(gates)
        root = np.sqrt(-np.expm1(-2 * span))
        slope = np.exp(-2 * span) * rate * r * logistic(-gates) / root
        np.testing.assert_allclose(found[0], root, rtol=limit, atol=1e-30)
        np.testing.assert_allclose(found[1], slope, rtol=10 * limit, atol=1e-20)


def test_mingru_in_logarithms_equals_direct_with_every_gradient():
    mixers = {numerics: build("mingru", numerics=numerics, kernel_size=3) for numerics in ("log", "direct")}
    reset = jnp.zeros((B, T), bool).at[0, 3].set(True).at[1, 0].set(True)

    def run(numerics):
        def call(mixer, x):
            state = mixer.scan(mixer.init_state(B, GRID), x[:, :2])[0]  # from zeros: no log of h_0
            return mixer.scan(state, x, reset=reset)

        return with_gradients(call, mixers[numerics], clip())

    (value, gradient), (expected, expected_gradient) = run("log"), run("direct")
    assert_close(value, expected)
    assert_close(gradient, expected_gradient, 1e-5)


def test_mingru_stays_within_the_range_of_its_candidates_for_4096_frames():
    mixer = build("mingru", kernel_size=3)
    for layer in (mixer.gate, mixer.candidate):
        layer.mix.kernel[...] = 8 * layer.mix.kernel[...]  # gates from closed to open
    graph, params = nnx.split(mixer)
    start = mixer.init_state(B, (2, 2))._replace(memory=jnp.full((B, 2, 2, CHANNELS), 3.0))

    def advance(carry, key):
        state, top = carry
        x = jax.random.normal(key, (B, 2, 2, CHANNELS)) * jnp.array([1e-3, 10.0])[:, None, None, None]
        merged = nnx.merge(graph, params)
        v = merged.candidate(x)
        top = jnp.maximum(top, jnp.where(v >= 0, v + 0.5, jax.nn.sigmoid(v)).max((1, 2, 3)))
        state = merged.step(state, x)[0]
        return (state, top), (state.memory.max((1, 2, 3)) / top, state.memory.min())

    keys = jax.random.split(jax.random.key(0), 4096)
    highest, lowest = jax.jit(lambda: jax.lax.scan(advance, (start, jnp.full((B,), 3.0)), keys)[1])()
    assert float(highest.max()) <= 1 + 1e-5 and float(lowest.min()) >= 0


# conv3d


def no_gate_with_the_weights_of(mixer):
    plain = build("no_gate", kernel_size=5, init_scale=0.2)
    plain.recurrence_kernel[...] = mixer.recurrence_kernel[...]
    plain.out.kernel[...], plain.out.bias[...] = mixer.out.kernel[...], mixer.out.bias[...]
    return plain


def test_conv3d_with_a_unit_kernel_of_one_frame_is_no_gate():
    mixer = build("conv3d", frames=1, kernel_size=5, init_scale=0.2, memory=0.4)
    mixer.input_kernel[...] = jnp.zeros_like(mixer.input_kernel[...]).at[:, 0, 1, 1].set(1.0)
    (state, y), (expected, same) = scanned(mixer, clip()), scanned(no_gate_with_the_weights_of(mixer), clip())
    assert_close((state.spectrum, y), (expected.spectrum, same))


def test_conv3d_equals_its_inner_steps_one_by_one_in_float64():
    mixer = build("conv3d", frames=3, iterations=3, kernel_size=3, init_scale=0.3)
    reset = jnp.zeros((B, T), bool).at[0, 2].set(True).at[1, 0].set(True)
    x, past = double(clip()), double(clip(seed=3))
    z = double_spectrum(mixer.recurrence_kernel)
    gain = mixer.rho * z / (1 + np.abs(z))
    filters = [double_spectrum(mixer.input_kernel[...][:, j]) for j in range(3)]
    expected = np.zeros_like(x)
    for b in range(B):
        spectrum, frames = np.zeros_like(gain), []
        for t, frame in enumerate([*past[b], *x[b]]):
            if t >= T and bool(reset[b, t - T]):
                spectrum, frames = np.zeros_like(gain), []
            frames = [np.fft.rfft2(np.moveaxis(frame, -1, 0)), *frames][:3]
            for _ in range(3):
                spectrum = gain * spectrum + sum(f * v for f, v in zip(filters, frames, strict=False))
            if t >= T:
                expected[b, t - T] = np.moveaxis(np.fft.irfft2(spectrum, s=GRID), 0, -1)
    expected = expected @ double(mixer.out.kernel) + double(mixer.out.bias)
    state = scanned(mixer, clip(seed=3))[0]
    assert_close(double(scanned(mixer, clip(), state, reset=reset)[1]), expected, 3e-6)


def double_spectrum(kernel):
    """float64: the spectrum of (C, K, K) centred on pixel (0, 0), folded onto the grid."""
    kernel = double(kernel)
    field, half = np.zeros((kernel.shape[0], *GRID)), kernel.shape[-1] // 2
    for i in range(kernel.shape[1]):
        for j in range(kernel.shape[2]):
            field[:, (i - half) % GRID[0], (j - half) % GRID[1]] += kernel[:, i, j]
    return np.fft.rfft2(field)


# in space


@pytest.mark.parametrize(("size", "grid"), [(4, (5, 9)), (7, (3, 8))])
def test_the_recurrence_in_space_equals_the_spectral_one(size, grid):
    x, past = clip(grid=grid), clip(seed=5, grid=grid)[:, 0]
    kernel = jax.random.normal(jax.random.key(2), (CHANNELS, size, size))
    kernel = 0.9 * kernel / jnp.abs(kernel).sum((1, 2), keepdims=True)

    def spectral(x, kernel, past):
        state = jnp.fft.rfft2(jnp.moveaxis(past, -1, 1))
        return spectral_scan(x, kernel_spectrum(kernel, grid), state=state)[1]

    value, gradient = with_gradients(spectral, x, kernel, past)
    for recurrence in (in_space_sequential, in_space_parallel):
        result, slopes = with_gradients(recurrence, x, kernel, past)
        assert_close(result, value)
        assert_close(slopes, gradient, 1e-5)


def test_the_convolution_in_space_in_float64(x64):
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 4, 4))
    expected = sum(np.asarray(kernel)[:, i, j] * np.roll(x, (i - 2, j - 2), (1, 2)) for i in range(4) for j in range(4))
    assert_close(jax.jit(lambda x, k: convolve(x, folded(k, (5, 7))))(x, kernel), expected)


@pytest.mark.parametrize("name", ["realspace_seq", "realspace_par"])
@pytest.mark.parametrize("scale", [0.01, 1.0])  # sum|k| below rho, and far above
def test_realspace_equals_the_spectral_recurrence_of_its_kernel(name, scale):
    mixer, x = build(name, kernel_size=5, init_scale=scale, rho=0.9), clip()
    raw, kernel = mixer.recurrence_kernel[...], mixer.kernel()
    total = np.abs(kernel).sum((1, 2))
    assert (total <= 0.9 + 1e-6).all()
    assert_close(total, np.minimum(np.abs(raw).sum((1, 2)), 0.9))
    assert_close(mixer.transition(GRID), kernel_spectrum(kernel, GRID))
    y = spectral_scan(x, mixer.transition(GRID))[1]
    assert_close(scanned(mixer, x)[1], mixer.out(y))
    if scale == 0.01:  # the kernel is used as it is
        np.testing.assert_array_equal(kernel, raw)


def test_realspace_stays_within_its_bound_where_all_taps_and_inputs_agree():
    mixer = build("realspace_seq", kernel_size=3, rho=0.99)
    mixer.recurrence_kernel[...] = jnp.ones((CHANNELS, 3, 3))
    graph, params = nnx.split(mixer)
    step = lambda s, _: (nnx.merge(graph, params).step(s, jnp.ones((B, 4, 4, CHANNELS)))[0], None)  # noqa: E731
    state = jax.jit(lambda s: jax.lax.scan(step, s, length=4096)[0])(mixer.init_state(B, (4, 4)))
    bound = mixer.state_bound((4, 4))
    assert 99.9 < float(state.memory.max()) <= bound * (1 + 1e-5) and bound == pytest.approx(100, rel=1e-5)


# attention, with flax's


def flax_attention(layer, merge_heads=None):
    """nnx.MultiHeadAttention with the weights of `layer`; merge_heads(q, k) may turn the projected q and k."""
    heads, channels = layer.heads, layer.out.kernel.shape[0]

    def attend(q, k, v, *, mask=None, **options):
        q, k = (q, k) if merge_heads is None else merge_heads(q, k)
        return nnx.dot_product_attention(q, k, v, mask=mask)

    flax = nnx.MultiHeadAttention(heads, channels, decode=False, attention_fn=attend, rngs=nnx.Rngs(0))
    for part, kernel, bias in zip(
        (flax.query, flax.key, flax.value), jnp.split(layer.qkv.kernel[...], 3, 1), jnp.split(layer.qkv.bias[...], 3),
        strict=True,
    ):  # fmt: skip
        part.kernel[...], part.bias[...] = kernel.reshape(channels, heads, -1), bias.reshape(heads, -1)
    flax.out.kernel[...] = layer.out.kernel[...].reshape(heads, -1, channels)
    flax.out.bias[...] = layer.out.bias[...]
    return flax


def turned_by_position(shape):
    """Rotary positions on q and k, as complex numbers: pair j turns by (t, y or x) 10000^(-2 j / C)."""
    t, h, w = shape
    pairs = CHANNELS // 2
    third = pairs // 3
    place = np.stack(np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 3)
    axis = [0] * third + [1] * third + [2] * (pairs - 2 * third)
    phase = np.exp(1j * place[:, axis] * 10000.0 ** (-2 * np.arange(pairs) / CHANNELS))

    def turn(z):  # b n heads d
        flat = z.reshape(*z.shape[:2], -1)
        turned = (flat[..., 0::2] + 1j * flat[..., 1::2]) * phase
        return jnp.stack([turned.real, turned.imag], -1).reshape(z.shape).astype(z.dtype)

    return lambda q, k: (turn(q), turn(k))


def transformer_block(mixer, tokens, attention):
    """x + scale attention(LN x), then x + scale MLP(LN x), tokens (N, n, C)."""
    tokens = tokens + mixer.space.scale[...] * attention(mixer.space.norm(tokens))
    hidden = jax.nn.gelu(mixer.mlp.layer.up(mixer.mlp.norm(tokens)))
    return tokens + mixer.mlp.scale[...] * mixer.mlp.layer.down(hidden)


@pytest.mark.parametrize("name", ["spatial_attn", "transformer"])
def test_attention_equals_flax_with_the_same_weights(name):
    options = {"attention": "joint"} if name == "transformer" else {}
    mixer, x = build(name, grid=GRID, heads=2, layer_scale=None, **options), clip()
    mixer.position.table[...] = 50 * mixer.position.table[...]
    turn = turned_by_position((T, *GRID)) if name == "transformer" else None
    attention, split = flax_attention(mixer.space.layer, turn), T if name == "spatial_attn" else 1

    def ours(mixer, attention, x):
        return x + mixer(x)

    def flax(mixer, attention, x):
        tokens = x + mixer.position.table[...]
        sequences = tokens.reshape(B * split, -1, CHANNELS)
        return transformer_block(mixer, sequences, attention).reshape(x.shape)

    (value, slope), (expected, expected_slope) = (with_gradients(f, mixer, attention, x, by=(2,)) for f in (ours, flax))
    assert_close(value, expected)
    assert_close(slope, expected_slope, 1e-5)


def test_attention_keeps_small_outputs_beside_large_inputs():
    """The output is the branches alone: nothing is lost by adding x and taking it away again."""
    mixer = build("spatial_attn", grid=GRID, heads=2, layer_scale=1e-6)
    mixer.position.table[...] = jnp.zeros_like(mixer.position.table[...])
    graph, params = nnx.split(mixer)
    run = jax.jit(lambda x: nnx.merge(graph, params)(x))
    # LayerNorm does not see a scale, so that the first branch does not either
    small, large = run(clip()), run(1e4 * clip())
    assert_close(large, small, 1e-3)


# bad input


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mingru", {"numerics": "goom"}, "mingru: unknown numerics 'goom', use direct or log"),
        ("mingru", {"kernel_size": 0}, "mingru: kernel_size is 0"),
        ("mingru", {"boundary": "open"}, "mingru: unknown boundary 'open', use circular or zero"),
        ("mingru", {"rho": 0.5}, "cannot honour rho"),
        ("conv3d", {"frames": 0}, "conv3d: frames is 0, expected at least 1"),
        ("conv3d", {"iterations": 0}, "conv3d: iterations is 0, expected at least 1"),
        ("conv3d", {"input_size": -1}, "conv3d: input_size is -1"),
        ("conv3d", {"rho": 2.0}, "conv3d: rho is 2.0"),
        ("realspace_seq", {"rho": 0.0}, "realspace_seq: rho is 0.0"),
        ("realspace_par", {"kernel_size": 0}, "realspace_par: kernel_size is 0"),
        ("realspace_par", {"boundary": "zero"}, "cannot honour boundary"),
    ],
)
def test_a_bad_option_is_named(name, options, says):
    with pytest.raises(UsageError, match=says):
        build(name, **options)
