"""Sizes of networks an Nth as wide as the real ones, so that parts keep about their shares."""

HEAD = 80  # ViT-H/14's channels a head


def width(full: int, narrow: int, step: int) -> int:
    """An Nth of a width, in whole steps."""
    return max(step, round(full / narrow / step) * step)


def heads(full: int, narrow: int) -> int:
    """An Nth of the heads: as many, but narrower ones would cost more for what they do."""
    return max(1, round(full / narrow))
