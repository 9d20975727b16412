"""An extended vocabulary beside every method: its rows train, the others stay, files bring all of it back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.api import evaluate, load
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.merged import save_merged
from petune.errors import AdapterFormatError
from petune.training.run import train

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]
NEW = tuple(f"<{i}>" for i in range(35))  # more than the rows to spare
ARCHITECTURES = (
    "llama", "gpt2", "gpt_neox", "bloom", "gemma2", "cohere", "opt", "falcon", "qwen3", "phi", "bert", "deberta-v2",
    "roberta", "albert", "electra", "distilbert", "modernbert", "t5", "bart",
)  # fmt: skip
IDS = torch.tensor([[30, 259, 40, 292], [292, 50, 259, 260]])


def test_only_new_rows_train(architecture: str, sharing_method: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture)
    adapter = create_adapter(base, sharing_method, new_tokens=NEW)
    frozen = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    logits = model(input_ids=IDS).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, IDS[:, 1:].flatten()).backward()
    assert adapter.token_rows
    for slot in adapter.token_rows.values():
        if slot.rows is not None:
            assert slot.rows.shape[0] == len(NEW)
            assert slot.rows.grad is not None
            assert slot.rows.grad.any()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in base.model.state_dict().items())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_peft_reads_them_on_a_resized_base_and_we_read_peft_s(
    architecture: str, tmp_path: Path, tiny_base: Callable[..., Base], trained: Callable[..., AdaptedModel]
) -> None:
    model = trained(tiny_base(architecture), "lora", new_tokens=NEW, target_modules="attention")
    live = model(input_ids=IDS).logits
    folder = save_adapter(model, tmp_path / "adapter")
    resized = tiny_base(architecture)
    resized.add_tokens(NEW)
    theirs = peft.PeftModel.from_pretrained(resized.model, folder).eval()
    torch.testing.assert_close(theirs(input_ids=IDS).logits, live, rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny_base(architecture)
    again.add_tokens(NEW)
    adapter = load_adapter(tmp_path / "theirs", again)
    torch.testing.assert_close(AdaptedModel(again, [adapter])(input_ids=IDS).logits, live, rtol=1e-4, atol=1e-4)
    with pytest.raises(AdapterFormatError, match="has tokens 0 to 287"):
        load_adapter(tmp_path / "theirs", tiny_base(architecture))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_merging_gives_a_plain_model_with_the_larger_vocabulary(
    architecture: str, tmp_path: Path, tiny_base: Callable[..., Base], trained: Callable[..., AdaptedModel]
) -> None:
    model = trained(tiny_base(architecture), "lora", new_tokens=NEW, target_modules="attention")
    live = model(input_ids=IDS).logits
    plain = AutoModelForCausalLM.from_pretrained(save_merged(model, tmp_path / "merged"), dtype=torch.float32)
    torch.testing.assert_close(plain(input_ids=IDS).logits, live, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(input_ids=IDS).logits, live)


@torch.no_grad()
def test_other_new_tokens_in_their_places_are_refused(
    tmp_path: Path, tiny_base: Callable[..., Base], trained: Callable[..., AdaptedModel]
) -> None:
    folder = save_adapter(trained(tiny_base(), "lora", new_tokens=("<x>",)), tmp_path)
    base = tiny_base()
    base.add_tokens(("<y>",))
    with pytest.raises(
        AdapterFormatError, match=r"rows for tokens \[259\], but on this base its new tokens are \[260\]"
    ):
        load_adapter(folder, base)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_learns_a_task_with_new_tokens(
    method: str, tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Callable[..., Path]
) -> None:
    (tmp_path / "tokens.txt").write_text("<yes>\n<no>\n")
    rows = [{"prompt": f"{i} ", "completion": "<yes>" if i % 2 else "<no>"} for i in range(16)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    settings: dict[str, Any] = {
        "method": method, "data": str(data), "output_dir": str(tmp_path / "run"),
        "new_tokens": str(tmp_path / "tokens.txt"),
        "max_steps": 30, "per_device_train_batch_size": 16, "learning_rate": 2e-2 if method == "lora" else 2e-3,
    }  # fmt: skip
    result = train(settings, base=tiny_base())
    assert result.train_report.rows_kept == 16
    first, last = (float(entry["loss"]) for entry in (result.history[0], result.history[-1]))
    assert last < first / 2
    found = evaluate(load(tmp_path / "run", base=tiny_base()), data, metrics=["loss"])
    assert found.metrics["loss"] < first / 2


@torch.no_grad()
def test_rows_of_other_adapters_keep_the_base_s(
    tiny_base: Callable[..., Base], trained: Callable[..., AdaptedModel], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    base.add_tokens(NEW)
    bare = base.model(input_ids=IDS).logits
    model = trained(base, "lora", new_tokens=NEW, target_modules="attention")
    model.attach(randomise(create_adapter(base, "prefix_tuning", name="other", new_tokens=NEW[:3])), active=False)
    model.activate()
    ids = IDS.repeat(2, 1)[:3]
    with model.route([None, "default", "other"]):
        mixed = model(input_ids=ids).logits
    torch.testing.assert_close(mixed[0], bare[0], rtol=1e-4, atol=1e-4)
    for i, name in ((1, "default"), (2, "other")):
        model.activate(name)
        torch.testing.assert_close(model(input_ids=ids[i : i + 1]).logits[0], mixed[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kind_of_base_grows(architecture: str, tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture)
    adapter = create_adapter(base, "lora", new_tokens=NEW)
    adapter.set_trainable(True)
    first, last = base.tokenizer.convert_tokens_to_ids([NEW[0], NEW[-1]])
    inputs = {"input_ids": torch.tensor([[5, first, 7, last]])}
    if base.model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    bare = base.model(**inputs).logits
    assert bare.shape[-1] == last + 1 > 288
    model = AdaptedModel(base, [adapter])
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, bare, rtol=0, atol=0)
    logits.logsumexp(-1).sum().backward()
    learned = [slot.rows for slot in adapter.token_rows.values() if slot.rows is not None]
    assert learned
    assert all(rows.grad is not None and rows.grad[0].any() and rows.grad[-1].any() for rows in learned)
    live = model(**inputs).logits
    folder = save_adapter(model, tmp_path)
    again = tiny_base(architecture)
    assert torch.equal(AdaptedModel(again, [load_adapter(folder, again)])(**inputs).logits, live)
