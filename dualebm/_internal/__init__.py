"""Internals that users do not need: blocks of columns, checks of arguments, collectives, files, random numbers and cells."""
