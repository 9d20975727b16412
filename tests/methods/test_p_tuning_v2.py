"""P-tuning v2: the same keys and values as prefix tuning, with its own settings and files."""

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]


def test_keys_and_values_are_dropped_by_default() -> None:
    assert methods.get("p_tuning_v2").configure({}).prefix_dropout == 0.1
    assert methods.get("prefix_tuning").configure({}).prefix_dropout == 0


@pytest.mark.parametrize("projection", [False, True])
@torch.no_grad()
def test_peft_reads_its_folder_as_a_prefix(
    projection: bool,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    ids, base = token_ids(2, 8), tiny_base()
    adapter = randomise(create_adapter(base, "p_tuning_v2", num_virtual_tokens=5, prefix_projection=projection))
    ours = AdaptedModel(base, [adapter])
    expected = ours(input_ids=ids).logits
    folder = save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_base().model, str(folder)).eval()
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

    assert load_adapter(folder, tiny_base()).method.name == "p_tuning_v2"
    (folder / "petune.json").unlink()  # then it is one of PEFT's, which has one name for both
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "PREFIX_TUNING"
    base = tiny_base()
    again = load_adapter(folder, base)
    assert again.method.name == "prefix_tuning"
    torch.testing.assert_close(AdaptedModel(base, [again])(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_dropout": 1.0}, "less than 1"),
        ({"encoder_hidden_size": 8}, "is the width of the projection; set prefix_projection=true with it"),
        ({"placement": "infix"}, "unknown key 'placement'"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "p_tuning_v2", **options)
