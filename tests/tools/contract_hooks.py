"""What no schema can say: parameters that are only valid together with something else leave the valid requests.

Invalid requests stay as they are, but for the bytes beyond ASCII in the heads that tiny_http gets: there they are 400
also where the contract takes them.
"""

import os

import schemathesis

ASCII_HEADS = os.environ.get("CONTRACT_CODEC") == "ascii"


@schemathesis.hook
def before_call(context, case, kwargs):
    if ASCII_HEADS:
        for name, value in (case.headers or {}).items():
            if isinstance(value, str) and not value.isascii():
                # A question mark is as wrong as what it replaces.
                case.headers[name] = value.encode("ascii", "replace").decode()
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query:
        # A cursor is valid only if larder gave it for this list; the tests of lists follow those.
        case.query.pop("cursor", None)
        # A collection only means something in its namespace.
        if "namespace" not in case.query and case.operation.path == "/api/v1/export":
            case.query.pop("collection", None)
        # No schema knows the last version, beyond which nothing can be asked for.
        if "since" in case.query:
            case.query["since"] = 0
    # A body that is said to be gzip must be gzip; the tests of encodings send those.
    if case.headers and case.headers.get("Content-Encoding") == "gzip":
        case.headers.pop("Content-Encoding")


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    """The limit of a key is in bytes, and schemas count characters."""
    key = (path_parameters or {}).get("key")
    return not isinstance(key, str) or len(key.encode("utf-8", "surrogatepass")) <= 512


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Lines are sent as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
