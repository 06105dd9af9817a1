"""What no schema can say: parameters that are only valid together with something else leave the valid requests, what is
no fault of larder's is no failure (`filter_failure`, each with its reason), and what the document says in words is checked
here (`problems_are_those_of_the_document`).

Invalid requests stay as they are, but for the bytes beyond ASCII in the heads that tiny_http gets: there they are 400
also where the contract takes them.
"""

import os

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import UseAfterFree

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
    if case.operation.path == "/api/v1/batch" and isinstance(case.body, dict):
        place_batch(case.body)
        if "json" in kwargs:
            kwargs["json"] = case.body
    # A body that is said to be gzip must be gzip; the tests of encodings send those.
    if case.headers and case.headers.get("Content-Encoding") == "gzip":
        case.headers.pop("Content-Encoding")


def place_batch(batch):
    """An operation needs a namespace and a collection, its own or the batch's; no schema says that well."""
    operations = [operation for operation in batch.get("operations", []) if isinstance(operation, dict)]
    for name in ("namespace", "collection"):
        if name not in batch and any(name not in operation for operation in operations):
            batch[name] = "contract"


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """What schemathesis takes for a fault and is none. False: it is passed over."""
    # OPTIONS tells the methods of a path, of which every path has some, whatever is stored there (RFC 9110 §9.3.7); and a
    # merge patch of nothing makes it anew (an absent key counts as {}), which schemathesis knows of PUT and POST alone.
    if isinstance(failure, UseAfterFree) and case.method in ("OPTIONS", "PATCH"):
        return False
    # An empty list of codings is no coding (RFC 9110 §5.6.1, §8.4), so the body is taken as it is.
    if isinstance(failure, AcceptedNegativeData) and only_headers_are_wrong(case):
        codings = [value for name, value in (case.headers or {}).items() if name.lower() == "content-encoding"]
        return not (codings and all(str(value).strip(" \t,") == "" for value in codings))
    return True


def only_headers_are_wrong(case):
    components = case.meta.components if case.meta else {}
    wrong = [str(getattr(kind, "value", kind)) for kind, info in components.items() if info.mode.is_negative]
    return wrong in (["header"], ["headers"])


@schemathesis.check
def problems_are_those_of_the_document(ctx, response, case):
    """A problem has the status it came with, and a code that the answer's description names; on writes it says whether
    it was written. All problems have one schema, which generators need, and that cannot say so.
    """
    if response.status_code < 400 or case.method == "HEAD" or not response.content:
        return
    problem = response.json()
    assert problem["status"] == response.status_code, "the problem has another status"
    document = case.operation.schema.raw_schema
    path = document["paths"][case.operation.path]
    answer = path.get(case.method.lower(), {}).get("responses", {}).get(str(response.status_code))
    if answer is None:
        # Another method than those of the path; that 405 is right there has a check of its own.
        assert problem["code"] == "METHOD_NOT_ALLOWED", "the code is not in the document"
        return
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    assert f"`{problem['code']}`" in answer["description"], f"{problem['code']} is not in the document here"
    if case.method in ("PUT", "POST", "PATCH", "DELETE") and (response.status_code == 429 or response.status_code >= 500):
        assert problem.get("written") in ("no", "unknown"), "the problem does not say whether it was written"


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    """The limit of a key is in bytes, and schemas count characters."""
    key = (path_parameters or {}).get("key")
    return not isinstance(key, str) or len(key.encode("utf-8", "surrogatepass")) <= 512


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Lines are sent as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
