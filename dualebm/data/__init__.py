"""Training data: tables from files, and planted teachers with exact samples."""
