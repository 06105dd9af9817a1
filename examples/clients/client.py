#!/usr/bin/env python3
"""A small larder client on the standard library alone, with a session that shows it.

Usage: client.py [http://127.0.0.1:8080]     (a token goes into LARDER_TOKEN)
"""
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class LarderError(Exception):
    """An answer that is no success; `code` is stable, `written` is True, False or None (nobody knows)."""

    def __init__(self, status, problem):
        super().__init__(f"{status} {problem.get('code')}: {problem.get('message')}")
        self.status = status
        self.code = problem.get("code")
        self.written = None if problem.get("written") == "unknown" else False


class Larder:
    def __init__(self, url="http://127.0.0.1:8080", token=None):
        self.url = url.rstrip("/")
        self.token = token

    def call(self, method, path, body=None, headers=None, tries=4):
        """One request. What is safe to repeat is repeated, a little later each time."""
        headers = dict(headers or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        for attempt in range(tries):
            request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return answer.status, answer.headers, answer.read()
            except urllib.error.HTTPError as error:
                text = error.read()
                problem = json.loads(text) if "json" in (error.headers.get("Content-Type") or "") else {}
                # 429 and 503 say that nothing was written, and when to come again.
                if error.code in (429, 503) and attempt + 1 < tries:
                    time.sleep(min(float(error.headers.get("Retry-After") or 1), 10))
                    continue
                raise LarderError(error.code, problem) from None
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                # Nobody knows whether a write arrived: only what changes nothing, or names its condition, is repeated.
                repeatable = method in ("GET", "HEAD") or "If-Match" in headers or "If-None-Match" in headers
                if not repeatable or attempt + 1 == tries:
                    raise
                time.sleep(2**attempt / 4)

    @staticmethod
    def path(namespace, collection, key):
        return f"/api/v1/kv/{namespace}/{collection}/{urllib.parse.quote(key, safe='')}"

    def get(self, namespace, collection, key):
        """The value and its tag, or (None, None)."""
        try:
            _, headers, body = self.call("GET", self.path(namespace, collection, key))
        except LarderError as error:
            if error.status == 404:
                return None, None
            raise
        return body, headers["ETag"]

    def put(self, namespace, collection, key, value, content_type="application/json", if_match=None, if_absent=False, ttl=None):
        """Stores a value and returns its new tag. LarderError 412 if the condition does not hold."""
        headers = {"Content-Type": content_type}
        if if_match:
            headers["If-Match"] = if_match
        if if_absent:
            headers["If-None-Match"] = "*"
        query = f"?ttl={ttl}" if ttl else ""
        _, headers, _ = self.call("PUT", self.path(namespace, collection, key) + query, value, headers)
        return headers["ETag"]

    def delete(self, namespace, collection, key):
        """Removes a key; False if there was none."""
        try:
            self.call("DELETE", self.path(namespace, collection, key))
            return True
        except LarderError as error:
            if error.status == 404:
                return False
            raise

    def update(self, namespace, collection, key, change):
        """Reads JSON, changes it, writes it back, and starts again if somebody else was quicker."""
        while True:
            body, tag = self.get(namespace, collection, key)
            value = change(json.loads(body) if body is not None else None)
            try:
                return self.put(namespace, collection, key, json.dumps(value).encode(), if_match=tag, if_absent=tag is None)
            except LarderError as error:
                if error.status != 412:
                    raise

    def incr(self, namespace, collection, key, by=1):
        body = json.dumps({"by": by}).encode()
        path = self.path(namespace, collection, key) + "/incr"
        return json.loads(self.call("POST", path, body, {"Content-Type": "application/json"})[2])["value"]

    def batch(self, operations, atomic=True):
        body = json.dumps({"atomic": atomic, "operations": operations}).encode()
        return json.loads(self.call("POST", "/api/v1/batch", body, {"Content-Type": "application/json"})[2])["results"]

    def list(self, namespace, collection, **query):
        """All items of a collection, page by page."""
        while True:
            text = urllib.parse.urlencode(query)
            page = json.loads(self.call("GET", f"/api/v1/kv/{namespace}/{collection}?{text}")[2])
            yield from page["items"]
            if page["next"] is None:
                return
            query["cursor"] = page["next"]


def main():
    larder = Larder(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080", os.environ.get("LARDER_TOKEN"))
    larder.put("demo", "python", "kitchen/lamp", b'{"on": true}')
    larder.update("demo", "python", "kitchen/lamp", lambda lamp: {**(lamp or {}), "watts": 7})
    print("lamp:", larder.get("demo", "python", "kitchen/lamp")[0].decode())
    print("count:", larder.incr("demo", "python", "switched"))
    place = {"namespace": "demo", "collection": "python"}
    results = larder.batch([{"op": "set", "key": f"n{n}", "value": n, **place} for n in range(3)])
    print("batch:", [result["status"] for result in results])
    print("keys:", [item["key"] for item in larder.list("demo", "python", limit=2, values="false")])
    for item in list(larder.list("demo", "python", values="false")):
        larder.delete("demo", "python", item["key"])


if __name__ == "__main__":
    main()
