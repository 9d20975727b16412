"""The command `petune`: which commands there are, and how errors reach the user.

Nothing heavy is imported here: a command's own module, and with it torch, loads when the command runs.
"""

import io
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import typer

from petune import __version__
from petune.cli.command import CONTEXT, new_app
from petune.errors import Interrupted, PetuneError, ResourceError, is_out_of_memory

COMMANDS = {
    "train": "Train an adapter on your data.",
    "compare": "Compare methods on your data, fairly, and write a report.",
    "suggest": "Say which methods to try on your data, and what they cost here.",
    "eval": "Measure a base model or an adapter on data.",
    "predict": "Answer every row of a file (JSONL in, JSONL out).",
    "generate": "Continue prompts.",
    "chat": "Talk with a base model or an adapter.",
    "merge": "Merge an adapter into a plain Hugging Face model folder.",
    "methods": "List the methods, with their papers and parameter counts.",
    "data": "Inspect a data set as training would read it.",
    "env": "Show versions, devices and folders.",
    "demo": "Fine-tune a small real model on real reviews, start to end.",
}

_FORWARD = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
_INTERRUPTED = 130

app = new_app(
    name="petune",
    help="Parameter-efficient fine-tuning: one frozen base model, many tiny adapters, every method.",
    epilog="Exit codes: 0 done, 1 internal error, 2 bad input, 3 bad artifact, 4 resources, 5 diverged,"
    " 130/143 stopped by a signal. --debug anywhere shows tracebacks.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Show the version and exit.")
) -> None:
    if version:
        sys.stdout.write(f"petune {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help()}\n")


def _add(name: str, summary: str) -> None:
    @app.command(name, help=summary, context_settings=_FORWARD, add_help_option=False)
    def forward(context: typer.Context) -> int | None:
        command: typer.Typer = import_module(f"petune.cli.{name}").app
        code: int | None = command(args=context.args, prog_name=f"petune {name}", standalone_mode=False, **CONTEXT)
        return code


for _name, _summary in COMMANDS.items():
    _add(_name, _summary)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `petune` with ``arguments`` (the process's own by default) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks is told all the same
    sys.exit(run([argument for argument in given if argument != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run `petune` and return the exit code; errors become one line on stderr, after a traceback if ``debug``."""
    try:
        with _messages_on_stderr():
            code = app(args=list(arguments), prog_name="petune", standalone_mode=False, **CONTEXT) or 0
    except SystemExit as stop:
        # typer exits where a reader such as `head` has closed the pipe; the reader had what it wanted.
        broken_pipe = isinstance(stop.__context__, BrokenPipeError)
        return 0 if broken_pipe or not isinstance(stop.code, int) else stop.code
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, line = _explained(error)
        sys.stderr.write(f"petune: {line}\n")
        return code
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        sys.stderr.write("petune: interrupted\n")
    return int(code)


def _explained(error: Exception) -> tuple[int, str]:
    """Return the exit code of an error, and the line that tells of it."""
    if isinstance(error, Interrupted):
        return error.exit_code, str(error)
    if isinstance(error, PetuneError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, typer.TyperException):
        said = error.format_message().rstrip(".")
        return 2, f"error: {said[:1].lower()}{said[1:]}; see --help"
    if is_out_of_memory(error):
        return ResourceError.exit_code, (
            f"error: not enough memory ({' '.join(str(error).split())[:200] or type(error).__name__}); put less through"
            " the model at once (--max-tokens-per-batch in training, --batch-tokens elsewhere), train within a"
            " --memory-budget, or take --dtype bfloat16, a --quantization, or a smaller model"
        )
    return 1, (
        f"internal error: {type(error).__name__}: {' '.join(str(error).split())}."
        " Run the same command with --debug and report what it prints"
    )


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show what petune logs as lines on stderr."""
    logger, handler = logging.getLogger("petune"), logging.StreamHandler(sys.stderr)
    level = logger.level
    handler.setFormatter(_Message())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Message(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        return f"petune: {kind}{record.getMessage()}"
