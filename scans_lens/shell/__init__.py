"""Shell: what the commands of `python -m scans_lens` do and print."""
