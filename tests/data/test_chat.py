import pytest

from petune.data.chat import ChatRenderer
from petune.data.conversation import Conversation
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.data.problems import RowProblem
from petune.errors import DataError
from petune.evaluation.scoring import answer_lead

TURNS = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "good morning"},
    {"role": "user", "content": "where does the river rise?"},
    {"role": "assistant", "content": "in the hills"},
)


def learned(segments) -> list[str]:
    return [segment.text for segment in segments if segment.learned]


def whole(segments) -> str:
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize("name", ["CHATML", "MARKED", "MARKED_WITHOUT_END"])
def test_assistant_turns_and_their_end_are_learned_with_and_without_marks(tokenizer_with, name):
    tokenizer = tokenizer_with(name)
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS))

    assert learned(rendered.segments) == ["good morning<|im_end|>", "in the hills<|im_end|>"]
    assert whole(rendered.segments) == tokenizer.apply_chat_template(list(TURNS), tokenize=False)
    assert rendered.prompt == tokenizer.apply_chat_template(
        list(TURNS[:-1]), tokenize=False, add_generation_prompt=True
    )
    assert rendered.target == "in the hills"


@pytest.mark.parametrize(
    "name", ["CHATML", "MARKED", "MARKED_WITHOUT_END", "THINKING", "OPEN_THOUGHT", "INSTRUCT", "FORGETFUL", "PLAIN"]
)
@pytest.mark.parametrize("given", [3, 4])
def test_answers_of_the_prompt_are_not_learned(tokenizer_with, name, given):
    tokenizer = tokenizer_with(name)
    turns = (*TURNS[:4], TURNS[2])  # the same words on both sides
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation(turns, prompt_turns=given))
    text = whole(rendered.segments)
    ends = {"INSTRUCT": "<|end|>", "PLAIN": "\n<|end|>"}
    said = "good morning" + ends.get(name, "<|im_end|>")

    assert "".join(learned(rendered.segments)).removeprefix("<think>\n\n</think>\n\n").strip() == said
    assert text.rstrip().endswith(said)
    assert [segment.learned for segment in rendered.segments][:2] == [False, True]
    assert rendered.target == "good morning"
    everything = ChatRenderer(tokenizer, learn_all=True).render(Conversation(turns, prompt_turns=given))
    assert whole(everything.segments) == text
    assert learned(everything.segments)[0].count("good morning") == text.count("good morning")


@pytest.mark.parametrize("name", ["CHATML", "MARKED", "MARKED_WITHOUT_END"])
def test_all_answers_of_a_completion_are_learned(tokenizer_with, name):
    turns = (*TURNS, TURNS[3], {"role": "assistant", "content": "far away"})
    rendered = ChatRenderer(tokenizer_with(name), learn_all=False).render(Conversation(turns, prompt_turns=4))
    assert learned(rendered.segments) == ["in the hills<|im_end|>", "far away<|im_end|>"]


def test_a_marking_template_that_writes_the_prompt_otherwise_once_turns_follow(tokenizer_with):
    tokenizer = tokenizer_with("MARKED")
    tokenizer.chat_template += "{% if messages | length < 5 %}bye{% endif %}"
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS, prompt_turns=3))
    assert learned(rendered.segments) == ["in the hills<|im_end|>"]


def test_a_completion_that_cannot_be_found_is_told_by_its_own_place(tokenizer_with):
    chat = ChatRenderer(tokenizer_with("FORGETFUL"), learn_all=False)
    turns = (*TURNS, TURNS[1], TURNS[2])
    with pytest.raises(RowProblem, match=r"writes completion\[1\] differently once other turns follow"):
        chat.render(Conversation(turns, prompt_turns=3))


def test_marks_agree_with_the_mask_of_transformers(tokenizer_with):
    tokenizer = tokenizer_with("MARKED")
    oracle = tokenizer.apply_chat_template(list(TURNS), return_assistant_tokens_mask=True, return_dict=True)
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS))

    masked = [i for i, on in zip(oracle["input_ids"], oracle["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(masked) == "".join(learned(rendered.segments))


def test_a_template_that_treats_the_last_turn_otherwise(tokenizer_with):
    turns = (
        {**TURNS[0], "content": " be brief "},
        *TURNS[1:4],
        {"role": "assistant", "content": " in the hills "},
    )
    rendered = ChatRenderer(tokenizer_with("THINKING"), learn_all=False).render(Conversation(turns))

    # What the model writes after its generation prompt is learned: the empty thought too.
    assert learned(rendered.segments) == [
        "good morning<|im_end|>",
        "<think>\n\n</think>\n\nin the hills<|im_end|>",
    ]
    assert rendered.target == "in the hills"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OPEN_THOUGHT", ["good morning<|im_end|>", "in the hills<|im_end|>"]),
        ("INSTRUCT", [" good morning<|end|>", " in the hills<|end|>"]),
    ],
)
def test_other_generation_prompts(tokenizer_with, name, expected):
    rendered = ChatRenderer(tokenizer_with(name), learn_all=False).render(Conversation(TURNS))
    assert learned(rendered.segments) == expected


def test_a_template_that_forgets_turns_is_a_problem_and_never_silence(tokenizer_with):
    renderer = ChatRenderer(tokenizer_with("FORGETFUL"), learn_all=False)
    with pytest.raises(RowProblem, match=r"writes messages\[2\] differently once other turns follow"):
        renderer.render(Conversation(TURNS))
    assert learned(renderer.render(Conversation(TURNS[:3])).segments) == ["good morning<|im_end|>"]
    everything = ChatRenderer(tokenizer_with("FORGETFUL"), learn_all=True).render(Conversation(TURNS))
    assert learned(everything.segments) == [whole(everything.segments)]


def test_eos_ends_a_conversation_whose_template_ends_no_turn(tokenizer_with):
    rendered = ChatRenderer(tokenizer_with("PLAIN"), learn_all=False).render(Conversation(TURNS))
    assert learned(rendered.segments) == ["good morning\n", "in the hills\n", "<|end|>"]


def test_a_conversation_that_asks_has_no_target(tokenizer_with):
    rendered = ChatRenderer(tokenizer_with("CHATML"), learn_all=False).render(Conversation(TURNS[:2]))
    assert rendered.target is None
    assert rendered.prompt.endswith("hello there<|im_end|>\n<|im_start|>assistant\n")
    assert learned(rendered.segments) == []


@pytest.mark.parametrize("name", ["CHATML", "FORGETFUL"])
def test_an_answer_that_is_awaited_is_asked_for_behind_the_last_turn(tokenizer_with, name):
    tokenizer = tokenizer_with(name)
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS[:4], awaits_answer=True))

    assert rendered.prompt == tokenizer.apply_chat_template(list(TURNS[:4]), tokenize=False, add_generation_prompt=True)
    assert rendered.target is None
    assert learned(rendered.segments) == []


def test_a_conversation_that_the_assistant_opens(tokenizer_with):
    rendered = ChatRenderer(tokenizer_with("CHATML"), learn_all=False).render(Conversation(TURNS[2:3]))
    assert learned(rendered.segments) == ["good morning<|im_end|>"]


def test_a_refusal_of_the_template_is_a_problem_of_the_row(tokenizer_with):
    tokenizer = tokenizer_with("CHATML")
    tokenizer.chat_template = "{{ raise_exception('turns must alternate') }}"
    with pytest.raises(RowProblem, match="the chat template refuses the conversation: turns must alternate"):
        ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS))


def test_tools_reach_the_template(tokenizer_with):
    tokenizer = tokenizer_with("CHATML")
    tokenizer.chat_template = "{{ tools[0]['name'] }}\n" + tokenizer.chat_template
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS, ({"name": "map"},)))
    assert whole(rendered.segments).startswith("map\n<|im_start|>system")
    assert len(learned(rendered.segments)) == 2


def test_tools_that_the_template_leaves_out_are_warned_of_once(tokenizer_with, caplog):
    chat = ChatRenderer(tokenizer_with("CHATML"), learn_all=False)
    for _ in range(2):
        chat.render(Conversation(TURNS, ({"name": "map"},)))
    assert [record.message for record in caplog.records if "'tools'" in record.message] == [
        "the chat template of this tokenizer leaves the 'tools' of rows out, so the model is not told of them; use the"
        " chat template of a model that calls tools"
    ]
    tokenizer = tokenizer_with("CHATML")
    tokenizer.chat_template = "{{ tools[0]['name'] }}\n" + tokenizer.chat_template
    caplog.clear()
    ChatRenderer(tokenizer, learn_all=False).render(Conversation(TURNS, ({"name": "map"},)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "lead"),
    [("CHATML", ""), ("MARKED", ""), ("THINKING", "<think>\n\n</think>\n\n"), ("INSTRUCT", " "), ("OPEN_THOUGHT", "")],
)
def test_what_the_template_writes_before_an_answer(tokenizer_with, name, lead, write):
    tokenizer = tokenizer_with(name)
    chat = ChatRenderer(tokenizer, learn_all=False)
    turns = TURNS[1:]  # the one template writes nothing of the system
    for conversation in (Conversation(turns), Conversation(turns[:3], awaits_answer=True)):
        assert chat.render(conversation).lead == lead
    data = write("rows.jsonl", [{"text": "green", "label": "colour"}, {"text": "hills"}])
    examples = load_examples(DataOptions(data=data, chat="on"), tokenizer, require_target=False)
    assert [example.target for example in examples] == ["colour", None]
    assert [answer_lead(example) for example in examples] == [lead, lead]


@pytest.mark.parametrize("learn_all", [True, False])
@pytest.mark.parametrize("name", ["CHATML", "MARKED"])
def test_calls_of_tools_are_what_the_turn_says(tokenizer_with, name, learn_all):
    tokenizer = tokenizer_with(name)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['content']", "(m['content'] ~ '\n<call>' ~ m['tool_calls'][0]['name'] if m['tool_calls'] else m['content'])"
    )
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "map"}]}
    chat = ChatRenderer(tokenizer, learn_all=learn_all)
    assert chat.render(Conversation((*TURNS[:4], call))).target == "<call>map"
    assert chat.render(Conversation((*TURNS[:4], {**call, "content": "see"}))).target == "see\n<call>map"
    answered = (*TURNS[:2], call, {"role": "tool", "content": "the hills"}, TURNS[4])
    assert chat.render(Conversation(answered)).target == "in the hills"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("(m['tool_calls'][0]['function']['arguments'] | tojson)", '{"place": "hills"}'),
        ("('json:' + m['tool_calls'][0]['function']['arguments'])", 'json:{"place":"hills"}'),
        ("m['tool_calls'][0]['function']['arguments']", '{"place":"hills"}'),
    ],
)
def test_arguments_of_calls_that_are_json_as_text_are_not_quoted_again(tokenizer_with, written, expected):
    tokenizer = tokenizer_with("CHATML")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['content']", f"({written} if m['tool_calls'] else m['content'])"
    )
    function = {"name": "map", "arguments": '{"place":"hills"}'}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    rendered = ChatRenderer(tokenizer, learn_all=False).render(Conversation((*TURNS[:2], call)))
    assert (rendered.target, learned(rendered.segments)) == (expected, [f"{expected}<|im_end|>"])


@pytest.mark.parametrize("learn_all", [True, False])
@pytest.mark.parametrize("name", ["CHATML", "MARKED", "THINKING"])
@pytest.mark.parametrize("content", ["", "see"])
def test_calls_of_tools_that_the_template_leaves_out_are_told(tokenizer_with, name, content, learn_all):
    call = {"role": "assistant", "content": content, "tool_calls": [{"name": "map"}]}
    chat = ChatRenderer(tokenizer_with(name), learn_all=learn_all)
    turns = (*TURNS[:2], call, {"role": "tool", "content": "the hills"}, TURNS[4])
    with pytest.raises(RowProblem, match=r"leaves the 'tool_calls' of messages\[2\] out") as caught:
        chat.render(Conversation(turns))
    assert "write the calls into the turn's content" in caught.value.fix
    assert chat.render(Conversation(turns[:4], awaits_answer=True)).target is None


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_no_chat_template(tokenizer, has_tokenizer):
    with pytest.raises(DataError, match=r"no chat template; .* --chat off .*--template"):
        ChatRenderer(tokenizer if has_tokenizer else None, learn_all=False)
