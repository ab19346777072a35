"""The parts of the validation."""
