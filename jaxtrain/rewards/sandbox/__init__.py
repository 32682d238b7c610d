"""Programs that nobody has read, run with unit tests: apart from the tests, and from everything else of the machine."""
