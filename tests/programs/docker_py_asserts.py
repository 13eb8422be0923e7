"""Runs the assertions of docker-py's own tests about `/_ping`, `/version`, `/info` and `/events` against DOCKER_HOST."""

import datetime
import unittest
import warnings

import docker
from docker.types.daemon import CancellableStream


class Asserts(unittest.TestCase):
    def setUp(self):
        self.client = docker.from_env()
        self.addCleanup(self.client.close)

    def test_ping(self):
        self.assertIs(self.client.ping(), True)

    def test_version(self):
        version = self.client.version()
        self.assertLessEqual({"Version", "ApiVersion", "GoVersion"}, version.keys())

    def test_info(self):
        info = self.client.info()
        self.assertLessEqual({"ID", "Name", "Containers", "Images", "Debug"}, info.keys())

    def test_the_version_is_negotiated(self):
        api = docker.APIClient(version="auto", **docker.utils.kwargs_from_env())
        self.addCleanup(api.close)
        self.assertEqual(api.api_version, api.version(api_version=False)["ApiVersion"])
        self.assertEqual(api.api_version, api.version()["ApiVersion"])

    def test_events_of_the_past(self):
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        events = list(self.client.events(since=0, until=now + datetime.timedelta(seconds=1), decode=True))
        self.assertTrue(events)
        for event in events:
            self.assertLessEqual({"Type", "Action", "Actor", "time", "timeNano"}, event.keys())

    def test_events_can_be_closed(self):
        events = self.client.events(since=0)
        self.assertIsInstance(events, CancellableStream)
        self.assertTrue(next(events))
        events.close()
        # Events that had already arrived may still be returned, and then the stream ends.
        self.assertLess(len(list(events)), 256)

    def test_nothing_is_left_open(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            api = docker.APIClient(version="auto", **docker.utils.kwargs_from_env())
            api.images()
            api.close()
            del api
        self.assertEqual(caught, [])


unittest.main()
