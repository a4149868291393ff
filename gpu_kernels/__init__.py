"""CUDA C++ sources of the GPU executor, compiled at run time."""
