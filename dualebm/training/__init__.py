"""One run: its loop, its segments, its files, and the devices and processes that share it."""
