"""Tasks of a configuration, and the heads of models."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertConfig, BertForMaskedLM, BertModel, LlamaForCausalLM, PreTrainedModel
from transformers import LlamaForSequenceClassification as LlamaClassifier

from petune.backbone.base import load_base, meta_model
from petune.backbone.heads import choose_task, possible_tasks, set_labels, task_of
from petune.backbone.structure import Structure
from petune.backbone.task_names import TASK_NAMES
from petune.errors import ArtifactError, BaseModelError, ConfigError

BERT = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
HEADS = ("sequence_classification", "token_classification", "question_answering")


@pytest.mark.parametrize(
    ("model_type", "first", "others"),
    [
        ("llama", "causal_lm", HEADS),
        ("bert", "masked_lm", HEADS),
        ("t5", "seq2seq_lm", HEADS),
        ("gemma", "causal_lm", HEADS[:2]),
    ],
)
def test_tasks_of_a_kind(model_type: str, first: str, others: tuple[str, ...]) -> None:
    config = AutoConfig.for_model(model_type)
    assert possible_tasks(config) == (first, *others)
    assert choose_task(config, None, "it") == first


def test_weights_saved_for_a_task_are_loaded_for_it() -> None:
    config = AutoConfig.for_model("llama", architectures=["LlamaForTokenClassification"])
    assert choose_task(config, None, "it") == "token_classification"
    assert choose_task(config, "causal_lm", "it") == "causal_lm"


def test_a_wrong_task_names_the_possible_ones() -> None:
    with pytest.raises(
        BaseModelError, match=r"it is a model of kind encoder .*loaded for seq2seq_lm; possible: masked_lm"
    ):
        choose_task(BertConfig(), "seq2seq_lm", "it")
    with pytest.raises(
        ConfigError, match=r"unknown task 'causal-lm'; the tasks are causal_lm, .*Did you mean 'causal_lm'"
    ):
        choose_task(BertConfig(), "causal-lm", "it")


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_task_of_a_model_in_memory(task: str, tiny_model: Callable[..., PreTrainedModel]) -> None:
    architecture = {"causal_lm": "gpt2", "seq2seq_lm": "t5"}.get(task, "bert")
    model = tiny_model(architecture, task=task)
    assert task_of(model) == task
    assert bool(Structure(model).head) == (task in HEADS)
    with pytest.raises(BaseModelError, match="a BertModel has no head of a task that petune knows"):
        task_of(BertModel(BertConfig(**BERT)))


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", ("classifier",)),
        ("roberta", ("classifier",)),
        ("distilbert", ("pre_classifier", "classifier")),
        ("modernbert", ("head", "classifier")),
        ("deberta-v2", ("pooler", "classifier")),
        ("bart", ("classification_head",)),
        ("t5", ("classification_head",)),
        ("llama", ("score",)),
        ("gpt2", ("score",)),
    ],
)
def test_where_the_head_is(
    architecture: str, head: tuple[str, ...], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    structure = Structure(tiny_model(architecture, task="sequence_classification", labels=("a", "b", "c")))
    assert structure.head == head
    outside = [linear for linear in structure.linears if linear.role == "head"]
    assert outside
    assert all(linear.path.startswith(head) for linear in outside)


def test_a_random_head_follows_the_seed_and_is_no_part_of_the_base(
    save: Callable[..., Path], model: LlamaForCausalLM
) -> None:
    folder = save(model)
    labels = {"task": "sequence_classification", "labels": ("no", "yes", "maybe")}
    bases = [load_base(folder, **labels, dtype="float32", device="cpu", seed=seed) for seed in (1, 1, 2)]
    weights = [base.model.score.weight for base in bases]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert bases[0].labels == ("no", "yes", "maybe")
    assert bases[0].fingerprint == bases[2].fingerprint
    assert bases[0].fingerprint.parameters == sum(p.numel() for p in bases[0].model.model.parameters())


def test_a_pooler_that_the_weights_lack_belongs_to_the_head(save: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    folder = save(BertForMaskedLM(BertConfig(**BERT)))
    base = load_base(folder, task="sequence_classification", labels=("a", "b"), device="cpu")
    assert base.structure.head == ("classifier", "bert.pooler.dense")


def test_a_head_needs_labels(save: Callable[..., Path], model: LlamaForCausalLM) -> None:
    folder = save(model)
    with pytest.raises(ConfigError, match=r"without a head for sequence_classification, .*labels=\[.first., .second"):
        load_base(folder, task="sequence_classification")
    with pytest.raises(ConfigError, match="the task causal_lm has no classes, and 2 labels were given"):
        load_base(folder, task="causal_lm", labels=("a", "b"))
    assert meta_model(folder, task="question_answering").config.num_labels == 2


def test_a_trained_head_is_kept_where_its_labels_are_asked_for(
    save: Callable[..., Path], model: LlamaForCausalLM
) -> None:
    config = model.config
    set_labels(config, ("no", "yes"))
    classifier = LlamaClassifier(config)
    folder = save(classifier)
    for labels in ((), ("yes", "no")):
        base = load_base(folder, labels=labels, dtype="float32", device="cpu")
        assert (base.task, base.labels) == ("sequence_classification", ("no", "yes"))
        assert torch.equal(base.model.score.weight, classifier.score.weight)
    other = load_base(folder, labels=("a", "b", "c"), dtype="float32", device="cpu")
    assert (other.labels, tuple(other.model.score.weight.shape)) == (("a", "b", "c"), (3, 32))


def test_weights_that_lack_more_than_a_head(save: Callable[..., Path], model: LlamaForCausalLM) -> None:
    folder = save(model)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ArtifactError, match=r"lack 9 of its tensors, .*cannot be used for sequence_classification"):
        load_base(folder, task="sequence_classification", labels=("a", "b"))
