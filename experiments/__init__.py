"""One script per figure or claim; `python -m experiments.NAME --help`."""
