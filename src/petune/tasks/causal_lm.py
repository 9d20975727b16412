"""Causal language modelling: the text of a row is read left to right, and its learned part predicted."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, final

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.data.encoding import IGNORED, Encoded, EncodedSet, encode
from petune.data.examples import ExampleSet
from petune.data.layouts import LAYOUTS, TEMPLATE
from petune.evaluation import evaluate as evaluation
from petune.evaluation import predict as prediction
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.evaluation.runner import Runner
from petune.sites.head import LabelLoss
from petune.sites.placement import Insertion
from petune.tasks.task import Objective, Task


@final
class CausalLM(Task):
    """Predicting the next token."""

    name = "causal_lm"
    layouts = (*LAYOUTS, TEMPLATE.name)
    shares_prefix = True

    def encode(
        self,
        examples: ExampleSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        max_length: int,
        overlong: Literal["error", "drop", "truncate"] = "error",
        insertions: Sequence[Insertion] = (),
        room: int | None = None,
    ) -> EncodedSet:
        """Return each row as one text, its learned tokens labelled with themselves."""
        return encode(examples, tokenizer, max_length=max_length, overlong=overlong, insertions=insertions, room=room)

    def num_labels(self, row: Encoded) -> int:
        """Count the labels that have a token before them."""
        return sum(label != IGNORED for label in row.labels[1:])

    def objective(self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool]) -> Objective:
        """Return the loss of label positions."""
        return LabelLoss(model, head_is_changed)

    def evaluate(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        rows: Sequence[Encoded] | None = None,
    ) -> Evaluation:
        """Measure the loss, the comparison of label words, or generated text."""
        return evaluation.evaluate(runner, examples, options, rows=rows)

    def predict(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        generation: GenerationOptions | None = None,
    ) -> Iterator[Prediction]:
        """Yield the likeliest label word, or generated text."""
        return prediction.predict(runner, examples, options, generation=generation)
