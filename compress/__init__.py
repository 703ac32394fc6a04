"""From an original checkpoint to a compressed one."""
