"""What a user's target modules mean: roles, names and patterns, matched as HF PEFT matches them.

=====================  ==================================================================================
written as             means
=====================  ==================================================================================
``attention, mlp``     every linear of that role
``all-linear``         every linear but the output embeddings and task heads
a list                 for each name: the linears whose path is the name or ends with ``.name``; or a role
one plain name         the same as a list of that one name
any other string       a regular expression that must match the whole path; where it is none, or matches
                       nothing, a shell pattern in which ``*`` spans dots
=====================  ==================================================================================

Each name must match at least one linear. A pattern may come with an adapter's files, so it is not trusted:
its length and the time it may take are bounded.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import regex

from petune.errors import TargetError, nearest

ROLES = ("attention", "mlp", "all-linear")
"""The roles that may be named in place of modules."""

LONGEST_PATTERN = 1000
"""Characters a pattern may have."""

PATTERN_SECONDS = 1.0
"""Seconds one pattern may take on all the paths; an honest one takes about a millisecond."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def choose(roles: Mapping[str, str], targets: str | Sequence[str], *, what: str) -> frozenset[str]:
    """Return the paths of the linears that ``targets`` means.

    Args:
        roles: the role of each linear of the base model, by its path.
        targets: a role, a name, a pattern, or a list of names and roles.
        what: how an error calls them, for example ``"target modules"``.

    Raises:
        TargetError: nothing given, a name or pattern matching no linear, or a pattern that cannot be used.
    """
    if not targets:
        raise TargetError(f"no {what} given; {_choices(roles)}.")
    if isinstance(targets, str):
        if targets in ROLES or _PLAIN_NAME.fullmatch(targets):
            return _by_name(roles, targets, what)
        return _by_pattern(roles, targets, what)
    return frozenset().union(*(_by_name(roles, name, what) for name in targets))


def matcher(pattern: str, *, what: str) -> Callable[[str], "regex.Match[str] | None"]:
    """Return a function that matches a whole path with the regular expression ``pattern``, in bounded time.

    Raises:
        TargetError: the pattern is no regular expression or too long; the function, that it takes too long.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise TargetError(f"{what}: a pattern has {len(pattern)} characters, at most {LONGEST_PATTERN} are taken")
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise TargetError(f"{what}: {pattern[:80]!r} is no regular expression ({error})") from error
    deadline = time.monotonic() + PATTERN_SECONDS

    def match(path: str) -> "regex.Match[str] | None":
        try:
            return compiled.fullmatch(path, timeout=max(deadline - time.monotonic(), 0.001))
        except TimeoutError:
            raise TargetError(
                f"{what}: the pattern {pattern[:80]!r} takes too long to match (over {PATTERN_SECONDS:g} s);"
                " write it without nested repetition"
            ) from None

    return match


def first_matching(patterns: Iterable[str], path: str, *, what: str) -> str | None:
    """Return the first of ``patterns`` that matches ``path`` or its end from a dot on, as HF PEFT looks settings up.

    Raises:
        TargetError: a pattern is no regular expression, is too long, or takes too long.
    """
    return next((p for p in patterns if matcher(rf"(?:.*\.)?(?:{p})", what=what)(path)), None)


def indices_in(lists: Sequence[str], paths: Iterable[str], *, what: str) -> dict[str, int | None]:
    """Return, for each path, its index in the first of the ``lists`` of blocks that it lies in (``layers``, ``h``).

    Raises:
        TargetError: a name of a list is no regular expression, or is too long.
    """
    matches = [matcher(rf"(?:.*?\.)?(?:{name})\.(?P<index>\d+)\..*", what=what) for name in lists]
    found = {path: next((m for match in matches if (m := match(path))), None) for path in paths}
    return {path: None if m is None else int(m["index"]) for path, m in found.items()}


def leaf_name(path: str) -> str:
    """The last component of a module path, with the one before it where the last is only a number."""
    parts = path.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def names_by_role(roles: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The leaf names of each role that has linears, each once, in the order of ``roles``."""
    names: dict[str, dict[str, None]] = {}
    for path, role in roles.items():
        names.setdefault(role, {})[leaf_name(path)] = None
    return {role: tuple(found) for role, found in names.items()}


def _by_name(roles: Mapping[str, str], name: str, what: str) -> frozenset[str]:
    paths = frozenset(path for path in roles if path == name or path.endswith(f".{name}"))
    if not paths and name in ROLES:
        wanted = ("attention", "mlp", "other") if name == "all-linear" else (name,)
        paths = frozenset(path for path, role in roles.items() if role in wanted)
    if not paths:
        names = [*(leaf_name(path) for path in roles), *(role for role in ROLES if role != name)]
        raise TargetError(
            f"{what}: {name!r} matches no linear of this base model.{nearest(name, names)} {_choices(roles)}."
        )
    return paths


def _by_pattern(roles: Mapping[str, str], pattern: str, what: str) -> frozenset[str]:
    if len(pattern) > LONGEST_PATTERN:
        raise TargetError(
            f"{what}: the pattern has {len(pattern)} characters, at most {LONGEST_PATTERN} are taken; "
            "give a list of names instead."
        )
    problem = "matches no linear of this base model"
    matched: list[str] = []
    try:
        compiled = regex.compile(pattern)
        deadline = time.monotonic() + PATTERN_SECONDS
        matched = [path for path in roles if compiled.fullmatch(path, timeout=max(deadline - time.monotonic(), 0.001))]
    except regex.error as error:
        problem = f"is no regular expression ({error}) and, read as a shell pattern, matches no linear"
    except TimeoutError:
        raise TargetError(
            f"{what}: the pattern {pattern[:80]!r} takes too long to match (over {PATTERN_SECONDS:g} s); "
            "write it without nested repetition, or give a list of names."
        ) from None
    matched = matched or [path for path in roles if fnmatchcase(path, pattern)]
    if not matched:
        raise TargetError(
            f"{what}: the pattern {pattern[:80]!r} {problem}; a regular expression must match the "
            f"whole path, such as {next(iter(roles), '')!r}. {_choices(roles)}."
        )
    return frozenset(matched)


def _choices(roles: Mapping[str, str]) -> str:
    listed = "; ".join(f"{role}: {', '.join(names)}" for role, names in names_by_role(roles).items())
    return f"Choose from the roles {', '.join(ROLES)}, or from the linears it has ({listed or 'none'})"
