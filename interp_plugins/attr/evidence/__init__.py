"""Data about the methods: their cards, and what the randomisation check measured."""
