"""Django's `save()` of a new row and of an old one, without and with a receiver of `post_save`."""

import json
import statistics
import sys
import threading
import time
from urllib.parse import parse_qs, urlparse

import django
from django.conf import settings

url = sys.argv[1]
# `peer URL --writers NUMBER MILLISECONDS SYNCHRONOUS`, for benches/concurrent
is_concurrent = sys.argv[2] == "--writers"
operations = 0 if is_concurrent else int(sys.argv[2])
synchronous = sys.argv[5] if is_concurrent else "NORMAL"
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
        "OPTIONS": {"init_command": f"PRAGMA synchronous={synchronous}"},
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


def write(number, milliseconds):
    """Threads that insert until the time is over, each with a connection of its own."""
    times, stop = [], threading.Event()
    errors = 0

    def run():
        nonlocal errors
        while not stop.is_set():
            start = time.perf_counter_ns()
            try:
                insert(1)
                times.append(time.perf_counter_ns() - start)
            except django.db.Error:
                errors += 1

    threads = [threading.Thread(target=run) for _ in range(number)]
    start = time.perf_counter_ns()
    for thread in threads:
        thread.start()
    time.sleep(milliseconds / 1000)
    stop.set()
    for thread in threads:
        thread.join()
    print(time.perf_counter_ns() - start, errors)
    print(*times)


if is_concurrent:
    write(int(sys.argv[3]), int(sys.argv[4]))
    sys.exit()

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
