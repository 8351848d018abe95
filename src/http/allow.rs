//! Which methods a path answers to: poem's 405 does not say, and RFC 9110 (section 15.5.6) requires it.

use std::sync::Arc;

use serde_json::Value;

/// The paths of the OpenAPI document with their methods. All other paths (the documentation) answer to GET.
#[derive(Debug, Clone)]
pub(super) struct AllowedMethods(Arc<Vec<(String, String)>>);

impl AllowedMethods {
    /// The methods that this document describes, and HEAD with each GET.
    pub(super) fn of(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let allow = |operations: &Value| {
            let methods = operations.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase());
            methods
                .map(|method| if method == "GET" { "GET, HEAD".into() } else { method })
                .collect::<Vec<_>>()
                .join(", ")
        };
        Self(Arc::new(paths.map(|(template, operations)| (template.clone(), allow(operations))).collect()))
    }

    /// The value of `Allow` for a path that exists, whatever slashes are doubled or at its end.
    pub(super) fn at(&self, path: &str) -> String {
        let exact = self.0.iter().find(|(template, _)| segments(template).eq(segments(path)));
        let found = exact.or_else(|| self.0.iter().find(|(template, _)| matches(template, path)));
        found.map_or("GET, HEAD", |(_, allow)| allow).to_owned()
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn matches(template: &str, path: &str) -> bool {
    let mut path = segments(path);
    segments(template).all(|part| path.next().is_some_and(|segment| part == segment || part.starts_with('{')))
        && path.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_by_its_template() {
        let document = serde_json::json!({"paths": {
            "/a": {"post": {}, "get": {}}, "/a/{id}": {"delete": {}}, "/a/self": {"get": {}},
        }});
        let allowed = AllowedMethods::of(&document);
        for (path, allow) in [
            ("/a", "POST, GET, HEAD"),
            ("/a/", "POST, GET, HEAD"),
            ("//a", "POST, GET, HEAD"),
            ("/a/1", "DELETE"),
            ("/a/self", "GET, HEAD"),
            ("/a/1/2", "GET, HEAD"),
            ("/docs", "GET, HEAD"),
        ] {
            assert_eq!(allowed.at(path), allow, "{path}");
        }
    }
}
