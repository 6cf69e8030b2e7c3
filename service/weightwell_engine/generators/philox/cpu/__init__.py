"""The philox generator on the CPU: the bits of ``specification.reference``, a hundred times faster.

generator             the generator, as the engine makes it
drawing               the pieces of one file, written into memory
checked               laws, prepared for the kernels after the self-check
selfcheck             known answers, compared before the first number is handed out
laws                  laws, prepared for the kernels
orthogonal_law        orthogonal matrices as a law
orthogonal            blocks of reflectors, multiplied out by threads
sparse_columns        which elements of a sparse matrix are zero
kernels, orthogonal_kernels, narrow, simd, compiling
"""
