"""What gunicorn and Flask's command line load: `gunicorn wsgi:app`, `flask --app wsgi …`."""

from chatapi import create_app

app = create_app()
