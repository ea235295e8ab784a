"""The gated delta rule: a matrix memory that overwrites what it holds under a key; and its plain form that only adds.

The maths and the cost of each implementation are in this folder's README.md.
"""

from typing import Any

import jax.numpy as jnp

from cssm.core.errors import ShapeError, UsageError
from cssm.ops.reset import check_reset

from .chunked import chunked
from .reference import decayed_attention_reference, delta_rule_reference
from .sequential import advance, apply, sequential
from .ssd import ssd
from .static import static

IMPLEMENTATIONS: dict[str, Any] = {"sequential": sequential, "chunked": chunked, "reference": delta_rule_reference}
DECAY_IMPLEMENTATIONS: dict[str, Any] = {"chunked": ssd, "reference": decayed_attention_reference}

__all__ = ["DECAY_IMPLEMENTATIONS", "IMPLEMENTATIONS", "decayed_attention", "delta_rule", "delta_static", "delta_step"]


def delta_rule(q, k, v, alpha, beta, *, gain=None, state=None, reset=None, readout="all", implementation=None):
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
      alpha, beta: (B, T, N) real; alpha > 0 for "chunked".
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
    gain = None if gain is None else jnp.asarray(gain)
    _check_delta("delta_rule", arrays, gain, state, 2)
    check_reset("delta_rule", reset, arrays[1].shape[:2])
    if readout not in ("all", "last"):
        raise UsageError(f"unknown readout {readout!r} of delta_rule: use all or last")
    arrays, gain, state = _promoted(arrays, gain, state, 2)
    if implementation is None:
        tokens = gain is None and arrays[1].ndim == 4 and not jnp.iscomplexobj(state)
        implementation = "chunked" if tokens else "sequential"
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"unknown implementation {implementation!r} of delta_rule: use {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[implementation](*arrays, gain, state, reset, readout)


def delta_step(q, k, v, alpha, beta, *, gain, state):
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


def delta_static(q, k, v, alpha, beta, steps: int, *, gain=None, state=None):
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
    gain = None if gain is None else jnp.asarray(gain)
    _check_delta("delta_static", arrays, gain, state, 1)
    if steps < 1:
        raise ShapeError(f"delta_static: steps is {steps}, expected at least one")
    arrays, gain, state = _promoted(arrays, gain, state, 1)
    return static(*arrays, steps=steps, gain=gain, state=state)


def decayed_attention(q, k, v, log_a, *, state=None, reset=None, implementation=None):
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
    _check_real("decayed_attention", q, k, v, log_a)
    if v.ndim != 4 or k.ndim != 3 or q.shape != k.shape or k.shape[:2] != v.shape[:2] or log_a.shape != v.shape[:3]:
        got = f"q {q.shape}, k {k.shape}, v {v.shape}, log_a {log_a.shape}"
        raise ShapeError(f"decayed_attention: got {got}, expected (B, T, D) twice, (B, T, N, Dv), (B, T, N)")
    expected = (v.shape[0], *v.shape[2:], k.shape[2])
    _check_steps("decayed_attention", k, state, expected)
    check_reset("decayed_attention", reset, k.shape[:2])
    implementation = implementation or "chunked"
    if implementation not in DECAY_IMPLEMENTATIONS:
        known = ", ".join(DECAY_IMPLEMENTATIONS)
        raise UsageError(f"unknown implementation {implementation!r} of decayed_attention: use {known}")
    dtype = jnp.result_type(q, k, v, log_a, jnp.float32, *(() if state is None else (state,)))
    state = jnp.zeros(expected, dtype) if state is None else jnp.asarray(state, dtype)
    return DECAY_IMPLEMENTATIONS[implementation](*(a.astype(dtype) for a in (q, k, v, log_a)), state, reset)


def _check_delta(name, arrays, gain, state, lead) -> None:
    """q, k (B, [T,] N, Dk, ...), v (B, [T,] N, Dv, ...), alpha, beta (B, [T,] N); lead is 2 with a time axis."""
    q, k, v, alpha, beta = arrays
    legend = "(B, T, N, D, ...)" if lead == 2 else "(B, N, D, ...)"
    same = k.ndim >= lead + 2 and q.shape == k.shape and k.ndim == v.ndim
    if not same or v.shape[: lead + 1] + v.shape[lead + 2 :] != k.shape[: lead + 1] + k.shape[lead + 2 :]:
        raise ShapeError(f"{name}: q {q.shape}, k {k.shape}, v {v.shape} do not fit together, expected {legend}")
    if alpha.shape != k.shape[: lead + 1] or beta.shape != alpha.shape:
        raise ShapeError(
            f"{name}: alpha has shape {alpha.shape}, beta {beta.shape}, expected {k.shape[: lead + 1]} {legend[:-9]})"
        )
    _check_real(name, alpha, beta)
    if not all(jnp.issubdtype(a.dtype, jnp.inexact) for a in (q, k, v)):
        raise ShapeError(f"{name} takes floating arrays, got q {q.dtype}, k {k.dtype}, v {v.dtype}: cast them")
    expected = (k.shape[lead], *k.shape[lead + 2 :])
    if gain is not None and gain.shape != expected:
        raise ShapeError(f"{name}: gain has shape {gain.shape}, expected {expected} (N, ...)")
    _check_steps(name, k, state, _state_shape(k, v, lead))


def _state_shape(k, v, lead):
    return (k.shape[0], k.shape[lead], v.shape[lead + 1], *k.shape[lead + 1 :])


def _check_steps(name, k, state, expected) -> None:
    if k.shape[1] == 0:
        raise ShapeError(f"{name}: k of shape {k.shape} has no steps or heads: give at least one")
    if state is not None and jnp.shape(state) != expected:
        raise ShapeError(f"{name}: state has shape {jnp.shape(state)}, expected {expected}")


def _check_real(name, *arrays) -> None:
    for a in arrays:
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise ShapeError(f"{name}: got {a.dtype} of shape {a.shape}, expected a real floating dtype: cast it")


def _promoted(arrays, gain, state, lead) -> Any:
    """One dtype for q, k, v and the state, its real part for alpha and beta; zeros for a missing state."""
    q, k, v, alpha, beta = arrays
    others = [a for a in (gain, state) if a is not None]
    dtype = jnp.result_type(*arrays, *others, jnp.float32)
    real = jnp.finfo(dtype).dtype
    shape = _state_shape(k, v, lead)
    state = jnp.zeros(shape, dtype) if state is None else jnp.asarray(state, dtype)
    cast = [*(a.astype(dtype) for a in (q, k, v)), *(a.astype(real) for a in (alpha, beta))]
    return cast, None if gain is None else gain.astype(dtype), state
