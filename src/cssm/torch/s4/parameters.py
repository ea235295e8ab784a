"""Where the state spaces of FFTConvS4 come from: its own trained parameters, or tensors that the caller gives."""

import contextlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cssm.core.errors import ShapeError, UsageError
from cssm.shared.hippo import initial_parameters
from cssm.shared.s4_options import KernelOptions, check_discretisation

from . import diagonal, dplr
from .published import PublishedNames, check_published, continuous_of, is_published

FAMILIES: dict[str, Any] = {"s4": dplr, "s4d": diagonal}
SHAPES = {"A": "h n", "B": "h n", "C": "c h n", "dt": "h", "P": "r h n", "D": "c h"}
KEYS = {"s4d": ("A", "B", "C", "dt"), "s4": ("A", "P", "B", "C", "dt")}


class Continuous(NamedTuple):
    """A, B (H, n), C (C, H, n), P (r, H, n) or None, complex; dt (H,), D (C, H) or None, real; at least float32.

    dt may be (H, n) for s4d.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    P: Tensor | None
    D: Tensor | None


class Parameters(PublishedNames):
    """What a layer computes with: `continuous()`, and that discretised."""

    def __init__(self, kernel_type: str, disc: str):
        super().__init__()
        self.kernel_type, self.disc = kernel_type, disc

    def discretised(self, rate: float = 1.0) -> tuple[dplr.Dplr | diagonal.Diagonal, Tensor | None]:
        """The discrete system of steps `rate` as long, and D (C, H)."""
        A, B, C, dt, P, skip = self.continuous()
        with full_precision(dt):
            if P is not None:  # kernel "s4"
                return dplr.discretise(A, P, B, C, dt * rate), skip
            return diagonal.discretise(A, B, C, dt * rate, self.disc), skip

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """A_bar, B_bar, C of the recurrence, dense for s4: see `matrices` of `dplr` and of `diagonal`."""
        system, _ = self.discretised()
        with full_precision(system.B):
            return FAMILIES[self.kernel_type].matrices(system)

    def continuous(self) -> Continuous:
        raise NotImplementedError


class OwnParameters(Parameters):
    """Trained: log_dt (H,), log_A_real, A_imag (H, n), B (H, n, 2), C (C, H, n, 2), P (r, H, n, 2), D (C, H).

    A = -exp(log_A_real) + i A_imag; the last axis of B, C, P holds real and imaginary part. As in cssm.nn.layers.s4.
    """

    B: Tensor
    C: Tensor

    def __init__(self, options: KernelOptions, d_model: int, channels: int):
        super().__init__(options.kernel, check_discretisation(options.kernel, options.disc))
        low, high = math.log(options.dt_min), math.log(options.dt_max)
        self.log_dt = nn.Parameter(low + (high - low) * torch.rand(d_model))
        initial = initial_parameters(options.kernel, options.init, options.d_state)
        for name, value in initial.items():
            axis = 1 if name == "P" else 0
            value = torch.tensor(value, dtype=self.log_dt.dtype).unsqueeze(axis)
            self.register_parameter(name, nn.Parameter(value.repeat_interleave(d_model, axis)))
        self.C = nn.Parameter(torch.randn(channels, d_model, options.d_state // 2, 2) * math.sqrt(0.5))
        if options.skip:
            self.D = nn.Parameter(torch.randn(channels, d_model))

    @property
    def steps(self) -> Tensor:
        """One real parameter: its dtype is the layer's."""
        return self.log_dt

    def continuous(self) -> Continuous:
        held = {name: _at_least_single(value) for name, value in self.named_parameters(recurse=False)}
        pairs = {k: torch.complex(v[..., 0], v[..., 1]) for k, v in held.items() if k in ("B", "C", "P")}
        A = torch.complex(-torch.exp(held["log_A_real"]), held["A_imag"])
        return Continuous(A, pairs["B"], pairs["C"], torch.exp(held["log_dt"]), pairs.get("P"), held.get("D"))


class GivenParameters(Parameters):
    """The caller's A, B, C, dt (and P, D), used as they are: A is the matrix itself, dt the step itself; or the arrays
    of published code (`cssm.torch.s4.published`), kept under the names they have there.

    An nn.Parameter is registered, and so shared with the caller; any other tensor becomes a buffer, and gradients reach
    what it was computed from.
    """

    B: Tensor
    C: Tensor

    def __init__(self, kernel: str, config: dict[str, Any], d_model: int, channels: int, disc: str | None = None):
        disc = config.get("disc") if disc is None and is_published(config) else disc
        super().__init__(kernel, check_discretisation(kernel, disc))
        self.published = {}
        if is_published(config):
            check_published(kernel, config, d_model, channels)
            self.published = {name: value for name, value in config.items() if not isinstance(value, Tensor)}
            config = {name: value for name, value in config.items() if isinstance(value, Tensor)}
            config = config if kernel == "s4" else {name: value for name, value in config.items() if name != "P"}
        else:
            _check_arrays(kernel, config, d_model, channels)
        for name, value in config.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)
        found = self.continuous()
        if bool((found.dt <= 0).any()) or bool((found.A.real > 0).any()):
            raise UsageError("param_config: dt must be positive and the real part of A not")

    @property
    def steps(self) -> Tensor:
        return self._held()["inv_dt" if self.published else "dt"]

    def continuous(self) -> Continuous:
        held: dict[str, Any] = {name: _at_least_single(value) for name, value in self._held().items()}
        held = continuous_of(held, self.published) if self.published else held
        return Continuous(held["A"], held["B"], held["C"], held["dt"], held.get("P"), held.get("D"))

    def _held(self) -> dict[str, Tensor]:
        own: dict[str, Any] = {"recurse": False, "remove_duplicate": False}  # one tensor may have two names
        return {**dict(self.named_parameters(**own)), **dict(self.named_buffers(**own))}


def _check_arrays(kernel: str, config: dict[str, Any], d_model: int, channels: int) -> None:
    _check_keys(kernel, config)
    sizes: dict[str, int] = {"h": d_model, "c": channels}
    for name, value in config.items():
        _check_given(name, value, sizes)


def _check_keys(kernel: str, config: dict[str, Any]) -> None:
    wanted = KEYS[kernel]
    takes = f"it takes {', '.join(wanted)}, and D if y is to have a skip"
    for what, names in (("lacks", set(wanted) - set(config)), ("has unknown", set(config) - {*wanted, "D"})):
        if names:
            raise UsageError(f"param_config of kernel_type {kernel!r} {what} {', '.join(sorted(names))}; {takes}")


def _check_given(name: str, value: Any, sizes: dict[str, int]) -> None:
    if not isinstance(value, Tensor):
        raise UsageError(f"param_config: {name} is a {type(value).__name__}, expected a tensor or nn.Parameter")
    letters = SHAPES[name].split()
    expected = tuple(sizes.get(letter, letter) for letter in letters)
    fits = value.ndim == len(letters) and all(
        size > 0 and size == sizes.setdefault(letter, size) for letter, size in zip(letters, value.shape, strict=True)
    )
    if not fits:
        shape = ", ".join(map(str, expected))
        raise ShapeError(f"param_config: {name} has shape {tuple(value.shape)}, expected ({shape})")
    real = name in ("dt", "D")
    if not (value.is_floating_point() if real else value.is_complex()):
        raise ShapeError(f"param_config: {name} is {value.dtype}, expected {'real' if real else 'complex'} floats")


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Autocast would take the matrix products of the kernel to half precision."""
    enabled = torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if enabled else contextlib.nullcontext()


def _at_least_single(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
