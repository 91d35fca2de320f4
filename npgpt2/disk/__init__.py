"""What is written to disk and read from it: checkpoints, Hugging Face directories, tokenizers.

This room knows configurations, arrays and bytes, and never a model: it imports `config`, `validate`
and `machine`. The model, `training`, `text` and `learn` may import it; `generation` may not.
"""
