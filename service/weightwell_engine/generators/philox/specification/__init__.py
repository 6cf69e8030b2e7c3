"""The specification in code: plain numpy, importable without Numba, torch or Triton (docs/generator.md).

keys          a tensor's keys, from its seed and name
words         Philox4x32-10: from an index to 32 random bits
quantile      from words to normal variates
formats       rounding to each dtype
truncation    the part of the normal distribution that a truncated normal keeps
draws         a law in a dtype, as the numbers that every element needs
orthogonal    orthogonal matrices
reference     all of it together: any elements of any law
"""
