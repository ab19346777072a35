"""The mini world: a small Stable Diffusion of our own, with its adapter, trained from nothing."""
