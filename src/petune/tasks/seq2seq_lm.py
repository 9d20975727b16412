"""Sequence to sequence: the encoder reads the prompt, the decoder writes the target."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, final

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.arguments import decoder_inputs
from petune.data.encoding import Encoded, EncodedSet
from petune.data.examples import ExampleSet
from petune.data.layouts import LAYOUTS, TEMPLATE
from petune.data.pairs import encode_pairs
from petune.evaluation import evaluate as evaluation
from petune.evaluation import predict as prediction
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.evaluation.runner import Runner
from petune.evaluation.seq2seq import Seq2SeqLikelihood
from petune.kernels.upload import uploaded
from petune.sites.head import Forward, LabelLoss
from petune.sites.placement import Insertion
from petune.tasks.task import Objective, Task


@final
class Seq2SeqLM(Task):
    """Writing a target for a prompt. The labels of a row are the tokens of its target."""

    name = "seq2seq_lm"
    layouts = (*(layout.name for layout in LAYOUTS.values() if layout.target is not None), TEMPLATE.name)

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
        """Return prompts as ids and targets as labels."""
        return encode_pairs(
            examples, tokenizer, max_length=max_length, overlong=overlong, insertions=insertions, room=room
        )

    def objective(self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool]) -> Objective:
        """Return the loss of the targets."""
        return _TargetLoss(model, head_is_changed)

    def evaluate(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        rows: Sequence[Encoded] | None = None,
    ) -> Evaluation:
        """Measure the loss, the comparison of label words, or generated text."""
        return evaluation.evaluate(runner, examples, options, rows=rows, likelihood=Seq2SeqLikelihood())

    def predict(
        self,
        runner: Runner,
        examples: ExampleSet,
        options: EvaluationOptions,
        *,
        generation: GenerationOptions | None = None,
    ) -> Iterator[Prediction]:
        """Yield the likeliest label word, or generated text."""
        return prediction.predict(runner, examples, options, generation=generation, likelihood=Seq2SeqLikelihood())


@final
class _TargetLoss:
    def __init__(self, model: PreTrainedModel, head_is_changed: Callable[[nn.Module], bool]) -> None:
        self._model = model
        self._loss = LabelLoss(model, head_is_changed, next_token=False)

    def __call__(self, inputs: Mapping[str, Tensor], labels: Tensor, forward: Forward | None = None) -> Tensor:
        before = uploaded(decoder_inputs(self._model, labels), self._model.device)
        return self._loss({**inputs, "decoder_input_ids": before}, labels, forward)
