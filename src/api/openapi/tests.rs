//! The document against the route table and the sources.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

fn method_names(path_item: &Value) -> BTreeSet<String> {
    let all = ["get", "head", "put", "post", "patch", "delete", "options", "trace"];
    all.iter().filter(|method| path_item.get(**method).is_some()).map(|method| method.to_uppercase()).collect()
}

#[test]
fn paths_and_methods_are_those_of_the_route_table() {
    let document = document::build();
    let paths = document["paths"].as_object().unwrap();
    let mut expected = BTreeSet::from([FILES_PATH]);
    for route in ROUTES.iter().chain([&FILES]) {
        let path = if route.template == FILES.template { FILES_PATH } else { route.template };
        expected.insert(path);
        let methods = route.methods.iter().chain([&Method::Options]).map(|method| method.as_str().to_owned()).collect();
        assert_eq!(method_names(&document["paths"][path]), methods, "{path}");
    }
    assert_eq!(paths.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn path_parameters_are_those_of_the_template() {
    let document = document::build();
    for (path, item) in document["paths"].as_object().unwrap() {
        let none = Vec::new();
        let declared = item["parameters"].as_array().unwrap_or(&none);
        let names: Vec<&str> =
            declared.iter().map(|parameter| resolve(&document, parameter)["name"].as_str().unwrap()).collect();
        let template: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        assert_eq!(names, template, "{path}");
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(target) => document.pointer(target.trim_start_matches('#')).unwrap_or_else(|| panic!("no {target}")),
        None => value,
    }
}

#[test]
fn every_reference_has_its_target_and_every_component_is_used() {
    let document = document::build();
    let mut used = BTreeSet::new();
    collect(&document, &mut used);
    for target in &used {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
    }
    for (kind, components) in document["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys() {
            assert!(
                kind == "securitySchemes" || used.contains(&format!("#/components/{kind}/{name}")),
                "{kind}/{name} is not used"
            );
        }
    }
}

fn collect(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            into.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| collect(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}

#[test]
fn operation_ids_are_unique_and_every_body_has_an_example() {
    let document = document::build();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} stands twice");
            if let Some(content) = operation["requestBody"]["content"].as_object() {
                assert!(content.values().any(|form| form.get("examples").is_some()), "{method} {path}");
            }
            for problem in operation["responses"].as_object().unwrap().values().map(|r| resolve(&document, r)) {
                assert!(problem["description"].is_string() && problem["headers"].is_object(), "{method} {path}");
            }
        }
    }
}

/// All files under `src`, this room's list of codes left out, tests inside them cut off.
fn sources(root: &Path, folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        if entry.is_dir() {
            sources(root, &entry, into);
        } else if name.ends_with(".rs") && !name.contains("openapi") && !name.contains("tests") {
            let text = std::fs::read_to_string(&entry).unwrap();
            let end = text.find("#[cfg(test)]").unwrap_or(text.len());
            into.push((name, text[..end].to_owned()));
        }
    }
}

/// Texts in quotes that look like a code.
fn code_literals(text: &str) -> impl Iterator<Item = &str> {
    let shape =
        |literal: &&str| literal.len() >= 8 && literal.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    text.split('"').skip(1).step_by(2).filter(shape)
}

#[test]
fn the_codes_of_the_sources_are_those_of_the_document() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for room in ["api", "http"] {
        sources(&root, &root.join(room), &mut files);
    }
    let mut found = BTreeSet::new();
    for (name, text) in &files {
        // A quote inside a literal or a character would shift the pairs: lines are read one by one.
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for code in lines.flat_map(code_literals).filter(|code| !code.starts_with("CARGO")) {
            assert!(codes::find(code).is_some(), "{name} uses {code}, which the document does not name");
            found.insert(code);
        }
    }
    for code in codes::CODES {
        assert!(found.contains(code.1), "no source uses {}", code.1);
    }
}

#[test]
fn every_code_belongs_to_an_operation() {
    let document = document::build();
    let text = document["paths"].to_string() + &document["components"]["responses"].to_string();
    // No operation of the document has a method that its path has not.
    for code in codes::CODES.iter().filter(|code| code.1 != "METHOD_NOT_ALLOWED") {
        assert!(text.contains(&format!("\"{}\"", code.1)), "{}", code.1);
    }
}
