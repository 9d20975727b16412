"""Further heads call the pretrained body, and are those of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from petune.backbone.base import Base, load_base, meta_model
from petune.backbone.further_heads import HeadSpec, add_heads, choose_own
from petune.backbone.heads import auto_class
from petune.backbone.loading import quiet
from petune.errors import BaseModelError, ConfigError

CLASSES = HeadSpec("review", "sequence_classification", ("a", "b", "c"))
WORDS = HeadSpec("ner", "token_classification", ("O", "X"))
SPAN = HeadSpec("qa", "question_answering")
Model = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "llama", "gpt2", "bart", "modernbert"])
def test_a_further_head_computes_what_transformers_computes(
    architecture: str, tiny_model: Model, token_ids: Callable[..., torch.Tensor]
) -> None:
    model = tiny_model(architecture, task=CLASSES.task, labels=CLASSES.labels)
    head = add_heads(model, [SPAN], seed=3)["qa"]
    assert (head.path, head.model.base_model) == ("task_qa", model.base_model)
    assert not any(parameter.requires_grad for parameter in model.get_submodule(head.path).parameters())
    plain = auto_class(SPAN.task).from_config(head.model.config).eval()
    own = plain.state_dict()  # a body that serves other heads may hold more, such as a pooler
    plain.load_state_dict({name: tensor for name, tensor in head.model.state_dict().items() if name in own})
    ids = token_ids(2, 7)
    output, expected = head.model(input_ids=ids), plain(input_ids=ids)
    assert torch.equal(output.start_logits, expected.start_logits)
    assert output.start_logits.shape == (2, 7)


def test_heads_start_from_the_seed_and_leave_the_random_numbers_alone(tiny_model: Model) -> None:
    def weights(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        model = tiny_model("bert", task=CLASSES.task, labels=CLASSES.labels, dtype=dtype)
        state = torch.get_rng_state()
        head = add_heads(model, [WORDS], seed=seed)["ner"]
        assert torch.equal(torch.get_rng_state(), state)
        weight: torch.Tensor = head.model.get_submodule("classifier").weight
        return weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert float(weights(1).std()) == pytest.approx(0.15, rel=0.3)  # the configuration's initializer_range
    assert weights(1, torch.bfloat16).dtype == torch.bfloat16


def test_heads_of_one_kind_have_their_own_classes(tiny_model: Model) -> None:
    model = tiny_model("bert", task=CLASSES.task, labels=CLASSES.labels)
    other = HeadSpec("topic", CLASSES.task, ("x", "y", "z", "w"))
    heads = add_heads(model, [other, SPAN])
    assert [heads[name].model.config.num_labels for name in ("topic", "qa")] == [4, 2]
    assert model.config.num_labels == 3
    assert set(heads["topic"].model.config.id2label.values()) == set(other.labels)


def test_structure_and_fingerprint_know_heads_from_the_base(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    pretrained = tiny_base("bert")
    with quiet():
        pretrained.model.save_pretrained(tmp_path)
        pretrained.tokenizer.save_pretrained(tmp_path)
    alone = load_base(tmp_path, task=CLASSES.task, labels=CLASSES.labels)
    base = load_base(tmp_path, task=CLASSES.task, labels=CLASSES.labels, heads=[WORDS, SPAN])
    assert base.structure.head == ("classifier", "bert.pooler.dense", "task_ner.classifier", "task_qa.qa_outputs")
    assert base.fingerprint == alone.fingerprint
    assert base.labels_of("ner") == WORDS.labels
    assert (base.labels_of("qa"), base.labels_of("other")) == ((), CLASSES.labels)
    for spec in (WORDS, SPAN):
        own = load_base(tmp_path, task=spec.task, labels=spec.labels).fingerprint.parameters
        assert base.heads[spec.name].parameters == own
    roles = {linear.path: linear.role for linear in base.structure.linears}
    assert roles["task_ner.classifier"] == "head"
    skeleton = meta_model(tmp_path, task=CLASSES.task, labels=CLASSES.labels, heads=[WORDS])
    assert skeleton.get_submodule("task_ner.classifier").weight.is_meta


def test_the_body_that_serves_all_is_chosen(tiny_model: Model) -> None:
    def chosen(architecture: str, *specs: HeadSpec, saved: Any = None) -> int:
        return choose_own(specs, lambda s: tiny_model(architecture, task=s.task, labels=s.labels), saved)

    text = HeadSpec("text", "causal_lm")
    assert chosen("bert", WORDS, SPAN, CLASSES) == 2  # it alone has a pooler
    assert chosen("roberta", WORDS, SPAN, CLASSES) == 0
    assert chosen("roberta", WORDS, SPAN, CLASSES, saved="question_answering") == 1
    assert chosen("llama", WORDS, text) == 1  # whose head comes with the weights
    cloze = HeadSpec("cloze", "masked_lm")
    assert chosen("bert", WORDS, cloze) == 1
    assert chosen("roberta", CLASSES, cloze) == 1
    with pytest.raises(ConfigError, match=r"heads of 'review' .*, 'cloze' \(masked_lm\): they need different bodies"):
        chosen("bert", CLASSES, cloze)  # whose pretrained head comes without a pooler
    with pytest.raises(ConfigError, match=r"heads of 'ner' \(token_classification\), 'review' .*different bodies"):
        chosen("t5", WORDS, CLASSES)


def test_a_head_of_another_body_is_refused(tiny_model: Model) -> None:
    words = tiny_model("bert", task=WORDS.task, labels=WORDS.labels)
    with pytest.raises(ConfigError, match=r"'review' \(sequence_classification\) needs another body than the base has"):
        add_heads(words, [CLASSES])
    with pytest.raises(BaseModelError, match="cannot be loaded for question_answering"):
        add_heads(tiny_model("gemma"), [SPAN])
    with pytest.raises(ConfigError, match="the head of 'text' comes with the weights: load the base for causal_lm"):
        add_heads(tiny_model("llama", task=CLASSES.task, labels=CLASSES.labels), [HeadSpec("text", "causal_lm")])
    with pytest.raises(ConfigError, match=r"'qa' .* take another base than a t5"):
        add_heads(tiny_model("t5"), [SPAN])


def test_decoders_find_the_last_token_in_every_head(tiny_base: Callable[..., Base], tiny_model: Model) -> None:
    model = tiny_model("gpt2", pad_token_id=None)
    heads = add_heads(model, [CLASSES])
    base = Base(model, tiny_base("gpt2").tokenizer, name="x", heads=heads)
    assert heads["review"].model.config.pad_token_id == base.tokenizer.pad_token_id
