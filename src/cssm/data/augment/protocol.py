"""What an augmentation is, and the registry of those that have a name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cssm.core.registry import Registry

if TYPE_CHECKING:
    import jax

Arrays = Mapping[str, Any]
AUGMENTS: Registry[Any] = Registry("augmentation")


@runtime_checkable
class Augment(Protocol):
    """An augmentation: a frozen dataclass of options; the `augment` of a run."""

    def fitted(self, data: Any, classes: int, normalization: str) -> "Augment":
        """This augmentation with what follows from a run filled in; itself where nothing does.

        Args:
            data: the data set. classes: outputs of the task. normalization: how the task normalises uint8 pixels.

        Raises UsageError where it cannot be used on that data.
        """
        ...

    def __call__(self, key: "jax.Array", batch: Arrays) -> dict[str, Any]:
        """The batch, changed; the same key gives the same batch.

        Args:
            key: a JAX random key, another one for each step.
            batch: `input` (b, [t,] h, w, c) of any dtype, which is kept unless the augmentation normalises; `label`
                (b,); perhaps `markers` (b, 2, 2), (y, x) px with pixel centres at +.5, which follow the pixels; other
                keys pass through.
        """
        ...
