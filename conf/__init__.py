"""Configuration: Hydra's YAML groups, the typed schema they must satisfy, and the folder a run leaves behind."""
