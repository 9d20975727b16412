import pytest
import torch

from petune.kernels.upload import uploaded


def test_what_is_there_already_stays_itself() -> None:
    tensor = torch.arange(3)
    assert uploaded(tensor, "cpu") is tensor
    assert uploaded(tensor, torch.device("meta")).device.type == "meta"


@pytest.mark.gpu
def test_a_copy_to_the_device_holds_the_same_numbers() -> None:
    tensor = torch.arange(1000)
    copies = [uploaded(tensor + i, "cuda") for i in range(8)]
    assert all(torch.equal(copy.cpu(), tensor + i) for i, copy in enumerate(copies))
