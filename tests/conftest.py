"""Tests run side by side (`-n` in pyproject.toml), so each has one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported, which reads it then
