"""Tools for studying backpropagation by hand, on NumPy and this library alone.

`bugs.py` is a catalogue of wrong code, to be put in place one at a time; `detectors.py` has the
checks people make, from shapes to complex-step derivatives, and shows which check sees which bug.
"""
