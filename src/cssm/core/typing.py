"""The shape legend: every public array is annotated in these letters.

| letter        | meaning                     | letter              | meaning                         |
|---------------|-----------------------------|---------------------|---------------------------------|
| b             | batch                       | d, dk, dv           | width of tokens, keys, values   |
| t             | time (frames, steps)        | r                   | rows of a scan; lifted channels |
| h, w          | height, width of the grid   | i, o                | inputs, outputs of a system     |
| wf            | w // 2 + 1: a half spectrum | l                   | taps, steps of a chunk          |
| c             | channels                    | k                   | kernel taps along an axis       |
| rgb           | channels of the input       | f                   | frequencies as one axis         |
| height, width | pixels of the input         | p                   | classes (logits)                |
| n             | tokens, heads, states       | *lead, *grid, *taps | any number of axes              |

Annotations are checked by jaxtyping + beartype in the tests and cost nothing in use. `Any` stands for the
array type, so that the same legend serves NumPy, JAX and PyTorch.

What users pass to a public operator is `Annotated[ArrayLike, "b t h w c"]`, in cssm.torch `Annotated[Tensor, ...]`: the
operator checks shape and dtype itself, and answers in one line. What it returns is `Float[Array, "b t h w c"]`.
"""

from typing import Any

from jaxtyping import Bool, Complex, Float, Inexact, Int, Shaped

Video = Float[Any, "b t h w c"]
Frame = Float[Any, "b h w c"]
RawVideo = Float[Any, "b t height width rgb"]
RawFrame = Float[Any, "b height width rgb"]
Kernel = Float[Any, "c k k"]
HalfSpectrum = Complex[Any, "c h wf"]
SpectralState = Complex[Any, "b c h wf"]
Reset = Bool[Any, "b t"]
Logits = Float[Any, "b p"]
Grid = tuple[int, int]

__all__ = [
    "Bool", "Complex", "Float", "Frame", "Grid", "HalfSpectrum", "Inexact", "Int", "Kernel",
    "Logits", "RawFrame", "RawVideo", "Reset", "Shaped", "SpectralState", "Video",
]  # fmt: skip
