"""What the library claims of inference, shown on problems whose answers are known."""
