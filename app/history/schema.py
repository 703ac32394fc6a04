"""The tables, version by version."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE chats (
            id INTEGER PRIMARY KEY,
            title TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX chats_by_update ON chats (updated DESC)",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY,
            chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE,
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
            content TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('writing', 'done', 'stopped', 'failed')),
            summary TEXT NOT NULL,
            created REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX messages_by_chat ON messages (chat, id)",
    ),
    (
        # Messages become a tree. What was there is one line: each message follows the one before.
        "ALTER TABLE chats ADD COLUMN system TEXT",
        "ALTER TABLE chats ADD COLUMN preset TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE chats ADD COLUMN leaf INTEGER",
        "ALTER TABLE chats ADD COLUMN deleted REAL",
        "ALTER TABLE messages ADD COLUMN parent INTEGER REFERENCES messages",
        "ALTER TABLE messages ADD COLUMN depth INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE messages ADD COLUMN made TEXT",
        "ALTER TABLE messages ADD COLUMN figures TEXT",
        """UPDATE messages SET parent = line.before, depth = line.number
            FROM (
                SELECT id, lag(id) OVER chat_line AS before, row_number() OVER chat_line AS number
                FROM messages WINDOW chat_line AS (PARTITION BY chat ORDER BY id)
            ) AS line
            WHERE messages.id = line.id""",
        "UPDATE chats SET leaf = (SELECT max(id) FROM messages WHERE chat = chats.id)",
        "CREATE INDEX messages_by_parent ON messages (parent, chat)",
        "CREATE INDEX messages_being_written ON messages (id) WHERE state = 'writing'",
        "CREATE INDEX chats_deleted ON chats (deleted) WHERE deleted IS NOT NULL",
    ),
)
"""The statements that make each schema version of the one before. Never edit one: add the next."""
