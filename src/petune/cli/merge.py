"""`petune merge`: an adapter and its base as one plain model folder."""

import shlex
from typing import Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.flags import flags_of
from petune.cli.loading import LoadOptions, split
from petune.cli.reporting import say
from petune.errors import ConfigError

app = new_app()


@app.command(help="Merge an adapter into a plain Hugging Face model folder.")
@flags_of(LoadOptions, leave_out=("device", "quantization", "revision"))
def merge(
    output_dir: Annotated[str, typer.Option("--output-dir", help="Folder to write.", metavar="FOLDER")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    **given: Any,
) -> None:
    """Merge an adapter into a plain Hugging Face model folder."""
    (loading,) = split(given, LoadOptions)
    adapter = loading.pop("adapter", ())
    if not adapter:
        raise ConfigError("no adapter: give --adapter FOLDER")
    from petune import api

    folder = api.merge(adapter, output_dir, base=loading.pop("model", None), overwrite=overwrite, **loading)
    say(f"merged model: {folder}")
    say(f'use it:       petune generate --model {shlex.quote(str(folder))} --prompt "..."')
