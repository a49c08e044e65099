"""What the user asked for, as one frozen value: the pipeline and the manifest see the same thing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy_compile import uncertainty
from deploy_compile.uncertainty import Uncertainty
from deploy_recipes import resolve
from deploy_recipes.recipe import Recipe
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.evidence import Objective
from deploy_runtime.spec import Batch, Classes

DEFAULT_TARGETS = ("cpu", "rtx")
LARGEST_BATCH = 4096
MOST_CALIBRATION = 32  # samples of a folder, unless asked otherwise


@dataclass(frozen=True)
class Options:
    """Everything `deploy-compile recipe` takes. `weights` is `seeded`, `pretrained`, a path, or an ensemble's paths.

    `labels` names the classes; `truth` is the CSV that labels the samples in `evaluate`.
    """

    ref: str
    params: Mapping[str, str] = field(default_factory=dict)
    weights: str | Path | tuple[Path, ...] = "seeded"
    keys: Path | None = None
    fp16: bool = False
    int8: bool = False
    require: str | None = None
    calibration: Path | None = None
    algorithm: str = "auto"
    calibration_samples: int = MOST_CALIBRATION
    ship_samples: bool = False
    labels: Path | None = None
    evaluate: Path | None = None
    truth: Path | None = None
    max_drop: float | None = None
    targets: tuple[str, ...] = DEFAULT_TARGETS
    compute_capabilities: tuple[str, ...] = ()
    batch: Batch = Batch()  # noqa: RUF009 - frozen
    threads: int = 1
    objective: Objective = "latency"
    exporter: str = ""
    uncertainty: Uncertainty = Uncertainty()  # noqa: RUF009 - frozen
    strict: bool = False

    @property
    def timed_threads(self) -> int:
        """Threads of one engine while it is timed: one where several are to run side by side."""
        return 1 if self.objective == "throughput" else self.threads

    @property
    def asked(self) -> tuple[str, ...]:
        """The precisions asked for beside fp32 and bf16, which are always candidates."""
        return (("fp16",) if self.fp16 else ()) + (("int8",) if self.int8 else ())

    @property
    def folder_name(self) -> str:
        """The bundle's default folder name, e.g. `x3d_s-int8`."""
        stem = self.ref.rpartition(":")[2]
        return "-".join((stem, *(self.asked or ("fp32",))))

    def said(self) -> dict[str, str]:
        """The options as the manifest records them. Never a path: a folder's name may be a patient's."""
        return {
            "params": " ".join(f"{k}={v}" for k, v in sorted(self.params.items())),
            "weights": self.weights if isinstance(self.weights, str) else "file",
            "precisions": " ".join(("fp32", "bf16", *self.asked)),
            "require": self.require or "",
            "calibration": "folder" if self.calibration else "synthetic",
            "calibration_algorithm": self.algorithm,
            "calibration_samples": str(self.calibration_samples),
            "evaluate": "no" if self.evaluate is None else "folder",
            "max_drop": "" if self.max_drop is None else f"{self.max_drop:g}",
            "targets": " ".join(self.targets),
            "compute_capabilities": " ".join(self.compute_capabilities),
            "batch": f"{self.batch.least}:{self.batch.best}:{self.batch.most}",
            "threads": str(self.threads),
            "objective": self.objective,
            "uncertainty": self.uncertainty.said(),
            "exporter": self.exporter or "the recipe's",
        }


def parse_batch(text: str) -> Batch:
    """Read `N` or `MIN:OPT:MAX`. Raises UsageError where it is neither, or not 1 <= MIN <= OPT <= MAX."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--batch {text} is not a batch size", "Give one number, or MIN:OPT:MAX such as 1:4:16.")
    sizes = [int(part) for part in parts] * (3 if len(parts) == 1 else 1)
    if not 1 <= sizes[0] <= sizes[1] <= sizes[2] <= LARGEST_BATCH:
        raise UsageError(
            f"--batch {text} cannot be served", f"Sizes go from 1 to {LARGEST_BATCH}, least first: 1, or 1:4:16."
        )
    return Batch(*sizes)


def parse_params(texts: tuple[str, ...]) -> dict[str, str]:
    """Read `name=value` words. Raises UsageError for one that is not."""
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"--param {text} is not name=value", "Write it as --param num_classes=2.")
        given[name] = value
    return given


def fitted(options: Options) -> Recipe:
    """The recipe with its parameters and labels applied; refuses what can be refused before any work."""
    recipe = resolve(options.ref)
    if options.calibration_samples != MOST_CALIBRATION and options.calibration is None:
        raise UsageError("--calibration-samples says how many to take of a folder", "Give --calibration DIR too.")
    if options.strict and options.int8 and options.calibration is None:
        raise UsageError("--strict refuses synthetic calibration", "Give --calibration DIR with real samples.")
    recipe = uncertainty.fitted(recipe.fitted(recipe.values(options.params)), options.uncertainty)
    return recipe if options.labels is None else replace(recipe, labels=read_labels(options.labels, recipe))


def read_labels(path: Path, recipe: Recipe) -> tuple[str, ...]:
    """Read one class label a line, in the order of the outputs. Raises DeployError where they do not fit the recipe."""
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(f"the labels in {path} cannot be read: {error}", "Give a UTF-8 text file.") from error
    if not isinstance(recipe.task, Classes):
        raise UsageError(f"{recipe.name} has no classes to label", "Leave --labels out.")
    if len(labels) != recipe.task.count:
        raise UsageError(
            f"{path} has {len(labels)} labels and {recipe.name} has {recipe.task.count} classes",
            "Give one label a line, as many as classes (--param num_classes=N changes them).",
        )
    return labels
