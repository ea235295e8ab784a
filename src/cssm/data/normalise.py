"""How pixels of 8 bits become numbers that a model sees."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cssm.core.errors import ShapeError

from .source import IMAGENET_MEAN, IMAGENET_STD, check_choice

if TYPE_CHECKING:
    import jax

NORMALIZATIONS = ("imagenet", "unit", "symmetric", "none")


def normalise(x: Any, kind: str = "imagenet") -> "jax.Array":
    """Pixels (..., c) of whole numbers 0..255 as float32; floating pixels, which are normalised already, as they are.

    | kind        | value                                             |
    |-------------|---------------------------------------------------|
    | `imagenet`  | (x/255 - ImageNet mean) / ImageNet std; needs c=3 |
    | `unit`      | x/255                                             |
    | `symmetric` | x/127.5 - 1                                       |
    | `none`      | x                                                 |

    Raises UsageError for another kind, ShapeError where `imagenet` meets other than three channels.

    >>> import jax.numpy as jnp
    >>> normalise(jnp.array([[0], [255]], jnp.uint8), "symmetric").ravel().tolist()
    [-1.0, 1.0]
    """
    import jax.numpy as jnp

    check_choice("normalization", kind, NORMALIZATIONS)
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    x = x.astype(jnp.float32)
    if kind == "imagenet":
        if x.shape[-1] != 3:
            raise ShapeError(f"imagenet normalization needs 3 channels, the input has {x.shape[-1]}: use unit")
        return (x / 255 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
    return {"unit": x / 255, "symmetric": x / 127.5 - 1, "none": x}[kind]


def shown(x: Any, kind: str = "imagenet") -> np.ndarray:
    """Pixels (..., c) as 8 bits, to look at: what `normalise` has done is undone, whole numbers stay.

    >>> shown(np.array([[-1.0], [0.2], [7.0]], np.float32), "symmetric").ravel().tolist()
    [0, 153, 255]
    """
    check_choice("normalization", kind, NORMALIZATIONS)
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        return x
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    levels = {
        "imagenet": lambda: 255 * (x * std + mean),
        "unit": lambda: 255 * x,
        "symmetric": lambda: 127.5 * (x + 1),
        "none": lambda: x,
    }[kind]()
    return np.rint(levels).clip(0, 255).astype(np.uint8)
