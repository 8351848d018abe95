"""gunicorn --chdir examples django_app:application, or uvicorn --app-dir examples django_app:asgi_application"""

import os

import django.conf
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from mayfly_verifier import Verifier, asgi, wsgi

# In a project, these two are in settings.py and urls.py, and the rest is in wsgi.py or asgi.py.
django.conf.settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="unused")


def hello(request: HttpRequest) -> HttpResponse:
    # The ASGI scope, or else the WSGI environment.
    scope = getattr(request, "scope", None)
    token = scope["state"]["mayfly_token"] if scope else request.META["mayfly.token"]
    return HttpResponse(f"hello, {token.username}")


urlpatterns = [path("", hello)]

verifier = Verifier(
    os.environ["MAYFLY_URL"], username=os.environ["MAYFLY_USER"], password=os.environ["MAYFLY_PASSWORD"]
)
application = wsgi.MayflyMiddleware(get_wsgi_application(), verifier)
asgi_application = asgi.MayflyMiddleware(get_asgi_application(), verifier)
