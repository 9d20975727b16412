"""The command `petune`: which commands there are, and how errors reach the user.

Nothing heavy is imported here: a command's own module, and with it torch, loads when the command runs.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from petune import __version__
from petune.errors import PetuneError

COMMANDS = {
    "train": "Train an adapter on your data.",
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

app = typer.Typer(
    name="petune",
    help="Parameter-efficient fine-tuning: one frozen base model, many tiny adapters, every method.",
    epilog="Exit codes: 0 done, 1 internal error, 2 bad input, 3 bad artifact, 4 resources, 5 diverged,"
    " 130/143 stopped by a signal. --debug anywhere shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        sys.stdout.write(f"petune {__version__}\n")
        raise typer.Exit


def _add(name: str, summary: str) -> None:
    @app.command(name, help=summary, context_settings=_FORWARD, add_help_option=False)
    def forward(context: typer.Context) -> None:
        command: typer.Typer = import_module(f"petune.cli.{name}").app
        command(args=context.args, prog_name=f"petune {name}", standalone_mode=False)


for _name, _summary in COMMANDS.items():
    _add(_name, _summary)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `petune` with ``arguments`` (the process's own by default) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    sys.exit(run([argument for argument in given if argument != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run `petune` and return the exit code; errors become one line on stderr unless ``debug`` is set."""
    try:
        app(args=list(arguments), prog_name="petune")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except PetuneError as error:
        if debug:
            raise
        sys.stderr.write(f"petune: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("petune: interrupted\n")
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(
            f"petune: internal error: {type(error).__name__}: {' '.join(str(error).split())}."
            " Run the same command with --debug and report what it prints\n"
        )
        return 1
    return 0
