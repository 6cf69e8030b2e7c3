"""The philox generator: one seed, the same bits everywhere (docs/generator.md).

specification/   the algorithm in plain numpy, slow and readable: keys, words, quantiles, formats, the reference
cpu/             the same bits from kernels that Numba compiles
cuda/            the same bits from kernels that Triton compiles
generator        what the generators of both devices share
"""
