import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.nn import MIXERS, Mixer, create_mixer
from cssm.nn.mixer import repeat_frame
from tolerances import assert_close

RECURRENT = [name for name in MIXERS.names() if issubclass(MIXERS[name], Mixer)]


def build(name, **options):
    return create_mixer(name, channels=4, rngs=nnx.Rngs(0), **options)


def frame(size=5, batch=2):
    return jax.random.normal(jax.random.key(1), (batch, size, size, 4))


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("logit", [17.0, 100.0])
def test_static_conv_ssm_with_a_saturated_decay_equals_the_repeated_frame(readout, logit):
    mixer, x = build("conv_ssm"), frame()
    mixer.decay_logit[...] = jnp.full((4,), logit)  # the sigmoid rounds to 1
    state = mixer.step(mixer.init_state(2, (5, 5)), x + 1)[0]
    after, shown = mixer.static(state, x, 7, readout=readout)
    assert_close((after, shown), mixer.scan(state, repeat_frame(x, 7), readout=readout), 1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_static_names_bad_steps_and_readouts(name):
    mixer, x = build(name), frame()
    state = mixer.init_state(2, (5, 5))
    with pytest.raises(ShapeError, match="steps is 0, expected at least one"):
        mixer.static(state, x, 0)
    with pytest.raises(UsageError, match="'all', use last or mean"):
        mixer.static(state, x, 3, readout="all")
