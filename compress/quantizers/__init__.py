"""How a matrix of numbers becomes codes: round to nearest and GPTQ, on one grid search."""
