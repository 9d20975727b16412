import json
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM


def test_the_merged_folder_is_a_plain_model(petune: Callable[..., str], adapter: str) -> None:
    printed = petune("merge", "--adapter", adapter, "--output-dir", "merged")
    assert 'use it:       petune generate --model merged --prompt "..."\n' in printed
    assert AutoModelForCausalLM.from_pretrained("merged").config.model_type == "llama"
    assert not Path("merged/petune.json").exists()
    texts = [
        json.loads(petune("generate", *which, "--prompt", "row 1\nLabel:", "--max-new-tokens", "8", "--json"))["text"]
        for which in (("--adapter", adapter, "--dtype", "float32"), ("--model", "merged", "--dtype", "float32"))
    ]
    assert texts[0] == texts[1]


def test_the_task_of_the_base_may_be_said(petune: Callable[..., str], adapter: str) -> None:
    petune("merge", "--adapter", adapter, "--output-dir", "merged", "--task", "causal_lm")
    assert Path("merged/config.json").is_file()


def test_the_command_to_use_it_holds_in_a_shell(petune: Callable[..., str], adapter: str) -> None:
    printed = petune("merge", "--adapter", adapter, "--output-dir", "my merged")
    assert "petune generate --model 'my merged' --prompt" in printed
