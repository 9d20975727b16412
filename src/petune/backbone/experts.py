"""Where each token goes through some parts of a block only: mixtures of experts, and adapters by language."""

from collections.abc import Iterator, Sequence

from torch import nn


def find_experts(model: nn.Module, blocks: Sequence[str]) -> Iterator[str]:
    """Yield the path of each collection of parts that see some of the tokens each, in module order.

    Args:
        model: any module.
        blocks: paths of its transformer blocks.
    """
    within = tuple(f"{block}." for block in blocks)
    for path, module in model.named_modules():
        if path.startswith(within) and _chooses(path.rpartition(".")[2], module):
            yield path


def _chooses(name: str, module: nn.Module) -> bool:
    kind = type(module).__name__
    if "Expert" in kind:
        return "Shared" not in kind  # shared ones see every token
    if isinstance(module, nn.ModuleList):
        return "expert" in name.lower() and "shared" not in name.lower()
    # One of its kind is chosen by name; members of several kinds are steps (BridgeTower's feed-forward layer).
    return isinstance(module, nn.ModuleDict) and len({type(member) for member in module.values()}) == 1
