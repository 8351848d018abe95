//! An HTTP client whose responses are easy to assert on.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use ureq::{
    Agent,
    http::{HeaderMap, Method, Request},
};

/// Longer than any response takes: only keeps a test from hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends requests to one service.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

/// A request that is being built.
pub struct Draft {
    agent: Agent,
    request: ureq::http::request::Builder,
    body: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Client {
    pub fn new(url: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        Self { agent, url: url.to_owned(), authorization: None }
    }

    pub fn with_basic(&self, name: &str, password: &str) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{name}:{password}"));
        Self { authorization: Some(format!("Basic {credentials}")), ..self.clone() }
    }

    pub fn with_bearer(&self, token: &str) -> Self {
        Self { authorization: Some(format!("Bearer {token}")), ..self.clone() }
    }

    pub fn request(&self, method: &str, path: &str) -> Draft {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        Draft { agent: self.agent.clone(), request, body: Vec::new() }
    }

    pub fn get(&self, path: &str) -> Draft {
        self.request("GET", path)
    }

    pub fn delete(&self, path: &str) -> Draft {
        self.request("DELETE", path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Draft {
        self.request("POST", path).json(body)
    }

    pub fn put(&self, path: &str, body: &Value) -> Draft {
        self.request("PUT", path).json(body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Draft {
        self.request("PATCH", path).json(body)
    }

    pub fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Draft {
        let body = serde_urlencoded::to_string(fields).unwrap();
        self.request("POST", path).header("content-type", "application/x-www-form-urlencoded").body(body)
    }

    /// Issues a token, and returns its id and its JWT.
    pub fn issue(&self, description: &str, life: &str) -> (String, String) {
        let body = json!({"jwt_token_description": description, "jwt_token_life": life});
        let answer = self.post("/api/v1alpha/token", &body).send();
        assert_eq!(answer.status, 201, "{answer:?}");
        let field = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        (field("jwt_token_id"), field("jwt_token"))
    }

    /// Adds a user with the password "secret", as an administrator does.
    pub fn add_user(&self, name: &str, role: &str) {
        let body = json!({"username": name, "role": role, "password": "secret"});
        let answer = self.post("/api/v1alpha/user", &body).send();
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

impl Draft {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn send(self) -> Answer {
        self.try_send().unwrap()
    }

    pub fn try_send(self) -> Result<Answer, ureq::Error> {
        let mut response = self.agent.run(self.request.body(self.body).unwrap())?;
        let text = response.body_mut().read_to_string()?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), text })
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that the response is a problem with this status, and returns its `detail`. One of OAuth's endpoints is
    /// an error of RFC 6749, section 5.2, too.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let problem = self.json();
        let members: Vec<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        let common = ["type", "title", "status", "detail", "message", "request_id"];
        let more = members.strip_prefix(&common).unwrap_or_else(|| panic!("{self:?}"));
        match self.header("content-type") {
            "application/problem+json" => assert!(more.is_empty(), "{self:?}"),
            "application/json" => {
                assert_eq!(more, ["error", "error_description"]);
                let description = problem["error_description"].as_str().unwrap();
                assert!(description.chars().all(|c| (' '..='~').contains(&c) && !"\"\\".contains(c)), "{description}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(problem["status"], status);
        assert_eq!(problem["message"], problem["detail"]);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        problem["detail"].as_str().unwrap().to_owned()
    }
}
