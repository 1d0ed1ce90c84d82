"""Runs PTX, the assembly that nvcc emits, on the host: its text, its arithmetic, memory, and threads in lockstep."""
