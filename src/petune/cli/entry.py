"""Where the command `petune` begins: nothing is imported before an interrupt can end it quietly."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run `petune` and exit; a Ctrl-C while it still loads leaves one line, like any later one."""
    try:
        from petune.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("petune: interrupted\n")
        sys.exit(INTERRUPTED)
