"""Every figure in a document is printed by one of these files."""

import engine  # noqa: F401 - before torch: it says how torch's threads wait
