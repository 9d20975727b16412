import time
from collections.abc import Sequence

import pytest

from petune.backbone.targets import choose, first_matching, indices_in, leaf_name
from petune.errors import TargetError

ROLES = {
    "model.project_in": "other",
    "model.layers.0.self_attn.q_proj": "attention",
    "model.layers.0.self_attn.v_proj": "attention",
    "model.layers.0.mlp.up_proj": "mlp",
    "model.layers.0.mlp.0": "mlp",
    "lm_head": "head",
}
ATTENTION = {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", ATTENTION),
        ("mlp", {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.0"}),
        ("all-linear", set(ROLES) - {"lm_head"}),
        (["q_proj", "v_proj"], ATTENTION),
        (["self_attn.q_proj"], {"model.layers.0.self_attn.q_proj"}),
        (["lm_head", "attention"], {"lm_head", *ATTENTION}),
        ("q_proj", {"model.layers.0.self_attn.q_proj"}),
        (r".*\.(q|v)_proj", ATTENTION),
        (r".*self_attn.*", ATTENTION),
        ("*.q_proj", {"model.layers.0.self_attn.q_proj"}),
        ("*_attn.?_proj", ATTENTION),
    ],
)
def test_what_targets_mean(targets: str | Sequence[str], expected: set[str]) -> None:
    assert choose(ROLES, targets, what="target modules") == expected


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], r".*\.(q|v)_proj", ["layers.0.mlp.0"], r"model\..*"])
def test_names_and_patterns_match_as_in_peft(targets: str | list[str]) -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import check_target_module_exists

    config = peft.LoraConfig(target_modules=targets)
    theirs = {path for path in ROLES if check_target_module_exists(config, path)}
    assert choose(ROLES, targets, what="target modules") == theirs


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ["q_proj", "k_prj"],
            r"'k_prj' matches no linear of this base model\. Did you mean '[qv]_proj'\? Choose from the "
            r"roles attention, mlp, all-linear, or from the linears it has \(other: "
            r"project_in; attention: q_proj, v_proj; mlp: up_proj, mlp\.0; head: lm_head\)\.$",
        ),
        (["proj"], "'proj' matches no linear"),
        ([], "no target modules given"),
        ("", "no target modules given"),
        (
            ".*k_proj",
            r"the pattern '\.\*k_proj' matches no linear .* must match the whole path, such as 'model",
        ),
        ("(q_proj", r"is no regular expression \(.*\) and, read as a shell pattern, matches no linear"),
        ("a|" * 600, "has 1200 characters, at most 1000"),
    ],
)
def test_what_matches_nothing_or_cannot_be_used(targets: str | list[str], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        choose(ROLES, targets, what="target modules")


def test_a_role_that_the_base_lacks_is_not_what_was_meant() -> None:
    with pytest.raises(TargetError, match=r"'attention' matches no linear of this base model\. Choose from"):
        choose({"mixer.in_proj": "mlp"}, "attention", what="target modules")


def test_a_catastrophic_pattern_is_refused_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(TargetError, match=r"takes too long to match \(over 1 s\).* list of names"):
        choose({"a" * 60: "mlp"}, r"(?:a|a|aa)+(?:a|aa)+[b-y]", what="target modules")
    assert time.monotonic() - started < 60  # unrefused it takes hours


def test_leaf_name_of_a_numbered_member() -> None:
    assert [leaf_name(path) for path in ("a.b.c", "a.net.0", "c")] == ["c", "net.0", "c"]


def test_a_setting_is_looked_up_by_path_or_end() -> None:
    path = "model.layers.1.self_attn.q_proj"
    for pattern in ("q_proj", "self_attn.q_proj", r"layers\.1\..*", path, "k_proj|q_proj"):
        assert first_matching(("up_proj", pattern, ".*"), path, what="ranks") == pattern
    for pattern in ("proj", "_proj", r"layers\.1", "self_attn"):
        assert first_matching((pattern,), path, what="ranks") is None


def test_a_lookup_takes_bounded_time() -> None:
    with pytest.raises(TargetError, match=r"ranks: the pattern .* takes too long to match \(over 1 s\)"):
        first_matching((r"(?:a|a|aa)+(?:a|aa)+[b-y]",), "a" * 60, what="ranks")


def test_indices_are_those_of_the_named_list() -> None:
    paths = ("encoder.layers.2.fc", "decoder.h.3.experts.5.fc", "lm_head")
    assert indices_in(("layers",), paths, what="lists") == dict(zip(paths, (2, None, None), strict=True))
    assert indices_in(("layers", "h"), paths, what="lists") == dict(zip(paths, (2, 3, None), strict=True))
