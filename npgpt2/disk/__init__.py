"""Files: checkpoints, Hugging Face directories, tokenizers.

This package knows configurations, arrays and bytes, but no model. It imports `autograd`, `config`,
`validate` and `machine`. The model, `training`, `text` and `learn` may import it; `generation` may
not.
"""
