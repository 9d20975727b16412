"""petune: parameter-efficient fine-tuning. One frozen base model, many tiny adapters, every method.

Names are imported when they are first used, so that ``import petune`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petune.adapted_model import AdaptedModel
    from petune.adapter import Adapter, create_adapter
    from petune.api import evaluate, generate, inspect_data, load, merge, predict
    from petune.backbone.base import Base, load_base
    from petune.catalogue import list_methods
    from petune.checkpoint.folder import save_adapter
    from petune.checkpoint.stack import save_stack
    from petune.comparison.run import compare
    from petune.comparison.suggest import suggest
    from petune.errors import PetuneError
    from petune.training.recipe import Recipe
    from petune.training.result import Outcome, TrainingResult
    from petune.training.run import train
    from petune.training.run_many import train_many

__version__ = "0.1.0"

__all__ = [
    "AdaptedModel",
    "Adapter",
    "Base",
    "Outcome",
    "PetuneError",
    "Recipe",
    "TrainingResult",
    "compare",
    "create_adapter",
    "evaluate",
    "generate",
    "inspect_data",
    "list_methods",
    "load",
    "load_base",
    "merge",
    "predict",
    "save_adapter",
    "save_stack",
    "suggest",
    "train",
    "train_many",
]

_HOME = {
    "AdaptedModel": "adapted_model",
    "Adapter": "adapter",
    "Base": "backbone.base",
    "Outcome": "training.result",
    "PetuneError": "errors",
    "Recipe": "training.recipe",
    "TrainingResult": "training.result",
    "compare": "comparison.run",
    "create_adapter": "adapter",
    "list_methods": "catalogue",
    "load_base": "backbone.base",
    "save_adapter": "checkpoint.folder",
    "save_stack": "checkpoint.stack",
    "suggest": "comparison.suggest",
    "train": "training.run",
    "train_many": "training.run_many",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'petune' has no attribute '{name}'")
    return getattr(import_module(f"petune.{_HOME.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
