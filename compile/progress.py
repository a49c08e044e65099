"""What a person sees while stages run: a live line on a terminal, plain lines elsewhere, nothing with --json.

All of it goes to standard error; standard output is for results.
"""

import sys
import threading

from rich.console import Console
from rich.status import Status

WORDS = {
    "load": "load the network and its weights",
    "collect": "collect calibration, held-out and golden samples",
    "reference": "run PyTorch in fp32 and fp64",
    "export": "trace to ONNX",
    "simplify": "simplify the graph",
    "canaries": "check the batch axis",
    "calibrate": "measure every tensor's range",
    "quantize": "write the INT8 graph",
    "cast": "write the FP16 graph",
    "build": "build an engine",
    "audit": "audit each layer's precision",
    "parity": "measure drift from PyTorch",
    "measure": "time candidates beside PyTorch",
    "bundle": "write the bundle",
}


class Progress:
    """Hears of stages from `cache.Stages` and says so; several may run at once."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.quiet = quiet
        self.running: list[str] = []
        self.status: Status | None = None
        self.lock = threading.Lock()
        self.kept = 0

    def started(self, stage: str) -> None:
        """A stage begins to work."""
        with self.lock:
            self.running.append(stage)
            self._show()

    def finished(self, stage: str, seconds: float | None) -> None:
        """A stage ended after `seconds` of work, or was found in the cache (None)."""
        with self.lock:
            if seconds is None:
                self.kept += 1
                return
            self.running.remove(stage)
            self.console.print(f"  [green]✓[/] {WORDS.get(stage, stage)} [dim]{seconds:.1f} s[/]", highlight=False)
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
            words = ", ".join(dict.fromkeys(WORDS.get(stage, stage) for stage in self.running))
            self.status = self.console.status(words)
            self.status.start()
