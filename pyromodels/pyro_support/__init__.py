"""What Pyro programs share: plates, parameters, vectorised runs, site labels."""
