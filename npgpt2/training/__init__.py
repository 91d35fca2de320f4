"""Train a model on a text, in a run directory.

`data` makes batches, `trainer` does the steps, `run` is the directory. This package imports the
model, the optimizer, `disk` and `machine`. `text`, `cli` and `learn` may import it; `model.py` and
the files that it imports may not.
"""
