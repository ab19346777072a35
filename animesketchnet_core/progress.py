"""How work that takes long tells where it stands."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[int, int], object]
"""Called with (done, total) of one picture's parts; it may raise to stop the work."""
