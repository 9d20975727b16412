"""What PEFT's config classes share: arguments that are refused by name, and files."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest

from petune.compat.config import PeftConfig, get_peft_config
from petune.compat.peft import LoraConfig, TaskType
from petune.errors import AdapterFormatError, ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 8}, r"LoraConfig: 'rank' is not known to this petune"),
        ({"lora_aplha": 8}, r"'lora_aplha' is not known to this petune\. Did you mean 'lora_alpha'\?"),
        ({"use_qalora": True}, r"LoraConfig: use_qalora=True is not supported"),
        ({"bias": "all"}, r"bias='all' is not supported"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication=\[\[0, 2\]\] is not supported"),
        ({"r": 4, "lora_r": 4}, r"'lora_r' and 'r' are one setting"),
        ({"peft_type": "PREFIX_TUNING"}, r"LoraConfig is of type LORA; leave peft_type out"),
        ({"task_type": "IMAGES"}, r"task_type is 'IMAGES'; petune has CAUSAL_LM"),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**fields)


def test_a_field_that_is_set_later_is_checked_too() -> None:
    config = LoraConfig(r=4)
    config.target_modules = {"v_proj", "q_proj"}
    assert config.target_modules == ["q_proj", "v_proj"]
    with pytest.raises(ConfigError, match="lora_bias=True is not supported"):
        config.lora_bias = True


def test_the_former_name_of_the_rank() -> None:
    assert LoraConfig(lora_r=5) == LoraConfig(r=5)
    assert LoraConfig(lora_r=5) != LoraConfig(r=4)
    assert "r=5" in repr(LoraConfig(lora_r=5))


def test_saved_and_read_again(tmp_path: Path) -> None:
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=3, target_modules=["q_proj"], base_model_name_or_path="base")
    config.save_pretrained(str(tmp_path))
    assert PeftConfig.from_pretrained(str(tmp_path)) == config
    theirs = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert (theirs.r, theirs.task_type, theirs.base_model_name_or_path) == (3, "CAUSAL_LM", "base")


def test_a_file_that_asks_for_what_petune_lacks(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    for content, message in (
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; petune reads"),
        ({"peft_type": ["LORA"]}, r"peft_type is \['LORA'\]; petune reads"),
        ({"peft_type": "LORA", "self": 1}, "'self' is not known"),
        ({"peft_type": "LORA", "use_qalora": True}, r"adapter_config\.json: LoraConfig: use_qalora=True"),
        ({"peft_type": "LORA", "new": 1}, "'new' is not known"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(AdapterFormatError, match=message):
            PeftConfig.from_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="peft_type is 'LOHA'; petune has ADAPTION_PROMPT, IA3, LORA"):
        get_peft_config({"peft_type": "LOHA"})
