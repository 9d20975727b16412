"""What transformers' Trainer has to see in a model to treat it as one with adapters.

The Trainer asks by ``isinstance``: a model of HF PEFT's class is saved, resumed and inspected as a model with adapters;
where PEFT is not installed, a ``PreTrainedModel`` is saved by its own ``save_pretrained``, and any other module as one
file of all its weights. A proxy may answer such a question through ``__class__``, and so does ours.
"""

import re
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from petune.checkpoint.durable import write_file

_CHECKPOINT = re.compile(rf"{re.escape(PREFIX_CHECKPOINT_DIR)}-\d+")


def peft_class() -> type[Any] | None:
    """Return HF PEFT's class of models where something has imported PEFT, as the Trainer does if it is installed."""
    peft = sys.modules.get("peft")
    return None if peft is None else getattr(peft, "PeftModel", None)


def presented_class(base: nn.Module) -> type[Any]:
    """Return the class that a wrapped ``base`` shows: PEFT's where somebody could ask for it, else the base's own."""
    return peft_class() or type(base)


def save_for_resuming(model: nn.Module, folder: Path, *, needed: bool) -> None:
    """Write all that is being trained beside the adapter, if ``folder`` is a checkpoint of a Trainer that needs it.

    A Trainer gives the tensors of ``model.safetensors``, where it finds one, to ``load_state_dict``. Without PEFT it
    knows no other file; and where an adapter holds less than is trained (``needed``), it could not go on from it.
    """
    if (needed or peft_class() is None) and _CHECKPOINT.fullmatch(folder.name):
        learned = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        write_file(folder / SAFE_WEIGHTS_NAME, lambda path: save_file(learned, path, metadata={"format": "pt"}))
