"""What both frameworks need of an operator: options, plans, initial values. NumPy only."""
