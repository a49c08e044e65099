"""Which names of TensorRT a module of ours touches, found in its source, and which of them a release does not have.

Types are followed through a function from what is known: the module is called `trt`, parameters have the names of
PARAMETERS, and calls give what RETURNS says. What stands behind `hasattr(thing, "name")` is looked at only where the
release has that name.
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Api = Mapping[str, object]
DUMPS = Path(__file__).parent / "tensorrt_api"
MODULE = "trt"
PARAMETERS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "engine": "ICudaEngine",
    "handle": "IExecutionContext",
    "self.handle": "IExecutionContext",
    "severity": "Severity",
    "error": "ParserError",
}
PLAIN = ""  # a number, a text, or something of ours: nothing of it is looked at
RETURNS = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("OnnxParser", "get_error"): "ParserError",
    ("OnnxParser", "parse_from_file"): PLAIN,
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("ITimingCache", "serialize"): "IHostMemory",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("Runtime", "get_engine_validity"): PLAIN,
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "get_tensor_name"): PLAIN,
    ("ICudaEngine", "get_tensor_profile_shape"): PLAIN,
    ("ICudaEngine", "num_optimization_profiles"): PLAIN,
    ("IRuntimeConfig", "create_runtime_cache"): "IRuntimeCache",
    ("IRuntimeCache", "serialize"): "IHostMemory",
    ("IRuntimeCache", "deserialize"): PLAIN,
    ("EngineInspector", "get_engine_information"): PLAIN,
    ("IExecutionContext", "execute_async_v3"): PLAIN,
    ("ParserError", "node_operator"): PLAIN,
    ("ParserError", "node_name"): PLAIN,
    ("ParserError", "desc"): PLAIN,
}


def api(name: str) -> Api:
    """Read the names of a release: of each class and enumeration its members."""
    found: Api = json.loads((DUMPS / f"{name}.json").read_text())
    return found


@dataclass
class Found:
    """What a source touches: `Class.name`, those the release lacks, and calls by keyword, whose names may change."""

    touched: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    keywords: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


def look(source: str, release: Api) -> Found:
    """Look at every function of a source."""
    walk = _Walk(release)
    walk.visit(ast.parse(source))
    return walk.found


class _Walk(ast.NodeVisitor):
    def __init__(self, release: Api) -> None:
        self.release, self.found, self.types = release, Found(), dict[str, str]()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.types = self.types, dict(self.types)
        arguments = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        self.types |= {name: PARAMETERS[name] for name in arguments if name in PARAMETERS}
        self.generic_visit(node)
        self.types = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            if (kind := self._type(base)) and kind in self.release:
                own = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                for name in own:
                    if not name.startswith("_"):
                        self._touch(kind, name)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        kind = self._type(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name) and kind is not None:
                self.types[target.id] = kind

    def visit_comprehension(self, node: ast.comprehension) -> None:
        kind = self._type(node.iter)
        if isinstance(node.target, ast.Name) and kind and kind.startswith("list of "):
            self.types[node.target.id] = kind.removeprefix("list of ")
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehended(node, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehended(node, node.elt)

    def _comprehended(self, node: ast.ListComp | ast.SetComp, element: ast.expr) -> None:
        for one in node.generators:
            if isinstance(one.target, ast.Name) and one.target.id in PARAMETERS:
                self.types[one.target.id] = PARAMETERS[one.target.id]
            self.visit(one)
        self.visit(element)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        for one in self._chosen(node.test, node.body, node.orelse):
            self.visit(one)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        for one in self._chosen(node.test, [node.body], [node.orelse]):
            self.visit(one)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and self._type(node.func.value):
            self.found.keywords |= {f"{ast.unparse(node.func)}({one.arg}=)" for one in node.keywords}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        kind = self._type(node.value)
        if kind and not node.attr.startswith("__"):
            self._touch(kind, node.attr)
        self.generic_visit(node)

    def _chosen(self, test: ast.expr, yes: Sequence[ast.AST], no: Sequence[ast.AST]) -> Iterator[ast.AST]:
        """Give the branches that this release may run."""
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        asked = test.operand if isinstance(test, ast.UnaryOp) and negated else test
        has = None
        if isinstance(asked, ast.Call) and isinstance(asked.func, ast.Name) and asked.func.id == "hasattr":
            kind, name = self._type(asked.args[0]), asked.args[1]
            if kind and isinstance(name, ast.Constant):
                has = self._has(kind, str(name.value)) != negated
        if has is not False:
            yield from yes
        if has is not True:
            yield from no

    def _touch(self, kind: str, name: str) -> None:
        self.found.touched.add(f"{kind}.{name}")
        if not self._has(kind, name):
            self.found.missing.add(f"{kind}.{name}")

    def _has(self, kind: str, name: str) -> bool:
        if kind == MODULE:
            return name in self.release
        names = self.release.get(kind)
        return isinstance(names, list) and name in names

    def _type(self, node: ast.expr) -> str | None:
        """Return the class of an expression, `trt` for the module; None where it is nothing of TensorRT's."""
        kind = None
        if isinstance(node, ast.Name):
            kind = MODULE if node.id == MODULE else self.types.get(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in PARAMETERS:
            kind = PARAMETERS[ast.unparse(node)]
        elif isinstance(node, ast.Attribute):
            kind = node.attr if self._type(node.value) == MODULE else None
        elif isinstance(node, ast.ListComp):
            inner = self._type(node.elt)
            kind = f"list of {inner}" if inner else None
        elif isinstance(node, ast.IfExp):
            kind = self._type(node.body) or self._type(node.orelse)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kind = self._given(self._type(node.func.value), node.func.attr)
        return kind

    def _given(self, owner: str | None, name: str) -> str | None:
        """Return the class of what a call gives."""
        if not owner:
            return None
        if owner == MODULE:
            return name  # it makes one
        if (owner, name) not in RETURNS and not name.startswith(("set_", "add_")):
            self.found.unknown.add(f"{owner}.{name}")
        return RETURNS.get((owner, name))
