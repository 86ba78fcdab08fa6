"""Whatever is measured of one checkpoint: protocols, losses by position, keys, and how a reading is kept."""
