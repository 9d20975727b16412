"""petune: parameter-efficient fine-tuning. One frozen base model, many tiny adapters, every method.

Names are imported when they are first used, so that ``import petune`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petune.adapter import AdaptedModel as AdaptedModel
    from petune.adapter import Adapter as Adapter
    from petune.adapter import create_adapter as create_adapter
    from petune.api import evaluate as evaluate
    from petune.api import generate as generate
    from petune.api import inspect_data as inspect_data
    from petune.api import load as load
    from petune.api import merge as merge
    from petune.api import methods as methods
    from petune.api import predict as predict
    from petune.backbone.base import Base as Base
    from petune.backbone.base import load_base as load_base
    from petune.checkpoint.folder import save_adapter as save_adapter
    from petune.errors import PetuneError as PetuneError
    from petune.training.recipe import Recipe as Recipe
    from petune.training.run import TrainingResult as TrainingResult
    from petune.training.run import train as train

__version__ = "0.1.0"
