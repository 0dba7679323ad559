"""What every experiment shares: records, stored weights, rows of tables, figures, timing."""
