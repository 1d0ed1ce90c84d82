"""The benchmark of fused_dropout: each operation against what PyTorch does, interleaved in one run.

    python -m fused_dropout.bench                   # some minutes: a table, on this machine
    python -m fused_dropout.bench --quick           # about a minute
    python -m fused_dropout.bench --plots folder    # and its plots
    python -m fused_dropout.bench --help            # what can be chosen, written and compared

timing.py holds the harness and the only clock; operations.py, layers.py and pipelines.py what is timed, peers.py other
implementations of it, work.py the ways to run it; cases.py the rows with their targets, sweep.py the sizes; series.py
what is drawn. In a checkout fused_dropout/bench is a link to this folder.
"""
