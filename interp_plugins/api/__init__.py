"""`explain` and what it is made of: names and parameters bound to methods, the prediction, what a target means."""
