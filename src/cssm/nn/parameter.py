"""The parameters of a recurrence: a type of their own, so that whoever casts a model can tell them from weights."""

from flax import nnx


class RecurrenceParam(nnx.Param):
    """A kernel, decay, step or A, B, C of a recurrence: float32 whatever the compute dtype.

    A recurrence applies its gains again and again: a bfloat16 rounding of a decay near 1 (2^-9) is a memory of another
    length. Training in bfloat16 rounds activations and the weights of dense layers, and leaves these as they are.

    >>> import jax.numpy as jnp
    >>> isinstance(RecurrenceParam(jnp.zeros(3)), nnx.Param)
    True
    """
