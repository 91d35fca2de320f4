"""How work is spread over cores, processes and machines: `work`, `packs`, `process`, `ranks`.

This package knows nothing about GPT-2, and imports only `autograd`. The ops, the optimizer, `disk`,
`training` and `cli` import it.
"""
