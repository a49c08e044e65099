"""What compiling did to the accuracy: PyTorch and every engine of a bundle on the test clips of moving digits.

    python examples/evaluate_digits.py digits artifacts/x3d_s-int8

The first folder is what examples/train_digits.py wrote. For PyTorch and each candidate that the bundle ships and that
runs here: the clips named right with the Wilson 95 % interval, and on how many it says what PyTorch says. Engines get
frames through the bundle's own preprocessing and PyTorch through the recipe's, as they would be deployed and trained.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import digits
import numpy as np
import torch
from train_digits import laid_out, network, recipe, told

from deploy_runtime import load
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Candidate
from deploy_runtime.machine import physical_cores
from deploy_runtime.model import Model, open_session
from deploy_runtime.preprocess import prepare
from deploy_runtime.session import Session

Array = np.ndarray[Any, Any]
Answer = Callable[[Array], Array]  # frames uint8 [13, H, W, 3] to logits [1, 2]

PYTORCH = "PyTorch fp32"


def pytorch(folder: Path) -> Answer:
    """Return the trained network as a function of frames."""
    how, net = recipe().preprocess, network(recipe())
    assert how is not None
    net.load_state_dict(torch.load(folder / "digits.pt", weights_only=True)["model_state_dict"])
    net.eval()

    def answer(frames: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(net(laid_out(prepare(frames, how)[None])))

    return answer


def candidates(model: Model, backend: str | None) -> list[Candidate]:
    """Return the candidates of a bundle that have an engine; print why of those that have none."""
    wanted = [candidate for candidate in model.manifest.candidates if backend in (None, candidate.backend)]
    for candidate in wanted:
        if candidate.file is None:
            print(f"{candidate.name} is not in the bundle: {candidate.status}, {candidate.reason}")
    return [candidate for candidate in wanted if candidate.file is not None]


def through(session: Session, model: Model) -> Answer:
    """Return an opened engine as a function of frames."""
    return lambda frames: session.run({"video": model.preprocess(frames)})["logits"]


def evaluate(folder: Path, bundle: Path, backend: str | None, threads: int) -> None:
    """Print one line for PyTorch and one for each candidate. Raises DeployError for a bundle that cannot be opened."""
    test = digits.read(folder / "test.npz")
    reference = decisions(pytorch(folder), test)
    report(PYTORCH, reference, reference, test)
    with load(bundle, backend, threads) as model:
        for candidate in candidates(model, backend):  # one open at a time: idle engines keep cores busy
            try:
                session = open_session(bundle, model.manifest, candidate, threads)
            except DeployError as error:
                print(f"{candidate.name} does not run here: {error.message}")
                continue
            with session:
                chosen = (model.backend, model.precision) == (candidate.backend, candidate.precision)
                found = decisions(through(session, model), test)
                report(f"{candidate.name}{' (chosen)' if chosen else ''}", found, reference, test)


def decisions(answer: Answer, test: digits.Split) -> Array:
    """Return the class that is named for each clip, int [clips]."""
    return np.array([int(np.argmax(answer(test.clip(place)))) for place in range(len(test))])


def report(name: str, found: Array, reference: Array, test: digits.Split) -> None:
    """Print one line: the clips named right, and how many are named as PyTorch names them."""
    agreed = f"{(found == reference).mean():.1%} as PyTorch"
    print(f"{name:28} {told(int((found == test.labels).sum()), len(test))}, {agreed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the accuracy of PyTorch and of a bundle on moving digits.")
    parser.add_argument("folder", type=Path, help="what train_digits.py wrote")
    parser.add_argument("bundle", type=Path, help="what deploy-compile wrote")
    parser.add_argument("--backend", help="only the candidates of this backend (default: of all)")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="CPU threads (default: physical cores)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        evaluate(given.folder, given.bundle, given.backend, given.threads)
    except (DeployError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
