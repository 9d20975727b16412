import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from petune.errors import ConfigError, DataError
from petune.evaluation.evaluate import evaluate
from petune.evaluation.generate import generate
from petune.evaluation.options import GenerationOptions
from petune.evaluation.prompts import chat_prompt
from petune.evaluation.stream import TextAssembler, stream
from petune.sites.routing import Routing

PROMPTS = ["the river rises in the hills and", "dull"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 1.2, "seed": 3}, {"repetition_penalty": 1.5}, {"temperature": 2.0, "seed": 5}],
)
def test_pieces_make_the_text_of_generate(runner, settings: dict[str, float]) -> None:
    for prompt in PROMPTS:
        options = GenerationOptions(max_new_tokens=16, **settings)
        pieces = list(stream(runner, prompt, options))
        assert "".join(pieces) == generate(runner, [prompt], options)[0].text
        assert len(pieces) > 1


def test_stop_text(runner) -> None:
    whole = generate(runner, PROMPTS[1:], GenerationOptions(max_new_tokens=16))[0].text
    stop = whole[5:8]
    got = "".join(stream(runner, PROMPTS[1], GenerationOptions(max_new_tokens=16, stop=(stop,))))
    assert got == whole.split(stop)[0]


def test_messages_go_through_the_chat_template(runner) -> None:
    messages = [{"role": "user", "content": "dull"}]
    prompt = "<|im_start|>user\ndull<|im_end|>\n<|im_start|>assistant\n"
    assert chat_prompt(runner.tokenizer, messages) == prompt
    options = GenerationOptions(max_new_tokens=8)
    expected = generate(runner, [prompt], options, add_special_tokens=False)[0].text
    assert "".join(stream(runner, messages, options)) == expected


def test_closing_early_ends_the_thread_and_restores_the_model(runner) -> None:
    runner.model.train()
    threads = threading.active_count()
    pieces = stream(runner, PROMPTS[0], GenerationOptions(max_new_tokens=60, temperature=1.0))
    next(pieces)
    pieces.close()
    assert threading.active_count() == threads
    assert all(module.training for module in runner.model.modules())


@pytest.fixture
def slow(runner) -> Iterator[None]:
    """Let each pass of the model take so long that what can overlap does."""
    handle = runner.model.register_forward_pre_hook(lambda *_: time.sleep(0.005))
    yield
    handle.remove()


@pytest.fixture
def state(runner) -> Callable[[], list[object]]:
    """What must be as it was when all is written."""
    runner.model.train()
    runner.model.generation_config.min_length = 3
    torch.manual_seed(3)

    def now() -> list[object]:
        modes = [module.training for module in runner.model.modules()]
        answers = Routing.of(runner.model).answers(torch.device("cpu"))
        patched = [name for name, module in runner.model.named_modules() if "forward" in vars(module)]
        random_state = torch.random.get_rng_state().tolist()
        return [modes, answers, patched, random_state, runner.model.generation_config.to_dict()]

    return now


@pytest.mark.usefixtures("slow")
def test_streams_that_are_read_in_turns_take_turns(runner, state: Callable[[], list[object]]) -> None:
    options = GenerationOptions(max_new_tokens=20, temperature=1.5)
    expected = [generate(runner, [prompt], options)[0].text for prompt in PROMPTS]
    before = state()
    first, second = (stream(runner, prompt, options) for prompt in PROMPTS)
    texts = [next(first), next(second)]
    texts[0] += "".join(first)
    texts[1] += "".join(second)
    assert texts == expected
    assert state() == before


@pytest.mark.usefixtures("slow")
def test_threads_that_use_one_model_take_turns(runner, reviews, state: Callable[[], list[object]]) -> None:
    options = GenerationOptions(max_new_tokens=20, temperature=1.5)
    work: list[Callable[[], object]] = [
        lambda: "".join(stream(runner, PROMPTS[0], options)),
        lambda: generate(runner, PROMPTS, options),
        lambda: evaluate(runner, reviews).metrics,
        lambda: "".join(stream(runner, PROMPTS[1], options)),
    ]
    expected = [each() for each in work]
    before = state()
    found: dict[int, object] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: work[i]()})) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(work))] == expected
    assert state() == before


@pytest.mark.usefixtures("slow")
def test_a_stream_that_nobody_reads_on_holds_nobody_up(runner, reviews) -> None:
    pieces = stream(runner, PROMPTS[0], GenerationOptions(max_new_tokens=40, temperature=1.5))
    next(pieces)
    assert evaluate(runner, reviews).num_rows == 5
    assert list(pieces)


def test_an_error_in_the_model_reaches_the_reader(runner) -> None:
    def fail(module: torch.nn.Module, inputs: object) -> None:
        raise KeyError("broken on purpose")

    handle = runner.model.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="broken on purpose"):
        list(stream(runner, PROMPTS[0]))
    handle.remove()


def test_mistakes_are_told_before_the_first_piece(runner) -> None:
    with pytest.raises(ConfigError, match=r"num_beams is 4, .*; stream with num_beams=1"):
        stream(runner, PROMPTS[0], GenerationOptions(num_beams=4))
    with pytest.raises(DataError, match="no text to go on from in the prompt"):
        stream(runner, "")
    with pytest.raises(DataError, match="the conversation has no messages; give at least one user turn"):
        stream(runner, [])


def test_a_tokenizer_without_a_chat_template(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.tokenizer, "chat_template", None)
    with pytest.raises(ConfigError, match=r"the tokenizer has no chat template, .* give a plain prompt"):
        stream(runner, [{"role": "user", "content": "dull"}])


def test_a_chat_template_that_refuses(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="the chat template refuses the conversation: roles must alternate"):
        chat_prompt(runner.tokenizer, [{"role": "user", "content": "dull"}])
    monkeypatch.setattr(runner.tokenizer, "chat_template", "{{ 'x' + messages[0]['content'] }}")
    for turn in ({"role": "user", "content": None}, {"role": "user", "content": 5}, "dull"):
        with pytest.raises(DataError, match=r"refuses the conversation: .*; change its turns, each with 'role' and"):
            chat_prompt(runner.tokenizer, [turn])


def test_assembler_holds_back_incomplete_characters(tokenizer) -> None:
    ids = tokenizer("很好 é")["input_ids"]
    assembler = TextAssembler(tokenizer, ())
    pieces = [assembler.push(token) for token in ids]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + assembler.finish() == "很好 é"


def test_assembler_gives_a_broken_character_at_the_end_only(tokenizer) -> None:
    assembler = TextAssembler(tokenizer, ())
    assert assembler.push(tokenizer("很")["input_ids"][0]) == ""
    assert assembler.finish() == "\ufffd"


@pytest.mark.parametrize("seed", range(5))
def test_assembler_never_shows_part_of_a_stop_text(tokenizer, seed: int) -> None:
    source = random.Random(seed)
    text = "".join(source.choice("ab") for _ in range(40))
    stop = ("abba", "bbb")
    assembler = TextAssembler(tokenizer, stop)
    given = ""
    for token in tokenizer(text)["input_ids"]:
        given += assembler.push(token)
        assert not any(s in given for s in stop)
    end = min((text.find(s) for s in stop if s in text), default=len(text))
    assert given + assembler.finish() == text[:end]
