"""The embeddings of any transformer: its tables of rows that are looked up by number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Embedding:
    """One table of a base model that rows are looked up in by their numbers.

    Attributes:
        path: module path below the model.
        num_embeddings: rows of the table.
        embedding_dim: width of a row.
        block: index of the block it lies in; None outside the blocks, where embeddings mostly are.
    """

    path: str
    num_embeddings: int
    embedding_dim: int
    block: int | None = None


def find_embeddings(model: nn.Module, blocks: Sequence[str]) -> Iterator[Embedding]:
    """Yield the tables of ``model`` in module order, each module once.

    Args:
        model: any module.
        blocks: paths of its transformer blocks.
    """
    own = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    for path, module in model.named_modules():
        # Other subclasses (OPT's positions) are called with something else than the numbers they look up.
        if type(module) is nn.Embedding or (module is own and isinstance(module, nn.Embedding)):
            block = next((i for i, block in enumerate(blocks) if path.startswith(f"{block}.")), None)
            yield Embedding(path, module.num_embeddings, module.embedding_dim, block)
