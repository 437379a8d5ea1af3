"""The tables of README and docs, a module a topic; each has its own `TABLES`, from a table's name to what writes it."""
