//! Finding the route of a path in a fixed table of templates such as `/a/{b}/c`.
//!
//! Matching compares whole segments of the path in its usual spelling, which a head has made: a `%2F` inside a segment
//! stays inside it. Parameters are returned so too; decoding them is the handler's business.

use super::message::RouteId;
use super::method::Method;

/// The largest number of parameters in a template.
pub const PARAMETERS_MAX: usize = 3;

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Its place in metrics and logs.
    pub id: RouteId,
    /// Literal segments and `{parameters}`, beginning with `/`.
    pub template: &'static str,
    /// The methods it answers, OPTIONS apart, which every route answers.
    pub methods: &'static [Method],
    shape: Shape,
}

/// A template taken apart: literal text, then parameters with a slash between them, then literal text.
#[derive(Debug)]
struct Shape {
    prefix: &'static str,
    parameters: usize,
    suffix: &'static str,
}

impl Shape {
    /// Takes a template apart while larder is compiled, where one of another form fails.
    const fn of(template: &'static str) -> Shape {
        let bytes = template.as_bytes();
        let (mut open, mut close, mut parameters, mut at) = (bytes.len(), bytes.len(), 0, 0);
        while at < bytes.len() {
            if bytes[at] == b'{' {
                if parameters == 0 {
                    open = at;
                } else {
                    assert!(at == close + 1 && bytes[close] == b'/', "only a slash stands between two parameters");
                }
                parameters += 1;
            }
            if bytes[at] == b'}' {
                close = at + 1;
            }
            at += 1;
        }
        assert!(parameters <= PARAMETERS_MAX, "a template has too many parameters");
        Shape { prefix: template.split_at(open).0, parameters, suffix: template.split_at(close).1 }
    }

    fn fit<'a>(&self, path: &'a str) -> Option<[&'a str; PARAMETERS_MAX]> {
        let mut rest = path.strip_prefix(self.prefix)?;
        let mut parameters = [""; PARAMETERS_MAX];
        for at in 0..self.parameters {
            if at > 0 {
                rest = rest.strip_prefix('/')?;
            }
            // Segments are short: looking byte by byte costs less than setting up a search.
            let end = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
            let (parameter, after) = rest.split_at(end);
            if parameter.is_empty() {
                return None;
            }
            parameters[at] = parameter;
            rest = after;
        }
        (rest == self.suffix).then_some(parameters)
    }
}

impl Route {
    /// A route; its template holds at most [`PARAMETERS_MAX`] parameters, next to each other.
    pub const fn new(id: RouteId, template: &'static str, methods: &'static [Method]) -> Route {
        Route { id, template, methods, shape: Shape::of(template) }
    }

    /// The value of `Allow`.
    pub fn allow(&self) -> String {
        let mut allow = String::new();
        for method in self.methods.iter().chain([&Method::Options]) {
            if !allow.is_empty() {
                allow.push_str(", ");
            }
            allow.push_str(method.as_str());
        }
        allow
    }
}

/// A route that matched, with its parameters as sent.
#[derive(Clone, Copy)]
pub struct Match<'a> {
    /// The route.
    pub route: &'static Route,
    /// Its parameters in order; unused places are empty.
    pub parameters: [&'a str; PARAMETERS_MAX],
}

/// Finds the first route whose template fits the path. An empty parameter fits nothing, so a trailing slash is no match.
pub fn find<'a>(routes: &'static [Route], path: &'a str) -> Option<Match<'a>> {
    routes.iter().find_map(|route| route.shape.fit(path).map(|parameters| Match { route, parameters }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit<'a>(template: &'static str, path: &'a str) -> Option<[&'a str; PARAMETERS_MAX]> {
        Shape::of(template).fit(path)
    }

    #[test]
    fn parameters_are_whole_segments() {
        let template = "/kv/{ns}/{col}/{key}";
        assert_eq!(fit(template, "/kv/a/b/c%2Fd"), Some(["a", "b", "c%2Fd"]));
        for path in ["/kv/a/b", "/kv/a/b/", "/kv/a/b/c/", "/kv/a/b/c/d", "/kv//b/c", "/kv/a/b/c?", "kv/a/b/c", ""] {
            let fits = fit(template, path).is_some();
            assert_eq!(fits, path == "/kv/a/b/c?", "{path}");
        }
        assert_eq!(fit("/kv/{ns}/{col}/{key}/incr", "/kv/a/b/c/incr"), Some(["a", "b", "c"]));
        assert_eq!(fit("/health", "/health"), Some(["", "", ""]));
        assert_eq!(fit("/health", "/health/"), None);
        assert_eq!(fit("/kv/{ns}/{col}/{key}/incr", "/kv/a/b/c"), None);
        assert_eq!(fit("/kv/{ns}", "/kv/"), None);
    }
}
