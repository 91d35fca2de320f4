"""Tools for studying backpropagation by hand, on NumPy and this library alone.

`practice.py` judges gradients written by hand; `trace.py` is a backward pass as data, which
`ledger.py` prints, `page.py` makes a page of and `contributions.py` takes apart. `bugs.py` is a
catalogue of wrong code, to be put in place one at a time; `detectors.py` has the checks people
make, from shapes to complex-step derivatives, and shows which check sees which bug; `museum.py`
shows one. `plots.py` draws a run.
"""
