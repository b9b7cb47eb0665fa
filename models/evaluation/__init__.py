"""How good it is, on what it has not seen: folds, intervals, comparisons, forecasts."""
