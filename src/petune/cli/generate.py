"""`petune generate`: continue prompts."""

import json
import sys
from typing import Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.flags import flags_of
from petune.cli.loading import LoadOptions, checked, load_model, split
from petune.cli.reporting import say, undecodable
from petune.errors import ConfigError
from petune.evaluation.options import GenerationOptions

app = new_app()


@app.command(help="Continue prompts.")
@flags_of(LoadOptions, GenerationOptions)
def generate(
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A prompt; give it several times for several. - reads stdin."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Write each prompt as a user turn with the chat template.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a prompt.")] = False,
    **given: Any,
) -> None:
    """Continue prompts."""
    if not prompt:
        raise ConfigError("no prompt: give --prompt TEXT, or --prompt - to read it from stdin")
    loading, generating = split(given, LoadOptions, GenerationOptions)
    checked(GenerationOptions, generating)
    from petune import api

    texts = [_from_stdin() if text == "-" else text for text in prompt]
    model = load_model(loading)
    if chat:
        answers = api.generate(model, [[{"role": "user", "content": text}] for text in texts], **generating)
    else:
        answers = api.generate(model, texts, **generating)
    for text, answer in zip(texts, answers, strict=True):
        if as_json:
            fields = {
                "prompt": text,
                "text": answer.text,
                "num_tokens": answer.num_tokens,
                "finish_reason": answer.finish_reason,
            }
            say(json.dumps(fields, ensure_ascii=False))
        else:
            say(answer.text if chat else text + answer.text)


def _from_stdin() -> str:
    """Return what stdin holds, without the end of the last line.

    Raises:
        DataError: it is no text.
    """
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise undecodable(error) from error
