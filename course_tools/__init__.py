"""What looks after the course: running, publishing, checking. No chapter imports it."""
