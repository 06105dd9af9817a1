//! The document, joined from its parts: JSON files that name parameters, headers and errors by their names, which are
//! resolved here; HEAD and OPTIONS, which every path has, are derived.
//!
//! It is made once and from constants alone, so whatever would be wrong with a part is found by the first test.

use serde_json::{Map, Value, json};

use super::codes::{self, Code};
use crate::http::problem::reason;

type Object = Map<String, Value>;

/// The parts, in the order in which their paths are shown.
const PARTS: [&str; 7] = [
    include_str!("values.json"),
    include_str!("collections.json"),
    include_str!("batch.json"),
    include_str!("transfer.json"),
    include_str!("operations.json"),
    include_str!("parameters.json"),
    include_str!("headers.json"),
];

/// The header lines that any answer may carry.
const ECHOED: [&str; 4] = ["X-Request-Id", "traceparent", "Access-Control-Allow-Origin", "X-Content-Type-Options"];

/// The document.
pub fn build() -> Value {
    let mut document = read(include_str!("base.json"));
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    let mut paths = Object::new();
    let mut components = Components::default();
    for part in PARTS {
        let mut part = read(part);
        for (kind, into) in [
            ("parameters", &mut components.parameters),
            ("headers", &mut components.headers),
            ("schemas", &mut components.schemas),
        ] {
            into.extend(take(&mut part[kind]));
        }
        paths.extend(take(&mut part["paths"]));
    }
    for (path, item) in &mut paths {
        *item = Value::Object(components.path_item(path, take(item)));
    }
    document["paths"] = Value::Object(paths);
    components.finish(&mut document["components"]);
    document
}

fn read(part: &str) -> Value {
    serde_json::from_str(part).expect("the parts are constants, and a test reads them all")
}

fn take(value: &mut Value) -> Object {
    match value.take() {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn texts(value: Option<Value>) -> Vec<String> {
    let list = value.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// What operations refer to.
#[derive(Default)]
struct Components {
    parameters: Object,
    headers: Object,
    schemas: Object,
    responses: Object,
}

impl Components {
    /// A path with all its methods: those of the part, HEAD beside GET, and OPTIONS.
    fn path_item(&mut self, path: &str, mut source: Object) -> Object {
        let in_path = texts(source.remove("parameters"));
        let shared = parameters(in_path.iter().map(String::as_str));
        let mut item = Object::new();
        if !shared.is_empty() {
            item.insert("parameters".into(), shared.into());
        }
        let mut first_id = None;
        for (method, operation) in source {
            let Value::Object(operation) = operation else { continue };
            let id = operation.get("operationId").and_then(Value::as_str).unwrap_or(path).to_owned();
            let read = method == "get";
            if read {
                let head = self.operation(operation.clone(), Form { head: true, write: false }, &id);
                item.insert("get".into(), self.operation(operation, Form::default(), &id));
                item.insert("head".into(), head);
            } else {
                item.insert(method, self.operation(operation, Form { head: false, write: true }, &id));
            }
            first_id.get_or_insert(id);
        }
        item.insert("options".into(), self.options(&first_id.unwrap_or_default(), &in_path));
        item
    }

    fn options(&mut self, id: &str, in_path: &[String]) -> Value {
        // The form of names is a matter of the methods that use them: OPTIONS takes any.
        let lenient = in_path.iter().map(|name| format!("Any{name}"));
        let named: Vec<String> = lenient.chain(["Origin", "RequestMethod"].map(str::to_owned)).collect();
        let source = json!({
            "operationId": format!("{id}Options"),
            "summary": "The methods of this path",
            "description": "Open to all. With `Origin` and `Access-Control-Request-Method` it is a preflight.",
            "parameters": named,
            "access": "all",
            "responses": { "204": {
                "description": "See `Allow`.",
                "headers": ["Allow", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age"],
            } },
            "problems": ["@wire", "@rate", "@body"],
        });
        match source {
            Value::Object(source) => self.operation(source, Form::default(), ""),
            _ => Value::Null,
        }
    }

    fn operation(&mut self, mut source: Object, form: Form, id: &str) -> Value {
        let named = texts(source.remove("parameters"));
        let always = ["RequestId", "Traceparent"];
        let ranges = |name: &&str| !(form.head && matches!(*name, "Range" | "IfRange"));
        let names = named.iter().map(String::as_str).filter(ranges).chain(always);
        let problems = texts(source.remove("problems"));
        let access = source.remove("access").unwrap_or_default();
        let mut responses = Object::new();
        for (status, response) in take(&mut source.remove("responses").unwrap_or_default()) {
            if !(form.head && status == "206") {
                responses.insert(status, success(response, form));
            }
        }
        for (status, codes) in by_status(&codes::named(problems.iter().map(String::as_str))) {
            if !(form.head && status == 416) {
                responses.insert(status.to_string(), self.problem(status, &codes, form));
            }
        }
        source.insert("parameters".into(), parameters(names).into());
        source.insert("responses".into(), Value::Object(responses));
        source.insert("security".into(), security(access.as_str().unwrap_or_default(), form));
        if form.head {
            source.insert("operationId".into(), format!("{id}Head").into());
            source.insert("description".into(), "As GET, without the body.".into());
        }
        Value::Object(source)
    }

    /// A reference to the answer with these codes; answers that are alike stand once. All have the one schema of problems:
    /// generators make one type of it, and drop what narrows it. The description names the codes.
    fn problem(&mut self, status: u16, codes: &[&Code], form: Form) -> Value {
        let response = problem_response(status, codes, form);
        let alike = self.responses.iter().find(|(_, known)| **known == response).map(|(name, _)| name.clone());
        let name = alike.unwrap_or_else(|| {
            let count = self.responses.keys().filter(|name| name.starts_with(&format!("E{status}-"))).count();
            let name = format!("E{status}-{}", count + 1);
            self.responses.insert(name.clone(), response);
            name
        });
        reference("responses", &name)
    }

    fn finish(mut self, components: &mut Value) {
        let all: Vec<&str> = codes::CODES.iter().map(|code| code.1).collect();
        let meaning = |code: &Code| format!("- `{}` ({}): {}", code.1, code.0, code.2);
        let text = codes::CODES.iter().map(meaning).collect::<Vec<_>>().join("\n");
        self.schemas.insert("ErrorCode".into(), json!({ "type": "string", "enum": all, "description": text }));
        self.schemas.insert("Problem".into(), problem_schema());
        components["schemas"] = Value::Object(self.schemas);
        components["responses"] = Value::Object(self.responses);
        components["parameters"] = Value::Object(self.parameters);
        components["headers"] = Value::Object(self.headers);
    }
}

/// What sets the methods apart.
#[derive(Clone, Copy, Default)]
struct Form {
    head: bool,
    write: bool,
}

fn parameters<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Value> {
    names.map(|name| reference("parameters", name)).collect()
}

fn headers<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    let pair = |name: &str| {
        let (field, component) = name.split_once('=').unwrap_or((name, name));
        (field.to_owned(), reference("headers", component))
    };
    Value::Object(names.map(pair).collect())
}

fn success(mut response: Value, form: Form) -> Value {
    if let Some(response) = response.as_object_mut() {
        let named = texts(response.remove("headers"));
        response.insert("headers".into(), headers(named.iter().map(String::as_str).chain(ECHOED)));
        if form.head {
            response.remove("content");
        }
    }
    response
}

fn by_status<'a>(codes: &[&'a Code]) -> Vec<(u16, Vec<&'a Code>)> {
    codes.chunk_by(|a, b| a.0 == b.0).map(|chunk| (chunk[0].0, chunk.to_vec())).collect()
}

fn problem_response(status: u16, codes: &[&Code], form: Form) -> Value {
    let own: &[&str] = match status {
        401 => &["WWW-Authenticate"],
        415 => &["Accept-Patch"],
        416 => &["Content-Range"],
        429 | 503 => &["Retry-After"],
        _ => &[],
    };
    let fields = headers(own.iter().copied().chain(["Cache-Control"]).chain(ECHOED));
    let meaning = codes.iter().map(|code| format!("`{}`: {}.", code.1, code.2)).collect::<Vec<_>>().join(" ");
    let mut response = json!({ "description": meaning, "headers": fields });
    if form.head {
        return response;
    }
    let says_written = form.write && (status == 429 || status >= 500);
    let examples: Object = codes.iter().map(|code| (code.1.to_owned(), example(code, says_written))).collect();
    response["content"] = json!({ "application/problem+json": {
        "schema": reference("schemas", "Problem"),
        "examples": examples,
    } });
    response
}

fn example(code: &Code, says_written: bool) -> Value {
    let mut value = json!({ "status": code.0, "title": reason(code.0), "code": code.1, "message": code.2 });
    if says_written {
        let unknown = matches!(code.1, "OUTCOME_UNKNOWN" | "INTERNAL");
        value["written"] = if unknown { "unknown" } else { "no" }.into();
    }
    json!({ "value": value })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457, with larder's own members.",
        "required": ["status", "title", "code", "message"],
        "properties": {
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "title": { "type": "string", "description": "The standard phrase of the status." },
            "code": { "$ref": "#/components/schemas/ErrorCode" },
            "message": { "type": "string", "description": "What happened and what to do next; for people." },
            "request_id": { "type": "string", "description": "The X-Request-Id of the request, if it had one." },
            "written": { "type": "string", "enum": ["no", "unknown"], "description": "On a write, with 429 and 5xx: whether it was applied." },
            "failed": { "type": "integer", "minimum": 0, "description": "The operation of a batch that failed." },
            "results": { "type": "array", "items": { "$ref": "#/components/schemas/Result" }, "description": "What became of the operations of an atomic batch before it was undone." },
            "imported": { "type": "integer", "minimum": 0, "description": "How many records were imported before the trouble." },
            "deleted": { "type": "integer", "minimum": 0, "description": "How many were removed before the trouble." },
        },
    })
}

fn security(access: &str, form: Form) -> Value {
    let both = |scope: &str| {
        if form.write { json!([{ "bearer": [scope] }]) } else { json!([{ "bearer": [scope] }, { "basic": [scope] }]) }
    };
    match access {
        "all" => json!([]),
        "files" => json!([{}, { "bearer": ["read"] }, { "basic": ["read"] }]),
        scope => both(scope),
    }
}
