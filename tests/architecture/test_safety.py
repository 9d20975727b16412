"""Nothing that runs code from data: no pickle, no eval, no shell, no remote code by default."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "petune"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"cloudpickle", "cPickle", "dill", "joblib", "marshal", "pickle", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "numpy.load",
    "np.load",
    "os.popen",
    "os.system",
    "pandas.read_pickle",
    "torch.load",
    "torch.save",
    "yaml.full_load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
}
FLAGS = {"allow_pickle", "shell", "trust_remote_code"}


def dangers(tree: ast.Module) -> list[str]:
    """Return every use of what may run code that came as data, as ``line: what``."""
    found = []
    for node in ast.walk(tree):
        found += [f"{getattr(node, 'lineno', 0)}: {what}" for what in _dangers_of(node)]
    return found


def _dangers_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name for name in names if name.split(".")[0] in MODULES or name in CALLS]
    if isinstance(node, ast.Name) and node.id in BUILTINS and isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS:
        return [ast.unparse(node)]
    if isinstance(node, ast.keyword) and node.arg in FLAGS and _is_true(node.value):
        return [f"{node.arg}=True"]
    if isinstance(node, ast.arguments):
        arguments = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
        pairs = [*zip(arguments, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        return [f"{a.arg}=True" for a, d in pairs if a.arg in FLAGS and d is not None and _is_true(d)]
    return []


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_runs_data_as_code(path: Path) -> None:
    assert dangers(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_no_recipe_key_trusts_remote_code() -> None:
    from petune.training.recipe import RunOptions

    assert "trust_remote_code" not in RunOptions.model_fields


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "from joblib import load",
        "state = torch.load(path, weights_only=True)",
        "from torch import load",
        "eval(text)",
        "run = exec",
        "subprocess.run(command, shell=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "def load(name, *, trust_remote_code=True): pass",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_a_danger_is_found(snippet: str) -> None:
    assert dangers(ast.parse(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        "model.eval()",
        "class Rows:\n    eval: int",
        "yaml.safe_load(text)",
        "subprocess.run(command, shell=False)",
        "load(name, trust_remote_code=trust_remote_code)",
        "re.compile(pattern)",
    ],
)
def test_a_safe_call_passes(snippet: str) -> None:
    assert dangers(ast.parse(snippet)) == []
