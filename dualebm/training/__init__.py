"""One run: the loop, its segments, its files, and the devices and processes that share it."""
