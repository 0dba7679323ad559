"""Networks: layers, recurrences, attention, memories of the past, encoders."""
