"""Class-conditional densities: trained as one computation, scored, calibrated."""
