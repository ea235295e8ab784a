import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.nn.layers.decay_ssm import DecaySSM
from cssm.shared.decay import DECAY_SSM_FORMS
from made import with_gradients
from tolerances import assert_close

D, R, C = 5, 3, 4


def build(dtype=jnp.float64, **options):
    layer = DecaySSM(D, R, C, rngs=nnx.Rngs(0), **options)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), layer)


def inputs(steps, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, R, C))), jnp.asarray(rng.normal(size=(2, steps, D)))


def by_steps(layer, state, u):
    state, y = jax.lax.scan(layer.step, state, jnp.moveaxis(u, 1, 0))
    return state, jnp.moveaxis(y, 0, 1)


@pytest.mark.parametrize("steps", [1, 11])
def test_all_forms_are_equal_with_every_gradient(x64, steps):
    state, u = inputs(steps)
    expected = with_gradients(by_steps, build(), state, u)
    forms = [{"chunk": 3, "implementation": "chunked"}, *({"implementation": name} for name in DECAY_SSM_FORMS)]
    for options in forms:
        found = with_gradients(DecaySSM.scan, build(**options), state, u)
        assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), what=f"{options}")


def test_a_carried_state_continues_the_sequence(x64):
    layer = build(chunk=4, implementation="chunked")
    state, u = inputs(9)

    @jax.jit
    def run(state, u):
        half, first = layer.scan(state, u[:, :5])
        end, second = layer.scan(half, u[:, 5:])
        return layer.scan(state, u), (end, jnp.concatenate([first, second], 1))

    assert_close(*run(state, u))


def test_chunked_never_holds_the_writes():
    sizes = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            sizes.extend(int(np.prod(v.aval.shape)) for v in equation.outvars)
            for value in equation.params.values():
                for inner in value if isinstance(value, (tuple, list)) else (value,):
                    if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                        visit(getattr(inner, "jaxpr", inner))

    u = jnp.zeros((1, 64, D))
    for implementation, holds in (("kernel", True), ("chunked", False)):
        layer = DecaySSM(D, 16, 32, chunk=8, implementation=implementation, rngs=nnx.Rngs(0))
        sizes.clear()
        visit(jax.make_jaxpr(layer)(u).jaxpr)
        assert (max(sizes) >= 64 * 16 * 32) is holds, max(sizes)


def test_bfloat16_input_gives_bfloat16_near_float32():
    layer = build(jnp.float32, implementation="chunked")
    u = inputs(20)[1].astype(jnp.bfloat16)
    y, expected = jax.jit(lambda u: (layer(u), layer(u.astype(jnp.float32))))(u)
    assert y.dtype == jnp.bfloat16
    assert_close(y, expected, limit=2e-2)


@pytest.mark.parametrize("implementation", DECAY_SSM_FORMS)
def test_torch_gives_the_same_numbers(implementation):
    torch = pytest.importorskip("torch")
    from cssm.torch.scan.decay_ssm import DecaySSM as TorchDecaySSM

    layer = build(jnp.float32, implementation=implementation)
    other = TorchDecaySSM(D, R, C, implementation=implementation)
    assert_close(other.decay.bias.detach().numpy(), layer.decay.bias[...])
    parts = ("decay", "value", "key", "query", "out")
    with torch.no_grad():
        for name in parts:
            source, target = getattr(layer, name), getattr(other, name)
            target.weight.copy_(torch.from_numpy(np.array(source.kernel[...]).T))
            target.bias.copy_(torch.from_numpy(np.array(source.bias[...])))
    state, u = (np.array(v, np.float32) for v in inputs(21))
    (end, y), gradients = with_gradients(DecaySSM.scan, layer, state, u)
    state, u = torch.from_numpy(state).requires_grad_(), torch.from_numpy(u).requires_grad_()
    found_end, found_y = other.scan(state, u)
    weight = lambda v: torch.cos(torch.arange(v.numel())).reshape(v.shape)  # noqa: E731
    sum((weight(v) * v + 0.1 * v**2).sum() for v in (found_end, found_y)).backward()  # as made.weighted
    assert_close([found_end.detach().numpy(), found_y.detach().numpy()], [end, y], limit=1e-6)
    assert_close([state.grad.numpy(), u.grad.numpy()], list(gradients[1:]), limit=1e-6)
    for name in parts:
        found, expected = getattr(other, name), gradients[0][name]
        assert_close(found.weight.grad.T.numpy(), expected["kernel"][...], limit=1e-6, what=name)
        assert_close(found.bias.grad.numpy(), expected["bias"][...], limit=1e-6, what=name)


def test_torch_forms_are_equal_and_step_is_the_definition():
    torch = pytest.importorskip("torch")
    from cssm.torch.scan.decay_ssm import DecaySSM as TorchDecaySSM

    state, u = (torch.from_numpy(np.array(v, np.float64)) for v in inputs(11))
    layer = TorchDecaySSM(D, R, C).double()
    now, frames = state, []
    for t in range(11):
        now, y = layer.step(now, u[:, t])
        frames.append(y)
    expected = [now, torch.stack(frames, 1)]
    expected += torch.autograd.grad(sum(v.sin().sum() for v in expected), list(layer.parameters()))
    for form in [*DECAY_SSM_FORMS, "chunked"]:
        layer.implementation, layer.chunk = form, 3 if form == "chunked" else 8
        found = list(layer.scan(state, u))
        found += torch.autograd.grad(sum(v.sin().sum() for v in found), list(layer.parameters()))
        assert_close([v.detach().numpy() for v in found], [v.detach().numpy() for v in expected], what=form)
    assert torch.allclose(layer(u), layer.scan(layer.init_state(2), u)[1])


def frameworks():
    yield lambda **options: DecaySSM(D, R, C, rngs=nnx.Rngs(0), **options), jnp.zeros
    torch = pytest.importorskip("torch")
    from cssm.torch.scan.decay_ssm import DecaySSM as TorchDecaySSM

    yield lambda **options: TorchDecaySSM(D, R, C, **options), torch.zeros


@pytest.mark.parametrize("framework", [0, 1])
def test_bad_input_is_named(framework):
    create, zeros = list(frameworks())[framework] if framework else next(frameworks())
    for options, says in (({"chunk": 0}, "chunk is 0"), ({"implementation": "fast"}, "use chunked, kernel, naive")):
        with pytest.raises(UsageError, match=says):
            create(**options)
    layer = create()
    state = layer.init_state(2)
    for call, says in (
        (lambda: layer(zeros((2, 3, D + 1))), r"u has shape .* expected \(B, T, D\) with D = 5"),
        (lambda: layer(zeros((2, 0, D))), "at least one step"),
        (lambda: layer.step(state, zeros((2, 3, D))), r"expected \(B, D\)"),
        (lambda: layer.scan(state[:1], zeros((2, 3, D))), "init_state"),
        (lambda: layer.step(state[:, :1], zeros((2, D))), "init_state"),
    ):
        with pytest.raises(ShapeError, match=says):
            call()
