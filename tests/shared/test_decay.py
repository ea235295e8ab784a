import numpy as np
import pytest

from cssm.core.errors import ShapeError
from cssm.shared.decay import check_decay_ssm_input


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_decay_ssm_refuses_what_is_not_floating(dtype):
    with pytest.raises(ShapeError, match=f"DecaySSM.scan: u is {dtype}, expected a real floating dtype: cast it"):
        check_decay_ssm_input("scan", np.zeros((2, 3, 5), dtype), np.zeros((2, 4, 6)), 5, 4, 6)
