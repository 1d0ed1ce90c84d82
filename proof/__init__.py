"""The proof that the masks are right and the kernels safe: ``python -m proof``, or ``make proof``.

Each module is a section: claims that are checked with more effort than the tests have time for, and the figures that
came out, written to a report. ``make test`` runs the same functions at a smaller size.
"""
