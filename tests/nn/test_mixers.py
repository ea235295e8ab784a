from functools import partial

import jax.numpy as jnp
import pytest
from flax import nnx

import made
from cssm.core.errors import ShapeError, UsageError
from cssm.nn import MIXERS, Mixer, create_mixer
from cssm.nn.mixer import repeat_frame
from tolerances import assert_close

RECURRENT = [name for name in MIXERS.names() if issubclass(MIXERS[name], Mixer)]


build = partial(made.mixer, channels=4)


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("logit", [17.0, 100.0])
def test_static_conv_ssm_with_a_saturated_decay_equals_the_repeated_frame(readout, logit):
    mixer, x = build("conv_ssm"), made.clip(grid=(5, 5), channels=4)[:, 0]
    mixer.decay_logit[...] = jnp.full((4,), logit)  # the sigmoid rounds to 1
    state = mixer.step(mixer.init_state(2, (5, 5)), x + 1)[0]
    after, shown = mixer.static(state, x, 7, readout=readout)
    assert_close((after, shown), mixer.scan(state, repeat_frame(x, 7), readout=readout), 1e-5)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("no_gate", {"memory": "abc"}, "mixer 'no_gate': memory is 'abc', expected float"),
        ("no_gate", {"kernel_size": 2.5}, "kernel_size is 2.5, expected int"),
        ("no_gate", {"boundary": 3}, "boundary is 3, expected str"),
        ("no_gate", {"boundary": "zero", "margin": "x"}, r"margin is 'x', expected int \| None"),
        ("no_gate", {"boundary": "zero", "margin": -1}, "margin is -1, expected 0 or more"),
        ("no_gate", {"rho": 1.5}, "rho is 1.5"),
        ("no_gate", {"rho": 0.0}, "rho is 0.0"),
        ("conv_ssm", {"kernel_size": True}, "kernel_size is True, expected int"),
        ("transformer", {"heads": "x"}, "heads is 'x', expected int"),
        ("transformer", {"rotary": 1}, "rotary is 1, expected bool"),
        ("spatial_attn", {"heads": 0, "rotary": True}, "heads is 0, expected at least 1"),
        ("spatial_attn", {"mlp_ratio": 0, "rotary": True, "heads": 2}, "mlp_ratio is 0, expected at least 1"),
    ],
)
def test_a_bad_option_is_named(name, options, says):
    with pytest.raises(UsageError, match=says):
        build(name, **options)


def test_none_passes_where_it_may():
    build("no_gate", rho=1.0, boundary="zero", margin=None)
    build("spatial_attn", layer_scale=None, rotary=True, heads=2)


@pytest.mark.parametrize("name", ["no_gate", "standard"])
def test_a_corner_kernel_larger_than_the_grid_is_refused(name):
    mixer = create_mixer(name, channels=2, kernel_size=5, kernel_origin="corner", rngs=nnx.Rngs(0))
    assert mixer(jnp.zeros((1, 2, 5, 6, 2))).shape == (1, 2, 5, 6, 2)
    with pytest.raises(ShapeError, match=r"5 x 5 taps .* 4 x 6 pixels.*corner.*center"):
        mixer(jnp.zeros((1, 2, 4, 6, 2)))
