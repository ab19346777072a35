"""The review: people look at the pictures, edit captions, accept and reject.

`serve` shows the local page and writes every decision to review.jsonl; `run`, the stage, makes the
ledger say what that log says.
"""

from .projection import run
from .server import serve

__all__ = ["run", "serve"]
