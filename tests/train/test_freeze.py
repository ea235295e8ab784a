"""Parameters that stay as they are: linear probing."""

import numpy as np
import pytest
from train_toys import fit, tiny

from cssm.core.errors import UsageError
from cssm.train.state import split


def test_what_is_frozen_stays_and_the_rest_learns(tmp_path):
    """Weight decay and the norm of the gradient see the head alone."""
    model, before = tiny(), split(tiny())[0]
    options = {"steps": 4, "freeze": "stem|recurrence", "weight_decay": 0.1, "ema": None}
    fit(tmp_path, model=model, options=options)
    after = split(model)[0]
    for name, value in before.items():
        assert np.array_equal(value, after[name]) == ("head" not in name), name


@pytest.mark.parametrize(("pattern", "says"), [("nowhere", "is found in no path; paths are such as head/kernel"),
                                               (".", "is found in every path: nothing would train"),
                                               ("(", "no regular expression")])  # fmt: skip
def test_what_describes_nothing_or_all_is_refused(tmp_path, pattern, says):
    with pytest.raises(UsageError, match=says):
        fit(tmp_path, options={"steps": 4, "freeze": pattern})
