"""Which releases of ``packages`` an environment holds."""

from race.machine import versions
from race.task import Task


def main() -> None:
    """Answer with the version of each package that is installed."""
    task = Task.from_command_line()
    task.answer(versions(task.arguments["packages"]))


if __name__ == "__main__":
    main()
