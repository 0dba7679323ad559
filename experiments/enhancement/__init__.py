"""Speech in noise made clean: thesis, chapter 6."""
