"""What is read and written: files, folders, pictures."""
