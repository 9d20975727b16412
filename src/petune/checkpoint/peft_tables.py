"""Tables of the base that PEFT writes beside an adapter plugged into them: its embeddings and its head.

They are the base's own, so they are compared with the base at hand and left out.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from petune.checkpoint.peft_layout import WEIGHTS_FILE
from petune.errors import AdapterFormatError


def without_base_tables(
    tensors: Mapping[str, Tensor], prefix: str, replaced: Iterable[str], model: PreTrainedModel
) -> dict[str, Tensor]:
    """Return ``tensors`` without the embeddings and the head of the base.

    Args:
        tensors: those of PEFT's file.
        prefix: what stands before the path of a module there.
        replaced: paths of modules that the adapter holds whole.
        model: the base.

    Raises:
        AdapterFormatError: a table is not the base's: its size was changed, or it was trained outside the adapter.
    """
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    paths = {path for path, module in model.named_modules() if any(module is table for table in tables)}
    names = {f"{prefix}{path}.{end}": path for path in paths for end in ("base_layer.weight", "base_layer.bias")}
    names |= {f"{prefix}{path}.{end}": path for path in paths - set(replaced) for end in ("weight", "bias")}
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in names:
            _compare(name, tensor, model.get_submodule(names[name])._parameters.get(name.rpartition(".")[2]))
        else:
            kept[name] = tensor
    return kept


def _compare(name: str, tensor: Tensor, own: Tensor | None) -> None:
    if own is None or not tensor.is_floating_point():
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: '{name}' "
            + ("is there, and the base has no such parameter" if own is None else f"holds {tensor.dtype} numbers")
            + "; load the base it belongs to"
        )
    if tensor.shape != own.shape:
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: '{name}' has shape {list(tensor.shape)}, the base has {list(own.shape)}: the adapter was"
            " made for a base whose vocabulary was resized; load it on that base"
        )
    # Of one table in two precisions, the lower one decides.
    narrow = min(tensor.dtype, own.dtype, key=lambda dtype: torch.finfo(dtype).bits)
    if not torch.equal(tensor.to(narrow), own.detach().cpu().to(narrow)):
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: '{name}' is not the base's own table; name its module in modules_to_save of"
            " adapter_config.json to use it as it is, or load the base it belongs to"
        )
