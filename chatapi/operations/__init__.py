"""What operators run: commands, the gunicorn worker, the doctor."""
