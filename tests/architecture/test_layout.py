"""The shape of the tree: names and sizes of files, docstrings, and a test beside each module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "petune"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CATCH_ALL_NAMES = {"common", "helpers", "misc", "util", "utils"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 80

# Modules without a test file of their own name, and where they are tested instead.
TESTED_ELSEWHERE = {
    "__main__.py": "cli/test_entry.py",
    "adapted_model.py": "test_adapter.py",
    "catalogue.py": "test_api.py",
    "backbone/arguments.py": "sites/test_head.py",
    "backbone/attentions.py": "backbone/test_structure.py",
    "backbone/embeddings.py": "backbone/test_structure.py",
    "backbone/demo.py": "backbone/test_pinned.py",
    "backbone/head_modules.py": "backbone/test_further_heads.py",
    "backbone/kind.py": "backbone/test_structure.py",
    "backbone/quantization_names.py": "backbone/test_quantization.py",
    "backbone/task_names.py": "backbone/test_heads.py",
    "checkpoint/adapterhub_bottleneck.py": "checkpoint/test_adapterhub.py",
    "checkpoint/adapterhub_head.py": "checkpoint/test_adapterhub.py",
    "checkpoint/adapterhub_layout.py": "checkpoint/test_adapterhub.py",
    "checkpoint/adapterhub_lora.py": "checkpoint/test_adapterhub.py",
    "checkpoint/adapterhub_prefix.py": "checkpoint/test_adapterhub.py",
    "checkpoint/base_check.py": "checkpoint/test_folder.py",
    "checkpoint/made_for.py": "checkpoint/test_folder.py",
    "checkpoint/peft_adaption_prompt.py": "methods/test_llama_adapter.py",
    "checkpoint/peft_ia3.py": "methods/test_ia3.py",
    "checkpoint/peft_layout.py": "contract/test_hf_peft.py",
    "checkpoint/peft_lora.py": "contract/test_hf_peft.py",
    "checkpoint/peft_names.py": "contract/test_hf_peft.py",
    "checkpoint/peft_tables.py": "contract/test_hf_peft.py",
    "checkpoint/peft_virtual_tokens.py": "methods/test_prefix_tuning.py",
    "checkpoint/tensor_files.py": "checkpoint/test_folder.py",
    "comparison/bench.py": "comparison/test_forgetting.py",
    "comparison/estimate.py": "comparison/test_plan.py",
    "comparison/job.py": "comparison/test_plan.py",
    "comparison/measure.py": "comparison/test_run.py",
    "comparison/method_entry.py": "comparison/test_recipe.py",
    "comparison/neutral.py": "comparison/test_forgetting.py",
    "compat/enumerations.py": "compat/test_method_configs.py",
    "compat/wrapped_model.py": "compat/test_model.py",
    "comparison/reporting/columns.py": "comparison/reporting/test_tables.py",
    "comparison/reporting/highlights.py": "comparison/reporting/test_sections.py",
    "comparison/reporting/sentences.py": "comparison/reporting/test_reading.py",
    "comparison/reporting/svg.py": "comparison/reporting/test_charts.py",
    "data/class_names.py": "data/test_hub.py",
    "data/contents.py": "data/test_loading.py",
    "data/fitting.py": "tasks/test_sequence_classification.py",
    "data/pairs.py": "tasks/test_seq2seq_lm.py",
    "data/rendering.py": "data/test_chat.py",
    "data/tokens.py": "data/test_insertion.py",
    "data/rows.py": "data/test_reading.py",
    "data/text_files.py": "data/test_json_files.py",
    "evaluation/cloze.py": "tasks/test_masked_lm.py",
    "evaluation/likelihood.py": "evaluation/test_evaluate.py",
    "evaluation/prompts.py": "evaluation/test_generate.py",
    "evaluation/seq2seq.py": "tasks/test_seq2seq_lm.py",
    "merging.py": "test_adapter.py",
    "methods/beside.py": "contract/test_modules_saved_whole.py",
    "methods/method.py": "methods/test_registry.py",
    "methods/soft_prompt.py": "methods/test_prompt_tuning.py",
    "sites/host.py": "sites/test_output.py",
    "sites/attention_switch.py": "sites/test_attention.py",
    "sites/side_by_side.py": "sites/test_attention.py",
    "sites/sites.py": "test_adapter.py",
    "tasks/causal_lm.py": "training/test_run.py",
    "tasks/reading.py": "test_api.py",
    "tasks/rows.py": "training/test_rows.py",
    "tasks/task.py": "tasks/test_registry.py",
    "training/adapter_run.py": "training/test_run.py",
    "training/bases.py": "tasks/test_several_tasks.py",
    "training/drafts.py": "training/test_run.py",
    "training/events.py": "training/test_records.py",
    "training/memory_needs.py": "training/test_memory_budget.py",
    "training/one_pass.py": "training/test_run_many.py",
    "training/optimizer.py": "training/test_optimizer_and_schedule.py",
    "training/options.py": "training/test_recipe.py",
    "training/paths.py": "cli/test_train.py",
    "training/rehearsal.py": "training/test_foresight.py",
    "training/result.py": "training/test_run.py",
    "training/schedule.py": "training/test_optimizer_and_schedule.py",
    "training/validation.py": "tasks/test_several_tasks.py",
}


def long_functions(tree: ast.Module, limit: int = LONGEST_FUNCTION) -> list[str]:
    """Return the functions of more than ``limit`` lines, docstring included."""
    return [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > limit
    ]


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public classes, functions and methods without a docstring, and the module if it has none."""
    missing = [] if ast.get_docstring(tree) else ["the module"]
    return missing + [name for name, node in _public(tree, "") if not ast.get_docstring(node)]


def _public(
    node: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{prefix}{child.name}.")


def path_of_tests(path: Path) -> Path:
    """Return where the tests of a module lie: the same path below ``tests``, with ``test_`` before the name."""
    inside = path.relative_to(PACKAGE)
    return ROOT / "tests" / inside.parent / f"test_{inside.name}"


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_no_file_is_a_catch_all() -> None:
    assert [name_of(path) for path in SOURCES if path.stem in CATCH_ALL_NAMES] == []
    assert len(SOURCES) > 60


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST_FILE
    assert long_functions(ast.parse(text)) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert undocumented(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_every_module_has_its_tests() -> None:
    modules = [path for path in SOURCES if path.stem != "__init__"]
    without = [name_of(path) for path in modules if not path_of_tests(path).is_file()]
    assert without == sorted(TESTED_ELSEWHERE)
    assert [place for place in TESTED_ELSEWHERE.values() if not (ROOT / "tests" / place).exists()] == []


def test_packages_hold_only_a_docstring() -> None:
    # Importing a package must cost nothing; the registry of methods and the public names are tables.
    exempt = {"__init__.py", "methods/__init__.py"}
    packages = [path for path in SOURCES if path.name == "__init__.py" and name_of(path) not in exempt]
    for path in packages:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, name_of(path)
        assert isinstance(body[0], ast.Expr), name_of(path)


def test_a_long_function_is_found() -> None:
    source = "def long():\n" + "    pass\n" * LONGEST_FUNCTION
    assert long_functions(ast.parse(source)) == [f"long ({LONGEST_FUNCTION + 1} lines)"]
    assert long_functions(ast.parse("def short():\n    pass\n")) == []


def test_a_missing_docstring_is_found() -> None:
    source = '"""Doc."""\nclass A:\n    """Doc."""\n    def b(self): pass\n    def _c(self): pass\ndef d(): pass\n'
    assert undocumented(ast.parse(source)) == ["A.b", "d"]
    assert undocumented(ast.parse("x = 1")) == ["the module"]
