"""The parts of the demo film."""
