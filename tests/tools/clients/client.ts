// What a user of the generated TypeScript types does: puts, gets, lists, counts in a batch, and meets a conflict. It is
// compiled strictly: a type that asks for more than larder does, or tells less, is an error.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./larder.js";

declare const process: { env: Record<string, string | undefined> };

const client = createClient<paths>({
  baseUrl: process.env.URL,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const value = (key: string) => ({ path: { namespace: "typescript", collection: "sensors", key } });

function expect(what: string, found: unknown, wanted: unknown): void {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);
  }
}

const put = await client.PUT("/api/v1/kv/{namespace}/{collection}/{key}", {
  params: value("t/1"),
  body: { celsius: 21.5 },
});
expect("put", [put.response.status, put.error], [201, undefined]);
const tag = put.response.headers.get("ETag") ?? "";

const got = await client.GET("/api/v1/kv/{namespace}/{collection}/{key}", { params: value("t/1") });
expect("get", got.data, { celsius: 21.5 });

// Nothing that larder has a default for is asked for: neither `atomic` nor `by`.
const batch: components["schemas"]["Batch"] = {
  namespace: "typescript",
  collection: "sensors",
  operations: [
    { op: "incr", key: "n" },
    { op: "incr", key: "n", by: 4 },
    { op: "set", key: "s", value: [1], ttl: 60 },
    { op: "get", key: "s" },
  ],
};
const counted = await client.POST("/api/v1/batch", { body: batch });
const results: components["schemas"]["Result"][] = counted.data?.results ?? [];
expect("batch", results.map((result) => [result.status, result.value ?? null]), [[200, 1], [200, 5], [201, null], [200, [1]]]);

const count = await client.POST("/api/v1/kv/{namespace}/{collection}/{key}/incr", { params: value("n"), body: {} });
expect("incr", count.data?.value, 6);

const list = await client.GET("/api/v1/kv/{namespace}/{collection}", {
  params: { path: { namespace: "typescript", collection: "sensors" }, query: { limit: 2 } },
});
const page = list.data as components["schemas"]["Page"] | undefined;
expect("list", page?.items.map((item) => item.key), ["n", "s"]);
expect("there is more", typeof page?.next, "string");

const again = (celsius: number) =>
  client.PUT("/api/v1/kv/{namespace}/{collection}/{key}", {
    params: { ...value("t/1"), header: { "If-Match": tag } },
    body: { celsius },
  });
expect("the first", (await again(22)).response.status, 204);
const conflict = await again(23);
const problem: components["schemas"]["Problem"] | undefined = conflict.error;
const code: components["schemas"]["ErrorCode"] = "PRECONDITION_FAILED";
expect("the second", [conflict.response.status, problem?.status, problem?.code], [412, 412, code]);

// Every route has an operation of its name.
type Named = operations["importStore"] | operations["exportStore"] | operations["removeValues"] | operations["mergeValue"];
const named: Named["responses"] | undefined = undefined;
expect("named", named, undefined);
console.log("compiled; put, get, batch, incr, list and conflict hold");
