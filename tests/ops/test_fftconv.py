from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from cssm.ops import fftconv, kernel_spectrum
from cssm.ops.fftconv import cases
from cssm.ops.spectral.native_call import without_compiled_kernels
from cssm.shared import fft_plan
from cssm.shared.fft_shapes import ssm_sizes
from fftconv_bad_input import BAD
from tolerances import assert_close

STRATEGIES = (*fft_plan.SSM_STRATEGIES, None)
KINDS = {"real": (False, False), "complex_parameters": (False, True), "all_complex": (True, True)}


def draw(rng, shape, is_complex=False):
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if is_complex else 0)


def arguments(case, complex_x=False, complex_k=True, complex_b=True, complex_c=True, seed=0):
    rng = np.random.default_rng(seed)
    return (
        draw(rng, (case.batch, case.length, case.inputs), complex_x),
        draw(rng, (case.taps, case.states), complex_k),
        draw(rng, (case.states, case.inputs), complex_b),
        draw(rng, (case.outputs, case.states), complex_c),
    )


def outputs_and_gradients(function, *arrays):
    def loss(*arrays):
        y = function(*arrays)
        weight = jnp.cos(jnp.arange(y.size, dtype=jnp.finfo(y.dtype).dtype)).reshape(y.shape)
        return jnp.sum(weight * y.real) + 0.5 * jnp.sum(weight * y.imag) + jnp.sum(jnp.abs(y) ** 2), y

    gradients, y = jax.grad(loss, tuple(range(len(arrays))), has_aux=True)(*arrays)
    return y, gradients


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("prime_length", "real"),
        ("prime_length", "complex_parameters"),
        ("one_step", "complex_parameters"),
        ("long_kernel", "all_complex"),
    ],
)
def test_every_strategy_equals_the_sum_with_every_gradient(x64, name, kind):
    complex_x, complex_parameters = KINDS[kind]
    arrays = arguments(cases.TESTS[name], complex_x, *[complex_parameters] * 3)

    @jax.jit
    def run(*arrays):
        fast = [partial(fftconv.opt_ssm_forward, strategy=s, kernel_layout="length_first") for s in STRATEGIES[:3]]
        return [outputs_and_gradients(f, *arrays) for f in (fftconv.opt_ssm_forward_direct, *fast)]

    expected, *results = run(*arrays)
    for strategy, result in zip(STRATEGIES[:3], results, strict=True):
        assert_close(result, expected, what=f"{strategy}")


def test_any_mix_of_real_and_complex_parameters(x64):
    for mix in (1, 5, 6):
        arrays = arguments(cases.TESTS["short_kernel"], False, *(bool(mix >> i & 1) for i in range(3)))
        run = jax.jit(lambda *a: [fftconv.opt_ssm_forward(*a, strategy=s) for s in STRATEGIES[:3]])
        for y in run(*arrays):
            assert y.dtype == jnp.float64
            assert_close(y, numpy_ssm(*arrays), what=f"mix {mix}")


def test_the_reference_algorithm_computes_the_sum(x64):
    arrays = arguments(cases.TESTS["prime_length"])
    expected = numpy_ssm(*arrays)
    assert_close(jax.jit(fftconv.opt_ssm_forward_reference)(*arrays), expected)
    assert_close(jax.jit(fftconv.opt_ssm_forward_direct)(*arrays), expected)


def test_layouts_of_the_kernel():
    x, k, b, c = (jnp.asarray(a) for a in arguments(cases.TESTS["even"], complex_k=False, complex_b=False))
    ssm = jax.jit(fftconv.opt_ssm_forward, static_argnames="kernel_layout")
    assert_close(ssm(x, k.T, b, c), ssm(x, k, b, c))
    first = ssm(x, k[:5], b, c, kernel_layout="length_first")
    assert_close(ssm(x, k[:5].T, b, c, kernel_layout="state_first"), first)
    assert np.abs(first - ssm(x, k[:5], b, c, kernel_layout="state_first")).max() > 0.1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_computes_in_float32(strategy):
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in arguments(cases.TESTS["even"], False, False, False, False)]
    run = jax.jit(partial(fftconv.opt_ssm_forward, strategy=strategy))
    y, expected = run(*arrays), numpy_ssm(*(np.asarray(a, np.float32) for a in arrays))
    assert y.dtype == jnp.bfloat16
    assert_close(y, expected, limit=4e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_of_size_batch_length_inputs_states_is_made(strategy):
    case = cases.Ssm(8, 64, 16, 16, 16, 64)
    arrays = [jnp.asarray(a) for a in arguments(case)]
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: fftconv.opt_ssm_forward(*a, strategy=strategy).sum()))(*arrays)
    largest = max(v.aval.size for v in equation_outputs(jaxpr.jaxpr))
    assert largest < 64 * case.batch * case.inputs * case.states / 2


def equation_outputs(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equation_outputs(inner)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    case=st.builds(cases.Ssm, *(st.integers(1, n) for n in (3, 20, 4, 4, 5, 25))),
    kinds=st.tuples(*[st.booleans()] * 4),
    strategy=st.sampled_from(STRATEGIES),
)
def test_any_shape_and_kind_in_single_precision(case, kinds, strategy):
    double = arguments(case, *kinds)
    single = [a.astype(np.complex64 if np.iscomplexobj(a) else np.float32) for a in double]
    y = jax.jit(partial(fftconv.opt_ssm_forward, strategy=strategy, kernel_layout="length_first"))(*single)
    assert_close(y, numpy_ssm(*double), limit=3e-6)


def numpy_ssm(x, k, b, c):
    """The sum of docs/math.md section 5, step by step in NumPy."""
    u = x @ b.T
    states = np.zeros(u.shape, np.result_type(u, k))
    for lag in range(min(len(k), x.shape[1])):
        states[:, lag:] += k[lag] * u[:, : x.shape[1] - lag]
    y = states @ c.T
    return y if np.iscomplexobj(x) else y.real


@pytest.mark.parametrize("kind", ["complex_parameters", "all_complex"])
def test_scan_equals_the_geometric_kernel_with_every_gradient(x64, kind):
    complex_x, complex_parameters = KINDS[kind]
    case = cases.TESTS["prime_length"]
    x, k, b, c = arguments(case, complex_x, *[complex_parameters] * 3)
    a = 0.9 * k[0] / np.abs(k[0]) * np.linspace(0.2, 1, case.states)

    def by_kernel(x, a, b, c):
        powers = jnp.cumprod(jnp.concatenate([jnp.ones_like(a)[None], jnp.tile(a, (case.length - 1, 1))]), 0)
        return fftconv.opt_ssm_forward_direct(x, powers, b, c)

    pair = jax.jit(lambda *args: [outputs_and_gradients(f, *args) for f in (fftconv.opt_ssm_scan, by_kernel)])
    assert_close(*pair(x, a, b, c))


def test_scan_continues_from_its_state():
    x, k, b, c = (jnp.asarray(a) for a in arguments(cases.TESTS["even"]))
    a = 0.5 * k[0]

    @jax.jit
    def run(x, a, b, c):
        whole = fftconv.opt_ssm_scan(x, a, b, c, return_state=True)
        state, first = fftconv.opt_ssm_scan(x[:, :3], a, b, c, return_state=True)
        state, second = fftconv.opt_ssm_scan(x[:, 3:], a, b, c, state, return_state=True)
        return (state, jnp.concatenate([first, second], 1)), whole

    assert_close(*run(x, a, b, c))


def test_fft_conv_against_scipy(x64):
    rng = np.random.default_rng(0)
    x, k = draw(rng, (2, 11, 3)), draw(rng, (5, 3))
    expected = signal.fftconvolve(x, k[None], axes=1)[:, :11]
    y = fftconv.fft_conv("bln,ln->bln", x, k)
    assert y.dtype == jnp.float64
    assert_close(y, expected)
    decay = fftconv.opt_ssm_scan(x[..., :1], np.array([0.7]), np.ones((1, 1)), np.ones((1, 1)))
    assert_close(decay, signal.lfilter([1.0], [1.0, -0.7], x[..., :1], axis=1))


@pytest.mark.parametrize("taps", [1, 4, 7, 8, 14, 20])
def test_fft_conv_never_wraps_around(x64, taps):
    rng = np.random.default_rng(1)
    x, k = draw(rng, (2, 7, 3)), draw(rng, (taps, 4, 3), True)
    y = fftconv.fft_conv("bli,loi->blo", x, k)
    expected = sum(
        np.einsum("bli,oi->blo", np.pad(x, ((0, 0), (lag, 0), (0, 0)))[:, :7], k[lag]) for lag in range(min(taps, 7))
    )
    assert_close(y, expected)


@pytest.mark.parametrize("equation", ["blh,ln,nh,on->blo", "blh,nl,nh,on->blo", "blh,nl,nh,on->obl"])
def test_fft_conv_of_three_is_the_ssm_before_its_real_part(x64, equation):
    x, k, b, c = arguments(cases.TESTS["short_kernel"])
    expected = fftconv.opt_ssm_forward_direct(x.astype(complex), k, b, c)
    y = fftconv.fft_conv(equation, x, k.T if "nl" in equation else k, b, c)
    assert_close(y, jnp.moveaxis(expected, 2, 0) if equation.endswith("obl") else expected)


def test_fft_conv_gradients_and_dtypes(x64):
    x, k, b, c = arguments(cases.TESTS["short_kernel"], True)
    by_sum = partial(fftconv.opt_ssm_forward_direct)
    by_fft = partial(fftconv.fft_conv, "blh,ln,nh,on->blo")
    fast, slow = jax.jit(lambda *a: [outputs_and_gradients(f, *a) for f in (by_fft, by_sum)])(x, k, b, c)
    assert_close(fast, slow)
    half, single = jnp.ones((1, 2, 1), jnp.bfloat16), jnp.ones((2, 1), jnp.complex64)
    assert fftconv.fft_conv("bln,ln->bln", half, half[0]).dtype == jnp.bfloat16
    assert fftconv.fft_conv("bln,ln->bln", half, single).dtype == jnp.complex64


def numpy_spatial(x, kernel, boundary):
    """scipy's full convolution, cropped; circular: of x repeated often enough."""
    grid, taps = x.shape[1:-1], kernel.shape[1:]
    repeats = [k // n + 1 if boundary == "circular" else 0 for k, n in zip(taps, grid, strict=True)]
    wide = np.pad(x, [(0, 0), *((r * n, r * n) for r, n in zip(repeats, grid, strict=True)), (0, 0)], mode="wrap")
    middle = [slice(r * n + k // 2, r * n + k // 2 + n) for r, n, k in zip(repeats, grid, taps, strict=True)]
    rows = [
        np.stack([signal.convolve(image[..., c], kernel[c], method="direct") for c in range(x.shape[-1])], -1)
        for image in wide
    ]
    return np.stack(rows)[:, *middle]


@pytest.mark.parametrize("name", cases.SPATIAL_TESTS)
@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_spatial_equals_scipy_and_direct_with_every_gradient(x64, name, boundary):
    case, rng = cases.SPATIAL_TESTS[name], np.random.default_rng(0)
    x, kernel = draw(rng, case.x), draw(rng, (case.x[-1], *case.taps))
    longer = any(k > n for k, n in zip(case.taps, case.x[1:-1], strict=True))
    strategies = ("fft",) if longer and boundary == "circular" else ("fft", "direct")

    @jax.jit
    def run(x, kernel):
        conv = partial(fftconv.fft_conv_nd, boundary=boundary)
        return [outputs_and_gradients(partial(conv, strategy=s), x, kernel) for s in strategies]

    results = run(x, kernel)
    for strategy, (y, gradients) in zip(strategies, results, strict=True):
        assert_close(y, numpy_spatial(x, kernel, boundary), what=f"{strategy}")
        assert_close(gradients, results[0][1], what=f"{strategy}")


@pytest.mark.parametrize("taps", [(3, 5), (11, 4), (9, 15)], ids=str)
@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_images_of_many_channels_take_the_compiled_kernel(x64, taps, boundary):
    """Kernels smaller and larger than the grid, with every gradient, against the same without."""
    rng = np.random.default_rng(4)
    x, kernel = draw(rng, (2, 5, 6, 9)), draw(rng, (9, *taps))
    run = partial(fftconv.fft_conv2d, boundary=boundary, strategy="fft")
    found = jax.jit(lambda x, kernel: outputs_and_gradients(run, x, kernel))(x, kernel)
    assert "ffi_call" in str(jax.make_jaxpr(run)(x, kernel))
    with without_compiled_kernels():
        assert_close(found, jax.jit(lambda x, kernel: outputs_and_gradients(run, x, kernel))(x, kernel))
    assert_close(found[0], numpy_spatial(x, kernel, boundary))


def test_circular_images_agree_with_kernel_spectrum(x64):
    rng = np.random.default_rng(2)
    x, kernel = draw(rng, (2, 6, 7, 3)), draw(rng, (3, 9, 4))
    spectrum = kernel_spectrum(kernel, (6, 7))
    expected = np.fft.irfft2(np.fft.rfft2(x.transpose(0, 3, 1, 2)) * spectrum, (6, 7)).transpose(0, 2, 3, 1)
    assert_close(jax.jit(partial(fftconv.fft_conv2d, boundary="circular"))(x, kernel), expected)


def test_a_flipped_kernel_is_the_cross_correlation_of_lax(x64):
    rng = np.random.default_rng(3)
    x, kernel = draw(rng, (1, 6, 7, 2)), draw(rng, (2, 3, 5))
    weight = jnp.moveaxis(kernel[:, ::-1, ::-1], 0, -1)[:, :, None]
    expected = jax.lax.conv_general_dilated(
        x, weight, (1, 1), [(1, 1), (2, 2)], dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )
    assert_close(jax.jit(partial(fftconv.fft_conv2d, strategy="fft"))(x, kernel), expected)


@pytest.mark.parametrize("strategy", ["fft", "direct"])
def test_spatial_bfloat16_and_a_batch_in_parts(strategy, monkeypatch):
    rng = np.random.default_rng(4)
    x, kernel = jnp.asarray(draw(rng, (5, 6, 6, 2))), jnp.asarray(draw(rng, (2, 3, 3)))
    conv = partial(fftconv.fft_conv2d, strategy=strategy)
    y, half = jax.jit(lambda x, kernel: (conv(x, kernel), conv(x.astype(jnp.bfloat16), kernel)))(x, kernel)
    assert half.dtype == jnp.bfloat16
    assert_close(half, y)
    monkeypatch.setattr(fft_plan, "WORKSPACE", 8 * 2 * 2 * 64)  # two images of 8 x 8 at a time, and one left over
    assert_close(jax.jit(conv)(x, kernel), y)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(unchecked, name):
    call, error, says = BAD[name]
    with pytest.raises(error, match=says):
        call(fftconv, lambda shape, dtype=float: jnp.ones(shape, dtype))


def test_fast_lengths_are_even_and_smooth():
    smooth = sorted(2**i * 3**j * 5**k for i in range(1, 13) for j in range(8) for k in range(6))
    for n in range(2, 3000):
        assert fft_plan.fast_length(n) == next(m for m in smooth if m >= n)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("face", ["torch", "jax"])
def test_the_plan_follows_the_sizes(face, real):
    pick = partial(fft_plan.choose_ssm_strategy, face, real_parameters=real, real_input=True)
    assert pick(ssm_sizes((32, 1024, 4), (1024, 128), (128, 4), (4, 128))) == "kernel"
    assert pick(ssm_sizes((8, 4096, 64), (4096, 16), (16, 64), (64, 16))) == "projection"
    assert pick(ssm_sizes((32, 1024, 64), (1024, 128), (128, 64), (64, 128))) == "projection"


def test_spatial_plan_crosses_over_once():
    for rates in fft_plan.SPATIAL_RATES:
        picks = [
            fft_plan.choose_spatial_strategy(rates, 8, (56, 56), 128, (k, k), "zero") for k in (1, 3, 7, 15, 31, 63)
        ]
        assert picks == sorted(picks) and picks[-1] == "fft"  # direct first, then fft for good
    elsewhere = partial(fft_plan.choose_spatial_strategy, "jax", 8, (56, 56), 128, on_cpu=False, boundary="zero")
    assert (elsewhere(taps=(31, 31)), elsewhere(taps=(33, 33))) == ("direct", "fft")
