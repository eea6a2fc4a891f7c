# SPDX-License-Identifier: Apache-2.0
"""Who answers a request raises only what the interface declares, as far as it can be read from the text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenops.derive.catalogue import all_methods
from xenops.errors import Fault, RequestFault

ROOT = Path(__file__).parents[2]
APIS = sorted([*ROOT.glob("services/*/api.py"), *ROOT.glob("services/*/api/*.py")])
DECLARED = {method.attribute: set[str]() for method in all_methods()}
for declared in all_methods():
    DECLARED[declared.attribute] |= {cls.__name__ for cls in declared.raises}
ANYWHERE = {
    cls.__name__ for cls in (*RequestFault.__subclasses__(), *Fault.__subclasses__()) if not cls.__subclasses__()
}


def test_there_are_services() -> None:
    assert {path.relative_to(ROOT / "services").parts[0] for path in APIS} >= {"xenopsd", "forkexecd", "vncproxy"}


@pytest.mark.parametrize("path", APIS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_method_raises_the_faults_it_declares(path: Path) -> None:
    undeclared = [
        f"{method}: {fault}"
        for method, fault in _raised(ast.parse(path.read_text(encoding="utf-8")))
        if method in DECLARED and fault in Fault.known and fault not in DECLARED[method] | ANYWHERE
    ]
    assert undeclared == []


def _raised(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The faults that each function raises by name in its own text."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Raise)
                    and isinstance(node.exc, ast.Call)
                    and isinstance(node.exc.func, ast.Name)
                ):
                    yield function.name, node.exc.func.id
