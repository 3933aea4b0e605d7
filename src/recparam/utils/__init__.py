"""What every room may use: checks of arguments, seeds, files, versions."""
