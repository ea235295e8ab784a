"""The gated delta rule: a matrix memory that overwrites what it holds under a key; and its plain form that only adds.

The maths and the cost of each implementation are in this folder's README.md.
"""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError
from cssm.core.typing import Float, Inexact
from cssm.shared.delta import READOUTS, check_choice, check_decayed_attention, check_delta
from cssm.shared.reset import check_reset

from ..given import given
from .chunked import chunked
from .reference import decayed_attention_reference, delta_rule_reference
from .sequential import advance, apply, sequential
from .ssd import ssd
from .static import static

IMPLEMENTATIONS: dict[str, Any] = {"sequential": sequential, "chunked": chunked, "reference": delta_rule_reference}
DECAY_IMPLEMENTATIONS: dict[str, Any] = {"chunked": ssd, "reference": decayed_attention_reference}

__all__ = ["DECAY_IMPLEMENTATIONS", "IMPLEMENTATIONS", "decayed_attention", "delta_rule", "delta_static", "delta_step"]


def delta_rule(
    q: Annotated[ArrayLike, "b t n dk ..."],
    k: Annotated[ArrayLike, "b t n dk ..."],
    v: Annotated[ArrayLike, "b t n dv ..."],
    alpha: Annotated[ArrayLike, "b t n"],
    beta: Annotated[ArrayLike, "b t n"],
    *,
    gain: Annotated[ArrayLike, "n ..."] | None = None,
    state: Annotated[ArrayLike, "b n dv dk ..."] | None = None,
    reset: Annotated[ArrayLike, "b t"] | None = None,
    readout: str = "all",
    implementation: str | None = None,
) -> tuple[Inexact[Array, "b n dv dk ..."], Inexact[Array, "b ..."]]:
    """The gated delta rule over time, for N heads and any axes "..." that do not mix (frequencies).

    Equivalent to::

        for t in range(T):
            S = where(reset[:, t], 0, S)
            S = alpha[t] * gain * S @ (I - beta[t] * k[t] @ k[t].H) + beta[t] * v[t] @ k[t].H
            o[:, t] = S @ q[t]

    For |k| = 1 and beta in [0, 1], |I - beta k k^H| <= 1, so that |S| <= max |beta v| / (1 - max |alpha gain|) in the
    spectral norm; with alpha = gain = beta = 1, S k = v after the write.

    Args:
      q, k: (B, T, N, Dk, ...), real or complex. v: (B, T, N, Dv, ...).
      alpha, beta: (B, T, N) real; alpha >= 0 for "chunked" (NaN elsewhere).
      gain: W, (N, ...), real or complex, the same at every step; 1 when omitted.
      state: (B, N, Dv, Dk, ...), S before the first step; zeros when omitted.
      reset: (B, T) bool; True forgets all that came before.
      readout: "all" (o for every step) or "last" (only that of the last step).
      implementation: "chunked" (matrix products over chunks of 64 tokens; real, no axes "...", no gain: picked
        there), "sequential" (one pass, vectorised over the rest: picked otherwise), "reference", or None to pick.

    Returns:
      (S, o): the state after the last step, float32 / complex64 (double where given), and o (B, T, N, Dv, ...), for
      readout "last" (B, N, Dv, ...).

    Raises:
      ShapeError: shapes or dtypes that do not fit together, or T = 0. UsageError: an unknown readout or
        implementation, or "chunked" where it does not apply.

    Source: docs/math.md section 3 (`gdn`); Yang et al. 2024, Gated delta networks, and Parallelizing linear
    transformers with the delta rule over sequence length.

    >>> import jax.numpy as jnp
    >>> k = jnp.eye(2)[None, :, None]  # two steps, orthogonal keys
    >>> v, one = jnp.array([3.0, 5.0]).reshape(1, 2, 1, 1), jnp.ones((1, 2, 1))
    >>> delta_rule(k, k, v, one, one)[0].tolist()  # both values are held
    [[[[3.0, 5.0]]]]
    """
    arrays = [jnp.asarray(a) for a in (q, k, v, alpha, beta)]
    gain, state, reset = given(gain), given(state), given(reset)
    shape = check_delta("delta_rule", arrays, gain, state, time=True)
    check_reset("delta_rule", reset, arrays[1].shape[:2])
    check_choice("delta_rule", "readout", readout, READOUTS)
    arrays, gain, state = _promoted(arrays, gain, state, shape)
    if implementation is None:
        tokens = gain is None and arrays[1].ndim == 4 and not jnp.iscomplexobj(state)
        implementation = "chunked" if tokens else "sequential"
    check_choice("delta_rule", "implementation", implementation, IMPLEMENTATIONS)
    return IMPLEMENTATIONS[implementation](*arrays, gain, state, reset, readout)


def delta_step(
    q: Inexact[Any, "b n dk ..."],
    k: Inexact[Any, "b n dk ..."],
    v: Inexact[Any, "b n dv ..."],
    alpha: Inexact[Any, "b n"],
    beta: Inexact[Any, "b n"],
    *,
    gain: Inexact[Any, "n ..."],
    state: Inexact[Any, "b n dv dk ..."],
) -> tuple[Inexact[Array, "b n dv dk ..."], Inexact[Array, "b n dv ..."]]:
    """One step of `delta_rule` in plain operations, for a loop that computes q, k, v on the way.

    Args: as `delta_rule`, without the time axis and the checks: q, k (B, N, Dk, ...), v (B, N, Dv, ...), alpha, beta
      (B, N), gain (N, ...), state (B, N, Dv, Dk, ...).
    Returns: (S, o) after the step, o (B, N, Dv, ...).

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1, 1))
    >>> delta_step(one, one, one, one[0], one[0], gain=one[0, 0], state=jnp.zeros((1, 1, 1, 1)))[1].item()
    1.0
    """
    shape, (q, k, v) = v.shape, (a.reshape(*a.shape[:3], -1) for a in (q, k, v))
    alpha, beta = alpha[:, :, None, None], beta[:, :, None, None]
    flat = state.reshape(*state.shape[:4], -1)
    flat = advance(flat, k, v, alpha * gain.reshape(gain.shape[0], 1, -1), beta)[0]
    return flat.reshape(state.shape), apply(flat, q).reshape(shape)


def delta_static(
    q: Annotated[ArrayLike, "b n dk ..."],
    k: Annotated[ArrayLike, "b n dk ..."],
    v: Annotated[ArrayLike, "b n dv ..."],
    alpha: Annotated[ArrayLike, "b n"],
    beta: Annotated[ArrayLike, "b n"],
    steps: int,
    *,
    gain: Annotated[ArrayLike, "n ..."] | None = None,
    state: Annotated[ArrayLike, "b n dv dk ..."] | None = None,
) -> tuple[Inexact[Array, "b n dv dk ..."], Inexact[Array, "b n dv ..."]]:
    """`delta_rule` with the same arguments at each of `steps` steps, for the cost of O(log steps) products.

    Args: as `delta_rule`, without the time axis: q, k (B, N, Dk, ...), v (B, N, Dv, ...), alpha, beta (B, N).
    Returns: (S, o) after the last step, o (B, N, Dv, ...).
    Raises: ShapeError: shapes that do not fit, or steps < 1.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1, 1))
    >>> delta_static(one, one, one, one[0] * 0.5, one[0] * 0.5, 2)[1].item()  # 1/2, then 1/2 1/2 1/2 + 1/2
    0.625
    """
    arrays = [jnp.asarray(a) for a in (q, k, v, alpha, beta)]
    gain, state = given(gain), given(state)
    shape = check_delta("delta_static", arrays, gain, state, time=False)
    if steps < 1:
        raise ShapeError(f"delta_static: steps is {steps}, expected at least one")
    arrays, gain, state = _promoted(arrays, gain, state, shape)
    return static(*arrays, steps=steps, gain=gain, state=state)


def decayed_attention(
    q: Annotated[ArrayLike, "b t d"],
    k: Annotated[ArrayLike, "b t d"],
    v: Annotated[ArrayLike, "b t n dv"],
    log_a: Annotated[ArrayLike, "b t n"],
    *,
    state: Annotated[ArrayLike, "b n dv d"] | None = None,
    reset: Annotated[ArrayLike, "b t"] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "b n dv d"], Float[Array, "b t n dv"]]:
    """A memory that decays and is added to: S_t = exp(log_a_t) S_{t-1} + v_t k_t^T, o_t = S_t q_t; real tokens.

    Args:
      q, k: (B, T, D), shared by the heads. v: (B, T, N, Dv). log_a: (B, T, N), float32 or double; where it is <= 0
        the state stays below the decayed sum of what was written.
      state: (B, N, Dv, D), zeros when omitted. reset: (B, T) bool; True forgets all that came before.
      implementation: "chunked" (matrix products over chunks of 64 tokens), "reference", or None for the first.

    Returns:
      (S, o): the state after the last step and o (B, T, N, Dv), float32 (double where given).

    Raises:
      ShapeError: shapes or dtypes that do not fit together, or T = 0. UsageError: an unknown implementation.

    Source: docs/math.md section 3 (`mamba2_seq`); Dao and Gu 2024, Transformers are SSMs.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 3, 1))
    >>> decayed_attention(one, one, one[..., None], jnp.log(one / 2))[1].ravel().round(4).tolist()
    [1.0, 1.5, 1.75]
    """
    q, k, v, log_a = (jnp.asarray(a) for a in (q, k, v, log_a))
    state, reset = given(state), given(reset)
    shape = check_decayed_attention(q, k, v, log_a, state)
    check_reset("decayed_attention", reset, k.shape[:2])
    implementation = "chunked" if implementation is None else implementation
    check_choice("decayed_attention", "implementation", implementation, DECAY_IMPLEMENTATIONS)
    dtype = jnp.result_type(q, k, v, log_a, jnp.float32, *(() if state is None else (state,)))
    state = jnp.zeros(shape, dtype) if state is None else state.astype(dtype)
    q, k, v, log_a = (a.astype(dtype) for a in (q, k, v, log_a))
    return DECAY_IMPLEMENTATIONS[implementation](q, k, v, log_a, state, reset)


def _promoted(arrays, gain, state, shape) -> Any:
    """One dtype for q, k, v and the state, its real part for alpha and beta; zeros for a missing state."""
    q, k, v, alpha, beta = arrays
    others = [a for a in (gain, state) if a is not None]
    dtype = jnp.result_type(*arrays, *others, jnp.float32)
    real = jnp.finfo(dtype).dtype
    state = jnp.zeros(shape, dtype) if state is None else state.astype(dtype)
    cast = [*(a.astype(dtype) for a in (q, k, v)), *(a.astype(real) for a in (alpha, beta))]
    return cast, None if gain is None else gain.astype(dtype), state
