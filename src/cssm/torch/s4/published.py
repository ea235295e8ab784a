"""The parameters of a state space as published S4 code stores them: A_real, A_imag, inv_dt, real pairs, transforms.

    A = -f(A_real) - i g(A_imag),   dt = h(inv_dt), or h(sinh(inv_dt)) with dt_fast

with f, g, h the names real_transform, imag_transform, dt_transform; n_ssm systems are repeated until there are H.
`deterministic` and `verbose`, which say how the arrays were made, change nothing here.
Source: the parameterisation of S4 (Gu et al. 2022) and S4D (Gu et al. 2022), as source 004 passes it on.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cssm.core.errors import ShapeError, UsageError

ARRAYS = ("A_real", "A_imag", "B", "C", "P", "inv_dt", "D")
SIZES = ("N", "H", "channels", "rank", "repeat")
CHOICES = {"dt_transform": "exp", "real_transform": "exp", "imag_transform": "none"}
FLAGS = ("dt_fast", "is_real", "deterministic", "verbose", "disc")
TRANSFORMS = {
    "none": lambda x: x,
    "exp": torch.exp,
    "relu": lambda x: torch.relu(x) + 1e-4,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
}


class PublishedNames(nn.Module):
    """How published code reads the recurrence out of a kernel: `_setup_step()`, then dA, dB, dC.

    For "s4" dA (H, 2n, 2n), dB (H, 2n), dC (C, H, 2n) act on the state beside its conjugate: y = Re(dC x). For "s4d"
    they are (H, n), (H, n), (C, H, n): y = 2 Re(dC x). All complex, made anew from the parameters whenever they are
    read, so never stale, and with gradients.
    """

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def _setup_step(self, mode: str = "dense") -> None:
        if mode != "dense":
            raise UsageError(f"the kernel's dA, dB, dC are dense, not {mode!r}: leave mode out")

    @property
    def dA(self) -> Tensor:
        """A_bar."""
        return self.matrices()[0]

    @property
    def dB(self) -> Tensor:
        """B_bar."""
        return self.matrices()[1]

    @property
    def dC(self) -> Tensor:
        """C."""
        return self.matrices()[2]


def is_published(config: dict[str, Any]) -> bool:
    """Whether a param_config is of this form."""
    return "A_real" in config or "inv_dt" in config


def check_published(kernel: str, config: dict[str, Any], d_model: int, channels: int) -> None:
    """UsageError for a key that is missing or unknown or a transform of no name; ShapeError for what does not fit."""
    needed = {"A_real", "B", "C", "inv_dt", *(("P",) if kernel == "s4" else ())}
    needed |= set() if config.get("is_real") else {"A_imag"}
    known = {*ARRAYS, *SIZES, *CHOICES, *FLAGS}
    given = {name for name, value in config.items() if value is not None}
    for what, names in (("lacks", needed - given), ("has unknown", set(config) - known)):
        if names:
            listed = ", ".join(sorted(needed))
            raise UsageError(
                f"param_config of kernel_type {kernel!r} {what} {', '.join(sorted(names))}; it takes {listed}"
            )
    for name in CHOICES:
        if config.get(name, CHOICES[name]) not in TRANSFORMS:
            raise UsageError(f"param_config: unknown {name} {config[name]!r}: use {', '.join(TRANSFORMS)}")
    for name in ARRAYS:
        if config.get(name) is not None and not (isinstance(config[name], Tensor) and config[name].is_floating_point()):
            raise UsageError(f"param_config: {name} is no real tensor: complex ones are stored as real pairs")
    _check_shapes(kernel, config, d_model, channels)


def _check_shapes(kernel: str, config: dict[str, Any], d_model: int, channels: int) -> None:
    pair = () if config.get("is_real") else (2,)
    systems, states = _two(config["A_real"])
    rank = len(config["P"]) if kernel == "s4" else 0
    expected = {
        "A_real": [(systems, states)], "A_imag": [(systems, states)], "B": [(1, systems, states, *pair)],
        "C": [(channels, d_model, states, *pair)], "P": [(rank, systems, states, 2)],
        "inv_dt": [(d_model, 1), *([(d_model, states)] if kernel == "s4d" else [])], "D": [(channels, d_model)],
    }  # fmt: skip
    for name, shapes in expected.items():
        value = config.get(name)
        if value is not None and not (name == "P" and kernel == "s4d") and tuple(value.shape) not in shapes:
            raise ShapeError(f"param_config: {name} has shape {tuple(value.shape)}, expected {shapes[-1]}")
    if d_model % systems:
        raise ShapeError(f"param_config: {systems} systems do not divide d_model {d_model}: repeat them as often")
    found = {"N": states, "H": d_model, "channels": channels, "repeat": d_model // systems}
    found |= {"rank": rank} if kernel == "s4" else {}
    for name, size in found.items():
        if config.get(name, size) != size:
            raise ShapeError(f"param_config: {name} is {config[name]}, the arrays say {size}")


def _two(value: Tensor) -> tuple[int, int]:
    if value.ndim != 2 or 0 in value.shape:
        raise ShapeError(f"param_config: A_real has shape {tuple(value.shape)}, expected (systems, states)")
    return value.shape[0], value.shape[1]


def continuous_of(held: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor | None]:
    """A, B (H, n), C (C, H, n), P (r, H, n) or None, D, and dt (H,) or (H, n), of arrays in this form."""
    use = {name: TRANSFORMS[config.get(name, default)] for name, default in CHOICES.items()}
    real = use["real_transform"](held["A_real"])
    imaginary = use["imag_transform"](held["A_imag"]) if "A_imag" in held else torch.zeros_like(real)
    inverse = torch.sinh(held["inv_dt"]) if config.get("dt_fast") else held["inv_dt"]
    dt = use["dt_transform"](inverse)
    times = held["C"].shape[1] // len(real)
    complex_of = _real if config.get("is_real") else _pairs
    return {
        "A": torch.complex(-real, -imaginary).repeat(times, 1),
        "B": complex_of(held["B"])[0].repeat(times, 1),
        "C": complex_of(held["C"]),
        "P": _pairs(held["P"]).repeat(1, times, 1) if "P" in held else None,
        "dt": dt[:, 0] if dt.shape[1] == 1 else dt,
        "D": held.get("D"),
    }


def _pairs(value: Tensor) -> Tensor:
    return torch.complex(value[..., 0], value[..., 1])


def _real(value: Tensor) -> Tensor:
    return torch.complex(value, torch.zeros_like(value))
