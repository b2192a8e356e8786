"""Methods that change the backward pass: DeepLift, relevance propagation, guided backpropagation."""
