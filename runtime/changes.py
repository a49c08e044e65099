"""What a bundle states that its base did not: interface, limits, engines, layers' precisions, sizes. Nothing is run.

A change of what a caller meets (tensors, preprocessing, labels), a loosened limit, an engine or INT8 layers lost and
more bytes are failures, each with both values. The trap: they are judged by what the two manifests say, so that both
bundles' files have to be compared with their digests first.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deploy_runtime.data import encode
from deploy_runtime.drift import Verdict
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.result import Outcome, Row
from deploy_runtime.spec import Limit

MORE_BYTES = 1.05  # what runs may grow to this many times the base's size
INTERFACE = (
    "inputs",
    "outputs",
    "task",
    "preprocess",
    "labels",
    "batch",
    "state",
)  # what a caller meets: fields of a manifest
# Metrics of which a recipe's limit is the least that is allowed, and the most.
AT_LEAST, AT_MOST = ("cosine", "sqnr_db", "agreement"), ("max_relative", "fp64_ratio")
BITS = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}  # of the precisions in which layers run
SHOWN = 10  # nodes named in a row; layers.json has them all


class Side(NamedTuple):
    """One of the two bundles: its folder and its manifest."""

    folder: Path
    found: Manifest

    @property
    def chosen(self) -> Candidate:
        """The candidate that the bundle chose."""
        return self.found.candidates[self.found.chosen]

    @property
    def shipped(self) -> dict[str, Candidate]:
        """The candidates that it ships, by name."""
        return {row.name: row for row in self.found.candidates if row.file is not None}


def rows(new: Side, base: Side) -> list[Row]:
    """Compare what two bundles of one recipe state."""
    kept = [name for name in new.shipped if name in base.shipped]
    covered = [_coverage(name, new, base) for name in kept if new.shipped[name].precision != "fp32"]
    return [
        _interface(new, base),
        _limits(new, base),
        _chosen(new, base),
        _engines(new, base),
        *covered,
        _size(new, base),
    ]


def _row(name: str, failed: bool, detail: str, **more: Any) -> Row:
    outcome: Outcome = "failed" if failed else "passed"
    return Row(f"{name} against base", outcome, detail, **more)


def _interface(new: Side, base: Side) -> Row:
    changed = [
        f"{field} {_short(was)} became {_short(now)}"
        for field in INTERFACE
        if (now := encode(getattr(new.found, field))) != (was := encode(getattr(base.found, field)))
    ]
    if changed:
        return _row("interface", True, f"what was written for the base may break: {'; '.join(changed)}")
    return _row("interface", False, f"{', '.join(INTERFACE)} are the base's")


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _limits(new: Side, base: Side) -> Row:
    both = [precision for precision in base.found.limits if precision in new.found.limits]
    looser = [
        f"{precision} {change}"
        for precision in both
        for change in _loosened(new.found.limits[precision], base.found.limits[precision])
    ]
    now, was = (side.found.evaluation.max_drop if side.found.evaluation else None for side in (new, base))
    if was is not None and (now is None or now > was):
        looser.append(f"max_drop of accuracy {_value(was)} became {_value(now)}")
    if looser:
        return _row("limits", True, f"loosened: {'; '.join(looser)}")
    return _row("limits", False, f"none is looser than the base's: {', '.join(both)}")


def _loosened(new: Limit, base: Limit, output: str = "") -> list[str]:
    changes = []
    for metric in (*AT_LEAST, *AT_MOST):
        now, was = getattr(new, metric), getattr(base, metric)
        if was is not None and (now is None or (now < was if metric in AT_LEAST else now > was)):
            why = f" ({new.reason})" if new.reason else ""
            changes.append(f"{output}{metric} {_value(was)} became {_value(now)}{why}")
    for name in sorted({*new.outputs, *base.outputs}):
        changes += _loosened(new.of(name), base.of(name), f"{name} ") if not output else []
    return changes


def _value(limit: float | None) -> str:
    return "not judged" if limit is None else f"{limit:g}"


def _chosen(new: Side, base: Side) -> Row:
    now, was = new.chosen.name, base.chosen.name
    if now == was:
        return _row("chosen", False, f"{now}, as in the base")
    return _row("chosen", False, f"{was} became {now}. {new.found.verdict}", notice=True)


def _engines(new: Side, base: Side) -> Row:
    """A device that opened a base's engine must find it; what the building machine cannot run at all is only told."""
    every = {row.name: row for row in new.found.candidates}
    lost = {name: every.get(name) for name in base.shipped if name not in new.shipped}
    said = [
        f"{name} ({f'{row.status}: {row.reason}'.rstrip(': ') if row else 'not asked for'})"
        for name, row in lost.items()
    ]
    if said:
        excused = all(row is not None and row.status == "refused" for row in lost.values())
        return _row("engines", not excused, f"no longer shipped: {', '.join(said)}", notice=excused)
    return _row("engines", False, f"all of the base's are shipped: {', '.join(base.shipped)}")


def _coverage(name: str, new: Side, base: Side) -> Row:
    """Fewer layers at or below the bits of the candidate's own precisions: those that went back to wider ones."""
    now, was = new.shipped[name].coverage, base.shipped[name].coverage
    title = f"coverage: {name}"
    if now is None or was is None:
        return Row(f"{title} against base", "not run", "one of the two records no audit", candidate=name)
    verdicts, texts = list[Verdict](), list[str]()
    for word in new.shipped[name].precision.split("_"):
        bits = BITS[word]
        value, limit = (sum(n for got, n in one.layers.items() if BITS.get(got, 64) <= bits) for one in (now, was))
        verdicts.append(Verdict("", f"layers_up_to_{bits}_bits", value, limit, value >= limit))
        texts.append(f"{value} heavy layers in {bits} bits{'' if bits == 8 else ' or fewer'}, base {limit}")
    said = ", ".join(texts)
    failed = not all(verdict.passed for verdict in verdicts)
    if failed and (wider := _wider(name, new, base)):
        more = f" and {len(wider) - SHOWN} more" if len(wider) > SHOWN else ""
        said = f"{said}; wider now: {', '.join(wider[:SHOWN])}{more}"
    return _row(title, failed, said, verdicts=tuple(verdicts), candidate=name)


def _wider(name: str, new: Side, base: Side) -> list[str]:
    """Name the nodes that got a wider precision than in the base; empty where either bundle has no layer table."""
    now, was = layers(new.folder).get(name, {}), layers(base.folder).get(name, {})
    return [
        f"{node} ({was[node]} became {got})"
        for node, got in now.items()
        if node in was and BITS.get(got, 64) > BITS.get(was[node], 64)
    ]


def layers(folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Read `layers.json`: by candidate, node -> precision; empty where there is none. Raises DeployError."""
    path = folder / "layers.json"
    if not path.exists():
        return {}
    try:
        tables = json.loads(path.read_bytes())
        return {name: {str(row["node"]): str(row["precision"]) for row in table} for name, table in tables.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DeployError(f"{path} is no table of layers: {error}", "Build the bundle again.") from error


def _size(new: Side, base: Side) -> Row:
    total, was_total = (sum(sizes(side.found).values()) for side in (new, base))
    engine, was_engine = (_engine_bytes(side) for side in (new, base))
    verdicts = tuple(
        Verdict("", metric, value, limit * MORE_BYTES, value <= limit * MORE_BYTES)
        for metric, value, limit in (("bytes", total, was_total), ("engine_bytes", engine, was_engine))
    )
    said = (
        f"graphs and engines {_bytes(total)}, base {_bytes(was_total)}; "
        f"the chosen {new.chosen.name} {_bytes(engine)}, base {base.chosen.name} {_bytes(was_engine)}; "
        f"at most {MORE_BYTES - 1:.0%} more"
    )
    return _row("size", not all(verdict.passed for verdict in verdicts), said, verdicts=verdicts)


def sizes(found: Manifest) -> Counter[str]:
    """Return the bytes of what runs, by path: golden samples and reports differ without a regression."""
    return Counter({file.path: file.bytes for file in found.files if file.path.split("/")[0] in ("graphs", "engines")})


def _engine_bytes(side: Side) -> int:
    """Return the bytes of the chosen engine; a graph above 2 GiB keeps its weights beside it."""
    every = {file.path: file.bytes for file in side.found.files}
    return sum(every.get(f"{side.chosen.file}{suffix}", 0) for suffix in ("", ".data"))


def _bytes(count: int) -> str:
    return f"{count:,} bytes"
