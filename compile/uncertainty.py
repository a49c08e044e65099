"""`--temperature`, `--ensemble`, `--mc-dropout`: which of them was asked for, and a recipe fitted to it.

Temperature alone leaves a recipe's outputs as they are, its logits divided. The other two replace them by
`probabilities`, `entropy` and `variance` of several members (recipes/networks/uncertainty.py defines them).
The trap: only logits may be divided, and averaging the wrong numbers would look plausible; heads.py sees to that.
"""

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from deploy_recipes.recipe import DEFAULT_LIMITS, Classes, Keep, Limit, MultiLabel, Recipe, Tensor
from deploy_runtime.errors import DeployError, UsageError

MOST_MASKS = 256
# How much further than the recipe's limit entropy and variance may lie, and why; measured on twins and tests/tiny_nets.
FP32_LOSS = 10.0
VARIANCE_LOSS, VARIANCE_DB = 5.0, 8.0
VARIANCE_REASON = (
    "the square of a small difference between members: where int8 probabilities kept 23 to 45 dB it kept 14 to "
    "28 dB; in fp32, ONNX Runtime was 14 times as far from fp64 as PyTorch, at 2e-6 of its scale"
)
ENTROPY_REASON = (
    "near 0 where the network is sure: at 1e-4 nats fp32 itself is 1e-3 of it from fp64, "
    "which the samples run in fp64 need not show"
)


@dataclass(frozen=True)
class Uncertainty:
    """What goes into the graph: logits divided by `temperature`; `members` checkpoints, or `masks` head-dropout masks
    of `rate` (None: the rate of the network's own head dropout)."""

    temperature: float = 1.0
    members: int = 1
    masks: int = 0
    rate: float | None = None

    @property
    def spreads(self) -> bool:
        """Whether several members answer, so that the outputs are probabilities, entropy and variance."""
        return self.members > 1 or self.masks > 0

    def said(self) -> str:
        """What it is, in words, for the manifest."""
        masks = f"{self.masks} head-dropout masks" + (f" of rate {self.rate:g}" if self.rate is not None else "")
        parts = (
            (self.temperature != 1.0, f"temperature {self.temperature:g}"),
            (self.members > 1, f"ensemble of {self.members}"),
            (self.masks > 0, masks),
        )
        return ", ".join(text for said, text in parts if said) or "none"


def parse(temperature: float | None, ensemble: str | None, dropout: str | None) -> tuple[Uncertainty, tuple[Path, ...]]:
    """Read the three options, an ensemble into its paths too. Raises UsageError, or DeployError for a file."""
    if temperature is not None and not (isfinite(temperature) and temperature > 0):
        raise UsageError(f"--temperature {temperature:g} is not above 0", "Give what was fitted on held-out data: 1.7.")
    if ensemble is not None and dropout is not None:
        raise UsageError(
            "--ensemble and --mc-dropout both say who the members are",
            "Give one of them; --temperature goes with either.",
        )
    masks, rate = (0, None) if dropout is None else _masks(dropout)
    paths = () if ensemble is None else _checkpoints(ensemble)
    return Uncertainty(1.0 if temperature is None else temperature, max(len(paths), 1), masks, rate), paths


def options(said: str) -> list[str]:
    """Return the options of the command that `Uncertainty.said` tells of, with placeholders for an ensemble's files."""
    words: list[str] = []
    for part in said.split(", "):
        match part.split():
            case ["temperature", value]:
                words += ["--temperature", value]
            case ["ensemble", "of", count] if count.isdecimal():
                words += ["--ensemble", ",".join(f"MEMBER_{place + 1}.pt" for place in range(int(count)))]
            case [count, "head-dropout", "masks", *rate]:
                words += ["--mc-dropout", ":".join([count, *rate[-1:]])]
    return words


def fitted(recipe: Recipe, how: Uncertainty) -> Recipe:
    """Return a fitted recipe with the outputs, task and limits that it has then. Raises UsageError where it cannot."""
    if how == Uncertainty():
        return recipe
    task, place = recipe.task, scores(recipe)
    if not how.spreads:
        return recipe
    if recipe.streams:
        raise UsageError(
            f"{recipe.name} carries a state from chunk to chunk, and each member would need its own",
            "Compile it for whole clips: --param streams=false.",
        )
    given = recipe.outputs[place]
    others = ", ".join(tensor.name for tensor in recipe.outputs if tensor != given)
    if others:
        raise UsageError(
            f"{recipe.name} gives {others} beside its {given.name}, and members are averaged over scores alone",
            "Leave out the --param that adds it.",
        )
    like = replace(given, name="probabilities")
    entropy = Tensor("entropy", given.shape[:-1], given.dtype, given.layout[:-1])
    if isinstance(task, MultiLabel):
        task = replace(task, threshold=task.threshold or 0.5, of=(like.name,))  # a logit of 0 is a probability of 0.5
    elif isinstance(task, Classes):
        task = replace(task, of=(like.name,))
    wherever = _wherever if how.members > 1 else lambda keep: keep
    return replace(
        recipe,
        outputs=(like, entropy, replace(given, name="variance")),
        task=task,
        limits={precision: _limit(recipe.limit(precision)) for precision in DEFAULT_LIMITS},
        keep_float=tuple(map(wherever, recipe.keep_float)),
        keep_fp32=tuple(map(wherever, recipe.keep_fp32)),
    )


def scores(recipe: Recipe) -> int:
    """Return which output holds the scores. Raises UsageError where that is none or several."""
    if not isinstance(recipe.task, (Classes, MultiLabel)):
        raise UsageError(
            f"{recipe.name} gives no scores of classes or labels, so that there is nothing to be uncertain between",
            "Leave out --temperature, --ensemble and --mc-dropout.",
        )
    among, count = recipe.task.of, recipe.task.count
    found = [
        place
        for place, tensor in enumerate(recipe.outputs)
        if (not among or tensor.name in among) and tensor.shape[-1] == count
    ]
    if len(found) != 1:
        raise UsageError(
            f"{recipe.name} has {len(found)} outputs of {count} scores, and one is needed",
            "Leave out --temperature, --ensemble and --mc-dropout.",
        )
    return found[0]


def _masks(text: str) -> tuple[int, float | None]:
    count, colon, rate = text.partition(":")
    try:
        masks, share = int(count), float(rate) if colon else None
    except ValueError:
        masks, share = 0, None
    if not 2 <= masks <= MOST_MASKS or (share is not None and not 0 < share < 1):
        raise UsageError(
            f"--mc-dropout {text} is no number of masks",
            f"Give 2 to {MOST_MASKS}, with a rate if the network's own is not meant: 16, or 16:0.3.",
        )
    return masks, share


def _checkpoints(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(word) for word in text.split(",") if word)
    if len(paths) < 2 or len(set(paths)) < len(paths):
        what = "names one checkpoint only" if len(paths) < 2 else "names a checkpoint twice"
        raise UsageError(f"--ensemble {text} {what}", "Give two or more, trained apart: a.pt,b.pt,c.pt.")
    for path in paths:
        if not path.is_file():
            raise DeployError(f"there is no checkpoint at {path}", "Give --ensemble files: a.pt,b.pt,c.pt.")
    return paths


def _wherever(keep: Keep) -> Keep:
    """Have a glob over node names match in each member, whose nodes stand under its own name."""
    return replace(keep, nodes=f"/members.*{keep.nodes}" if keep.nodes.startswith("/") else keep.nodes)


def _limit(limit: Limit) -> Limit:
    """Return a precision's limit with those of entropy and variance where they differ from it, by what was measured."""
    finer = replace(
        limit,
        max_relative=_times(limit.max_relative, FP32_LOSS),
        fp64_ratio=_times(limit.fp64_ratio, FP32_LOSS),
        cosine=None if limit.cosine is None else 1 - VARIANCE_LOSS * (1 - limit.cosine),
        sqnr_db=None if limit.sqnr_db is None else limit.sqnr_db - VARIANCE_DB,
        agreement=None,
        reason=VARIANCE_REASON,
        outputs={},
    )
    own = {"variance": finer}
    if limit.max_relative is not None:
        own["entropy"] = replace(finer, cosine=limit.cosine, sqnr_db=limit.sqnr_db, reason=ENTROPY_REASON)
    return replace(limit, outputs={**limit.outputs, **own})


def _times(limit: float | None, factor: float) -> float | None:
    return None if limit is None else limit * factor
