"""Paper: every table of the SCANS paper, measured here over several draws of anchors, beside the paper's numbers."""
