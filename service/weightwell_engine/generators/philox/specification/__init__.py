"""The specification in code: plain numpy, importable without Numba, torch or Triton (docs/generator.md).

keys          a tensor's keys, from its seed and name
words         Philox4x32-10: from an index to 32 random bits
quantile      from words to normal variates
formats       rounding to each dtype
truncation    the window of the normal distribution for a truncated normal
draws         the parameters of a law in a dtype: scale, shift and bounds
orthogonal    orthogonal matrices, and stacks of them (orthogonal_stack)
known_answers digests for self-checks
reference     the whole generator: any elements of any law
"""
