"""Small tensors on their way to the device, without waiting for it.

A copy from ordinary memory to a CUDA device waits until the device has done all that it was given; one from pinned
memory is put in line like any other work.
"""

import torch
from torch import Tensor


def uploaded(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return ``tensor`` on ``device``; the host does not wait where it can do without."""
    device = torch.device(device)
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
