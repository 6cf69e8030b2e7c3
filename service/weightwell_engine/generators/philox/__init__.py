"""The philox generator: one seed gives the same bits on every machine (docs/generator.md).

specification/   the algorithm in plain numpy, slow and readable: keys, words, quantiles, formats, the reference
cpu/             the same bits from kernels that Numba compiles
cuda/            the same bits from kernels that Triton compiles
generator        the common base class of the generators for CPU and GPU
"""
