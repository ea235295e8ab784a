"""Every operation against PIL, the oracle: within a level of 255 on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_helpers import picture
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from cssm.data.augment import colour, crop, filters, rand_augment, three

SIZE = (44, 57)  # height and width that no transposition leaves alone


PICTURE = picture(0, SIZE)
PIL = Image.fromarray(PICTURE)


def differences(got, want, inner=0):
    """|got - want| of pixels that far from the border, got as planes (1, 1, c, h, w), want an image of PIL."""
    got, want = np.asarray(colour.interleaved(got, 4))[0].astype(int), np.asarray(want).astype(int)
    assert got.shape == want.shape
    inside = slice(inner, -inner or None)
    return np.abs(got - want)[inside, inside]


def close(got, want, mean, most=255, inner=0):
    off = differences(got, want, inner)
    assert off.mean() <= mean and off.max() <= most, (off.mean(), off.max())


@pytest.fixture(scope="module")
def pixels():
    return colour.planes(jnp.asarray(PICTURE)[None])


@jax.jit
def layer_of(x, operation, magnitude, negative):
    return rand_augment.applied(x, rand_augment.Layer(operation, magnitude, negative), True)


def one(x, name, magnitude, negative=False):
    """One operation of RandAugment on the picture, with the increasing magnitudes."""
    operation = jnp.array([rand_augment.PLACE[name]])
    return layer_of(x, operation, jnp.array([magnitude]), jnp.array([negative]))


def test_no_operation_changes_nothing(pixels):
    close(layer_of(pixels, jnp.array([-1]), jnp.array([9.0]), jnp.array([True])), PIL, 0)


@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("autocontrast", lambda m: ImageOps.autocontrast(PIL)),
        ("equalise", lambda m: ImageOps.equalize(PIL)),
        ("invert", lambda m: ImageOps.invert(PIL)),
        ("posterise", lambda m: ImageOps.posterize(PIL, max(1, 4 - int(m / 10 * 4)))),
        ("solarise", lambda m: ImageOps.solarize(PIL, 256 - int(m / 10 * 256))),
        ("solarise_add", lambda m: PIL.point([min(255, i + int(m * 11)) if i < 128 else i for i in range(256)] * 3)),
    ],
)
def test_tables(pixels, name, oracle, magnitude):
    want = oracle(magnitude)
    close(one(pixels, name, magnitude), want, 0.02, 1)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("saturation", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("brightness", ImageEnhance.Brightness),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_enhancements(pixels, name, oracle, magnitude, negative):
    factor = 1 + (-0.9 if negative else 0.9) * magnitude / 10
    close(one(pixels, name, magnitude, negative), oracle(PIL).enhance(factor), 0.02, 1)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_warps(pixels, name, magnitude, negative):
    h, w = SIZE
    share = (-magnitude if negative else magnitude) / 10
    options = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}
    matrices = {
        "shear_x": (1, 0.3 * share, 0, 0, 1, 0), "shear_y": (1, 0, 0, 0.3 * share, 1, 0),
        "translate_x": (1, 0, 0.45 * share * w, 0, 1, 0), "translate_y": (1, 0, 0, 0, 1, 0.45 * share * h),
    }  # fmt: skip
    if name == "rotate":
        want = PIL.rotate(30 * share, **options)
    else:
        want = PIL.transform(PIL.size, Image.Transform.AFFINE, matrices[name], **options)
    close(one(pixels, name, magnitude, negative), want, 0.02, 1)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.7, 1.3, 1.5, 2.0])
def test_blur(pixels, sigma):
    got = jax.jit(filters.gaussian_blur)(pixels, jnp.array([sigma]))
    close(got, PIL.filter(ImageFilter.GaussianBlur(sigma)), 0.8, 2, inner=7)
    assert (sigma > 0.2) == (np.asarray(got) != np.asarray(pixels)).any()


def test_smoothing(pixels):
    close(jax.jit(filters.smoothed)(pixels), PIL.filter(ImageFilter.SMOOTH), 0, 0)


@pytest.mark.parametrize("kind", [three.GREY, three.SOLARISE, three.BLUR])
def test_the_three(pixels, kind):
    want = [PIL.convert("L").convert("RGB"), ImageOps.solarize(PIL, 128), PIL.filter(ImageFilter.GaussianBlur(1.7))]
    sigma, blurred = jnp.array([1.7 if kind == three.BLUR else 0.0]), kind == three.BLUR
    got = jax.jit(three.three)(pixels, jnp.array([kind]), sigma)
    close(got, want[kind], 0.5 if blurred else 0, 2 if blurred else 0, inner=7 if blurred else 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_jitter_in_any_order(pixels, order):
    factors = {0: 0.75, 1: 1.3, 2: 0.7}
    got = jax.jit(colour.jittered)(pixels, jnp.array([order]), jnp.array([[factors[i] for i in order]]))
    want, kinds = PIL, (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in order:
        want = kinds[i](want).enhance(factors[i])
    close(got, want, 0.05, 2)
    other = jax.jit(colour.jittered)(pixels, jnp.array([order[::-1]]), jnp.array([[factors[i] for i in order[::-1]]]))
    assert (np.asarray(other) != np.asarray(got)).any()  # the order matters


@pytest.mark.parametrize("size", [(32, 32), (20, 40), (71, 64), (100, 90)])
@pytest.mark.parametrize("box", [(0, 0, 44, 57), (5, 9, 30, 20), (40, 50, 4, 7), (3, 0, 9, 57)])
def test_crops_resized(size, box):
    top, left, height, width = box
    crops = jax.jit(crop.resized_crops, static_argnums=2)
    got = crops(jnp.asarray(PICTURE)[None, None], jnp.array([box]), size, jnp.array([False]))
    want = PIL.resize(size[::-1], Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    close(got, want, 0.3, 2)
    turned = crops(jnp.asarray(PICTURE)[None, None], jnp.array([box]), size, jnp.array([True]))
    close(turned, ImageOps.mirror(want), 0.3, 2)


@pytest.mark.parametrize("level", [0, 255])
def test_pictures_with_much_of_one_level(level):
    """The brightest level does not count in what equalise spreads."""
    image = PICTURE.copy()
    image[:20] = level
    want = ImageOps.equalize(Image.fromarray(image))
    close(one(colour.planes(jnp.asarray(image)[None]), "equalise", 9.0), want, 0, 0)


def test_degenerate_pictures():
    """One colour alone: nothing to stretch, nothing to spread; as PIL has it."""
    flat = np.full((8, 9, 3), (7, 7, 200), np.uint8)
    x = colour.planes(jnp.asarray(flat)[None])
    for name, oracle in (("autocontrast", ImageOps.autocontrast), ("equalise", ImageOps.equalize)):
        close(one(x, name, 9.0), oracle(Image.fromarray(flat)), 0, 0)
    close(jax.jit(filters.smoothed)(x[..., :2, :]), Image.fromarray(flat[:2]), 0, 0)
