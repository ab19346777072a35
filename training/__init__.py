"""The trainer of AnimeSketchNet's adapter: `python -m training.train --config FILE.toml`."""
