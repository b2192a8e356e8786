"""Methods that change the input and evaluate the model."""
