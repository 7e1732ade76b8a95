"""What a person looks at: the ranked table in the terminal, the report in a browser."""
