"""What is read off films: colour, bars, combing, shots, holds."""
