"""What comes out of a model: new tokens (`generation`, `sampling`), and its loss (`evaluation`).

This room knows a model only by the Protocol `language_model.LanguageModel`, so it works for your
own models too. It imports `cache`, `config`, `module`, `progress` and `validate`. `GPT2Model`,
`text`, `cli` and `learn` may import it.
"""
