"""What a person touches: the command line, the screens, chat history and settings."""
