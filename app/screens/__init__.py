"""The screens, one file each, with a stylesheet beside it."""
