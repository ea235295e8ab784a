"""What an S4 layer may be asked for, checked once for both frameworks."""

from dataclasses import dataclass, fields
from typing import Any

from cssm.core.errors import UsageError

from .annotations import describe, fits
from .hippo import INITS, NPLR_INITS

KERNELS = ("s4", "s4d")
KERNEL_ALIASES = {"dplr": "s4", "nplr": "s4", "diag": "s4d"}  # names in published code
STEP_MODES = ("dense", "linear", "diagonal")
DISCRETISATIONS = ("zoh", "bilinear")
IMPLEMENTATIONS = ("krylov", "cauchy")


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """The keyword arguments of an S4 kernel.

    Args:
      kernel: "s4d", diagonal, or "s4", diagonal minus low rank. d_state: N, even; N/2 complex numbers are kept.
      init: legs, legt, fourier (both kernels); lin, inv, inv2, quad, real ("s4d" alone).
      disc: "zoh" (the choice for "s4d") or "bilinear" (the choice, and the only one, for "s4").
      dt_min, dt_max: the step sizes start log-uniform between these.
      skip: whether a learned D (channels, d_model) adds D x to the output.
      implementation: "krylov" (the choice) or "cauchy", for "s4" alone.

    >>> KernelOptions(kernel="s4d").disc
    'zoh'
    """

    kernel: str
    d_state: int = 64
    init: str = "legs"
    disc: str | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    skip: bool = False
    implementation: str | None = None

    def __post_init__(self):
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if not fits(value, field.type):
                raise UsageError(f"S4: {field.name} is {value!r}, expected {describe(field.type)}")
        self._check_names()
        if self.d_state < 2 or self.d_state % 2:
            raise UsageError(f"S4: d_state is {self.d_state}, expected an even number of at least 2 (conjugate pairs)")
        if not 0 < self.dt_min <= self.dt_max:
            raise UsageError(f"S4: dt_min {self.dt_min}, dt_max {self.dt_max}: expected 0 < dt_min <= dt_max")

    def _check_names(self):
        if self.kernel not in KERNELS:
            raise UsageError(f"unknown S4 kernel {self.kernel!r}: use {' or '.join(KERNELS)}")
        if self.init not in INITS:
            raise UsageError(f"unknown S4 init {self.init!r}: use {', '.join(INITS)}")
        if self.kernel == "s4" and self.init not in NPLR_INITS:
            raise UsageError(f"init {self.init!r} has no low-rank form: use {', '.join(NPLR_INITS)}, or kernel='s4d'")
        object.__setattr__(self, "disc", check_discretisation(self.kernel, self.disc))
        object.__setattr__(self, "implementation", check_implementation(self.kernel, self.implementation))


def kernel_options(kernel: str, arguments: dict[str, Any]) -> KernelOptions:
    """KernelOptions from the keyword arguments of a layer; unknown ones are named."""
    known = [field.name for field in fields(KernelOptions) if field.name != "kernel"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise UsageError(f"the S4 kernel {kernel!r} cannot honour {', '.join(unknown)}; it takes {', '.join(known)}")
    name = arguments.get("init")
    if isinstance(name, str) and name.startswith("diag-"):  # published: the diagonal alone, no low rank
        if canonical_kernel(kernel) != "s4d":
            raise UsageError(f"init {name!r} is diagonal: give kernel='s4d', or init={name[5:]!r}")
        arguments = arguments | {"init": name[5:]}
    elif isinstance(name, str) and name.startswith("dplr-"):
        raise UsageError(f"init {name!r}: a random low rank has no source here; use {', '.join(NPLR_INITS)}")
    return KernelOptions(kernel=canonical_kernel(kernel), **arguments)


def canonical_kernel(kernel: str) -> str:
    """The kernel that a name of published code stands for; other names as they are.

    >>> canonical_kernel("dplr"), canonical_kernel("s4d")
    ('s4', 's4d')
    """
    return KERNEL_ALIASES.get(kernel, kernel)


def check_step_mode(mode: str) -> None:
    """UsageError for no name of published code; they are ways to compute one thing, which here has one way."""
    if mode not in STEP_MODES:
        raise UsageError(f"unknown step mode {mode!r}: use {', '.join(STEP_MODES)}; all give the same numbers here")


def check_discretisation(kernel: str, disc: str | None) -> str:
    """The discretisation of that name, or the kernel's own choice."""
    if disc not in (None, *DISCRETISATIONS):
        raise UsageError(f"unknown discretisation {disc!r}: use {' or '.join(DISCRETISATIONS)}")
    if kernel == "s4" and disc == "zoh":
        raise UsageError("kernel 's4' is discretised by 'bilinear' alone: leave disc out, or use kernel='s4d'")
    return disc or ("zoh" if kernel == "s4d" else "bilinear")


def check_implementation(kernel: str, implementation: str | None) -> str | None:
    """The implementation of that name, or the kernel's own choice."""
    if kernel == "s4d" and implementation is not None:
        raise UsageError(f"kernel 's4d' has one implementation: leave out implementation={implementation!r}")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise UsageError(f"unknown S4 implementation {implementation!r}: use {' or '.join(IMPLEMENTATIONS)}")
    return implementation or ("krylov" if kernel == "s4" else None)


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """The options of an S4 layer that do not concern its kernel."""

    d_model: int
    l_max: int | None = None
    channels: int = 1
    swap_channels: bool = False
    transposed: bool = True
    dropout: float = 0.0
    tie_dropout: bool = False
    drop_kernel: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if not fits(value, field.type):
                raise UsageError(f"S4: {field.name} is {value!r}, expected {describe(field.type)}")
        for name in ("d_model", "channels", "l_max"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"S4: {name} is {value}, expected at least 1")
        for name in ("dropout", "drop_kernel"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"S4: {name} is {getattr(self, name)}, expected a probability in [0, 1)")
        if self.tie_dropout and not self.dropout:
            raise UsageError("S4: tie_dropout has nothing to tie: give dropout a probability, or leave it out")

    def taps(self, length: int, rate: float) -> int:
        """How many taps the kernel has for an input of that length: all, or l_max of them at rate 1.

        >>> LayerOptions(d_model=1, l_max=64).taps(100, 2.0)
        32
        """
        return length if self.l_max is None else min(length, max(1, round(self.l_max / rate)))


def check_rate(rate: float) -> float:
    """A rate must be a positive number: the step sizes are multiplied by it."""
    if not fits(rate, float) or not 0 < rate < float("inf"):
        raise UsageError(f"S4: rate is {rate!r}, expected a positive number (2.0 halves the sampling rate)")
    return float(rate)


def blocks(length: int) -> tuple[int, int]:
    """(blocks, block size): a power of two near the square root of the length, and how many blocks cover it.

    >>> blocks(1000)
    (32, 32)
    """
    if not isinstance(length, int) or not 1 <= length < 2**31:
        raise UsageError(f"S4: length is {length!r}, expected an integer of at least 1 and below 2**31")
    size = 1 << ((length - 1).bit_length() + 1) // 2
    return -(-length // size), size
