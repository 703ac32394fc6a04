"""The commands, a file a group. Each adds its options with light imports and works with its own."""
