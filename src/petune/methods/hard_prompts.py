"""Hard prompts: of several templates and label words, those that the untrained base answers best with.

Paper: Schick, Schütze: "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference"
(2021), https://arxiv.org/abs/2001.07676

    argmax over (template, verbalizer) of  score(base, rows written with them)

A template says how a row becomes a prompt (their "pattern"), a verbalizer which word stands for each label. Every pair
is measured on the rows; the best one is kept, as an adapter without a single number.

Where we differ: the authors go on to train the base on each pair; nothing is trained here, and one pair is kept.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, final

from petune.methods.config import MethodConfig
from petune.methods.method import Method, Paper, Target
from petune.sites.sites import Slot


@final
class HardPromptsConfig(MethodConfig):
    """Settings of hard prompts."""

    templates: tuple[str, ...] = ()
    """Jinja templates of the prompt to choose from; where none is given, the run's own."""

    verbalizers: tuple[dict[str, str], ...] = ()
    """Words for the labels to choose from, each a map of label to word; where none is given, the run's own."""

    selection_metric: str = "auto"
    """Metric that decides; auto: accuracy where labels are compared, else the loss of the targets."""


@final
class HardPrompts(Method[HardPromptsConfig]):
    """A choice among templates and label words."""

    name = "hard_prompts"
    title = "hard prompts"
    paper = Paper(
        "Schick and Schütze",
        2021,
        "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference",
        "https://arxiv.org/abs/2001.07676",
    )
    sites = ()
    learning_rate = 0.0
    start = "exact"
    trains = False
    baseline = True
    config_class = HardPromptsConfig

    def build(self, config: HardPromptsConfig, target: Target) -> dict[str, Slot]:
        """Return no slot: the base stays as it is."""
        return {}

    def candidates(self, config: HardPromptsConfig) -> tuple[Mapping[str, Any], ...]:
        """Return every template with every verbalizer."""
        templates = [{"template": template} for template in config.templates] or [{}]
        verbalizers = [{"verbalizer": words} for words in config.verbalizers] or [{}]
        return tuple({**template, **words} for template, words in product(templates, verbalizers))

    def selection_metric(self, config: HardPromptsConfig) -> str | None:
        """Return the metric that decides."""
        return None if config.selection_metric == "auto" else config.selection_metric
