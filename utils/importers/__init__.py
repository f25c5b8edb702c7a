"""Published routing data to the files of this project: one module for each format, `python -m utils.importers --help`."""
