"""How a model is trained on a text, and the run directory that training leaves.

`data` makes batches, `trainer` does the steps, `run` is the directory. This room imports the model,
the optimizer, `disk` and `machine`. `text`, `cli` and `learn` may import it; the files of the model
itself may not.
"""
