"""How much memory a model takes, known before any of it is there."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.shared.resident_memory import installed_memory


def model_bytes(make: Callable[[nnx.Rngs], nnx.Module]) -> int:
    """Bytes of the parameters of the model that `make` would build; nothing is allocated.

    >>> model_bytes(lambda rngs: nnx.Linear(3, 4, rngs=rngs))
    64
    """
    shapes = jax.tree.leaves(nnx.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)), nnx.Param)))
    return sum(int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize for leaf in shapes)


def check_memory(make: Callable[[nnx.Rngs], nnx.Module], copies: int = 1) -> None:
    """UsageError where this machine has no room for `copies` of the parameters. Raises also what `make` raises.

    Training holds four: the parameters, their gradient, and two moments of it.
    """
    needed, room = copies * model_bytes(make), installed_memory()
    if room is not None and needed > room:
        sizes = f"{needed / 2**30:,.0f} GiB for its parameters, this machine has {room / 2**30:,.0f}"
        raise UsageError(f"the model takes {sizes}: choose a smaller embed_dim or depth")
