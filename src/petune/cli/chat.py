"""`petune chat`: a conversation on the terminal."""

import sys
from typing import Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.flags import flags_of
from petune.cli.loading import LoadOptions, checked, load_model, split
from petune.cli.reporting import say, undecodable
from petune.errors import DataError
from petune.evaluation.options import GenerationOptions

app = new_app()


@app.command(help="Talk with a base model or an adapter. /reset starts anew, /exit or end of input leaves.")
@flags_of(LoadOptions, GenerationOptions, leave_out=("num_beams", "batch_tokens"))
def chat(system: Annotated[str | None, typer.Option("--system", help="System message.")] = None, **given: Any) -> None:
    """Talk with a base model or an adapter."""
    loading, generating = split(given, LoadOptions, GenerationOptions)
    options = checked(GenerationOptions, generating)
    model = load_model(loading)
    from petune.evaluation.stream import stream

    start = [{"role": "system", "content": system}] if system else []
    turns = list(start)
    while True:
        said = _ask()
        if said is None or said == "/exit":
            return
        if said == "/reset":
            turns = list(start)
            continue
        if not said:
            continue
        question = {"role": "user", "content": said}
        try:
            pieces = stream(model, [*turns, question], options)
        except DataError as error:
            if turns == start:
                raise
            sys.stderr.write(f"petune: {error}; /reset starts anew\n")
            continue
        answer = ""
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
            answer += piece
        say()
        turns += [question, {"role": "assistant", "content": answer}]


def _ask() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise undecodable(error) from error
