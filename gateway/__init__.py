"""A reverse proxy in front of A2A agents that stops runaway LLM spend."""

__version__ = "0.1.0"
