"""The benchmark of fused_dropout: each operation against what PyTorch does, interleaved in one run.

    python -m bench --quick                                # under half a minute
    python -m bench --json results.json --threads 1 2      # every case

timing.py holds the harness and the only clock, work.py what is timed, cases.py the rows, report.py the output.
"""
