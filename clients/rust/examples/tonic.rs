//! A gRPC service whose callers need a live token, with tonic:
//! `grpcurl -plaintext -H "Authorization: Bearer $jwt" 127.0.0.1:8080 grpc.health.v1.Health/Check`.
//!
//! The methods of a service find the token in the extensions of their request: `request.extensions().get::<Token>()`.

use std::env;

use mayfly_verifier::{Credentials, Verifier, VerifyLayer};
use tonic::transport::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let credentials = Credentials::basic(&env::var("MAYFLY_USER")?, &env::var("MAYFLY_PASSWORD")?);
    let verifier = Verifier::connect(&env::var("MAYFLY_URL")?, credentials).await?;
    let (_, health) = tonic_health::server::health_reporter();
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    println!("http://{listen}");
    Server::builder().layer(VerifyLayer::new(verifier)).add_service(health).serve(listen.parse()?).await?;
    Ok(())
}
