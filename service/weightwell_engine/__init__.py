"""The engine: a spec becomes a plan, and a plan a virtual file, whose bytes can be drawn in any order into any memory.

    spec = parsing.read_document(b'{"shape": [512, 784], "scheme": "kaiming_normal", "seed": 42}')
    file = Engine().open(spec)
    file.read_into(0, buffer)

It knows nothing of HTTP. Reading a spec and planning import neither torch nor Numba; torch is imported for
``generator=torch`` and for GPUs only.
"""
