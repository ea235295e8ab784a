"""The delta rule and decayed attention for PyTorch against the JAX face and its float64 reference, gradients too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm import ops
from cssm.core.errors import ShapeError, UsageError
from cssm.ops.delta import cases
from tolerances import assert_close

torch = pytest.importorskip("torch")
from cssm.torch import decayed_attention, delta_rule  # noqa: E402
from cssm.torch.delta import IMPLEMENTATIONS  # noqa: E402


def arguments(case, seed=0):
    """q, k, v, alpha, beta, gain, state in float64 NumPy, and resets."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape) + (1j * rng.normal(size=shape) if case.complex else 0)  # noqa: E731
    lead, rest = (case.batch, case.steps, case.heads), case.frequencies
    q, k, v = (draw(*lead, d, *rest) for d in (case.keys, case.keys, case.values))
    k /= np.sqrt((np.abs(k) ** 2).sum(3, keepdims=True))
    alpha, beta = rng.uniform(0.1, 0.99, lead), rng.uniform(0, 1, lead)
    gain = 0.5 * draw(case.heads, *rest) if case.gain else None
    state = draw(case.batch, case.heads, case.values, case.keys, *rest)
    return [q, k, v, alpha, beta, gain, state], rng.random(lead[:2]) < 0.2


def attention_arguments(steps, seed=3):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for s in ((2, steps, 4), (2, steps, 4), (2, steps, 3, 2))]
    log_a = -rng.exponential(0.3, (2, steps, 3))
    return [*arrays, log_a, rng.normal(size=(2, 3, 2, 4))], rng.random((2, steps)) < 0.1


def call_delta(function, q, k, v, alpha, beta, gain, state, **options):
    return function(q, k, v, alpha, beta, gain=gain, state=state, **options)


def call_attention(function, q, k, v, log_a, state, **options):
    return function(q, k, v, log_a, state=state, **options)


def loss_of(outputs, where):
    """An uneven loss of every output, in real numbers of their own precision."""
    total = 0.0
    for leaf in outputs:
        weight = where.cos(where.arange(leaf.reshape(-1).shape[0], dtype=leaf.real.dtype)).reshape(leaf.shape)
        total = total + (weight * (leaf.real + 0.5 * (leaf.imag if "complex" in str(leaf.dtype) else 0))).sum()
        total = total + (abs(leaf) ** 2).sum()
    return total


def torch_outputs_and_gradients(function, arrays):
    leaves = [None if a is None else torch.tensor(a).requires_grad_() for a in arrays]
    outputs = function(*leaves)
    gradients = torch.autograd.grad(loss_of(outputs, torch), [a for a in leaves if a is not None])
    return [v.detach().resolve_conj().numpy() for v in (*outputs, *gradients)]


def jax_outputs_and_gradients(function, arrays):
    """JAX's cotangents of complex numbers are the conjugates of PyTorch's."""
    which = [i for i, a in enumerate(arrays) if a is not None]
    outputs, gradients = jax.jit(lambda *a: (function(*a), jax.grad(lambda *a: loss_of(function(*a), jnp), which)(*a)))(
        *arrays
    )
    return [np.asarray(v) for v in outputs] + [np.conj(v) for v in gradients]


def implementations(case):
    return [name for name in IMPLEMENTATIONS if name != "chunked" or not (case.gain or case.frequencies)]


@pytest.mark.parametrize("implementation", ["chunked", "sequential"])
def test_decays_that_underflow_have_the_slopes_of_float64(x64, implementation):
    arrays, _ = arguments(cases.Case(1, 9, 2, 4, 3), seed=7)
    arrays[3][0, 1:8] = np.array([0, 6e-39, 1e-30, 1e-19, 1e-10, 0.5, 0])[:, None]
    single = [None if a is None else a.astype(np.float32) for a in arrays]
    slow = jax_outputs_and_gradients(partial(call_delta, ops.delta_rule, implementation="reference"), arrays)
    fast = torch_outputs_and_gradients(partial(call_delta, delta_rule, implementation=implementation), single)
    assert_close(fast, slow)
    one = torch.ones(1, 3, 1)
    alpha = torch.tensor([1, 6e-39, 1]).reshape(1, 3, 1).requires_grad_()
    delta_rule(*[one[..., None]] * 3, alpha, one / 2, implementation=implementation)[1].sum().backward()
    np.testing.assert_allclose(alpha.grad.numpy().ravel(), [0, 0.375, 0.25], rtol=1e-5)


@pytest.mark.parametrize("name", cases.TESTS)
@pytest.mark.parametrize("options", [{}, {"reset": True}, {"readout": "last"}], ids=["plain", "reset", "last"])
def test_delta_rule_equals_the_reference_of_jax_with_every_gradient(x64, name, options):
    case = cases.TESTS[name]
    arrays, reset = arguments(case)
    here = {**options, "reset": torch.tensor(reset)} if "reset" in options else options
    there = {**options, "reset": reset} if "reset" in options else options
    expected = jax_outputs_and_gradients(
        partial(call_delta, partial(ops.delta_rule, implementation="reference", **there)), arrays
    )
    for implementation in implementations(case):
        function = partial(call_delta, partial(delta_rule, implementation=implementation, **here))
        assert_close(torch_outputs_and_gradients(function, arrays), expected, 1e-12, implementation)


@pytest.mark.parametrize("steps", [1, 5, 150])
@pytest.mark.parametrize("with_reset", [False, True])
def test_decayed_attention_equals_the_reference_of_jax_with_every_gradient(x64, steps, with_reset):
    arrays, reset = attention_arguments(steps)
    here, there = ({"reset": torch.tensor(reset)}, {"reset": reset}) if with_reset else ({}, {})
    expected = jax_outputs_and_gradients(
        partial(call_attention, partial(ops.decayed_attention, implementation="reference", **there)), arrays
    )
    for implementation in ("chunked", "reference"):
        function = partial(call_attention, partial(decayed_attention, implementation=implementation, **here))
        assert_close(torch_outputs_and_gradients(function, arrays), expected, 1e-12, implementation)


@pytest.mark.parametrize("name", ["spectral", "tokens", "many_tokens"])
def test_delta_rule_equals_jax_in_float32(name):
    arrays = [
        None if a is None else a.astype("c8" if a.dtype.kind == "c" else "f4") for a in arguments(cases.TESTS[name])[0]
    ]
    found = torch_outputs_and_gradients(partial(call_delta, delta_rule), arrays)
    assert_close(found, jax_outputs_and_gradients(partial(call_delta, ops.delta_rule), arrays))


def test_decayed_attention_equals_jax_in_float32():
    arrays = [a.astype("f4") for a in attention_arguments(150)[0]]
    found = torch_outputs_and_gradients(partial(call_attention, decayed_attention), arrays)
    assert_close(found, jax_outputs_and_gradients(partial(call_attention, ops.decayed_attention), arrays))


def test_picks_as_jax_does():
    (q, k, v, alpha, beta, gain, _), _ = arguments(cases.TESTS["tokens"])
    args = [torch.tensor(a) for a in (q, k, v, alpha, beta)]
    equal = lambda implementation, **o: torch.equal(  # noqa: E731
        delta_rule(*args, **o)[1], delta_rule(*args, implementation=implementation, **o)[1]
    )
    assert gain is None and equal("chunked") and equal("sequential", gain=torch.ones(2))


def test_half_precision_keeps_a_float32_carry():
    arrays = [torch.tensor(a).bfloat16() for a in arguments(cases.TESTS["tokens"])[0][:5]]
    assert {t.dtype for t in delta_rule(*arrays)} == {torch.float32}
    arrays = [torch.tensor(a).half() for a in attention_arguments(5)[0][:4]]
    assert {t.dtype for t in decayed_attention(*arrays)} == {torch.float32}


def test_cutting_changes_nothing():
    arrays, reset = arguments(cases.TESTS["many_tokens"])
    steps, state = [torch.tensor(a) for a in arrays[:5]], torch.tensor(arrays[6])
    whole, reset, parts = delta_rule(*steps, state=state, reset=torch.tensor(reset)), torch.tensor(reset), []
    for cut in (slice(0, 1), slice(1, 70), slice(70, None)):
        state, o = delta_rule(*(a[:, cut] for a in steps), state=state, reset=reset[:, cut])
        parts.append(o)
    assert_close([state.numpy(), torch.cat(parts, 1).numpy()], [a.numpy() for a in whole])


@pytest.mark.parametrize("implementation", ["sequential", "chunked", "reference"])
def test_passes_gradcheck_twice(implementation):
    arrays = [torch.tensor(a).requires_grad_() for a in arguments(cases.Case(1, 2, 1, 2, 1))[0][:5]]
    function = partial(delta_rule, implementation=implementation)
    assert torch.autograd.gradcheck(function, arrays) and torch.autograd.gradgradcheck(function, arrays)


def test_the_reference_works_under_torch_func():
    q, k, v, alpha, beta, *_ = (torch.tensor(a) for a in arguments(cases.TESTS["tokens"])[0] if a is not None)
    loss = lambda v: delta_rule(q, k, v, alpha, beta, implementation="reference")[1].square().sum()  # noqa: E731
    leaf = v.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert torch.allclose(torch.func.grad(loss)(v), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["spectral", "many_tokens"])
def test_cuda_gives_the_numbers_of_the_cpu(name):
    arrays, reset = arguments(cases.TESTS[name])

    def on(device):
        function = partial(call_delta, partial(delta_rule, reset=torch.tensor(reset, device=device)))
        moved = lambda *a: [v.cpu() for v in function(*(None if x is None else x.to(device) for x in a))]  # noqa: E731
        return torch_outputs_and_gradients(moved, arrays)

    assert_close(on("cuda"), on("cpu"), 1e-11)


SLOW = [("aot_eager", "spectral"), ("inductor", "tokens")]


@pytest.mark.parametrize(
    ("backend", "name"), [("aot_eager", "tokens"), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_compiles_without_a_graph_break(unchecked, backend, name):
    case = cases.TESTS[name]
    arrays, reset = arguments(case)
    function = partial(call_delta, partial(delta_rule, reset=torch.tensor(reset)))
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    assert_close(torch_outputs_and_gradients(compiled, arrays), torch_outputs_and_gradients(function, arrays), 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("run", [(call_delta, delta_rule), (call_attention, decayed_attention)], ids=["delta", "decay"])
def test_compiles_for_one_length_after_another(unchecked, run):
    call, function = run
    compiled = torch.compile(partial(call, function), fullgraph=True, backend="aot_eager")
    for steps in (3, 5, 66):
        case = cases.Case(1, steps, 1, 2, 3, (2,) if steps < 9 else ())
        arrays = attention_arguments(steps)[0] if call is call_attention else arguments(case)[0]
        assert_close(
            torch_outputs_and_gradients(compiled, arrays),
            torch_outputs_and_gradients(partial(call, function), arrays), 1e-11,
        )  # fmt: skip


ONES, GATE = torch.ones(1, 3, 2, 2, 5), torch.ones(1, 3, 2)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: delta_rule(ONES[:, :2], ONES, ONES, GATE, GATE), ShapeError, "do not fit together"),
        (lambda: delta_rule(ONES, ONES, ONES[..., :4], GATE, GATE), ShapeError, "do not fit together"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE[..., :1], GATE), ShapeError, "alpha"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE + 0j), ShapeError, "beta is complex64, expected a real"),
        (lambda: delta_rule(ONES, ONES, ONES.int(), GATE, GATE), ShapeError, "v is int32"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, gain=torch.ones(2, 4)), ShapeError, "gain has shape"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, state=torch.ones(1, 2, 2, 2, 4)), ShapeError, "state"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, reset=torch.ones(1, 2).bool()), ShapeError, "reset"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, reset=torch.ones(1, 3)), ShapeError, "expected bool"),
        (lambda: delta_rule(*[ONES[:, :0]] * 3, *[GATE[:, :0]] * 2), ShapeError, "at least one"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, readout="mean"), UsageError, "all or last"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, implementation="magic"), UsageError, "sequential"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, implementation="chunked"), UsageError, "real tokens"),
        (lambda: delta_rule(ONES, ONES.to("meta"), ONES, GATE, GATE), UsageError, "tensors are on cpu, meta"),
        (lambda: decayed_attention(GATE, GATE, GATE, GATE), ShapeError, "expected"),
        (lambda: decayed_attention(GATE, GATE, ONES[..., 0], GATE + 0j), ShapeError, "log_a is complex64"),
        (lambda: decayed_attention(GATE, GATE, ONES[..., 0], GATE, state=GATE), ShapeError, "state"),
        (lambda: decayed_attention(GATE, GATE, ONES[..., 0], GATE, implementation="magic"), UsageError, "chunked"),
        (lambda: decayed_attention(GATE, GATE.to("meta"), ONES[..., 0], GATE), UsageError, "cpu, meta"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
