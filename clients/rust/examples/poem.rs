//! A poem service whose callers need a live token: `curl -H "Authorization: Bearer $jwt" http://127.0.0.1:8080/`.

use std::env;

use mayfly_verifier::{Credentials, Token, Verifier, VerifyMiddleware};
use poem::{EndpointExt, Route, Server, get, handler, listener::TcpListener, web::Data};

#[handler]
fn hello(Data(token): Data<&Token>) -> String {
    format!("hello, {}\n", token.username())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let credentials = Credentials::basic(&env::var("MAYFLY_USER")?, &env::var("MAYFLY_PASSWORD")?);
    let verifier = Verifier::connect(&env::var("MAYFLY_URL")?, credentials).await?;
    let app = Route::new().at("/", get(hello)).with(VerifyMiddleware::new(verifier));
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    println!("http://{listen}");
    Server::new(TcpListener::bind(listen)).run(app).await?;
    Ok(())
}
