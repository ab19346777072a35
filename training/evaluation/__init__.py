"""Compares methods on the same prompts, references and noise (`python -m training.evaluate`).

`cases.py` says what is drawn, `methods/` who draws, `measures/` what is measured of a picture;
`tables.py`, `figures.py` and `page.py` tell it.
"""
