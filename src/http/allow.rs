//! The paths of the OpenAPI document and their methods, for the `Allow` header of a 405: RFC 9110 (section 15.5.6)
//! requires it, and poem does not set it.

use std::sync::Arc;

use serde_json::Value;

use super::paths::DOCS;

/// Each path template with the value of its `Allow` header. The templates are leaked: metrics use them as labels.
#[derive(Debug, Clone)]
pub(super) struct AllowedMethods(Arc<Vec<(&'static str, String)>>);

impl AllowedMethods {
    /// The methods of this document, with HEAD beside each GET, and those of the documentation itself.
    pub(super) fn of(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let allow = |operations: &Value| {
            let methods = operations.as_object().into_iter().flatten().map(|(method, _)| method.to_uppercase());
            methods
                .map(|method| if method == "GET" { "GET, HEAD".into() } else { method })
                .collect::<Vec<_>>()
                .join(", ")
        };
        let described = paths.map(|(template, operations)| (&*template.clone().leak(), allow(operations)));
        let documentation = DOCS.map(|path| (path, "GET, HEAD".to_owned()));
        Self(Arc::new(described.chain(documentation).collect()))
    }

    /// The value of `Allow` for an existing path; doubled and trailing slashes make no difference.
    pub(super) fn header_for(&self, path: &str) -> String {
        self.find(path).map_or("GET, HEAD", |(_, allow)| allow).to_owned()
    }

    /// The template in the document for a path pattern of poem: `/token/{id}` for `/token/:param0`.
    pub(super) fn template_for(&self, pattern: &str) -> Option<&'static str> {
        self.find(pattern).map(|(template, _)| *template)
    }

    /// The entry of a path: that with the same template, or else the first whose template matches.
    fn find(&self, path: &str) -> Option<&(&'static str, String)> {
        let exact = self.0.iter().find(|(template, _)| segments(template).eq(segments(path)));
        exact.or_else(|| self.0.iter().find(|(template, _)| matches_template(template, path)))
    }
}

/// The segments of a path without empty ones.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Whether a path has the form of a template, whose `{…}` stand for any segment.
fn matches_template(template: &str, path: &str) -> bool {
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
            assert_eq!(allowed.header_for(path), allow, "{path}");
        }
        assert_eq!(allowed.template_for("/a/:param0"), Some("/a/{id}"));
        assert_eq!(allowed.template_for("/docs"), Some("/docs"));
        assert_eq!(allowed.template_for("/b"), None);
    }
}
