"""Report: a run's table as one HTML file that opens by a double click and needs nothing else."""

from scans_lens.report.writing import page, write

__all__ = ["page", "write"]
