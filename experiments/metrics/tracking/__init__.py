"""How well sources are followed, and whether their covariances are honest."""
