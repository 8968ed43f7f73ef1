"""What people read: the report, its pictures, and the page that holds all of it."""
