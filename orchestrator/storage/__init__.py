"""The database: connecting, tables, migrations; values as they are kept; files."""
