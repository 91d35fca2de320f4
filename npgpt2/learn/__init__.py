"""Tools for studying backpropagation by hand, on NumPy and this library alone.

- To practise: `practice.py` judges the gradients that you write. `exercises/` has twelve exercises,
  and `judge/` finds the mistake in a wrong answer.
- To see a backward pass: `trace.py` records it. `ledger.py` prints the record, `page.py` writes it
  as a page with a slider, and `contributions.py` splits a gradient into the paths it came from.
- To see how bugs hide: `bugs/` is a catalogue of wrong code, and `injection.py` replaces right code
  with it. `detectors.py` has the usual checks, from shapes to complex-step derivatives, and
  measures which check catches which bug. `museum.py` shows one bug, and how a model trains with it.
- `plots.py` draws the loss curve of a run, and attention maps.

`commands.py` makes the commands of `npgpt2` from these tools.
"""
