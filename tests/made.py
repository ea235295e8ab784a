"""What many tests make: mixers, clips, modules away from their initial values, and the gradients of all outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.nn import create_mixer


def mixer(name, channels, *, seed=0, **options):
    return create_mixer(name, channels=channels, rngs=nnx.Rngs(seed), **options)


def clip(*, grid, channels, t=5, batch=2, seed=1, dtype=None):
    """Standard normal frames (batch, t, *grid, channels), of JAX's own precision unless told."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, t, *grid, channels)), dtype)


def moved(module, scale, seed=1):
    """The module with every parameter moved away from its initial value."""
    graph, params = nnx.split(module)
    chance = np.random.default_rng(seed)
    move = lambda p: p + scale * chance.normal(size=p.shape).astype(p.dtype)  # noqa: E731
    return nnx.merge(graph, jax.tree.map(move, params))


def weighted(outputs):
    """A real number that every output moves differently."""
    total = 0.0
    for leaf in jax.tree.leaves(outputs):
        weight = jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)
        total += jnp.sum(weight * leaf.real + 0.1 * (leaf * leaf.conj()).real)
        if jnp.iscomplexobj(leaf):
            total += jnp.sum(jnp.sin(3 * weight) * leaf.imag)
    return total


def values_and_gradients(function, *arguments, by=None, seen=None):
    """(function(*arguments), the gradients of its weighted sum).

    by: the arguments that it is differentiated by, all unless told. seen: outputs -> those that are summed.
    """

    def scalar(*arguments):
        outputs = function(*arguments)
        return weighted(seen(outputs) if seen else outputs), outputs

    by = tuple(range(len(arguments))) if by is None else by
    gradients, outputs = jax.grad(scalar, by, has_aux=True)(*arguments)
    return outputs, gradients


def with_gradients(function, *arguments, **options):
    """`values_and_gradients`, compiled as one; a module among the arguments stands for its parameters."""
    parts = [nnx.split(a) if isinstance(a, nnx.Module) else (None, a) for a in arguments]

    def plain(*values):
        given = [v if graph is None else nnx.merge(graph, v) for (graph, _), v in zip(parts, values, strict=True)]
        return function(*given)

    return jax.jit(lambda *values: values_and_gradients(plain, *values, **options))(*(values for _, values in parts))
