"""The catalogue: one YAML file a device, the file's name being its id."""

from hw_profiles.loading import CATALOGUE, list_profiles, load_profile, profile_ids

__all__ = ["CATALOGUE", "list_profiles", "load_profile", "profile_ids"]
