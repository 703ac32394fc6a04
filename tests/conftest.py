import engine  # noqa: F401 - it tells torch's threads how to wait, before torch is imported
