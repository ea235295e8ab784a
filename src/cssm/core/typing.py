"""The shape legend: every public array is annotated in these letters.

| letter | meaning                                   | letter | meaning                                |
|--------|-------------------------------------------|--------|----------------------------------------|
| b      | batch                                     | c      | channels                               |
| t      | time (frames)                             | k      | kernel taps along one spatial axis     |
| h, w   | height, width of the grid                 | wf     | w // 2 + 1, columns of a half spectrum |
| n      | tokens                                    | p      | classes (logits)                       |
| rgb    | channels of the input, before the stem    | height, width | input pixels, before the stem   |

Annotations are checked by jaxtyping + beartype in the tests and cost nothing in use. `Any` stands for the
array type, so that the same legend serves NumPy, JAX and PyTorch.
"""

from typing import Any

from jaxtyping import Bool, Complex, Float, Int

Video = Float[Any, "b t h w c"]
Frame = Float[Any, "b h w c"]
RawVideo = Float[Any, "b t height width rgb"]
RawFrame = Float[Any, "b height width rgb"]
Kernel = Float[Any, "c k k"]
HalfSpectrum = Complex[Any, "c h wf"]
SpectralState = Complex[Any, "b c h wf"]
Logits = Float[Any, "b p"]
Grid = tuple[int, int]

__all__ = [
    "Bool", "Complex", "Float", "Frame", "Grid", "HalfSpectrum", "Int", "Kernel",
    "Logits", "RawFrame", "RawVideo", "SpectralState", "Video",
]  # fmt: skip
