"""Explaining what a language model generates."""
