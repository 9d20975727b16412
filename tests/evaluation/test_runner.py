from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from petune.errors import ConfigError
from petune.evaluation.runner import context_length, end_token_ids, evaluating, longest_input
from petune.sites.routing import Route, Routing


def test_every_module_gets_its_own_mode_back(runner) -> None:
    runner.model.train()
    inner = next(m for m in runner.model.modules() if isinstance(m, torch.nn.Embedding))
    inner.eval()
    before = [module.training for module in runner.model.modules()]

    def fail_inside() -> None:
        with evaluating(runner):
            assert torch.is_inference_mode_enabled()
            assert not any(module.training for module in runner.model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert [module.training for module in runner.model.modules()] == before
    assert not torch.is_inference_mode_enabled()


def test_rows_that_are_routed_one_by_one_are_not_sorted(runner) -> None:
    routed = Routing.of(runner.model).use(Route.of([("a",), ()]))
    with (
        routed,
        pytest.raises(ConfigError, match=r"rows are routed one by one here, .* activate\(\.\.\.\)"),
        evaluating(runner),
    ):
        pass


def test_context_length(runner) -> None:
    assert context_length(runner.model) == 96


def test_virtual_tokens_leave_less_for_the_input(runner) -> None:
    assert longest_input(runner) == 96
    assert longest_input(replace(runner, virtual_tokens=20)) == 76


def test_a_model_without_positions_has_no_context_length() -> None:
    config = MambaConfig(vocab_size=8, hidden_size=8, state_size=2, num_hidden_layers=1)
    model = MambaForCausalLM(config)
    assert context_length(model) is None
    assert longest_input(SimpleNamespace(model=model, virtual_tokens=20)) is None


def test_end_tokens_are_those_of_tokenizer_and_model(runner) -> None:
    assert end_token_ids(runner) == [0]
    runner.model.generation_config.eos_token_id = [2, 7]
    assert end_token_ids(runner) == [0, 2, 7]
