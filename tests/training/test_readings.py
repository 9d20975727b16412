"""A training step reads the device once, and hands it everything without waiting.

No device is needed to see that: tensors that would lie there are followed through a step on CPU.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petune.backbone.base import Base
from petune.kernels import low_rank
from petune.training.loop import Loop
from petune.training.run import train
from petune.training.run_many import train_many

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.equal,
    aten.masked_select,
    aten.is_nonzero,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
READING_METHODS = {Tensor.tolist, Tensor.cpu, Tensor.numpy}


class Device:
    """Which storages would lie on a device, and where the host waits for it."""

    def __init__(self, tensors: Any) -> None:
        self._storages: dict[int, Any] = {}
        self.waits: list[str] = []
        self.mixed: list[str] = []
        self.mark(list(tensors))

    def mark(self, made: Any) -> None:
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = storage  # held, so that no other gets its place

    def has(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._storages

    def wait(self, what: object) -> None:
        self.waits.append(f"{what} in {_place()}")


class Computing(TorchDispatchMode):
    """What is made of tensors on the device lies there too."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self._device, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if device.has(tensor)]
        packet = func.overloadpacket
        if there:
            masks = packet in INDEXING and any(t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None)
            if packet in READS or masks or (packet is aten.repeat_interleave and len(tensors) > 1):
                device.wait(func)
            if any(t.dim() and not device.has(t) for t in tensors) and packet is not aten.copy_:
                device.mixed.append(f"{func} in {_place()}")
        made = func(*args, **kwargs)
        # In a backward pass, gradients that nobody gave are made where their outputs lie.
        if there or (not tensors and torch._C._current_graph_task_id() != -1):
            device.mark(made)
        return made


class Calling(TorchFunctionMode):
    """What is made with a device named lies there; copying to it makes the host wait, but by :func:`uploaded`."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self._device, kwargs or {}
        if func in READING_METHODS and device.has(args[0]):
            device.wait(func.__name__)
        if func is torch.tensor and kwargs.get("device") is not None:
            device.wait("torch.tensor")
        made = func(*args, **kwargs)
        if func is Tensor.to and not device.has(args[0]):
            target = args[1] if len(args) > 1 else kwargs.get("device")
            if isinstance(target, torch.device) or device.has(target):
                if not _place().startswith("upload.py"):
                    device.wait("Tensor.to")
                made = made.clone()
                device.mark(made)
        elif kwargs.get("device") is not None:
            device.mark(made)
        return made


def _place() -> str:
    """Return the innermost line that is neither of this file nor of torch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name != Path(__file__).name and "torch" not in path.parts:
            return f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """What the second and the third round of a run do to the device; the first one measures things once."""
    seen: list[Device] = []
    done: list[int] = []
    own = Loop._round

    def watched(this: Loop, runs: Any) -> None:
        done.append(1)
        with ExitStack() as watching:
            if len(done) in (2, 3):
                states = [state for run in runs for state in run.optimizer.state.values()]
                model = this._model.model
                adapters = [p for run in runs for p in run.adapter.parameters()]
                buffers = [b for run in runs for slot in run.adapter.slots.values() for b in slot.buffers()]
                known = [*model.parameters(), *model.buffers(), *adapters, *buffers]
                device = Device([*known, *tree_leaves(states)])
                seen.append(device)
                low_rank._factors.cache_clear()  # what was uploaded unseen
                low_rank._pieces.cache_clear()
                watching.enter_context(Calling(device))
                watching.enter_context(Computing(device))
            own(this, runs)

    monkeypatch.setattr(Loop, "_round", watched)
    return seen


def places(device: Device) -> list[str]:
    """Return the files in which the host waited."""
    return [wait.rpartition(" in ")[2].partition(":")[0] for wait in device.waits]


def test_a_step_of_any_method_reads_the_device_once(
    method: str, tiny_base_for: Callable[..., Base], keys: Callable[..., Any], rounds: list[Device]
) -> None:
    train(keys(method=method, max_steps=4), base=tiny_base_for(method))
    assert len(rounds) == 2
    # A learned head asks whether all rows weigh alike; transformers looks for rows side by side in a prompt's own pass.
    known = {"full": "loss_head.py", "prompt_tuning": "masking_utils.py", "p_tuning": "masking_utils.py"}
    for device in rounds:
        assert device.mixed == []
        assert [place for place in places(device) if place != known.get(method)] == ["readings.py"], device.waits
        assert len(device.waits) <= 3, device.waits  # such things are asked once in each of two batches at most


def test_adapters_that_train_together_are_read_once(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], tmp_path: Path, rounds: list[Device]
) -> None:
    own: list[dict[str, Any]] = [
        {"method": "lora"},
        {"method": "lora", "r": 3, "lora_alpha": 5},
        {"method": "ia3"},
        {"method": "prefix_tuning", "num_virtual_tokens": 3},
        {"method": "prompt_tuning", "num_virtual_tokens": 4},
    ]
    train_many([keys(output_dir=str(tmp_path / str(i)), max_steps=4, **o) for i, o in enumerate(own)], base=tiny_base())
    assert len(rounds) == 2
    for device in rounds:
        assert device.mixed == []
        assert places(device) == ["masking_utils.py", "readings.py"], device.waits


def test_a_task_with_a_head_of_its_own_waits_no_more(
    tiny_base: Callable[..., Base], tmp_path: Path, write_rows: Callable[..., Path], rounds: list[Device]
) -> None:
    texts = [{"text": f"{'so ' * i}it was", "label": ("bad", "good")[i % 2]} for i in range(8)]
    keys = {"task": "sequence_classification", "data": str(write_rows(tmp_path / "rows.jsonl", texts))}
    base = tiny_base("bert", task="sequence_classification", labels=("bad", "good"))
    train({**keys, "output_dir": str(tmp_path / "run"), "max_steps": 4, "per_device_train_batch_size": 2}, base=base)
    assert [(device.mixed, places(device)) for device in rounds] == [([], ["readings.py"])] * 2
