"""The algorithm of the reference code for `opt_ssm_forward`: what the benchmark measures against."""

import torch
from torch import Tensor

from cssm.core.typing import Inexact


def opt_ssm_forward_reference(
    x: Inexact[Tensor, "b t i"], K: Inexact[Tensor, "l n"], B_: Inexact[Tensor, "n i"], C: Inexact[Tensor, "o n"]
) -> Inexact[Tensor, "b t o"]:
    """K (L, N): complex transforms of length 2 L, contracted from left to right.

    Its first product, (2 L, H_in, N) per example, is made for one example at a time, since it would not fit otherwise.

    >>> one = torch.ones(1, 1)
    >>> opt_ssm_forward_reference(torch.ones(1, 2, 1), torch.ones(2, 1), one, one)[0, :, 0].tolist()
    [1.0, 2.0]
    """
    n = 2 * x.shape[1]
    dtype = torch.promote_types(torch.promote_types(x.dtype, K.dtype), torch.complex64)
    kernel, B_, C = torch.fft.fft(K.to(dtype), n=n, dim=0), B_.to(dtype), C.to(dtype)
    outputs = []
    for spectrum in torch.fft.fft(x.to(dtype), n=n, dim=1):
        product = spectrum[:, :, None] * kernel[:, None, :]
        states = torch.einsum("lhn,nh->ln", product, B_)
        outputs.append(torch.fft.ifft(torch.einsum("ln,on->lo", states, C), dim=0)[: x.shape[1]])
    y = torch.stack(outputs)
    return y if x.is_complex() else y.real
