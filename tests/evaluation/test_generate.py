from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken

from petune.errors import DataError
from petune.evaluation.generate import generate, generation_config, stop_token_ids
from petune.evaluation.options import GenerationOptions
from petune.sites.sites import Sites

PROMPTS = ["the river rises in the hills and", "dull", "a quiet joy of a film, far too long", "green hills"]


@pytest.fixture
def greedy(runner, full_log_probabilities) -> Callable[[str, int], list[int]]:
    """The oracle: no cache, no batch, no padding, one full forward pass for each token."""

    def compute(prompt: str, count: int) -> list[int]:
        ids = list(runner.tokenizer(prompt)["input_ids"])
        start = len(ids)
        while len(ids) < start + count:
            token = int(full_log_probabilities(ids)[-1].argmax())
            if token == 0:
                break
            ids.append(token)
        return ids[start:]

    return compute


def texts(runner, ids: Sequence[Sequence[int]]) -> list[str]:
    return [runner.tokenizer.decode(row, skip_special_tokens=True) for row in ids]


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_a_left_padded_batch_equals_a_plain_loop_row_by_row(runner, greedy, batch_tokens: int) -> None:
    options = GenerationOptions(max_new_tokens=12, batch_tokens=batch_tokens)
    got = generate(runner, PROMPTS, options)
    expected = [greedy(prompt, 12) for prompt in PROMPTS]
    assert [g.text for g in got] == texts(runner, expected)
    assert [g.num_tokens for g in got] == [len(ids) for ids in expected]
    assert [g.finish_reason for g in got] == ["length" if len(ids) == 12 else "stop" for ids in expected]


def test_end_tokens_of_tokenizer_and_model_stop(runner, greedy) -> None:
    runner.model.generation_config.eos_token_id = greedy(PROMPTS[0], 6)[5]
    first, *_ = generate(runner, PROMPTS, GenerationOptions(max_new_tokens=12))
    expected = greedy(PROMPTS[0], 12)
    end = expected.index(runner.model.generation_config.eos_token_id)
    assert (first.num_tokens, first.finish_reason) == (end, "stop")
    assert first.text == texts(runner, [expected[:end]])[0]


def test_stop_texts_cut_each_row_on_its_own(runner) -> None:
    whole = generate(runner, PROMPTS, GenerationOptions(max_new_tokens=12))
    stop = whole[1].text[4:7]
    got = generate(runner, PROMPTS, GenerationOptions(max_new_tokens=12, stop=(stop,)))
    assert [g.text for g in got] == [w.text.split(stop)[0] for w in whole]
    assert got[1].finish_reason == "stop"
    assert got[1].num_tokens < whole[1].num_tokens


def test_a_special_token_may_be_a_stop_text(runner, greedy) -> None:
    ids = greedy(PROMPTS[2], 12)
    runner.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    with torch.no_grad():
        # Make <|im_end|> the likeliest token after the third.
        head = runner.model.get_output_embeddings().weight
        head[2] = head[ids[3]] * 1.5
    got = generate(runner, [PROMPTS[2]], GenerationOptions(max_new_tokens=12, stop=("<|im_end|>",)))
    assert got[0].finish_reason == "stop"
    assert got[0].num_tokens <= 3


def test_so_may_a_special_token_that_the_tokenizer_has_no_name_for(runner) -> None:
    runner.tokenizer.add_tokens([AddedToken("<|stop|>", special=True)])
    assert "<|stop|>" not in runner.tokenizer.all_special_tokens
    number = runner.tokenizer.convert_tokens_to_ids("<|stop|>")
    assert number in stop_token_ids(runner, ["<|stop|>"])


def test_settings_of_the_model_change_nothing(runner) -> None:
    plain = generate(runner, PROMPTS, GenerationOptions(max_new_tokens=4, num_beams=2))
    runner.model.generation_config.return_dict_in_generate = True
    runner.model.generation_config.num_return_sequences = 2
    assert generate(runner, PROMPTS, GenerationOptions(max_new_tokens=4, num_beams=2)) == plain


def test_sampling_repeats_from_its_seed_and_leaves_the_random_state(runner) -> None:
    before = torch.random.get_rng_state()
    hot = GenerationOptions(max_new_tokens=10, temperature=1.5, top_p=0.9, top_k=50, seed=1)
    first, again = generate(runner, PROMPTS, hot), generate(runner, PROMPTS, hot)
    other = generate(runner, PROMPTS, hot.model_copy(update={"seed": 2}))
    assert first == again
    assert first != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_top_k_of_one_is_greedy_at_any_temperature(runner) -> None:
    cold = generate(runner, PROMPTS, GenerationOptions(max_new_tokens=8))
    assert generate(runner, PROMPTS, GenerationOptions(max_new_tokens=8, temperature=3.0, top_k=1)) == cold


def test_as_many_beams_as_tokens_find_the_best_pair(runner, full_log_probabilities) -> None:
    ids = runner.tokenizer("dull")["input_ids"]
    first = full_log_probabilities(ids)[-1]
    best, best_score = [], first[0].item()  # the text may end at once; scores are means over tokens
    for token in range(1, len(runner.tokenizer)):
        second = full_log_probabilities([*ids, token])[-1]
        score = (first[token] + second.max()).item() / 2
        if score > best_score:
            best, best_score = [token, int(second.argmax())], score
    options = GenerationOptions(max_new_tokens=2, num_beams=len(runner.tokenizer))
    assert generate(runner, ["dull"], options)[0].text == texts(runner, [best])[0]


def test_repetition_penalty_does_not_see_padding(runner) -> None:
    options = GenerationOptions(max_new_tokens=8, repetition_penalty=1.8)
    alone = [generate(runner, [prompt], options)[0] for prompt in PROMPTS]
    assert generate(runner, PROMPTS, options) == alone
    assert alone != [generate(runner, [p], GenerationOptions(max_new_tokens=8))[0] for p in PROMPTS]


def test_rows_near_the_end_of_the_context_get_what_is_left(runner) -> None:
    long = "green " * 120
    ids = runner.tokenizer(long)["input_ids"][:90]
    prompt = runner.tokenizer.decode(ids)
    assert len(runner.tokenizer(prompt)["input_ids"]) == 90
    alone = generate(runner, ["dull"], GenerationOptions(max_new_tokens=20))
    got = generate(runner, [prompt, "dull"], GenerationOptions(max_new_tokens=20))
    assert got[0].num_tokens <= 6
    assert got[1] == alone[0]


def test_too_long_a_prompt_is_named(runner) -> None:
    with pytest.raises(DataError, match=r"1 of 2 prompts fill the model's context of 96 tokens .*: rows:9 \(\d+\);"):
        generate(runner, ["dull", "green " * 120], names=["rows:8", "rows:9"])


def test_an_empty_prompt_is_named(runner) -> None:
    with pytest.raises(DataError, match=r"no text to go on from in prompt 2; give a prompt"):
        generate(runner, ["dull", ""])


def test_no_prompts(runner) -> None:
    assert generate(runner, []) == []


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"num_beams": 2}, {"temperature": 1.0, "top_k": 3}])
def test_transformers_has_nothing_to_warn_of(runner, settings: dict[str, float]) -> None:
    generation_config(runner, GenerationOptions(**settings), 8).validate(strict=True)


def test_sampling_defaults_of_the_model_have_no_say(runner) -> None:
    expected = generate(runner, PROMPTS, GenerationOptions(max_new_tokens=8))
    runner.model.generation_config.update(do_sample=True, temperature=5.0, top_p=0.5, top_k=3, repetition_penalty=3.0)
    assert generate(runner, PROMPTS, GenerationOptions(max_new_tokens=8)) == expected


def test_what_else_the_model_would_write_by_has_no_say(runner) -> None:
    options = GenerationOptions(max_new_tokens=8)
    expected = generate(runner, PROMPTS, options)
    runner.model.generation_config.update(
        min_length=64, no_repeat_ngram_size=1, forced_eos_token_id=1, suppress_tokens=[5, 6, 7], stop_strings=["a"]
    )
    config = runner.model.generation_config
    assert generate(runner, PROMPTS, options) == expected
    assert runner.model.generation_config is config


def test_the_model_stays_as_it_was(runner) -> None:
    runner.model.train()
    before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
    config = runner.model.generation_config.to_dict()
    generate(runner, PROMPTS, GenerationOptions(max_new_tokens=3, temperature=1.0))
    assert all(module.training for module in runner.model.modules())
    assert runner.model.generation_config.to_dict() == config
    assert runner.tokenizer.padding_side == "right"
    for name, tensor in runner.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_interrupt_leaves_the_model_as_it_was(runner) -> None:
    sites, model = Sites(runner.model), runner.model.train()
    lent = SimpleNamespace(**vars(runner), modules=runner.modules, fast_inference=sites.fast_inference)
    lent.device, own, replaced = runner.device, model.config._attn_implementation, []

    def interrupt(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        replaced.extend(module for module in model.modules() if "forward" in vars(module))
        raise KeyboardInterrupt

    hook = model.get_output_embeddings().register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            generate(lent, PROMPTS, GenerationOptions(max_new_tokens=16))
    finally:
        hook.remove()
    assert replaced
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(module.training for module in model.modules())
    assert model.config._attn_implementation == own
    assert not torch.is_inference_mode_enabled()
