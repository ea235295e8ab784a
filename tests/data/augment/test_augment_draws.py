"""The moments of what is drawn, by the module's own functions, without pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import UsageError
from cssm.data.augment import crop, mixing, rand_augment, three
from cssm.data.augment.colour import draw_jitter
from cssm.data.augment.policies import RandAugment, parse_policy

DRAWS = 20_000
KEY = jax.random.key(5)


def mean_is(values, mean, deviations=4.0):
    values = np.asarray(values, float)
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - mean) <= deviations * error + 1e-9, (values.mean(), mean, error)


def mixes(alphas, switch=0.5, mix=1.0, size=(224, 224), draws=1500):
    """Shares of labels (n,), and of the first and the largest pixel, of many draws of how a batch is mixed."""

    def one(key):
        kept, share = mixing.draw_mix(key, size, alphas, mix, switch)
        return share, kept.min(), kept.max(), kept.mean()

    return map(np.asarray, jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, draws)))


def test_mixup_moment():
    share, low, high, mean = mixes((0.8, 0.0), size=(2, 2), draws=DRAWS)
    mean_is(np.maximum(share, 1 - share), 0.7718)
    mean_is(share, 0.5)
    assert (low == high).all() and np.allclose(share, mean, atol=1e-6)


def test_cutmix_moment():
    """At 224 pixels: the share of the pixels that stay, exactly, with boxes cut at the border."""
    share, low, high, mean = mixes((0.0, 1.0))
    mean_is(share, 0.6822)
    assert set(np.unique(low)) <= {0.0, 1.0} and (high >= low).all() and np.allclose(share, mean, atol=1e-5)


def test_corrected_share_of_cutmix_over_many_boxes():
    """E = .681 of the label's share at 224 pixels, from the boxes alone."""

    def one(key):
        first, second = jax.random.split(key)
        box = mixing.cut_box(second, jax.random.beta(first, 1.0, 1.0), (224, 224))
        return 1 - box[2] * box[3] / 224**2

    share = jax.jit(jax.vmap(one))(jax.random.split(KEY, DRAWS))
    mean_is(share, 0.6822)  # its exact value, summed over all places of the box
    assert abs(float(share.mean()) - 0.681) < 0.006


def test_switch_and_probability_of_mixing():
    share, low, high, _ = mixes((0.8, 1.0), switch=0.3, mix=0.6, size=(8, 8), draws=4000)
    mean_is(high > share + 1e-6, 0.6 * 0.3, 6)  # CutMix: pixels of both; boxes of no pixel are none
    mean_is((low == high) & (share < 1), 0.6 * 0.7, 4)
    never = list(mixes((0.8, 1.0), mix=0.0, size=(8, 8), draws=50))
    assert (never[0] == 1).all() and (never[1] == 1).all()


def test_erased_fraction():
    boxes = np.asarray(mixing.draw_erased(KEY, DRAWS, (224, 224), 1.0))
    assert (boxes[:, 2] > 0).all()
    area = boxes[:, 2] * boxes[:, 3] / 224**2
    assert abs(area.mean() - 0.176) < 0.002, area.mean()
    assert area.min() > 0.018 and area.max() < 0.34
    aspect = np.log(boxes[:, 2] / boxes[:, 3])
    assert abs(aspect.mean()) < 0.03 and np.log(0.28) < aspect.min() < np.log(0.33) and np.log(3) < aspect.max()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 0] + boxes[:, 2]).max() == 224
    some = np.asarray(mixing.draw_erased(KEY, DRAWS, (224, 224), 0.25))
    mean_is(some[:, 2] > 0, 0.25)


def test_area_and_aspect_of_crops():
    boxes = np.asarray(crop.draw_boxes(KEY, 10 * DRAWS, (256, 256), (0.08, 1.0)))
    top, left, height, width = boxes.T
    area, ratio = height * width / 256**2, np.log(width / height)
    fits = area < 0.7  # larger ones of a long shape are drawn again
    assert area.min() > 0.075 and 0.99 < area.max() <= 1
    mean_is(area[fits], (0.08 + 0.7) / 2)
    share, shape = np.meshgrid(np.linspace(0.08, 1, 801), np.exp(np.linspace(-1, 1, 801) * np.log(4 / 3)))
    sides = np.round(256 * np.sqrt(share * shape)), np.round(256 * np.sqrt(share / shape))
    mean_is(area, share[np.maximum(*sides) <= 256].mean())  # of the boxes that fit
    assert abs(ratio).max() < np.log(4 / 3) + 0.03
    mean_is(ratio, 0.0)
    assert abs(ratio[area < 0.5].std() / (np.log(4 / 3) / np.sqrt(3)) - 1) < 0.02
    assert min(top.min(), left.min()) == 0 and (top + height).max() == (left + width).max() == 256
    mean_is((top + height / 2)[fits], 128)


def test_a_crop_that_never_fits_is_the_middle():
    """All of the area of a long strip: no aspect in the range has it."""
    boxes = np.asarray(crop.draw_boxes(KEY, 50, (10, 100), (1.0, 1.0)))
    assert (boxes == [0, 43, 10, 13]).all()
    assert (np.asarray(crop.draw_boxes(KEY, 50, (100, 10), (1.0, 1.0))) == [43, 0, 13, 10]).all()


def test_rates_of_the_operations():
    layer = rand_augment.draw_layer(KEY, DRAWS, RandAugment(9.0, 2, 0.5, True))
    rates = np.bincount(np.asarray(layer.operation) + 1, minlength=16) / DRAWS
    assert abs(rates[0] - 0.5) < 0.015
    np.testing.assert_allclose(rates[1:], 0.5 / 15, atol=4 * np.sqrt(0.033 / DRAWS))
    magnitude = np.asarray(layer.magnitude)
    assert magnitude.max() == 10 and magnitude.min() > 6.5
    mean_is(magnitude, 9 - 0.5 * 0.00849)  # E min(z, 2) = -.00849
    assert abs((magnitude == 10).mean() - 0.0228) < 0.004
    mean_is(layer.negative, 0.5)
    fixed = rand_augment.draw_layer(KEY, 9, RandAugment(7.0))
    assert (np.asarray(fixed.magnitude) == 7).all()


def test_magnitudes_that_do_not_increase():
    layer = rand_augment.Layer(jnp.zeros(3, int), jnp.array([0.0, 5.0, 10.0]), jnp.zeros(3, bool))
    np.testing.assert_allclose(rand_augment.enhanced(layer, False), [0.1, 1.0, 1.9], atol=1e-6)
    np.testing.assert_allclose(rand_augment.enhanced(layer, True), [1.0, 1.45, 1.9], atol=1e-6)
    x = jnp.zeros((3, 1, 3, 2, 2), jnp.uint8)
    applied = jax.jit(rand_augment.applied, static_argnums=2)
    for name, increasing, want in (  # level 201 = 11001001 in bits
        ("posterise", True, [192, 192, 128]), ("posterise", False, [128, 192, 192]),
        ("solarise", True, [201, 54, 54]), ("solarise", False, [54, 54, 201]),
    ):  # fmt: skip
        layer = layer._replace(operation=jnp.full(3, rand_augment.PLACE[name]))
        got = applied(x + jnp.uint8(201), layer, increasing)
        assert np.asarray(got)[:, 0, 0, 0, 0].tolist() == want, (name, increasing)


def test_the_three_are_as_likely_and_blur_is_uniform():
    kinds, sigma = map(np.asarray, three.draw_three(KEY, DRAWS))
    np.testing.assert_allclose(np.bincount(kinds) / DRAWS, 1 / 3, atol=0.015)
    blurred = sigma[kinds == three.BLUR]
    assert (sigma[kinds != three.BLUR] == 0).all() and 0.1 <= blurred.min() < 0.11 and 1.99 < blurred.max() <= 2
    mean_is(blurred, 1.05)


def test_jitter_draws():
    order, factors = map(np.asarray, draw_jitter(KEY, DRAWS, 0.3))
    assert (np.sort(order) == [0, 1, 2]).all()
    np.testing.assert_allclose(np.unique(order, axis=0, return_counts=True)[1] / DRAWS, 1 / 6, atol=0.012)
    assert factors.min() >= 0.7 and factors.max() <= 1.3
    mean_is(factors.ravel(), 1.0)
    assert np.asarray(draw_jitter(KEY, 100, 1.0)[1]).min() >= 0


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("none", "none"), ("three", "three"), ("rand-m7", RandAugment(7.0)),
        ("rand-m9-mstd0.5-inc1", RandAugment(9.0, 2, 0.5, True)),
        ("rand-m9.5-n3-mstd1-inc0", RandAugment(9.5, 3, 1.0, False)),
    ],
)  # fmt: skip
def test_policies_are_read(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text", ["", "rand", "rand-m", "rand-m9-inc2", "rand-mstd0.5-m9", "four", "rand-m9 ", "rand-m-3"]
)
def test_policies_that_are_none(text):
    with pytest.raises(UsageError, match="choose none, three, or rand-mM"):
        parse_policy(text)


@pytest.mark.parametrize("text", ["rand-m11", "rand-m9-n0", "rand-m9-n11"])
def test_policies_out_of_range(text):
    with pytest.raises(UsageError, match="out of range"):
        parse_policy(text)
