"""What tracking costs: by sizes, by stopping rule, by sweep."""
