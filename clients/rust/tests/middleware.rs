//! The layer under axum and tonic, and the middleware under poem, over HTTP.

use std::net::SocketAddr;

use axum::{
    Extension, Router,
    extract::ConnectInfo,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    routing::{get, post},
};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mayfly_verifier::{Credentials, Demands, Token, Verifier, VerifyLayer, VerifyMiddleware};
use poem::{EndpointExt, Route, handler, listener::TcpAcceptor, web::Data};
use tokio::net::TcpListener;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const ID: &str = "b56929f3-54f1-4dc2-9984-9bba615e26e6";
const INVALID: &str = r#"Bearer error="invalid_token", error_description="The token is not valid""#;
const LACKING: &str = r#"Bearer error="insufficient_scope", scope="read write""#;

/// Starts a service that says of a token what its JWT begins with.
async fn start_service() -> Verifier {
    let introspect = |form: String| async move {
        let live = |more: &str| {
            format!(r#"{{"active":true,"username":"alice","jti":"{ID}","exp":4102444800,"age_ms":1{more}}}"#)
        };
        match form.strip_prefix("token=").and_then(|jwt| jwt.split_once('.')).unwrap().0 {
            "writer" => (StatusCode::OK, live(r#","scope":"read write""#)),
            "reader" => (StatusCode::OK, live(r#","scope":"read""#)),
            "near" => (StatusCode::OK, live(r#","scope":"read write","networks":["127.0.0.0/8"]"#)),
            "far" => (StatusCode::OK, live(r#","scope":"read write","networks":["192.0.2.0/24"]"#)),
            "gone" => (StatusCode::OK, r#"{"active":false}"#.to_owned()),
            _ => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        }
    };
    let changes = || async { StatusCode::SERVICE_UNAVAILABLE };
    let app = Router::new().route("/oauth2/introspect", post(introspect)).route("/api/v1alpha/changes", get(changes));
    let (listener, url) = listen().await;
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Verifier::connect(&url, Credentials::basic("gate", "secret")).await.unwrap()
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn demands() -> Demands {
    Demands::new().scope("read").scope("write")
}

async fn start_axum() -> String {
    let layer = VerifyLayer::new(start_service().await).demand(demands()).client_address(|_, extensions| {
        extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip())
    });
    let greet = |Extension(token): Extension<Token>| async move { format!("hello, {}", token.username()) };
    let app = Router::new().route("/", get(greet)).layer(layer);
    let (listener, url) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

#[handler]
fn hello(Data(token): Data<&Token>) -> String {
    format!("hello, {}", token.username())
}

async fn start_poem() -> String {
    let app = Route::new().at("/", poem::get(hello));
    let app = app.with(VerifyMiddleware::new(start_service().await).demand(demands()));
    let (listener, url) = listen().await;
    let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
    tokio::spawn(async move { poem::Server::new_with_acceptor(acceptor).run(app).await.unwrap() });
    url
}

/// Sends a request with these values of `Authorization`, and returns status, headers and body.
async fn send(url: &str, authorization: &[&str]) -> (u16, HeaderMap, String) {
    let client: Client<HttpConnector, Empty<&[u8]>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::get(url).body(Empty::new()).unwrap();
    for value in authorization {
        request.headers_mut().append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    let response = client.request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn axum_and_poem_let_live_tokens_through_and_answer_all_others() {
    for url in [start_axum().await, start_poem().await] {
        for authorization in ["Bearer writer.a.b", "bearer writer.a.b", "BEARER  writer.a.b ", "Bearer near.a.b"] {
            let (status, _, body) = send(&url, &[authorization]).await;
            assert_eq!((status, &*body), (200, "hello, alice"), "{authorization}");
        }
        let cases: [(&[&str], u16, &str); 10] = [
            (&[], 401, "Bearer"),
            (&["Bearer writer.a.b", "Bearer writer.a.b"], 401, "Bearer"),
            (&["Basic d3JpdGVyOmEuYi5j"], 401, "Bearer"),
            (&["Bearer"], 401, "Bearer"),
            (&["Bearer gone.a.b"], 401, INVALID),
            (&["Bearer writer.a.b x"], 401, INVALID),
            (&["Bearer "], 401, "Bearer"),
            (&["Bearer reader.a.b"], 403, LACKING),
            (&["Bearer far.a.b"], 403, r#"Bearer error="insufficient_scope""#),
            (&["Bearer unsure.a.b"], 503, ""),
        ];
        for (authorization, expected, challenge) in cases {
            let (status, headers, body) = send(&url, authorization).await;
            let header = |name| headers.get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap());
            assert_eq!(
                (status, header(header::WWW_AUTHENTICATE), &*body),
                (expected, challenge, ""),
                "{authorization:?}"
            );
            assert_eq!(header(header::RETRY_AFTER), if status == 503 { "1" } else { "" });
        }
    }
}

#[tokio::test]
async fn tonic_lets_live_tokens_through_and_answers_all_others_with_its_codes() {
    let layer = VerifyLayer::new(start_service().await).demand(demands());
    let (_, health) = tonic_health::server::health_reporter();
    let (listener, url) = listen().await;
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().layer(layer).add_service(health);
    tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    for (jwt, code) in [
        ("writer", Code::Ok),
        ("gone", Code::Unauthenticated),
        ("reader", Code::PermissionDenied),
        // The address of the client is not known.
        ("near", Code::PermissionDenied),
        ("unsure", Code::Unavailable),
    ] {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {jwt}.a.b").parse().unwrap());
        let answer = HealthClient::new(channel.clone()).check(request).await;
        assert_eq!(answer.map_or_else(|status| status.code(), |_| Code::Ok), code, "{jwt}");
    }
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
}
