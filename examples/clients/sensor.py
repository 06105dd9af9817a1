"""A sensor that comes and goes, in the style of MicroPython: sockets and nothing else.

Readings wait in a short queue while the network is away. Each has a key of its own (sensor and sequence number), so a
reading may be sent again until its answer comes: `If-None-Match: *` makes the second arrival a 412, which means "it is
there already". Nothing is stored twice and nothing that was answered is lost.

Usage: sensor.py HOST PORT SENSOR [READINGS]     (runs on MicroPython and on Python 3)
"""
import json
import socket
import sys
import time

QUEUE_MAX = 100


def request(host, port, method, path, body, headers):
    """One request on one connection; returns the status, or None if there was no answer."""
    try:
        address = socket.getaddrinfo(host, port)[0][-1]
        connection = socket.socket()
        try:
            connection.settimeout(10)
            connection.connect(address)
            head = "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n" % (method, path, host, len(body))
            for name in headers:
                head += "%s: %s\r\n" % (name, headers[name])
            connection.send(head.encode() + b"\r\n" + body)
            answer = b""
            while b"\r\n" not in answer:
                piece = connection.recv(256)
                if not piece:
                    return None
                answer += piece
            return int(answer.split(b" ", 2)[1])
        finally:
            connection.close()
    except OSError:
        return None


def deliver(host, port, sensor, sequence, reading):
    """True once the reading is stored for good."""
    path = "/api/v1/kv/field/%s/%010d?ttl=2592000" % (sensor, sequence)
    headers = {"Content-Type": "application/json", "If-None-Match": "*"}
    status = request(host, port, "PUT", path, json.dumps(reading).encode(), headers)
    # 412: an earlier try arrived although its answer did not.
    return status in (201, 412)


def main():
    host, port, sensor = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    readings = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    queue = []
    sequence = 0
    pause = 0.2
    while sequence < readings or queue:
        if sequence < readings:
            queue.append((sequence, {"sequence": sequence, "celsius": 20 + sequence % 5}))
            sequence += 1
            # A full queue forgets its oldest: what is newest matters most on a small device.
            del queue[:-QUEUE_MAX]
        if deliver(host, port, sensor, queue[0][0], queue[0][1]):
            print("stored", queue.pop(0)[0])
            pause = 0.2
        else:
            print("not yet;", len(queue), "wait")
            time.sleep(pause)
            pause = min(pause * 2, 60)


if __name__ == "__main__":
    main()
