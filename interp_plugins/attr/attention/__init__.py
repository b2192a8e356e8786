"""Methods for transformers that read attention."""
