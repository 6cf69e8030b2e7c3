"""The engine turns a spec into a plan, and a plan into a virtual file.

The bytes of a virtual file are computed when they are read. You can read them in any order, into any memory:

    spec = parsing.read_document(b'{"shape": [512, 784], "scheme": "kaiming_normal", "seed": 42}')
    engine = Engine(Cpu(), threads=2)
    file = engine.open(engine.plan(spec))
    file.read_into(0, buffer)

The engine does not depend on HTTP. Reading a spec and planning import neither torch nor Numba. Only ``generator=torch``
and GPUs import torch.
"""
