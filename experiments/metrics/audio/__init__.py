"""How well a signal is rebuilt, and how alike two sets of recordings are."""
