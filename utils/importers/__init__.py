"""Published routing data to the files of this project: one module for each format.

See `python -m utils.importers --help`.
"""
