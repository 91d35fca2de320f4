"""Use a model: draw new tokens (`generation`, `sampling`), measure its loss (`evaluation`).

This package knows a model only by the Protocol `language_model.LanguageModel`, so it works for your
own models too. It imports `autograd`, `cache`, `config`, `module`, `progress` and `validate`.
`GPT2Model`, `text`, `cli` and `learn` may import it.
"""
