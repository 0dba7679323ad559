"""Other methods that take a mixture apart, as masks."""
