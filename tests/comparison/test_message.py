from collections.abc import Callable

from petune.comparison.message import Message
from petune.comparison.record import Trial


def test_a_message_is_a_line(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(test={"perplexity": float("inf")}, settings={"target_modules": "a\nb"})
    for message in (Message(began="x"), Message(stepped=("x", 1, 2)), Message(ended=trial), Message(idle=True)):
        line = message.line()
        assert line.endswith("\n")
        assert line.count("\n") == 1
        assert Message.model_validate_json(line) == message
    assert Message(idle=True).line() == '{"idle":true}\n'
