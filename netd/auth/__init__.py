"""Who may come in: users, their keys, and what is asked of a client before its handler."""
