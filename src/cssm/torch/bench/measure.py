"""PyTorch's side of the benchmark harness: waiting, results as NumPy, memory, copy speed."""

import torch

from cssm.shared.resident_memory import high_water_mark


def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait(result) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def arrays(result) -> list:
    """The tensors of a (nested) tuple, as NumPy arrays."""
    if isinstance(result, torch.Tensor):
        return [result.detach().resolve_conj().cpu().numpy()]
    return [array for item in result for array in arrays(item)]


def peak_memory(function) -> int | None:
    """Rise of memory while function runs: resident memory on CPU, what the allocator handed out on a GPU."""
    if not torch.cuda.is_available():
        return high_water_mark(function)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def copy(size: int):
    """A callable that reads `size` bytes and writes as many."""
    source = torch.ones(size // 4, device=device())
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def describe() -> dict[str, str]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"torch": torch.__version__, "torch_device": name, "torch_threads": str(torch.get_num_threads())}


def gradient(function, *args):
    """A callable that runs function forward, and backward to every argument from a fixed cotangent."""
    args = [arg.clone().requires_grad_() for arg in args]
    with torch.no_grad():
        result = function(*args)
    generator = torch.Generator().manual_seed(9)
    cotangent = torch.randn(result.shape, dtype=result.dtype, generator=generator).to(result.device)

    def call():
        result = function(*args)
        return result, *torch.autograd.grad(result, args, cotangent)

    return call


def forward(function, *args):
    def call():
        with torch.no_grad():
            return function(*args)

    return call


DIRECTIONS = {"forward": forward, "forward+backward": gradient}
