"""The beginning of the command."""

import subprocess
import sys

INTERRUPTED_WHILE_LOADING = """
import sys
from petune.cli.entry import main

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
main()
"""


def test_a_ctrl_c_while_it_loads_is_quiet() -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_LOADING]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "petune: interrupted\n")


def test_little_is_loaded_before_it_can_be_interrupted() -> None:
    program = "import sys; from petune.cli.entry import main; print('typer' in sys.modules, 'logging' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_it_runs_the_command() -> None:
    program = "import sys; sys.argv = ['petune', '--version']; from petune.cli.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("petune ")


def test_the_package_runs_as_a_module() -> None:
    found = subprocess.run([sys.executable, "-m", "petune", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("petune ")
