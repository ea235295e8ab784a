import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import ShapeError, UsageError
from cssm.data.normalise import NORMALIZATIONS, normalise, shown

LEVELS = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_what_is_shown_is_what_was_normalised(kind):
    assert (shown(np.asarray(normalise(LEVELS, kind)), kind) == LEVELS).all()
    floats = jnp.ones((2, 3))
    assert normalise(floats, kind) is floats and shown(LEVELS, kind) is LEVELS


def test_values():
    np.testing.assert_allclose(normalise(LEVELS, "unit")[51], 0.2, rtol=1e-6)
    np.testing.assert_allclose(normalise(LEVELS)[0], [-2.1179, -2.0357, -1.8044], atol=1e-4)
    assert shown(np.array([-9.0, 9.0]), "unit").tolist() == [0, 255]


def test_mistakes():
    with pytest.raises(UsageError, match="normalization 'x' is unknown"):
        normalise(LEVELS, "x")
    with pytest.raises(ShapeError, match="needs 3 channels, the input has 1: use unit"):
        normalise(LEVELS[:, :1])
