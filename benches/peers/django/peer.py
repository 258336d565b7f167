"""Django's `save()` of a new row and of an old one, without and with a receiver of `post_save`."""

import json
import statistics
import sys
import time
from urllib.parse import parse_qs, urlparse

import django
from django.conf import settings

url, operations = sys.argv[1], int(sys.argv[2])
if url.startswith("postgres"):
    parsed = urlparse(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parsed.path.strip("/"),
        "USER": parsed.username,
        "HOST": parse_qs(parsed.query)["host"][0],
    }
else:
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": url.removeprefix("sqlite:"),
        "OPTIONS": {"init_command": "PRAGMA synchronous=NORMAL"},
    }
settings.configure(DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()

from django.db import models  # noqa: E402  needs the settings
from django.db.models.signals import post_save  # noqa: E402


class User(models.Model):
    name = models.TextField()
    email = models.TextField()

    class Meta:
        app_label = "peer"
        db_table = "users"


saved = 0


def count(sender, instance, **kwargs):
    global saved
    saved += len(instance.name)


def measure(operation, hook, body):
    warm_up = operations // 5
    each = []
    for i in range(warm_up + operations):
        if i == warm_up:
            used = time.process_time_ns()
        start = time.perf_counter_ns()
        body(i)
        if i >= warm_up:
            each.append(time.perf_counter_ns() - start)
    cpu = (time.process_time_ns() - used) // operations
    print(json.dumps({"op": operation, "hook": hook, "ns": int(statistics.median(each)), "cpu": cpu}))


def insert(i):
    User(name=f"Ann {i}", email=f"ann{i}@example.org").save()


for hook in (False, True):
    if hook:
        post_save.connect(count, sender=User)
    measure("insert", hook, insert)
    user = User.objects.create(name="Bob", email="bob@example.org")

    def update(i):
        user.name = f"Ann {i}"
        user.email = f"ann{i}@example.org"
        user.save()

    measure("update", hook, update)
assert saved
