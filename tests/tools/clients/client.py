"""What a user of the generated Python client does: loads it whole, and then puts, gets, lists, counts in a batch, meets a
conflict, and takes everything out and in.
"""

import importlib
import io
import os
import pkgutil

import larder_client
from larder_client import AuthenticatedClient
from larder_client.api.batches import batch
from larder_client.api.collections import list_values
from larder_client.api.transfer import export_store, import_store
from larder_client.api.values import increment, read_value, write_value
from larder_client.models import Batch, ErrorCode, Get, Incr, Increment, Problem, Set
from larder_client.types import File

modules = [module.name for module in pkgutil.walk_packages(larder_client.__path__, "larder_client.")]
for name in modules:
    importlib.import_module(name)

client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["TOKEN"])
place = ("python", "sensors")

put = write_value.sync_detailed(*place, "t/1", client=client, body={"celsius": 21.5})
assert put.status_code == 201, put
tag = put.headers["ETag"]

got = read_value.sync_detailed(*place, "t/1", client=client)
assert got.status_code == 200 and got.content == b'{"celsius":21.5}', got
assert got.parsed.payload.read() == got.content, got

counted = batch.sync(
    client=client,
    body=Batch(
        namespace=place[0],
        collection=place[1],
        operations=[Incr(op="incr", key="n"), Incr(op="incr", key="n", by=4), Set(op="set", key="s", value=[1]), Get(op="get", key="s")],
    ),
)
assert [result.status for result in counted.results] == [200, 200, 201, 200], counted
assert counted.results[1].value == 5 and counted.results[3].value == [1], counted
assert increment.sync(*place, "n", client=client).value == 6
assert increment.sync(*place, "n", client=client, body=Increment(by=-1)).value == 5
assert increment.sync(*place, "n", client=client, body=Increment()).value == 6

page = list_values.sync(*place, client=client, limit=2)
assert [item.key for item in page.items] == ["n", "s"] and page.next_, page
page = list_values.sync(*place, client=client, cursor=page.next_)
assert [item.value for item in page.items] == [{"celsius": 21.5}] and page.next_ is None, page

assert write_value.sync(*place, "t/1", client=client, body={"celsius": 22}, if_match=tag) is None
conflict = write_value.sync(*place, "t/1", client=client, body={"celsius": 23}, if_match=tag)
assert isinstance(conflict, Problem) and conflict.status == 412, conflict
assert conflict.code is ErrorCode.PRECONDITION_FAILED, conflict

out = export_store.sync_detailed(client=client, namespace=place[0])
assert out.status_code == 200, out
back = import_store.sync(client=client, body=File(payload=io.BytesIO(out.content)))
assert (back.imported, back.failed) == (3, []), back
print(f"{len(modules)} modules loaded; put, get, batch, incr, list, conflict, export and import hold")
