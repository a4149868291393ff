"""A coprocessor for fully homomorphic encryption. This package decides; ``nurseries`` runs."""
