"""Checked rows to examples: templates and chat templates applied, the learned part marked."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from petune.data.chat import ChatRenderer
from petune.data.contents import Content, Pair, Text
from petune.data.conversation import Conversation
from petune.data.examples import Example, Segment
from petune.data.options import DataOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@final
class Renderer:
    """Renders rows as the options say.

    Args:
        options: whether turns are made of pairs, and what is learned.
        tokenizer: the base model's; None is enough where no chat template is used.
    """

    def __init__(self, options: DataOptions, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        self._learn_all = options.train_on == "all"
        self._wrap_pairs = options.chat == "on"
        self._tokenizer = tokenizer
        self._chat: ChatRenderer | None = None

    def render(self, content: Content, fields: Mapping[str, Any], origin: str) -> Example:
        """Render one row.

        Raises:
            DataError: a chat template is needed, and the tokenizer has none.
            RowProblem: the chat template cannot write this row.
        """
        if isinstance(content, Conversation):
            return self._turns(content, fields, origin, choices_key=None)
        if isinstance(content, Text):
            whole = (Segment(content.text, learned=True),)
            return Example(origin, whole, content.text, None, None, fields, add_special_tokens=True)
        target = None if content.target is None else content.target.strip()
        if content.words:
            target = content.label
        choices_key = target if content.is_label else None
        if self._wrap_pairs:
            turns = self._turns(_as_turns(content), fields, origin, choices_key=choices_key)
            return replace(turns, target=target, words=content.words)
        segments = (
            Segment(content.prompt, self._learn_all),
            Segment(content.target or "", learned=True),
            *([Segment(content.suffix, self._learn_all)] if content.suffix else []),
        )
        return Example(
            origin,
            segments,
            content.prompt,
            target,
            choices_key,
            fields,
            add_special_tokens=True,
            lead=content.lead,
            words=content.words,
            suffix=content.suffix,
        )

    def _turns(
        self, conversation: Conversation, fields: Mapping[str, Any], origin: str, *, choices_key: str | None
    ) -> Example:
        if self._chat is None:
            self._chat = ChatRenderer(self._tokenizer, learn_all=self._learn_all)
        chat = self._chat.render(conversation)
        return Example(
            origin,
            chat.segments,
            chat.prompt,
            chat.target,
            choices_key,
            fields,
            add_special_tokens=False,
            lead=chat.lead,
        )


def _as_turns(pair: Pair) -> Conversation:
    user = {"role": "user", "content": pair.prompt.strip()}
    if pair.target is None:
        return Conversation((user,))
    return Conversation((user, {"role": "assistant", "content": pair.target.strip()}))
