"""DecaySSM for PyTorch: `cssm.nn.DecaySSM`, the same parameters, the same forms, the same numbers."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from cssm.core.typing import Float
from cssm.shared.decay import check_decay_ssm, check_decay_ssm_input, decay_bias

from ..tensors import check_tensors
from .decay import decay_scan


class DecaySSM(nn.Module):
    """H_t = exp(log_a_t) H_{t-1} + v_t k_t^T, y_t = Linear(H_t q_t), all from u (B, T, D): see `cssm.nn.DecaySSM`.

    Args:
      dim: D. rows: R. channels: C. chunk: L of "chunked"; any T fits.
      implementation: "chunked", "kernel", "naive", or None: "kernel" for R C < 512, else "chunked".

    Raises: UsageError: a size below 1, or an unknown implementation.

    >>> layer = DecaySSM(8, 4, 6)
    >>> layer(torch.zeros(2, 5, 8)).shape, layer.step(layer.init_state(2), torch.zeros(2, 8))[1].shape
    (torch.Size([2, 5, 8]), torch.Size([2, 8]))
    """

    def __init__(self, dim: int, rows: int, channels: int, *, chunk: int = 8, implementation: str | None = None):
        super().__init__()
        self.dim, self.rows, self.channels = dim, rows, channels
        self.chunk, self.implementation = chunk, check_decay_ssm(dim, rows, channels, chunk, implementation)
        self.decay, self.value, self.out = nn.Linear(dim, rows), nn.Linear(dim, rows), nn.Linear(rows, dim)
        self.key, self.query = nn.Linear(dim, channels), nn.Linear(dim, channels)
        self.decay.bias.data.copy_(torch.tensor(decay_bias(rows)))

    def init_state(self, batch: int) -> torch.Tensor:
        """No past: (B, R, C), float32 (float64 for a float64 layer)."""
        weight = self.decay.weight
        return weight.new_zeros(
            (batch, self.rows, self.channels), dtype=torch.promote_types(weight.dtype, torch.float32)
        )

    def step(
        self, state: Annotated[Tensor, "b r c"], u: Annotated[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b r c"], Float[Tensor, "b d"]]:
        """One step u (B, D): the state (B, R, C) after it, and y (B, D)."""
        check_tensors("DecaySSM.step", state, u)
        check_decay_ssm_input("step", u, state, self.dim, self.rows, self.channels)
        log_a, v, k, q = self._project(u)
        state = log_a.exp()[..., None] * state + v[..., None] * k[:, None, :]
        return state, self._read(torch.einsum("brc,bc->br", state, q), u)

    def scan(
        self, state: Annotated[Tensor, "b r c"], u: Annotated[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b r c"], Float[Tensor, "b t d"]]:
        """A sequence u (B, T, D) from a carried state: the state (B, R, C) after it, and y (B, T, D)."""
        check_decay_ssm_input("scan", u, state, self.dim, self.rows, self.channels)
        parts = self._project(u)
        if self.implementation == "chunked":
            state, y = chunked(*parts, state, self.chunk)
        else:
            state, y = whole(*parts, state, decay_scan if self.implementation == "kernel" else masked_einsum)
        return state, self._read(y, u)

    def forward(self, u: Annotated[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """y (B, T, D) for u (B, T, D) with no past."""
        check_tensors("DecaySSM.forward", u)
        return self.scan(self.init_state(u.shape[0]), u)[1]

    def _project(self, u):
        carry = torch.promote_types(u.dtype, torch.float32)
        decay, v, k, q = (part(u).to(carry) for part in (self.decay, self.value, self.key, self.query))
        return -functional.softplus(decay), v, k * self.channels**-0.5, q

    def _read(self, y, u):
        return self.out(y.to(self.out.weight.dtype)).to(u.dtype)


def decays_between(log_a: Float[Tensor, "*lead t r"]) -> Float[Tensor, "*lead t t r"]:
    """exp(l_{j+1} + ... + l_t) for j <= t, else 0: (.., T, R) -> (.., j, t, R). Masked before exp."""
    index = torch.arange(log_a.shape[-2], device=log_a.device)
    j, t = index[:, None, None], index[None, :, None]
    exponents = torch.where(j < t, log_a[..., None, :, :], 0).cumsum(-2)
    return torch.where(j <= t, exponents, -torch.inf).exp()


def masked_einsum(
    log_a: Float[Tensor, "b t r"], x: Float[Tensor, "b t r c"], h0: Float[Tensor, "b r c"]
) -> Float[Tensor, "b t r c"]:
    """The decay scan of source 001, with the causal mask that its snippet lacks: O(T^2)."""
    log_a, x = functional.pad(log_a, (0, 0, 1, 0)), torch.cat([h0[:, None].to(x.dtype), x], 1)
    return torch.einsum("bjtr,bjrc->btrc", decays_between(log_a), x)[:, 1:]


def whole(
    log_a: Float[Tensor, "b t r"], v: Float[Tensor, "b t r"], k: Float[Tensor, "b t c"], q: Float[Tensor, "b t c"],
    state: Float[Tensor, "b r c"], scan: Callable[..., Tensor],
) -> tuple[Float[Tensor, "b r c"], Float[Tensor, "b t r"]]:  # fmt: skip
    """(state, y) by a scan over the (B, T, R, C) tensor of all writes."""
    h = scan(log_a, v[..., None] * k[:, :, None, :], state)
    return h[:, -1], torch.einsum("btrc,btc->btr", h, q)


def chunked(
    log_a: Float[Tensor, "b t r"], v: Float[Tensor, "b t r"], k: Float[Tensor, "b t c"], q: Float[Tensor, "b t c"],
    state: Float[Tensor, "b r c"], chunk: int,
) -> tuple[Float[Tensor, "b r c"], Float[Tensor, "b t r"]]:  # fmt: skip
    """(state, y) without the (B, T, R, C) tensor: see `cssm.nn.layers.decay_ssm.chunked`."""
    steps, chunk = v.shape[1], min(chunk, v.shape[1])
    log_a, v, k, q = (_split(part, chunk) for part in (log_a, v, k, q))  # (B, N, L, R or C)
    weights = decays_between(log_a)  # (B, N, j, t, R)
    scores = torch.einsum("bnjc,bntc->bnjt", k, q)
    inside = torch.einsum("bnjtr,bnjt,bnjr->bntr", weights, scores, v)
    ends = torch.einsum("bnjr,bnjc->bnrc", weights[:, :, :, -1] * v, k)  # what each chunk adds to the state
    states = decay_scan(log_a.sum(2), ends, state)
    before = torch.cat([state.to(states.dtype)[:, None], states[:, :-1]], 1)
    y = inside + log_a.cumsum(2).exp() * torch.einsum("bnrc,bntc->bntr", before, q)
    return states[:, -1], y.flatten(1, 2)[:, :steps]


def _split(part, chunk):
    part = functional.pad(part, (0, 0, 0, -part.shape[1] % chunk))
    return part.reshape(part.shape[0], -1, chunk, part.shape[2])
