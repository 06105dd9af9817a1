//! Finding the route of a path in a fixed table of templates such as `/a/{b}/c`.
//!
//! Matching compares whole segments of the path as sent: a `%2F` inside a segment stays inside it. Parameters are
//! returned as sent too; decoding them is the handler's business.

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
}

impl Route {
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
    routes.iter().find_map(|route| fit(route.template, path).map(|parameters| Match { route, parameters }))
}

fn fit<'a>(template: &str, path: &'a str) -> Option<[&'a str; PARAMETERS_MAX]> {
    let mut parameters = [""; PARAMETERS_MAX];
    let mut taken = 0;
    let (mut template, mut path) = (template, path);
    loop {
        // Up to the next parameter the two must be the same text.
        let Some(open) = template.find('{') else {
            return (template == path).then_some(parameters);
        };
        path = path.strip_prefix(&template[..open])?;
        let close = open + template[open..].find('}')?;
        let end = path.find('/').unwrap_or(path.len());
        if end == 0 {
            return None;
        }
        *parameters.get_mut(taken)? = &path[..end];
        taken += 1;
        (template, path) = (&template[close + 1..], &path[end..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
