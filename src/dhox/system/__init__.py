"""The machine under dhox: processor, Jetson board, clocks, commands and files of the system."""
