"""Data: tables of files, and planted teachers."""
