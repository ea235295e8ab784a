"""Views of images: how many, of which size, of how much of the image; what they cannot be of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import ShapeError, UsageError
from cssm.data import PathTracker, Photos
from cssm.data.augment import Views

PLAIN = {"flip": 0.0, "policy": "none", "jitter": 0.0}


def places(size=64):
    """Two images whose red and green say where a pixel is, and whose blue says which image it is."""
    y, x = np.mgrid[:size, :size] * (255 / (size - 1))
    image = np.stack([y, x, 0 * x], -1).round().astype(np.uint8)
    return {"input": np.stack([image, image + np.array([0, 0, 200], np.uint8)]), "label": np.arange(2)}


@pytest.fixture(scope="module")
def drawn():
    views = Views(global_views=2, local_views=40, local_size=16, local_scale=(0.05, 0.2), global_scale=0.5, **PLAIN)
    return jax.tree.map(np.asarray, jax.jit(views)(jax.random.key(0), places()))


def test_shapes_and_whose_views_they_are(drawn):
    assert drawn["input"].shape == (2, 2, 64, 64, 3) and drawn["local"].shape == (2, 40, 16, 16, 3)
    assert drawn["input"].dtype == drawn["local"].dtype == np.uint8
    for key in ("input", "local"):
        assert (drawn[key][0, ..., 2] == 0).all() and (drawn[key][1, ..., 2] == 200).all()
    assert drawn["label"].tolist() == [0, 1]


def shares(views):
    """Of the image's area that each view (..., h, w, 3) shows, from the places at its corners."""
    x = views.astype(float).reshape(-1, *views.shape[-3:])
    h, w = x.shape[1:3]
    tall, wide = (np.abs(x[:, -1, w // 2, 0] - x[:, 0, w // 2, 0]), np.abs(x[:, h // 2, -1, 1] - x[:, h // 2, 0, 1]))
    return tall * wide / 255**2 * (h / (h - 1)) * (w / (w - 1))


def test_how_much_of_the_image_they_show(drawn):
    local, whole = shares(drawn["local"]), shares(drawn["input"])
    assert 0.03 < local.min() < 0.09 and 0.15 < local.max() < 0.23
    assert whole.min() > 0.45
    assert len(np.unique(local.round(4))) > 60  # each is drawn on its own


def test_the_same_key_gives_the_same_views_and_others_flip_and_colour():
    views = Views(local_views=1, local_size=8)
    batch = {"input": places(16)["input"], "label": np.arange(2)}
    again = [jax.jit(views)(jax.random.key(i), batch)["input"] for i in (3, 3, 4)]
    np.testing.assert_array_equal(again[0], again[1])
    assert (again[0] != again[2]).any()


@pytest.mark.parametrize(
    "options, message",
    [({"local_views": 0, "local_size": 8}, "does nothing without"),
     ({"global_views": 1, "local_views": 0}, "one view has no other"), ({"local_scale": (0.3, 0.1)}, "local_scale is"),
     ({"policy": "four"}, "four"), ({"global_scale": 0.0}, "global_scale"), ({"local_size": 0}, "local_size")],
)  # fmt: skip
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        Views(**options)


def test_what_has_no_views():
    with pytest.raises(UsageError, match="the frames of clips are views already"):
        Views().fitted(PathTracker(frames=4), 2, "imagenet")
    with pytest.raises(ShapeError, match="of 8 bits"):
        Views()(jax.random.key(0), {"input": jnp.zeros((1, 8, 8, 1), jnp.uint8)})
    assert Views(local_size=32).fitted(Photos(), 10, "imagenet") == Views(local_size=32)
    with pytest.raises(UsageError, match="local_size is 96 px of images of 32 x 32"):
        Views().fitted(Photos(), 10, "imagenet")
