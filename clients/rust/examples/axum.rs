//! An axum service whose callers need a live token: `curl -H "Authorization: Bearer $jwt" http://127.0.0.1:8080/`.

use std::env;

use axum::{Extension, Router, routing::get};
use mayfly_verifier::{Credentials, Demands, Token, Verifier, VerifyLayer};
use tokio::net::TcpListener;

async fn hello(Extension(token): Extension<Token>) -> String {
    format!("hello, {}\n", token.username())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let credentials = Credentials::basic(&env::var("MAYFLY_USER")?, &env::var("MAYFLY_PASSWORD")?);
    let verifier = Verifier::connect(&env::var("MAYFLY_URL")?, credentials).await?;
    let demands = env::var("SCOPE").into_iter().fold(Demands::new(), Demands::scope);
    let app = Router::new().route("/", get(hello)).layer(VerifyLayer::new(verifier).demand(demands));
    let listener = TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
