"""Virtual tokens among the tokens of a batch: padding, labels, positions, and what is left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from petune.compat.peft import PeftModel, PromptTuningConfig, get_peft_model
from petune.errors import ConfigError

Build = Callable[..., PreTrainedModel]
ROWS = [[9, 10, 11, 12, 13], [20, 21, 22]]
P = 4


def model_for(tiny_model: Build, task: str, **settings: Any) -> PeftModel:
    torch.manual_seed(0)
    config = PromptTuningConfig(num_virtual_tokens=P, prompt_tuning_init="SAMPLE_VOCAB")
    return get_peft_model(tiny_model("bert", task=task, **settings), config).eval()


def batch(side: str, width: int = 7) -> dict[str, torch.Tensor]:
    def padded(values: list[int], filler: int) -> list[int]:
        filling = [filler] * (width - len(values))
        return [*filling, *values] if side == "left" else [*values, *filling]

    return {
        "input_ids": torch.tensor([padded(row, 0) for row in ROWS]),
        "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in ROWS]),
        "token_type_ids": torch.tensor([padded([0, 0, *[1] * (len(row) - 2)], 0) for row in ROWS]),
    }


def alone(row: list[int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row]), "token_type_ids": torch.tensor([[0, 0, *[1] * (len(row) - 2)]])}


def by_hand(model: PeftModel, row: list[int], **more: Any) -> Any:
    """Run the bare base on the embeddings of the prompt and of one row, side by side."""
    prompt = model.base_model.adapter("default").tensors()["source.prompt_embeddings"]
    words = model.get_input_embeddings()(torch.tensor([row]))
    types = torch.tensor([[0] * P + alone(row)["token_type_ids"][0].tolist()])
    with model.disable_adapter(), torch.no_grad():
        return model(inputs_embeds=torch.cat([prompt[None], words], 1), token_type_ids=types, **more)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_each_token_given_has_its_logits(tiny_model: Build, side: str) -> None:
    model = model_for(tiny_model, "token_classification", labels=("a", "b", "c"))
    given = batch(side)
    logits = model(**given).logits
    assert logits.shape == (2, 7, 3)
    for row, tokens in enumerate(ROWS):
        own = given["attention_mask"][row].bool()
        assert not logits[row][~own].any()
        if side == "right":  # BERT counts positions from the left, padding or not
            expected = by_hand(model, tokens).logits[0, P:]
            torch.testing.assert_close(logits[row][own], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_labels_of_tokens_move_with_them(tiny_model: Build) -> None:
    model = model_for(tiny_model, "token_classification", labels=("a", "b", "c"))
    labels = torch.tensor([[0, 1, -100, 2, 1, -100, -100], [2, -100, 1, -100, -100, -100, -100]])
    loss = model(**batch("right"), labels=labels).loss
    logits = torch.cat([by_hand(model, row).logits[0, P:] for row in ROWS])
    kept = torch.cat([labels[i, : len(row)] for i, row in enumerate(ROWS)])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, kept), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_no_answer_begins_or_ends_at_padding(tiny_model: Build, side: str) -> None:
    model, given = model_for(tiny_model, "question_answering"), batch(side)
    output = model(**given)
    for logits in (output.start_logits, output.end_logits):
        assert logits.shape == (2, 7)
        assert given["attention_mask"].gather(1, logits.argmax(-1)[:, None]).all()


@pytest.mark.parametrize(("first", "last"), [(1, 3), (0, 4), (2, 2)])
@torch.no_grad()
def test_positions_of_answers_move_with_their_tokens(tiny_model: Build, first: int, last: int) -> None:
    model = model_for(tiny_model, "question_answering")
    row = ROWS[0]
    loss = model(**alone(row), start_positions=torch.tensor([first]), end_positions=torch.tensor([last])).loss
    own = by_hand(model, row)
    expected = [-own.start_logits[0].log_softmax(-1)[P + first], -own.end_logits[0].log_softmax(-1)[P + last]]
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_position_behind_the_row_is_ignored_as_the_model_does(tiny_model: Build) -> None:
    model = model_for(tiny_model, "question_answering")
    given = {**alone(ROWS[0]), "start_positions": torch.tensor([1]), "end_positions": torch.tensor([5])}
    with model.disable_adapter():
        assert model(**given).loss.isnan()  # nothing is left to average over
    assert model(**given).loss.isnan()


@torch.no_grad()
def test_a_class_for_each_row(tiny_model: Build) -> None:
    model = model_for(tiny_model, "sequence_classification", labels=("a", "b"))
    given = batch("right")
    output = model(given["input_ids"], given["attention_mask"], given["token_type_ids"], labels=torch.tensor([0, 1]))
    single = model(**alone(ROWS[1])).logits
    assert output.logits.shape == (2, 2)
    torch.testing.assert_close(output.logits[1], single[0], rtol=1e-4, atol=1e-4)
    rows = model(**given, adapter_names=["default", "__base__"]).logits
    torch.testing.assert_close(rows[0], output.logits[0], rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(rows[1], model(**given).logits[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_encoder_decoder_generates_from_rows_with_virtual_tokens(tiny_model: Build) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model("t5"), PromptTuningConfig(num_virtual_tokens=P)).eval()
    ids = torch.tensor([ROWS[0]])
    padded = torch.tensor([[*ROWS[0], 0, 0]])
    first = model.generate(ids, max_new_tokens=5, do_sample=False)
    again = model.generate(input_ids=padded, attention_mask=(padded > 0).long(), max_new_tokens=5, do_sample=False)
    assert torch.equal(first, again)
    with model.disable_adapter():
        assert model.generate(ids, max_new_tokens=5, do_sample=False).shape[0] == 1


@pytest.mark.filterwarnings("ignore")  # of models that would rather have kernels of their own
@pytest.mark.parametrize("side", ["left", "none"])
@pytest.mark.parametrize("architecture", ["lfm2", "minimax"])
@torch.no_grad()
def test_a_decoder_returns_the_rows_it_was_given_and_what_it_wrote(
    tiny_model: Build, architecture: str, side: str
) -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(architecture), PromptTuningConfig(num_virtual_tokens=P)).eval()
    width = 5 + 2 * (side == "left")
    ids = torch.tensor([[0] * (width - 5) + ROWS[0], [0] * (width - 5) + ROWS[0][::-1]])
    mask = (ids != 0).long()
    given = {"input_ids": ids, "attention_mask": mask, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    written = model.base_model.insert_virtual_tokens({"input_ids": ids, "attention_mask": mask})
    own = model.get_base_model().generate(**{**given, **written}, max_new_tokens=3)
    expected = torch.cat([ids, own[:, -3:]], 1)
    assert torch.equal(model.generate(**given, max_new_tokens=3), expected)
    assert torch.equal(model.generate(**given, max_length=width + 3), expected)
    assert torch.equal(model.generate(**given, max_new_tokens=3, return_dict_in_generate=True).sequences, expected)
    beams = model.generate(**given, max_new_tokens=3, num_beams=2, num_return_sequences=2)
    assert torch.equal(beams[:, :width], ids.repeat_interleave(2, 0))
    assert beams.shape == (4, width + 3)
    rows = model.generate(**given, max_new_tokens=3, adapter_names=["default", "__base__"])
    assert torch.equal(rows[0], expected[0])
    with model.disable_adapter():
        assert torch.equal(rows[1], model.generate(**given, max_new_tokens=3)[1])


def test_what_cannot_be_written_into_is_refused(tiny_model: Build) -> None:
    model = model_for(tiny_model, "sequence_classification", labels=("a", "b"))
    ids = torch.tensor([ROWS[0]])
    with pytest.raises(ConfigError, match="got inputs_embeds: give input_ids"):
        model(inputs_embeds=model.get_input_embeddings()(ids))
    with pytest.raises(ConfigError, match="got position_ids"):
        model(input_ids=ids, position_ids=torch.arange(5)[None])
    with pytest.raises(ConfigError, match="return_dict=False is not supported"):
        model(input_ids=ids, return_dict=False)
