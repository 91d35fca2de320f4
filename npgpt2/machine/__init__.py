"""How work is spread over cores, processes and machines: `work`, `packs`, `process`, `ranks`.

Nothing here knows what a GPT-2 is: this room imports only `autograd`. All other files of `npgpt2`
may import it.
"""
