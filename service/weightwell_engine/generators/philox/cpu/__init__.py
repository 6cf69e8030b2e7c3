"""The philox generator on the CPU: the bits of ``specification.reference``, a hundred times faster.

generator             the generator, as the engine makes it
drawing               the pieces of one file, written into memory
early                 small parts, drawn by the reference before a kernel is loaded
checked               laws prepared for kernels that have passed the self-check
laws                  laws prepared for the kernels
orthogonal_law        an orthogonal matrix as a law
orthogonal_stack      many orthogonal matrices as a law
orthogonal            products of blocks of reflectors, computed by threads
memory                bytes of matrices that are drawn whole
integers              uniform integers, and powers of two
positional, table     constants and lattices; given numbers
packed                dtypes that pack several elements into a byte
sparse                sparse matrices
words                 kernel: Philox4x32-10
singles, doubles      kernels: from words to elements in float32 and float64
narrow                kernel: rounding to narrower dtypes
orthogonal_kernels    kernels: blocks of reflectors
simd, compiling       tools for kernels: vectors, options of Numba
machine_code          machine code on disk
precompile            a command that compiles all kernels, for images
"""
