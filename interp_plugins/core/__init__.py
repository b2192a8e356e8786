"""The core: one safe model call, and the nouns around it. See docs/dev/architecture.md."""
