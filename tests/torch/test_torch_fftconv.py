import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import cssm.torch as face  # noqa: E402
from cssm.ops import fftconv as jax_face  # noqa: E402
from cssm.ops.fftconv import cases  # noqa: E402
from cssm.shared import fft_plan  # noqa: E402
from cssm.torch.fftconv.reference import opt_ssm_forward_reference  # noqa: E402
from fftconv_bad_input import BAD  # noqa: E402
from tolerances import assert_close  # noqa: E402

STRATEGIES = (*fft_plan.SSM_STRATEGIES, None)


def draw(rng, shape, is_complex=False):
    return torch.from_numpy(np.asarray(rng.normal(size=shape) + (1j * rng.normal(size=shape) if is_complex else 0)))


def arguments(case, complex_x=False, complex_k=True, complex_b=True, complex_c=True, seed=0):
    rng = np.random.default_rng(seed)
    return (
        draw(rng, (case.batch, case.length, case.inputs), complex_x),
        draw(rng, (case.taps, case.states), complex_k),
        draw(rng, (case.states, case.inputs), complex_b),
        draw(rng, (case.outputs, case.states), complex_c),
    )


def single(array):
    return array.to(torch.complex64 if array.is_complex() else torch.float32)


def numpy_ssm(x, k, b, c):
    """The sum of docs/math.md section 5, lag by lag in NumPy."""
    x, k, b, c = (a.numpy() for a in (x, k, b, c))
    u = x @ b.T
    states = np.zeros(u.shape, np.result_type(u, k))
    for lag in range(min(len(k), x.shape[1])):
        states[:, lag:] += k[lag] * u[:, : x.shape[1] - lag]
    y = states @ c.T
    return y if np.iscomplexobj(x) else y.real


def in_jax(function, *arrays, **options):
    return jax.jit(partial(function, **options))(*(a.resolve_conj().numpy() for a in arrays))


def gradcheck(function, *arrays, twice=False):
    arrays = [a.clone().requires_grad_() for a in arrays]
    assert torch.autograd.gradcheck(function, arrays, fast_mode=True)
    assert not twice or torch.autograd.gradgradcheck(function, arrays, fast_mode=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    case=st.builds(cases.Ssm, *(st.integers(1, n) for n in (3, 20, 4, 4, 5, 25))),
    kinds=st.tuples(*[st.booleans()] * 4),
    double=st.booleans(),
)
def test_every_strategy_equals_the_sum_for_any_shape_and_dtype(case, kinds, double):
    exact = arguments(case, *kinds)
    given = exact if double else [single(a) for a in exact]
    for strategy in STRATEGIES:
        y = face.opt_ssm_forward(*given, strategy=strategy, kernel_layout="length_first")
        assert y.dtype == given[0].dtype
        assert_close(y.numpy(), numpy_ssm(*exact), what=f"{strategy}")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kinds", [(False, False, False, False), (False, True, True, True), (True, True, True, True)])
def test_gradients_by_finite_differences(strategy, kinds):
    run = partial(face.opt_ssm_forward, strategy=strategy, kernel_layout="length_first")
    gradcheck(run, *arguments(cases.Ssm(2, 5, 2, 3, 3, 4), *kinds), twice=strategy is None)


@pytest.mark.parametrize("name", cases.TESTS)
def test_equals_jax_in_single_precision(name):
    arrays = [single(a) for a in arguments(cases.TESTS[name])]
    y = face.opt_ssm_forward(*arrays, kernel_layout="length_first")
    expected = in_jax(jax_face.opt_ssm_forward, *arrays, kernel_layout="length_first")
    assert_close(y.numpy(), expected, limit=1e-6)


def test_layouts_bfloat16_and_the_reference():
    x, k, b, c = (single(a) for a in arguments(cases.TESTS["even"], False, False, False, False))
    expected = face.opt_ssm_forward(x, k, b, c)
    assert_close(face.opt_ssm_forward(x, k.T, b, c).numpy(), expected.numpy())
    assert_close(opt_ssm_forward_reference(x, k, b, c).numpy(), expected.numpy())
    square = face.opt_ssm_forward(x, k[:5], b, c, kernel_layout="length_first")
    assert_close(face.opt_ssm_forward(x, k[:5].T, b, c, kernel_layout="state_first").numpy(), square.numpy())
    for strategy in STRATEGIES:
        half = face.opt_ssm_forward(*(a.bfloat16() for a in (x, k, b, c)), strategy=strategy)
        assert half.dtype == torch.bfloat16
        assert_close(half.float().numpy(), expected.numpy(), limit=2e-2)


@pytest.mark.parametrize("strategy", fft_plan.SSM_STRATEGIES)
def test_a_batch_in_parts_is_the_whole_batch(strategy, monkeypatch):
    arrays = arguments(cases.TESTS["short_kernel"])
    whole = face.opt_ssm_forward(*arrays, strategy=strategy)
    monkeypatch.setattr(fft_plan, "WORKSPACE", 1)
    assert_close(face.opt_ssm_forward(*arrays, strategy=strategy).numpy(), whole.numpy())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_of_size_batch_length_inputs_states_is_made(strategy):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            self.numel = max(
                [self.numel, *(t.numel() for t in torch.utils._pytree.tree_leaves(out) if hasattr(t, "numel"))]
            )
            return out

    case = cases.Ssm(16, 64, 16, 16, 16, 64)
    arrays = [a.requires_grad_() for a in arguments(case)]
    with Largest() as largest:
        face.opt_ssm_forward(*arrays, strategy=strategy).sum().backward()
    assert 0 < largest.numel < case.batch * case.length * case.inputs * case.states / 2


@pytest.mark.parametrize("kinds", [(False, False, False, False), (False, True, True, True), (True, False, False, True)])
@pytest.mark.parametrize("length", [1, 13])
def test_scan_is_the_geometric_kernel_and_equals_jax(kinds, length):
    x, k, b, c = arguments(cases.Ssm(2, length, 2, 3, 4, 1), *kinds)
    a, h0 = 0.6 * k[0], 0.5 * x[:, 0, :1] * b[:, 0]
    powers = a ** torch.arange(length)[:, None]
    expected = face.opt_ssm_forward(x, powers, b, c, kernel_layout="length_first")
    assert_close(face.opt_ssm_scan(x, a, b, c).numpy(), expected.numpy())
    gradcheck(partial(face.opt_ssm_scan, return_state=True), x, a, b, c, h0)
    arrays = [single(v) for v in (x, a, b, c, h0)]
    pairs = zip(
        face.opt_ssm_scan(*arrays, return_state=True),
        in_jax(jax_face.opt_ssm_scan, *arrays, return_state=True),
        strict=True,
    )
    for mine, theirs in pairs:
        assert_close(mine.resolve_conj().numpy(), theirs, limit=1e-6)


def test_scan_of_a_batch_in_parts(monkeypatch):
    x, k, b, c = arguments(cases.TESTS["short_kernel"])
    whole = face.opt_ssm_scan(x, k[0] / 3, b, c, return_state=True)
    monkeypatch.setattr(fft_plan, "WORKSPACE", 1)
    for part, expected in zip(face.opt_ssm_scan(x, k[0] / 3, b, c, return_state=True), whole, strict=True):
        assert_close(part.numpy(), expected.numpy())


@pytest.mark.parametrize("taps", [1, 7, 20])
@pytest.mark.parametrize("equation", ["bli,loi->blo", "bli,oil->bol", "blh,ln,nh,on->blo"])
def test_fft_conv_equals_jax_and_finite_differences(equation, taps):
    rng = np.random.default_rng(0)
    sizes = {"b": 2, "i": 3, "o": 4, "h": 3, "n": 5}
    first, *terms = equation.split("->")[0].split(",")
    x = draw(rng, [{**sizes, "l": 7}[letter] for letter in first])
    others = [draw(rng, [{**sizes, "l": taps}[letter] for letter in term], True) for term in terms]
    y = face.fft_conv(equation, single(x), *map(single, others))
    expected = in_jax(partial(jax_face.fft_conv, equation), *map(single, (x, *others)))
    assert_close(y.numpy(), expected, limit=1e-6)
    gradcheck(partial(face.fft_conv, equation), x, *others)


def test_fft_conv_dtypes():
    half, wide = torch.ones(1, 2, 1, dtype=torch.bfloat16), torch.ones(2, 1, dtype=torch.complex64)
    assert face.fft_conv("bln,ln->bln", half, half[0]).dtype == torch.bfloat16
    assert face.fft_conv("bln,ln->bln", half, wide).dtype == torch.complex64


@pytest.mark.parametrize("name", cases.SPATIAL_TESTS)
@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_spatial_strategies_agree_with_jax_and_finite_differences(name, boundary):
    case, rng = cases.SPATIAL_TESTS[name], np.random.default_rng(0)
    x, kernel = draw(rng, case.x), draw(rng, (case.x[-1], *case.taps))
    y = face.fft_conv_nd(single(x), single(kernel), boundary=boundary, strategy="fft")
    expected = in_jax(jax_face.fft_conv_nd, single(x), single(kernel), boundary=boundary, strategy="fft")
    assert_close(y.numpy(), expected, limit=1e-6)
    longer = boundary == "circular" and any(k > n for k, n in zip(case.taps, case.x[1:-1], strict=True))
    for strategy in ("fft",) if longer else ("fft", "direct"):
        run = partial(face.fft_conv_nd, boundary=boundary, strategy=strategy)
        assert_close(run(x, kernel).numpy(), face.fft_conv_nd(x, kernel, boundary=boundary, strategy="fft").numpy())
        gradcheck(run, x, kernel)
    assert_close(face.fft_conv_nd(x, kernel, boundary=boundary).numpy(), run(x, kernel).numpy())


def test_a_flipped_kernel_is_the_cross_correlation_of_torch():
    rng = np.random.default_rng(1)
    x, kernel = draw(rng, (1, 6, 7, 2)), draw(rng, (2, 3, 5))
    expected = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel.flip(1, 2)[:, None], padding=(1, 2), groups=2)
    y = face.fft_conv2d(x, kernel, strategy="fft")
    assert_close(y.numpy(), expected.permute(0, 2, 3, 1).numpy())


def test_the_choice_depends_on_whether_a_gradient_is_wanted():
    sizes = (8, (56, 56), 128, (15, 15), "zero")
    assert fft_plan.choose_spatial_strategy("torch", *sizes) == "direct"
    assert fft_plan.choose_spatial_strategy("torch with gradient", *sizes) == "fft"


COMPILED = """
import torch
from cssm.torch import fft_conv, fft_conv2d, opt_ssm_forward, opt_ssm_scan
torch.manual_seed(0)
draw = lambda *shape: torch.randn(*shape, dtype=torch.complex64)
x, k, b, c = torch.randn(3, 11, 4), draw(11, 6), draw(6, 4), draw(2, 6)
image, kernel = torch.randn(2, 5, 6, 3), torch.randn(3, 3, 5)
wanted = [a.requires_grad_() for a in (x, k, image, kernel)]
def run():
    y = opt_ssm_forward(x, k, b, c) + opt_ssm_scan(x, k[0] / 3, b, c) + fft_conv("blh,ln,nh,on->blo", x, k, b, c).real
    return y, fft_conv2d(image, kernel), fft_conv2d(image, kernel, strategy="direct")
def with_gradient(function):
    outputs = function()
    return *outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), wanted)
for mine, theirs in zip(with_gradient(torch.compile(run, backend="aot_eager", fullgraph=True)), with_gradient(run)):
    torch.testing.assert_close(mine, theirs)
print("compiled")
"""


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    """In a process of its own: the shape checks of these tests, which are hooked in on import, do not compile."""
    result = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=200)
    assert result.stdout == "compiled\n", result.stderr[-2000:]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(unchecked, name):
    call, error, says = BAD[name]
    dtypes = {float: torch.float32, int: torch.int64, complex: torch.complex64}
    with pytest.raises(error, match=says):
        call(face, lambda shape, dtype=float: torch.ones(shape, dtype=dtypes[dtype]))
