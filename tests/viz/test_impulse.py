"""The impulse response against the mixers' own equations, and the command that draws it."""

import numpy as np
import pytest
from flax import nnx

from cssm.cli import main
from cssm.core.errors import UsageError
from cssm.nn import create_mixer
from cssm.viz.impulse import VISIBLE, impulse_response


def test_the_response_of_a_linear_mixer_is_its_kernel_applied_again_and_again():
    response = impulse_response("standard", grid=(5, 7), frames=3, channels=2)
    mixer = create_mixer("standard", channels=2, rngs=nnx.Rngs(0), **VISIBLE)
    gain = np.asarray(mixer.transition((5, 7)), np.complex128)
    impulse = np.zeros((5, 7))
    impulse[2, 3] = 1
    for t in range(3):
        expected = np.fft.irfft2(gain**t * np.fft.rfft2(impulse), s=(5, 7))
        np.testing.assert_allclose(response[t], np.moveaxis(expected, 0, -1) * [1, -1], atol=1e-5)


def test_gated_reads_are_open_and_frames_of_a_control_stay_apart():
    memory = impulse_response("conv_ssm", grid=(5, 5), frames=3, channels=4)
    assert np.abs(memory[2]).max() > 1e-3  # a dark clip would close the read gate
    control = impulse_response("spatial_attn", grid=(5, 5), frames=2, channels=8)
    assert np.abs(control[0]).max() > 1e-3 and np.abs(control[1]).max() < 1e-6


def test_viz_impulse_draws(capsys, tmp_path):
    path = tmp_path / "new" / "a.png"
    options = ["--grid", "5", "5", "--frames", "2", "--channels", "2", "--rows", "2"]
    assert main(["viz", "impulse", "standard", "--output", str(path), *options]) == 0
    assert str(path) in capsys.readouterr().out and path.read_bytes()[:4] == b"\x89PNG"


def test_viz_teaches_and_refuses(capsys):
    assert main(["viz", "--help"]) == 0 and "cssm viz impulse no_gate" in capsys.readouterr().out
    for argv, text in (
        (["impuls", "no_gate"], "impulse"),
        (["impulse", "no_gat"], "no_gate"),
        (["impulse", "no_gate", "--rows", "0"], "--rows"),
        (["impulse", "no_gate", "--frames", "0"], "frames is 0"),
    ):
        assert main(["viz", *argv]) == 2
        error = capsys.readouterr().err
        assert text in error and len(error.strip().splitlines()) == 1
    with pytest.raises(UsageError, match="channels"):
        impulse_response("no_gate", channels=0)
