"""Memory of a forward pass, counted: what autograd keeps for the backward pass, and what is held besides.

Tensors are counted as they are made (a dispatch mode) and as they are kept (saved-tensor hooks), so whatever a block's
maths keeps is what is counted. A pass may be *rehearsed*: what would be kept is counted and let go at once, so that the
memory of a batch is known without being needed.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@final
class Activations:
    """What a forward pass holds, in bytes; a storage counts once, however many tensors look at it.

    Args:
        known: tensors that are there anyway, such as parameters; they do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        self.kept = 0
        """What the backward pass needs."""
        self.most = 0
        """The most that was held at once, what is kept included."""
        self._passing = 0
        self._seen: dict[int, tuple[weakref.ref[UntypedStorage], bool]] = {}
        for tensor in known:
            self._note(tensor.untyped_storage(), kept=True)

    def made(self, tensor: Tensor) -> None:
        """Count a tensor that was made."""
        storage = tensor.untyped_storage()
        if id(storage) not in self._seen:
            self._passing += storage.nbytes()
            self._note(storage, kept=False)
            self.most = max(self.most, self.kept + self._passing)

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor that the backward pass needs."""
        storage = tensor.untyped_storage()
        _, kept = self._seen.get(id(storage), (None, None))
        if kept:
            return
        if kept is False:
            self._passing -= storage.nbytes()
        self.kept += storage.nbytes()
        self._note(storage, kept=True)
        self.most = max(self.most, self.kept + self._passing)

    def keeps(self, tensor: Tensor) -> bool:
        """Say whether the backward pass needs what ``tensor`` looks at."""
        return self._seen.get(id(tensor.untyped_storage()), (None, False))[1]

    def _note(self, storage: UntypedStorage, *, kept: bool) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            if not self._seen.pop(key)[1]:
                self._passing -= size

        self._seen[key] = (weakref.ref(storage, gone), kept)


@final
class _Made(TorchDispatchMode):
    def __init__(self, activations: Activations) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._activations = activations

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._activations.made(leaf)
        return result


@contextmanager
def counted(known: Iterable[Tensor] = (), *, rehearsed: bool = False) -> Iterator[Activations]:
    """Yield the count of what the forward passes inside the block hold.

    Args:
        known: tensors that are there anyway; they do not count.
        rehearsed: let go of what would be kept; then no backward pass can follow.
    """
    activations = Activations(known)

    def pack(tensor: Tensor) -> Tensor | None:
        activations.keep(tensor)
        return None if rehearsed else tensor

    def unpack(tensor: Tensor | None) -> Tensor:
        assert tensor is not None, "a rehearsed pass has no backward pass"
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack), _Made(activations):
        yield activations
