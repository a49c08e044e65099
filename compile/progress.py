"""What a person sees while stages run: a live line on a terminal, plain lines elsewhere, nothing with --json.

All of it goes to standard error; standard output is for results.
"""

import sys
import threading

from rich.console import Console
from rich.markup import escape
from rich.status import Status

WORDS = {
    "load": "load the network and its weights",
    "collect": "collect calibration, held-out and golden samples",
    "reference": "run PyTorch in fp32 and fp64",
    "export": "trace to ONNX",
    "simplify": "simplify the graph",
    "canaries": "check the batch axis",
    "equalize": "even out channels",
    "calibrate": "measure every tensor's range",
    "quantize": "write the INT8 graph",
    "correct": "correct the biases of INT8 layers",
    "join": "see whether sums of residuals pay in INT8",
    "pair_reference": "run PyTorch on changed pairs",
    "pair_parity": "ask about changed pairs",
    "stream_reference": "run PyTorch through a film",
    "stream_parity": "step through the film",
    "reach": "see whether INT8 passes as it is",
    "rank": "measure every INT8 layer alone",
    "repair": "take layers back to float until INT8 passes",
    "cast": "write the FP16 graph",
    "build": "build an engine",
    "audit": "audit each layer's precision",
    "parity": "measure drift from PyTorch",
    "measure": "time candidates beside PyTorch",
    "predict_torch": "run PyTorch on the labelled samples",
    "predict_engine": "run the chosen engine on the labelled samples",
    "evaluate": "compare their accuracy",
    "bundle": "write the bundle",
}

DETAILED = ("build", "audit", "parity", "cast", "predict_engine")  # run several times: which one is said
WORTH_A_LINE_S = 0.1  # shorter stages show on the live line only


class Progress:
    """Hears of stages from `cache.Stages` and says so; several may run at once."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.quiet = quiet
        self.running: list[str] = []
        self.status: Status | None = None
        self.lock = threading.Lock()

    def started(self, stage: str, detail: str) -> None:
        """A stage begins to work."""
        with self.lock:
            self.running.append(_said(stage, detail))
            self._show()

    def finished(self, stage: str, detail: str, seconds: float | None) -> None:
        """A stage ended after `seconds` of work, or was found in the cache (None)."""
        if seconds is None:
            return
        with self.lock:
            self.running.remove(_said(stage, detail))
            if seconds >= WORTH_A_LINE_S:
                text = f"  [green]✓[/] {escape(_said(stage, detail))} [dim]{seconds:.1f} s[/]"
                self.console.print(text, highlight=False, soft_wrap=True)
            self._show()

    def stop(self) -> None:
        """Take the live line away."""
        with self.lock:
            self.running.clear()
            self._show()

    def _show(self) -> None:
        if self.quiet or not sys.stderr.isatty():
            return
        if self.status is not None:
            self.status.stop()
            self.status = None
        if self.running:
            self.status = self.console.status(escape("; ".join(self.running)))
            self.status.start()


def _said(stage: str, detail: str) -> str:
    words = WORDS.get(stage, stage)
    return f"{words}: {detail}" if detail and stage in DETAILED else words
