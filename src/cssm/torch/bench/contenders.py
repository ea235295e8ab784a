"""What `cssm bench` times in PyTorch: makers of callables without arguments, the plain path first."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from cssm.shared.fft_plan import SSM_STRATEGIES

from ..delta import decayed_attention as our_decayed_attention
from ..delta import delta_rule as our_delta_rule
from ..fftconv.conv_nd import fft_conv2d as our_fft_conv2d
from ..fftconv.reference import opt_ssm_forward_reference
from ..fftconv.scan import opt_ssm_scan as our_opt_ssm_scan
from ..fftconv.ssm import opt_ssm_forward as our_opt_ssm_forward
from ..scan.decay import decay_scan as our_decay_scan
from ..scan.decay_ssm import DecaySSM
from ..spectral import kernel_spectrum, stable_spectrum
from ..spectral import spectral_scan as our_spectral_scan
from .measure import DIRECTIONS, device, forward, gradient

Makers = dict[str, Callable[[], Callable[[], Any]]]


def masked_einsum(log_a, x):
    """The source's naive form, causally masked before exp: holds (B, T, T, R). Source: 001; docs/math.md section 1."""
    total = log_a.cumsum(1)
    exponent = total[:, :, None] - total[:, None]
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    decay = exponent.masked_fill(future[..., None], -torch.inf).exp()
    return torch.einsum("btjr,bjrc->btrc", decay, x)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(device())


def decay_scan(shape: tuple[int, ...], direction: str, plain: bool = True) -> Makers:
    """log_a in (-1, 0), x normal of shape (B, T, R, C). plain: beside the masked einsum."""
    log_a, x = -random(*shape[:3]).sigmoid(), random(*shape, seed=1)
    build = DIRECTIONS[direction]
    makers = {"masked einsum": partial(build, masked_einsum, log_a, x)} if plain else {}
    return makers | {"decay_scan": partial(build, our_decay_scan, log_a, x)}


def delta_rule(case, direction: str) -> Makers:
    """Real tokens of a case of cssm.ops.delta.cases: the definition, and chunks."""
    lead = (case.batch, case.steps, case.heads)
    q, k, v = (random(*lead, d, seed=seed) for seed, d in enumerate((case.keys, case.keys, case.values)))
    alpha, beta = (random(*lead, seed=seed).sigmoid() for seed in (3, 4))
    arrays = q, torch.nn.functional.normalize(k, dim=-1), v, alpha, beta
    return _implementations(our_delta_rule, direction, *arrays)


def decayed_attention(case, direction: str) -> Makers:
    """As `delta_rule`, for keys and queries that the heads share."""
    q, k = (random(case.batch, case.steps, case.keys, seed=seed) for seed in (0, 1))
    v = random(case.batch, case.steps, case.heads, case.values, seed=2)
    return _implementations(our_decayed_attention, direction, q, k, v, -random(*v.shape[:3], seed=3).exp())


def _implementations(function, direction, *arrays) -> Makers:
    output = lambda *a, i: function(*a, implementation=i)[1]  # noqa: E731
    return {i: partial(DIRECTIONS[direction], partial(output, i=i), *arrays) for i in ("reference", "chunked")}


def opt_ssm_forward(case) -> Makers:
    """The reference algorithm, the automatic strategy and each one forced, on a case of cssm.ops.fftconv.cases."""
    x = random(case.batch, case.length, case.inputs)
    complex_random = partial(random, dtype=torch.complex64)
    K, B_ = complex_random(case.taps, case.states, seed=1), complex_random(case.states, case.inputs, seed=2)
    arguments = x, K, B_, complex_random(case.outputs, case.states, seed=3)
    makers = {
        "reference": partial(forward, opt_ssm_forward_reference, *arguments),
        "automatic": partial(forward, our_opt_ssm_forward, *arguments),
    }
    return makers | {
        name: partial(forward, partial(our_opt_ssm_forward, strategy=name), *arguments) for name in SSM_STRATEGIES
    }


def fft_conv2d(case, direction: str) -> Makers:
    """Direct, FFT and the automatic choice, on a spatial case of cssm.ops.fftconv.cases."""
    x, kernel = random(*case.x), random(case.x[-1], *case.taps, seed=1)
    return {
        label: partial(DIRECTIONS[direction], partial(our_fft_conv2d, strategy=strategy), x, kernel)
        for label, strategy in (("direct", "direct"), ("fft", "fft"), ("automatic", None))
    }


def opt_ssm_scan(case) -> Makers:
    """The convolution with K = A^l against the recurrence, forward and backward."""
    x, B_ = (
        random(case.batch, case.length, case.inputs),
        random(case.states, case.inputs, dtype=torch.complex64, seed=2),
    )
    C = random(case.outputs, case.states, dtype=torch.complex64, seed=3)
    A = 0.98 * torch.exp(1j * torch.linspace(0, 3, case.states, device=device()))
    steps = torch.arange(case.taps, device=device())[:, None]

    def convolution(x, A, B_, C):
        return our_opt_ssm_forward(x, A**steps, B_, C, kernel_layout="length_first")

    return {
        "opt_ssm_forward": partial(gradient, convolution, x, A, B_, C),
        "opt_ssm_scan": partial(gradient, our_opt_ssm_scan, x, A, B_, C),
    }


def decay_ssm(shape: tuple[int, ...], direction: str) -> Makers:
    """The three forms of the layer, with the same weights."""
    u = random(*shape)
    layers = {
        form: DecaySSM(shape[-1], 64, 64, implementation=form).to(device()) for form in ("naive", "kernel", "chunked")
    }
    for layer in layers.values():
        layer.load_state_dict(layers["naive"].state_dict())
    return {form: partial(DIRECTIONS[direction], layer, u) for form, layer in layers.items()}


def there_and_back(x):
    """rfft2 and irfft2 of every frame of a NumPy clip (B, T, H, W, C)."""
    spectra = torch.fft.rfft2(torch.from_numpy(x), dim=(2, 3))
    return torch.fft.irfft2(spectra, s=x.shape[2:4], dim=(2, 3)).numpy()


def spectral_loop(shape: tuple[int, ...], direction: str, readout: str) -> Makers:
    """torch.fft in the memory layout it likes best, channels first, and a loop by autograd; and what is picked."""
    *_, height, width, channels = shape
    spectrum = stable_spectrum(kernel_spectrum(0.2 * random(channels, 11, 11, seed=1), (height, width)))
    x, build = random(*shape), DIRECTIONS[direction]

    def loop(x, spectrum):
        frames, state, states = torch.fft.rfft2(x.movedim(-1, 2)), 0, []
        for t in range(x.shape[1]):
            state = spectrum * state + frames[:, t]
            states.append(state)
        shown = torch.stack(states, 1) if readout == "all" else state
        return torch.fft.irfft2(shown, s=(height, width)).movedim(-3, -1)

    planes = x.movedim(-1, 2).contiguous().movedim(2, -1)  # the same numbers, channels first in memory
    return {
        "torch.fft and a loop": partial(build, loop, planes, spectrum),
        "spectral_scan": partial(build, lambda x, k: our_spectral_scan(x, k, readout=readout)[1], x, spectrum),
    }


def spectral_scan(shape: tuple[int, ...], direction: str) -> Makers:
    """All frames: the definition by autograd, and what is picked."""
    *_, height, width, channels = shape
    spectrum = stable_spectrum(kernel_spectrum(0.2 * random(channels, 11, 11, seed=1), (height, width)))
    x, build = random(*shape), DIRECTIONS[direction]

    def frames(x, spectrum, implementation):
        return our_spectral_scan(x, spectrum, implementation=implementation)[1]

    return {
        "definition": partial(build, partial(frames, implementation="reference"), x, spectrum),
        "spectral_scan": partial(build, partial(frames, implementation=None), x, spectrum),
    }
