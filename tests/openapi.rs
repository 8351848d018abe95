//! The OpenAPI document.

use std::{fs, process::Command};

use serde_json::Value;

use crate::support::{Backend, Service, run};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.yaml");

#[test]
fn the_committed_document_is_the_generated_one() {
    let printed = String::from_utf8(run(Service::command().arg("openapi"), "").stdout).unwrap();
    assert!(printed == fs::read_to_string(COMMITTED).unwrap(), "openapi/openapi.yaml has drifted: run `make openapi`");
}

#[test]
fn the_document_is_valid() {
    let validator = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.tools/bin/openapi-spec-validator");
    let output = run(Command::new(validator).arg(COMMITTED), "");
    assert!(output.status.success(), "{output:?}");
}

/// `make clients` runs the generators themselves.
#[test]
fn the_document_has_nothing_that_client_generators_reject() {
    let document = mayfly::http::document();
    assert_eq!(document["openapi"], "3.0.3");
    assert!(!document.to_string().contains("\"allOf\""));
    let tags = document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap());
    assert_eq!(tags.collect::<Vec<_>>(), ["Tokens", "Services", "Users", "Operations"]);
    let verify: Vec<_> =
        operations().into_iter().map(|(name, _)| name).filter(|name| name.contains("verify")).collect();
    assert_eq!(verify, ["get /api/v1alpha/verify"]);
}

#[test]
fn without_the_page_the_root_redirects_to_the_documentation() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_UI", "off");
    });
    let root = service.client().get("/").send();
    assert_eq!((root.status, root.header("location")), (307, "docs"));
    assert!(service.client().get("/docs").send().text.contains("<title>Mayfly: API tokens</title>"));
    service.client().post("/", &serde_json::json!({})).send().problem(405);
    let without = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_DOCS", "off").env("MAYFLY_UI", "off");
    });
    without.client().get("/").send().problem(404);
}

#[test]
fn the_service_and_the_command_give_the_same_document() {
    let service = Service::start(Backend::Memory);
    for (path, arguments, content_type) in [
        ("/openapi.yaml", &["openapi"][..], "application/yaml"),
        ("/openapi.json", &["openapi", "--format=json"][..], "application/json"),
    ] {
        let answer = service.client().get(path).send();
        assert_eq!((answer.status, answer.header("content-type")), (200, content_type));
        assert_eq!(answer.text, String::from_utf8(run(Service::command().args(arguments), "").stdout).unwrap());
    }
}

/// All operations, each with its method and path as in `get /livez`.
fn operations() -> Vec<(String, Value)> {
    let document = mayfly::http::document();
    let paths = document["paths"].as_object().unwrap().clone();
    let operations = |(path, methods): (String, Value)| {
        let methods = methods.as_object().unwrap().clone();
        methods.into_iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
    };
    paths.into_iter().flat_map(operations).collect()
}

#[test]
fn every_answer_has_a_body_with_an_example() {
    // These answer with a status and headers alone.
    const EMPTY: [&str; 2] = ["/api/v1alpha/verify", "/oauth2/revoke"];
    let document = mayfly::http::document();
    for (name, operation) in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            if EMPTY.iter().any(|empty| name.contains(empty)) && status == "200" {
                continue;
            }
            let content = response["content"].as_object().expect(&name);
            let (media_type, body) = content.iter().next().expect(&name);
            // OAuth's clients read errors of this type alone (RFC 6749, section 5.2).
            let is_json = status.starts_with('2') || name.contains(" /oauth2/");
            let expected = if is_json { "application/json" } else { "application/problem+json" };
            assert_eq!(media_type, expected, "{name} {status}");
            let schema = match body["schema"]["$ref"].as_str() {
                Some(reference) => &document["components"]["schemas"][reference.rsplit('/').next().unwrap()],
                None => &body["schema"],
            };
            assert!(schema["example"].is_object() || body["example"].is_object(), "{name} {status} has no example");
        }
        if let Some(body) = operation.get("requestBody") {
            let (_, content) = body["content"].as_object().unwrap().iter().next().unwrap();
            let schema = content["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            assert!(document["components"]["schemas"][schema]["example"].is_object(), "{name}: {schema}");
        }
    }
}

#[test]
fn each_example_has_the_properties_of_its_schema() {
    let document = mayfly::http::document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let Some(example) = schema["example"].as_object() else { continue };
        for property in example.keys() {
            assert!(schema["properties"][property].is_object(), "{name} has no {property}");
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(example.contains_key(required.as_str().unwrap()), "the example of {name} lacks {required}");
        }
    }
}

#[test]
fn every_operation_refuses_strangers_unless_it_is_public() {
    const PUBLIC: [&str; 4] =
        ["get /livez", "get /readyz", "get /.well-known/jwks.json", "get /.well-known/oauth-authorization-server"];
    // The token in the body is the only credential.
    const BEARER_OF_BODY: [&str; 2] = ["post /oauth2/revoke", "post /oauth2/token"];
    let service = Service::start(Backend::Memory);
    for (name, operation) in operations() {
        let (method, path) = name.split_once(' ').unwrap();
        let path = path.replace("{id}", "b56929f3-54f1-4dc2-9984-9bba615e26e6").replace("{name}", "alice");
        let answer = service.client().request(&method.to_uppercase(), &path).send();
        if PUBLIC.contains(&&*name) {
            assert_eq!(answer.status, 200, "{name}");
            assert!(operation.get("security").is_none(), "{name}");
        } else if BEARER_OF_BODY.contains(&&*name) {
            answer.problem(415);
        } else if method == "head" {
            assert_eq!(answer.status, 401, "{name}");
        } else {
            answer.problem(401);
            assert!(operation["security"].is_array(), "{name}");
        }
    }
}

#[test]
fn the_documentation_is_compressed_for_clients_that_accept_gzip() {
    let service = Service::start_with(Backend::Memory, |command| {
        command.env("MAYFLY_CORS_ORIGINS", "https://console.example");
    });
    for path in ["/docs", "/openapi.json", "/openapi.yaml"] {
        let curl = |arguments: &[&str]| {
            let output =
                run(Command::new("curl").args(["-sSi"]).args(arguments).arg(format!("{}{path}", service.url)), "");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        };
        let (head, plain) = curl(&[]);
        assert!(!head.contains("content-encoding") && head.contains("\r\nvary: Accept-Encoding"), "{head}");
        let (head, decoded) = curl(&["--compressed"]);
        assert!(head.contains("\r\ncontent-encoding: gzip") && head.contains("\r\nvary: Accept-Encoding"), "{head}");
        assert!(decoded == plain, "{path} is the same");
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        assert!(length.parse::<usize>().unwrap() < plain.len() / 3, "{length} of {}", plain.len());
        let (head, _) = curl(&["--compressed", "-H", "Origin: https://console.example"]);
        assert!(head.contains("\r\nvary: Origin, Accept-Encoding"), "{head}");
    }
}
