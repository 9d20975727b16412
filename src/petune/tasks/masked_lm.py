"""Masked language modelling of answers: a template leaves a gap, and an encoder fills it in.

Paper: Schick, Schütze: "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference"
(2021), https://arxiv.org/abs/2001.07676

The answer to a row is a word for its label, or any one token. Labels are told apart by the shares of their words among
themselves, as the authors do.

Where we differ: the authors learn these shares; ours is the loss of the answer's tokens among the whole vocabulary, as
in P-tuning's experiments on facts, which needs no labels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, final

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.data.cloze import check_gap, encode_cloze
from petune.data.contents import Pair
from petune.data.encoding import Encoded, EncodedSet
from petune.data.examples import ExampleSet
from petune.data.layouts import TEMPLATE
from petune.data.loading import CheckedRows
from petune.data.options import DataOptions
from petune.errors import DataError
from petune.evaluation import evaluate as evaluation
from petune.evaluation import predict as prediction
from petune.evaluation.cloze import MaskedLikelihood, labels_in
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.evaluation.runner import Runner
from petune.sites.head import LabelLoss
from petune.sites.placement import Insertion, Placement
from petune.tasks.task import Objective, Task


@final
class MaskedLM(Task):
    """Filling in an answer. The labels of a row are the answer's tokens, in the places of its mask tokens."""

    name = "masked_lm"
    layouts = ("text-label", TEMPLATE.name)
    fills_in = True
    by_name_only = True

    def reading(self, options: DataOptions) -> DataOptions:
        """Return the options with the bare text as template: an adapter's own may say where the answer stands.

        Raises:
            DataError: they ask for turns, or for more to be learned than the answer.
        """
        if options.chat == "on" or options.train_on == "all":
            what = "--chat on writes turns" if options.chat == "on" else "--train-on all learns every token"
            raise DataError(f"{what}, and the task {self.name} fills one answer in; leave it out")
        return options if options.template is not None else options.model_copy(update={"template": "{{ text }}"})

    def check_answers(self, rows: CheckedRows, placement: Placement | None) -> None:
        """Check that every row has one place for its answer: in its own template, or in the adapter's."""
        placements = int(placement is not None and placement.places_answer)
        for index, content in enumerate(rows.contents):
            assert isinstance(content, Pair)
            check_gap(content.suffix, placements, rows.rows.origin(index))

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
        """Return the rows with gaps, labelled with the tokens of their answers."""
        return encode_cloze(
            examples,
            tokenizer,
            labels=labels_in(examples),
            max_length=max_length,
            overlong=overlong,
            insertions=insertions,
            room=room,
        )

    def objective(self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool]) -> Objective:
        """Return the loss of the tokens in the gaps."""
        return LabelLoss(model, head_is_changed, next_token=False)

    def evaluate(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        rows: Sequence[Encoded] | None = None,
    ) -> Evaluation:
        """Measure the loss, the comparison of label words, or the tokens filled in."""
        return evaluation.evaluate(runner, examples, options, rows=rows, likelihood=MaskedLikelihood())

    def predict(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        generation: GenerationOptions | None = None,
    ) -> Iterator[Prediction]:
        """Yield the likeliest label word, or the likeliest token."""
        return prediction.predict(runner, examples, options, generation=generation, likelihood=MaskedLikelihood())
