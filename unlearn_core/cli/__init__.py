"""The headless door: parser, commands, lists of concepts, progress bar."""
